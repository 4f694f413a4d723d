"""Checkpoints of a network: its trained weights, their recipe, and the fingerprint of the encoder that they belong to.

A checkpoint of a training on a frozen encoder holds everything but the encoder (and the frozen image pyramid): a few
megabytes. It fits that encoder only, which it identifies by a fingerprint. `models/model.pt`, as MONAI's Model Zoo
wants it, holds the whole state.

A file of several parts holds the recipe as one of them; the whole state, which must be a state dict and nothing else,
as an attribute of that dict, as PyTorch keeps its own notes there; a safetensors file in its metadata, as JSON.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.utils.files import dump_json
from icmoe_monai.utils.schema import read_json
from icmoe_monai.weights.frozen import describe_trunk, frozen_parts, has_frozen_trunk, pretrained_parts
from icmoe_monai.weights.schema import checked_parts, find_damage_of_recipe, shape_of
from icmoe_monai.weights.tensor_files import read_checkpoint, read_metadata, save_checkpoint, save_tensors

TRAINER = "trainer"
MODEL = "model"  # key of the network's weights in a checkpoint that also holds something else
TRUNK = "trunk"  # key of the notes on the frozen encoder that the weights belong to
RECIPE = "recipe"  # key, or attribute, of what a training and a use of the weights must have in common
_NOTES = ("fingerprint", "source", "detail")  # notes on a frozen encoder and a frozen image pyramid


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the trained weights: the whole state, without the encoder and the image pyramid if they are frozen."""
    return state_without(frozen_parts(network), network.state_dict())


