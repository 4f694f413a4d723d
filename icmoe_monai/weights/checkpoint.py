"""Checkpoints of a network: its trained weights, and the fingerprint of the encoder that they belong to.

A checkpoint of a training on a frozen encoder holds everything but the encoder (and the frozen image pyramid): a few
megabytes. It fits that encoder only, which it identifies by a fingerprint. `models/model.pt`, as MONAI's Model Zoo
wants it, holds the whole state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.weights.frozen import describe_trunk, frozen_parts, has_frozen_trunk, pretrained_parts
from icmoe_monai.weights.tensor_files import read_checkpoint, read_metadata, save_checkpoint, save_tensors

TRAINER = "trainer"
MODEL = "model"  # key of the network's weights in a checkpoint that also holds something else
TRUNK = "trunk"  # key of the notes on the frozen encoder that the weights belong to
_NOTES = ("fingerprint", "source", "detail")  # notes on a frozen encoder and a frozen image pyramid


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the trained weights: the whole state, without the encoder and the image pyramid if they are frozen."""
    return state_without(frozen_parts(network), network.state_dict())


def state_without(parts: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's state dict, or other values under its names, without the named parts of the network."""
    left_out = tuple(f"{part}." for part in parts)
    return {name: value for name, value in state.items() if not name.startswith(left_out)}


def save_weights(
    network: nn.Module, path: str | Path, *, whole: bool = False, trunk_source: str | Path | None = None
) -> None:
    """Write a network's trained weights, or with `whole` all its weights.

    Args:
        network: The network.
        path: The file; in safetensors format if its name ends in .safetensors, else in torch's.
        whole: Write the encoder and the image pyramid even if they are frozen, as in `models/model.pt`.
        trunk_source: Name or file that a frozen encoder's weights came from, noted beside its fingerprint.

    Raises:
        InputError: If the file cannot be written.
    """
    network = unwrapped(network)
    state = network.state_dict() if whole else trained_state(network)
    trunk = {} if whole or not has_frozen_trunk(network) else describe_trunk(network, trunk_source)
    if Path(path).suffix == ".safetensors":
        save_tensors(state, path, metadata={f"{TRUNK}_{key}": value for key, value in trunk.items()})
    else:
        save_checkpoint({MODEL: state, TRUNK: trunk} if trunk else state, path)


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
    state, trunk = content.get(MODEL, content), content.get(TRUNK)
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
        name = trunk["source"] or "an encoder"
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
        InputError: If names or shapes differ; the message names the first difference.
    """
    weights = state_without(pretrained_parts(network) if without_trunk else [], network.state_dict())
    expected = {name: tuple(value.shape) for name, value in weights.items()}
    found = {name: tuple(value.shape) if isinstance(value, Tensor) else () for name, value in state.items()}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    differing = [name for name in expected if name in found and expected[name] != found[name]]
    if not (missing or unknown or differing):
        return
    if differing:
        name = differing[0]
        what = f"{name} is {found[name]} in the file and {expected[name]} in the network"
    elif missing:
        what = f"{missing[0]} is missing from it"
    else:
        what = f"it has {unknown[0]}, which the network has not"
    count = len(missing) + len(unknown) + len(differing)
    raise InputError(
        f"{path} does not fit this network ({what}; {count} of {len(expected)} tensors differ): use the settings it "
        "was trained with (backbone, out_channels, experts, expert_depth), or another file."
    )
