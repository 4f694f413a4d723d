"""Checks of a recipe against a run: a use of the weights, before it starts, and a training that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import called, completed, differences
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.pyramid import load_pyramid_weights
from icmoe_monai.weights.recipe import Recipe
from icmoe_monai.weights.sam import load_sam_weights, trunk_fingerprint


def check_recipe(
    trained: Recipe,
    *,
    settings: Mapping[str, Any],
    pretrained: str | Path | None = None,
    pyramid: str | Path | None = None,
) -> None:
    """Check that a run contradicts nothing of its checkpoint's recipe, before anything starts.

    A checkpoint without its frozen weights refuses others by itself, when it is loaded.

    Args:
        trained: The checkpoint's recipe.
        settings: The run's values of `SETTINGS`, or of some of them.
        pretrained: Name or file of the encoder's weights.
        pyramid: File of the image pyramid's weights.

    Raises:
        InputError: If something is contradicted; the sentence names both values.
    """
    trained.check(settings)
    notes = trained.content.get("trunk") or {}
    if not trained.is_whole:
        return
    for name, given, key in (("pretrained", pretrained, "fingerprint"), ("pyramid", pyramid, "detail")):
        was = trained.content.get(name)
        if given is None or Path(given).name == was or not notes.get(key):
            continue
        if name == "pyramid":
            found = _fingerprint_of_pyramid(given, trained.content["network"]["detail"])
        else:
            found = trunk_fingerprint(load_sam_weights(given))
        if found != notes[key]:
            raise InputError(
                f"{trained.path.name} was trained with {name} {was} (fingerprint {notes[key][:12]}), and here it is "
                f"{given} ({found[:12]}): leave --{name} out."
            )


def check_resumed(content: Mapping[str, Any], recipe: Mapping[str, Any], path: str | Path) -> None:
    """Check that a training that goes on has the recipe that it began with.

    Args:
        content: The recipe in the checkpoint.
        recipe: The recipe of this training.
        path: The checkpoint.

    Raises:
        InputError: If a setting or the network differs; the sentence names both values.
    """
    noted = content["settings"]
    differing = differences(noted, {name: recipe["settings"][name] for name in noted if name in recipe["settings"]})
    networks = differences(completed(content.get("network", recipe["network"])), completed(recipe["network"]))
    differing |= {called(name): pair for name, pair in networks.items()}
    if differing:
        name, (was, now) = next(iter(differing.items()))
        raise InputError(
            f"{path} is of a training with {name} {was}, and here it is {now}: resume with the settings that it began "
            "with, or start a new training from its best.pt."
        )


def _fingerprint_of_pyramid(path: str | Path, blueprint: Mapping[str, Any]) -> str:
    pyramid = ImagePyramid(size=completed(blueprint)["size"])
    load_pyramid_weights(path, pyramid)
    return trunk_fingerprint(pyramid)
