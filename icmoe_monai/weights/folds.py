"""One file of the networks that were trained on the folds of a set: `ensemble.pt`.

It is a checkpoint as any other, whose recipe tells the number of `folds`. What the folds' networks share, and all of
them leave out, it leaves out too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import differences
from icmoe_monai.networks.folds import joined_state
from icmoe_monai.weights.checkpoint import MODEL, TRUNK, read_recipe, read_weights, rounded, write_weights
from icmoe_monai.weights.schema import MOST_FOLDS, checked_parts

_ALIKE = ("settings", "network", "pretrained", "pyramid", "segments", "mask_values", "modality")


def join_folds(
    checkpoints: Sequence[str | Path],
    path: str | Path,
    *,
    training_set: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the networks of all folds to one file.

    Args:
        checkpoints: The folds' checkpoints, from the first fold to the last, each with its recipe.
        path: The file to write; its weights are float16, but for those that are too large for it.
        training_set: Plain values that identify the images of all folds.
        settings: Values of settings that the ensemble is to be used with, in the place of the training's.

    Raises:
        InputError: If a file cannot be read or has no recipe, the folds were not trained alike, or there are too few or
            too many of them.
    """
    if not 2 <= len(checkpoints) <= MOST_FOLDS:
        raise InputError(f"An ensemble has 2 to {MOST_FOLDS} folds, got {len(checkpoints)}.")
    first: dict[str, Any] = {}
    trunk: Mapping[str, str] = {}
    states: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        recipe, _ = read_recipe(checkpoint)
        if recipe is None:
            raise InputError(f"{checkpoint} does not say how it was trained: train this fold again.")
        state, notes = checked_parts(read_weights(checkpoint), checkpoint, model=MODEL, trunk=TRUNK)
        if not states:
            first, trunk = recipe, notes or {}
        _check_alike(first, recipe, checkpoint)
        if (notes or {}) != trunk:
            raise InputError(f"{checkpoint} was trained on other frozen weights than the first fold: train it again.")
        states.append({name: rounded(value, torch.float16) for name, value in state.items()})
    recipe = first | {"folds": len(states), "training_set": dict(training_set) if training_set else None}
    recipe["settings"] = first["settings"] | dict(settings or {})
    write_weights(joined_state(states), path, trunk=trunk, recipe=recipe, whole=False)


def _check_alike(first: Mapping[str, Any], recipe: Mapping[str, Any], path: str | Path) -> None:
    for part in _ALIKE:
        differing = differences(first.get(part), recipe.get(part), part)
        if differing:
            name, (was, now) = next(iter(differing.items()))
            raise InputError(f"{path} was trained with {name} {now}, and the first fold with {was}: train it again.")