def state_without(parts: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's state dict, or other values under its names, without the named parts of the network."""
    left_out = tuple(f"{part}." for part in parts)
    return {name: value for name, value in state.items() if not name.startswith(left_out)}


def save_weights(
    network: nn.Module,
    path: str | Path,
    *,
    whole: bool = False,
    trunk_source: str | Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network's trained weights, or with `whole` all its weights.

    Args:
        network: The network.
        path: The file; in safetensors format if its name ends in .safetensors, else in torch's.
        whole: Write the encoder and the image pyramid even if they are frozen, as in `models/model.pt`.
        trunk_source: Name or file that a frozen encoder's weights came from, noted beside its fingerprint; None: as the
            recipe says.
        recipe: The training's recipe, as `make_recipe` made it or `read_recipe` read it; None: none is noted.
        dtype: Type that the weights are rounded to in the file, such as torch.float16, which halves it; None: as they
            are. They are loaded as float32 again. A tensor with a number that is too large for it stays as it is.

    Raises:
        InputError: If the file cannot be written.
    """
    network = unwrapped(network)
    state = network.state_dict() if whole else trained_state(network)
    if dtype is not None:
        state = {name: rounded(value, dtype) for name, value in state.items()}
    trunk = notes_on_trunk(network, trunk_source or (recipe or {}).get("pretrained"))
    write_weights(state, path, trunk=trunk, recipe=recipe, whole=whole)


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return floating numbers in another type, unless one of them would be infinite in it, as a variance may be."""
    if not value.is_floating_point():
        return value
    rounded = value.to(dtype)
    return rounded if torch.equal(rounded.isfinite(), value.isfinite()) else value


def write_weights(
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    trunk: Mapping[str, str],
    recipe: Mapping[str, Any] | None,
    whole: bool,
) -> None:
    """Write weights with their notes.

    Args:
        state: The weights by name.
        path: The file; in safetensors format if its name ends in .safetensors, else in torch's.
        trunk: Notes on the frozen parts, as `notes_on_trunk` returns them.
        recipe: The training's recipe, or None.
        whole: Whether the state is that of the whole network, though parts of it are frozen.

    Raises:
        InputError: If the file cannot be written.
    """
    noted = with_trunk(recipe, trunk)
    whole = whole or not trunk
    if Path(path).suffix == ".safetensors":
        notes = {} if whole else {f"{TRUNK}_{key}": value for key, value in trunk.items()}
        save_tensors(state, path, metadata=notes | {name: dump_json(part).decode() for name, part in noted.items()})
    elif whole:
        content = OrderedDict(state)
        vars(content).update(noted)
        save_checkpoint(content, path)
    else:
        save_checkpoint({MODEL: dict(state), TRUNK: dict(trunk), **noted}, path)


def notes_on_trunk(network: nn.Module, source: str | Path | None = None) -> dict[str, str]:
    """Return `describe_trunk` of a network whose checkpoints leave frozen parts out; nothing for another."""
    return describe_trunk(network, source) if has_frozen_trunk(network) else {}


def with_trunk(recipe: Mapping[str, Any] | None, trunk: Mapping[str, str]) -> dict[str, Any]:
    """Return a recipe under its key, with the notes on the frozen parts in it; nothing if there is no recipe."""
    return {} if recipe is None else {RECIPE: {**recipe, TRUNK: dict(trunk)}}


def read_recipe(path: str | Path) -> tuple[dict[str, Any] | None, bool]:
    """Read the recipe of a checkpoint, without its weights.

    Args:
        path: The file.

    Returns:
        The recipe, or None if the file holds none; and whether the file holds the whole network.

    Raises:
        InputError: If the file cannot be read, or its recipe is damaged.
    """
    content = read_checkpoint(path, mapped=True)
    metadata = read_metadata(path)
    is_whole = TRUNK not in content and f"{TRUNK}_fingerprint" not in metadata
    found = read_json(metadata[RECIPE], f"The recipe in {path}") if RECIPE in metadata else _recipe_in(content)
    damage = None if found is None else find_damage_of_recipe(found)
    if damage is not None:
        raise InputError(f"The recipe in {path} is damaged, {damage}: train again, or go without, --recipe none.")
    return found, is_whole


def _recipe_in(content: Mapping[str, Any]) -> Any:
    return content.get(RECIPE, getattr(content, RECIPE, None))


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a network's weights from a file that a training or `save_weights` wrote.

    Args:
        network: The network; for a file without the encoder, with the encoder that the file belongs to.
        path: The file.

    Raises:
        InputError: If the file cannot be read, or does not fit the network or its encoder.
    """
    load_network(network, read_weights(path), path)


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as a dict; a safetensors file with a trunk's fingerprint as {MODEL: weights, TRUNK: notes}.

    Raises:
        InputError: If the file cannot be read.
    """
    content = read_checkpoint(path)
    metadata = read_metadata(path)
    trunk = {key: metadata[f"{TRUNK}_{key}"] for key in _NOTES if f"{TRUNK}_{key}" in metadata}
    return {MODEL: content, TRUNK: trunk} if trunk else content


def precision_of(path: str | Path) -> torch.dtype | None:
    """Return the type to which a file's weights were rounded (`save_weights`); None: to none.

    Raises:
        InputError: If the file cannot be read.
    """
    state, _ = checked_parts(read_weights(path), path, model=MODEL, trunk=TRUNK)
    half = (torch.float16, torch.bfloat16)
    return next((value.dtype for value in state.values() if isinstance(value, Tensor) and value.dtype in half), None)


def load_network(network: nn.Module, content: Mapping[str, Any], path: str | Path) -> None:
    """Load weights that `read_weights` returned into a network.

    Args:
        network: The network; for weights without the encoder, with the encoder that they belong to.
        content: The weights.
        path: File that they came from, for messages.

    Raises:
        InputError: If they do not fit the network or its encoder.
    """
    network = unwrapped(network)
    state, trunk = checked_parts(content, path, model=MODEL, trunk=TRUNK)
    if trunk:
        _check_trunk(network, trunk, path)
    check_state(state, network, path, without_trunk=bool(trunk))
    network.load_state_dict(state, strict=not trunk)


def _check_trunk(network: nn.Module, trunk: Mapping[str, str], path: str | Path) -> None:
    here = describe_trunk(network)
    found = here["fingerprint"]
    if bool(found) != bool(trunk["fingerprint"]):
        held, has = ("no encoder", "one") if found else ("an encoder", "none")
        raise InputError(f"{path} was trained with {held} and this network has {has}: give a file of such a network.")
    if found != trunk["fingerprint"]:
        name = trunk.get("source") or "an encoder"
        raise InputError(
            f"{path} was trained on {name} with fingerprint {trunk['fingerprint'][:12]}, which it does not hold, and "
            f"this network's encoder is another ({found[:12]}): give the encoder that it was trained on, --pretrained."
        )
    if here.get("detail") != trunk.get("detail"):
        has, held = ("an image pyramid" if "detail" in noted else "none" for noted in (here, trunk))
        other = "another" if has == held else has
        raise InputError(
            f"{path} was trained with {held} and this network has {other}: give the pyramid and detail that it was "
            "trained with, --pyramid."
        )


def check_state(
    state: Mapping[str, Tensor], network: nn.Module, path: str | Path, *, without_trunk: bool = False
) -> None:
    """Check that weights fit a network before they are loaded.

    Args:
        state: The weights.
        network: The network.
        path: File that they came from, for messages.
        without_trunk: Whether the weights must lack the encoder, and the image pyramid if it is frozen.

    Raises:
        InputError: If names or shapes differ, or a number is not finite; the message names the first such tensor.
    """
    weights = state_without(pretrained_parts(network) if without_trunk else [], network.state_dict())
    expected = {name: tuple(value.shape) for name, value in weights.items()}
    found = {name: shape_of(value) for name, value in state.items()}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    differing = [name for name in expected if name in found and expected[name] != found[name]]
    if not (missing or unknown or differing):
        infinite = next((name for name, value in state.items() if not value.isfinite().all()), None)
        if infinite is not None:
            raise InputError(f"{path} holds numbers in {infinite} that are not finite: give another file.")
        return
    if differing:
        name = differing[0]
        there = "no plain tensor" if found[name] is None else found[name]
        what = f"{name} is {there} in the file and {expected[name]} in the network"
    elif missing:
        what = f"{missing[0]} is missing from it"
    else:
        what = f"it has {unknown[0]}, which the network has not"
    count = len(missing) + len(unknown) + len(differing)
    raise InputError(
        f"{path} does not fit this network ({what}; {count} of {len(expected)} tensors differ): use the settings it "
        "was trained with (backbone, out_channels, experts, expert_depth), or another file."
    )
