"""What the parts of a checkpoint must be before they are used: weights, notes on the encoder, recipe, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import CLASS
from icmoe_monai.utils.schema import Schema, find_fault, is_as, shown

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NONE: Schema = {"anyOf": [_TEXT, {"type": "null"}]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
MOST_FOLDS = 20  # of an ensemble
_NOTES: Schema = {
    "type": "object",
    "required": ["fingerprint"],
    "additionalProperties": _TEXT_OR_NONE,
    "properties": {"fingerprint": _TEXT},
}
_RECIPE: Schema = {
    "type": "object",
    "required": ["settings"],
    "properties": {
        "settings": {"type": "object"},  # each value is held against the table of settings, as any other
        "network": {"type": "object", "required": [CLASS], "properties": {CLASS: _TEXT}},
        "pretrained": _TEXT_OR_NONE,
        "pyramid": _TEXT_OR_NONE,
        "segments": {
            "anyOf": [
                {
                    "type": "array",
                    "items": {"type": "object", "required": ["label"], "properties": {"label": _TEXT}},
                },
                {"type": "null"},
            ]
        },
        "mask_values": {"type": "array", "items": _COUNT},
        "modality": _TEXT_OR_NONE,
        "folds": {**_COUNT, "minimum": 2, "maximum": MOST_FOLDS},
        "training_set": {
            "anyOf": [
                {
                    "type": "object",
                    "required": ["num_images"],
                    "properties": {"num_images": _COUNT, "sha256": _TEXT},
                },
                {"type": "null"},
            ]
        },
        "trunk": {"anyOf": [_NOTES, {"type": "object", "maxProperties": 0}]},
        "version": _TEXT,
    },
}
_NUMBER: Schema = {"type": "number"}
_STATES: dict[str, Schema] = {  # of a training, by their keys in the file
    "lr_scheduler": {
        "type": "object",
        "properties": {"last_epoch": _COUNT, "_step_count": _COUNT, "_last_lr": {"type": "array", "items": _NUMBER}},
    },
    "trainer": {
        "type": "object",
        "required": ["epoch_length"],
        "properties": {"epoch_length": _COUNT, "iteration": _COUNT, "epoch": _COUNT},
    },
}
_ADAMS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam and its kin keep of each weight


def find_damage_of_recipe(content: Any) -> str | None:
    """Return what is wrong with a recipe, with the place, or None."""
    return find_fault(_RECIPE, content)


def checked_parts(content: Mapping[str, Any], path: str | Path, *, model: str, trunk: str) -> tuple[Any, Any]:
    """Return the weights in a checkpoint, and the notes on its encoder or None, once they are what they must be.

    Args:
        content: The checkpoint's content.
        path: The file, for messages.
        model: Key of the weights; where it is missing, they are the whole content.
        trunk: Key of the notes.

    Raises:
        InputError: If they are anything else.
    """
    state, notes = content.get(model, content), content.get(trunk)
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        what = shown(state) if not isinstance(state, Mapping) else "names that are no text"
        raise InputError(f"{path} holds no weights by name as its {model}, but {what}: give another file.")
    if notes and not is_as(_NOTES, notes):
        raise InputError(f"{path} is damaged, its {trunk} is {shown(notes)}: give another file.")
    return state, notes or None


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor that a network can take, or None of anything else, such as a sparse tensor."""
    usable = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    usable = usable and not value.is_quantized and not value.is_complex() and value.device.type != "meta"
    return tuple(value.shape) if usable else None


def find_damage_of_state(key: str, state: Any) -> str | None:
    """Return what is wrong with a part of a training's state, with the place, or None.

    Args:
        key: The part's key in the file.
        state: The part.
    """
    return find_fault(_STATES.get(key, {"type": "object"}), state)


def find_damage_of_optimizer(optimizer: Optimizer) -> str | None:
    """Return what is wrong with the state that an optimizer was given, or None.

    PyTorch takes any state, and breaks at the next step.

    Args:
        optimizer: The optimizer, with the state.
    """
    for number, group in enumerate(optimizer.param_groups):
        for name, default in optimizer.defaults.items():
            was = group.get(name)
            is_number = is_as(_NUMBER, default)
            if is_number and not (is_as(_NUMBER, was) or shape_of(was) == ()):
                return f"{name} of its group {number} is {shown(was)}"
    wanted = set().union(*map(set, optimizer.state.values())) if optimizer.state else set()
    if wanted and isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        wanted |= _ADAMS
    for weight, notes in optimizer.state.items():
        missing = sorted(map(str, wanted - set(notes)))
        if missing:
            return f"it has no {missing[0]} of a weight"
        for name, value in notes.items():
            if isinstance(value, Tensor) and shape_of(value) not in ((), tuple(weight.shape)):
                return f"{name} of a weight of {tuple(weight.shape)} is {shape_of(value)}"
            if name in wanted & _ADAMS and not isinstance(value, Tensor):
                return f"{name} of a weight is {shown(value)}"
    return None
