"""Loading, writing and fingerprints of foundation encoders' weights.

A file is loaded as a whole, or refused with the reason.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.sam import BACKBONES, PATCH_SIZE, SamImageEncoder, build_sam_encoder
from icmoe_monai.weights.formats import find_file, name_some, read_sam_weights
from icmoe_monai.weights.tensor_files import save_tensors


def load_sam_weights(source: str | Path, encoder: SamImageEncoder | None = None) -> SamImageEncoder:
    """Load a foundation encoder's weights, all of them or none.

    Args:
        source: A name of `OFFICIAL_WEIGHTS`, a file, or the folder of a Hugging Face model.
        encoder: The encoder to load into, which keeps its device and dtype; None builds one of the file's size.

    Returns:
        The encoder.

    Raises:
        InputError: If the weights cannot be read or do not fit; the encoder is then unchanged.
    """
    path = find_file(source)
    weights = read_sam_weights(path)
    if encoder is not None:
        _check_fit(weights, encoder, path)
    else:
        encoder = _build_empty(_closest_backbone(weights, path))
        _check_fit(weights, encoder, path)
        encoder.to_empty(device="cpu")
    encoder.load_state_dict(weights)
    return encoder


def save_sam_weights(encoder: SamImageEncoder, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write an encoder as a safetensors file.

    Its metadata hold the backbone ("custom" if it is none of `BACKBONES`) and the `trunk_fingerprint` that a float32
    encoder has after the file is loaded into it.

    Args:
        encoder: The encoder.
        path: The file; its folder is made.
        dtype: Precision to which the weights are rounded; None keeps theirs.

    Raises:
        InputError: If a weight is not finite in `dtype`, or the file cannot be written.
    """
    weights = {name: value.to(device="cpu", dtype=dtype) for name, value in encoder.state_dict().items()}
    for name, value in weights.items():
        if not value.isfinite().all():
            raise InputError(f"{name} is not finite as {value.dtype}, so {path} was not written: save it as it is.")
    fingerprint = state_fingerprint(weights, torch.float32)
    save_tensors(weights, path, metadata={"backbone": find_backbone(weights) or "custom", "fingerprint": fingerprint})


def state_fingerprint(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Return the fingerprint of an encoder's weights, as `trunk_fingerprint` does of the encoder.

    Args:
        weights: The encoder's state dict.
        dtype: Type to convert the values to first.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):  # one tensor at a time is copied, from a GPU or to another dtype
        value = weights[name].detach().to(device="cpu", dtype=dtype)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def trunk_fingerprint(encoder: nn.Module) -> str:
    """Return the SHA-256, hexadecimal, of an encoder's names, dtypes, shapes and values, the same on every device."""
    return state_fingerprint(encoder.state_dict())


def find_backbone(weights: Mapping[str, Tensor], *, any_image_size: bool = False) -> str | None:
    """Return the name in `BACKBONES` whose shapes the weights have, or None.

    Args:
        weights: Weights under Meta's names; some may be missing, and others may lie beside them.
        any_image_size: Whether the position tables may be of another image size.

    Example:
        >>> find_backbone(build_sam_encoder("vit_t").state_dict())
        'vit_t'
    """
    found = _shapes(weights, any_image_size)
    for backbone, size in BACKBONES.items():
        if size["depth"] == _num_blocks(found):
            expected = _shapes(_build_empty(backbone).state_dict(), any_image_size)
            if all(found.get(name, shape) == shape for name, shape in expected.items()):
                return backbone
    return None


def _closest_backbone(weights: Mapping[str, Tensor], path: Path) -> str:
    backbone = find_backbone(weights) or find_backbone(weights, any_image_size=True)
    if backbone is None:
        raise InputError(
            f"{path} holds an encoder of {_num_blocks(weights)} blocks that is none of {', '.join(BACKBONES)}: give "
            "a file of one of these."
        )
    return backbone


def _check_fit(weights: Mapping[str, Tensor], encoder: SamImageEncoder, path: Path) -> None:
    """Raise `InputError` if weights do not fit an encoder, before any of them is copied."""
    expected = encoder.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    differing = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    if differing:
        raise InputError(f"{path} {_tell_difference(weights, expected, differing[0])}.")
    if missing:
        raise InputError(f"{path} lacks {name_some(missing)} of the encoder: it is incomplete, give a whole one.")
    if unknown:
        raise InputError(
            f"{path} has {name_some(unknown)} in its encoder, which SAM's has not (adapters?): without them it is "
            "another encoder, give SAM's own file."
        )
    for name, value in weights.items():
        dtype = expected[name].dtype
        if not value.to(dtype).isfinite().all():
            raise InputError(f"{path} holds numbers in {name} that are not finite as {dtype}: give another file.")


def _tell_difference(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> str:
    holds, has = (find_backbone(state, any_image_size=True) for state in (weights, expected))
    if holds is not None and has is not None and holds != has:
        return f"holds {holds}; the network has {has}: set --backbone {holds} or give another file"
    if holds is not None and holds == has and name == "pos_embed":
        found, wanted = (PATCH_SIZE * state[name].shape[1] for state in (weights, expected))
        return f"has position tables for {found} pixels, and the encoder is for {wanted}: give a file made for {wanted}"
    found_shape, shape = tuple(weights[name].shape), tuple(expected[name].shape)
    return f"does not fit ({name} is {found_shape} in it and {shape} in the encoder): give another file"


def _shapes(weights: Mapping[str, Tensor], any_image_size: bool) -> dict[str, tuple[int, ...]]:
    """Return every weight's shape; of a position table only the channels if `any_image_size`."""
    is_table = re.compile(r"pos_embed$|rel_pos_[hw]$").search
    return {
        name: tuple(value.shape[-1:] if any_image_size and is_table(name) else value.shape)
        for name, value in weights.items()
    }


def _num_blocks(weights: Iterable[str]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def _build_empty(backbone: str) -> SamImageEncoder:
    with torch.device("meta"):  # the fresh weights of a large encoder take seconds to draw
        return build_sam_encoder(backbone)
