"""Frozen parts of a network: list them, and identify them by a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from icmoe_monai.networks.folds import FoldEnsemble, first_fold
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.utils.files import digest_of
from icmoe_monai.weights.sam import trunk_fingerprint


def has_frozen_trunk(network: nn.Module) -> bool:
    """Return whether the network has a foundation, an encoder or a pyramid without one, of which nothing is trained."""
    return bool(frozen_parts(network))


def frozen_parts(network: nn.Module) -> list[str]:
    """List the parts that a training does not change: the encoder, and every image pyramid that is frozen too.

    Args:
        network: Any network.

    Returns:
        Names of the parts; empty if there is an encoder that is trained, since checkpoints are then whole.
    """
    network = unwrapped(network)
    if isinstance(network, FoldEnsemble):
        return _of_folds(network, frozen_parts)
    encoder = getattr(network, "encoder", None)
    trains_encoder = encoder is not None and any(weight.requires_grad for weight in encoder.parameters())
    return [] if trains_encoder else pretrained_parts(network)


def pretrained_parts(network: nn.Module) -> list[str]:
    """List the parts that checkpoints of a training on a frozen encoder leave out, even if this encoder is trained.

    Args:
        network: Any network.
    """
    network = unwrapped(network)
    if isinstance(network, FoldEnsemble):
        return _of_folds(network, pretrained_parts)
    pyramids = [name for name, part in network.named_modules() if isinstance(part, ImagePyramid) and is_frozen(part)]
    encoder = getattr(network, "encoder", None)
    return ["encoder", *pyramids] if encoder is not None and list(encoder.parameters()) else pyramids


def _of_folds(network: FoldEnsemble, parts_of: Callable[[nn.Module], list[str]]) -> list[str]:
    """List the parts of all folds, which are one module where the folds share it."""
    return [f"folds.{f}.{part}" for f, fold in enumerate(network.folds) for part in parts_of(fold)]


def fingerprints(network: nn.Module) -> dict[str, str]:
    """Return the fingerprint of every frozen part, by its name."""
    return _fingerprints(network, frozen_parts(network))


def describe_trunk(network: nn.Module, source: str | Path | None = None) -> dict[str, str]:
    """Return a checkpoint's notes on the frozen parts that it leaves out: fingerprints, and the encoder's source.

    Args:
        network: The network.
        source: Name or file of the encoder's weights; of a file only its name is noted.

    Returns:
        The encoder's `fingerprint`, empty without an encoder, and `source`, and the `detail`'s fingerprint where that
        is frozen too.
    """
    network = first_fold(unwrapped(network))
    found = _fingerprints(network, pretrained_parts(network))
    notes = {"fingerprint": found.pop("encoder", ""), "source": Path(source).name if source is not None else ""}
    return notes | {name.rpartition(".")[2]: fingerprint for name, fingerprint in found.items()}


def _fingerprints(network: nn.Module, parts: Iterable[str]) -> dict[str, str]:
    return {name: trunk_fingerprint(unwrapped(network).get_submodule(name)) for name in parts}


def is_frozen(part: nn.Module) -> bool:
    """Return whether a part has weights, and trains none of them."""
    weights = list(part.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def describe_model(
    checkpoint: str | Path | None, pretrained: str | Path | None = None, pyramid: str | Path | None = None
) -> dict[str, Any]:
    """Identify a model by the names and SHA-256 digests of its weight files.

    Args:
        checkpoint: File of the network's weights.
        pretrained: File or name of the encoder's weights; a name has no SHA-256.
        pyramid: File of the image pyramid's weights.

    Returns:
        `checkpoint`, `trunk` and `pyramid`, the names, and `sha256`, `trunk_sha256` and `pyramid_sha256`, the digests;
        None where there is no file.
    """
    model = _describe(checkpoint)
    for part, file in (("trunk", _describe(pretrained)), ("pyramid", _describe(pyramid))):
        model |= {part: file["checkpoint"], f"{part}_sha256": file["sha256"]}
    return model


def _describe(checkpoint: str | Path | None) -> dict[str, Any]:
    if checkpoint is None or not Path(checkpoint).is_file():
        return {"checkpoint": None if checkpoint is None else Path(checkpoint).name, "sha256": None}
    return {"checkpoint": Path(checkpoint).name, "sha256": digest_of(checkpoint)}
