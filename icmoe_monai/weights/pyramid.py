"""Reading and writing of the image pyramid's weights, also from the file of a trained EfficientNet-Lite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from icmoe_monai.errors import InputError
from icmoe_monai.networks.pyramid import SIZES, ImagePyramid, stages_of
from icmoe_monai.weights.formats import name_some
from icmoe_monai.weights.tensor_files import read_checkpoint, save_tensors

_EPS = 1e-3  # of EfficientNet's batch normalisation
_ITS_FIRST = "_conv_stem.weight"
_ADVICE = "give the file of that size, or efficientnet_{size}_imagenet.safetensors of models/, with {size} as it stands"


def load_pyramid_weights(source: str | Path, pyramid: ImagePyramid) -> None:
    """Load a pyramid's weights, all of them or none.

    Args:
        source: A file that `save_pyramid_weights` wrote, or one of a whole EfficientNet-Lite under the names of the
            `efficientnet_pytorch` family (`_conv_stem.weight`, `_blocks.0._bn1.bias`, ...). `{size}` in its name stands
            for the pyramid's size.
        pyramid: The pyramid to load into.

    Raises:
        InputError: If the file cannot be read or is of another network; the pyramid is then unchanged.
    """
    path = file_of(source, pyramid.size)
    state = read_checkpoint(path)
    weights = fold_efficientnet(state, path, size=pyramid.size) if _ITS_FIRST in state else state
    expected = pyramid.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks {name_some(missing)}" if missing else f"has {name_some(unknown)}, which it has not"
        raise InputError(f"{path} is not of an image pyramid {pyramid.size}: it {what}: {_ADVICE}.")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} in it and {tuple(expected[name].shape)} in the pyramid"
            raise InputError(f"{path} is not of an image pyramid {pyramid.size}: {name} is {shapes}: {_ADVICE}.")
        if not value.isfinite().all():
            raise InputError(f"{path} holds numbers in {name} that are not finite: give another file.")
    pyramid.load_state_dict(weights)


def file_of(source: str | Path, size: str) -> Path:
    """Return the file of a pyramid's weights.

    Args:
        source: The file; `{size}` in its name stands for the size.
        size: One of `icmoe_monai.networks.pyramid.SIZES`.
    """
    return Path(str(source).replace("{size}", size))


def is_there(source: str | Path) -> bool:
    """Return whether a file exists, or where its name has `{size}` in it, the file of any size."""
    return any(file_of(source, size).exists() for size in SIZES)


def save_pyramid_weights(pyramid: ImagePyramid, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a pyramid as a safetensors file.

    Args:
        pyramid: The pyramid.
        path: The file; its folder is made.
        dtype: Precision to which the weights are rounded; None keeps theirs.

    Raises:
        InputError: If the file cannot be written.
    """
    weights = {name: value.to(device="cpu", dtype=dtype) for name, value in pyramid.state_dict().items()}
    save_tensors(
        weights, path, metadata={"network": f"EfficientNet-{pyramid.size} without head, normalisations folded in"}
    )


def fold_efficientnet(state: Mapping[str, Tensor], path: str | Path, *, size: str = "lite0") -> dict[str, Tensor]:
    """Fold a trained EfficientNet-Lite's batch normalisations into its convolutions, and leave its head out.

    Args:
        state: The EfficientNet's weights.
        path: File that they came from, for messages.
        size: Size of the network, one of `icmoe_monai.networks.pyramid.SIZES`.

    Returns:
        Weights of an `ImagePyramid` of that size.

    Raises:
        InputError: If a weight is missing.
    """
    weights: dict[str, Tensor] = {}
    convolutions = [
        (name, part) for name, part in ImagePyramid(size=size).named_modules() if isinstance(part, nn.Conv2d)
    ]
    for (ours, part), (convolution, norm) in zip(convolutions, _its_layers(size), strict=True):
        names = [f"{convolution}.weight", *(f"{norm}.{p}" for p in ("running_mean", "running_var", "weight", "bias"))]
        missing = [name for name in names if name not in state]
        if missing:
            raise InputError(
                f"{path} lacks {name_some(missing)} of EfficientNet-{size}: give a whole one of that size."
            )
        kernel, mean, variance, scale, shift = (state[name] for name in names)
        kernel, bias = fuse_conv_bn_weights(kernel, None, mean, variance, _EPS, scale, shift)
        longer = part.kernel_size[0] - kernel.shape[-1]  # 1 at stride 2: a first row and column of zeros
        weights[f"{ours}.weight"] = F.pad(kernel.detach(), [longer, 0, longer, 0])
        weights[f"{ours}.bias"] = bias.detach()
    return weights


def _its_layers(size: str) -> Iterator[tuple[str, str]]:
    """Yield the names of EfficientNet's convolutions, each with that of its normalisation, in their order."""
    yield "_conv_stem", "_bn0"
    block = 0
    for num_blocks, _, _, expansion, _ in stages_of(size):
        for _ in range(num_blocks):
            prefix = f"_blocks.{block}."
            if expansion > 1:
                yield prefix + "_expand_conv", prefix + "_bn0"
            yield prefix + "_depthwise_conv", prefix + "_bn1"
            yield prefix + "_project_conv", prefix + "_bn2"
            block += 1
