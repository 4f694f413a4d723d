"""Read 2-D images as upright RGB, and their masks as class numbers, from any kind of file.

Images are float32 (H, W, 3) in 0..255, masks float32 (H, W) of whole numbers. A file that cannot be used is an
`InputError`: one sentence that names the file and the remedy. How each kind of file is decoded is told in `pictures`,
`dicom.pixels` and `nifti`, what a mask may hold in `masks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio import nifti, pictures
from icmoe_monai.imageio.dicom import pixels as dicom
from icmoe_monai.imageio.dicom.header import SUFFIXES as DICOM_SUFFIXES
from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.masks import to_classes

# A DICOM file may have any name: its content tells.
SUFFIXES = (*pictures.SUFFIXES, *nifti.SUFFIXES)
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide")  # read by `slides.images` only
LARGE_SUFFIXES = (*pictures.SUFFIXES, *SLIDE_SUFFIXES)


def read_image(path: str, *, frame: int | None = None) -> np.ndarray:
    """Read an image as upright RGB.

    Args:
        path: The file.
        frame: Which frame, slice or page of it, from 0; None: it must hold one.

    Returns:
        float32 (H, W, 3) in 0..255.

    Raises:
        InputError: The file cannot be used.
    """
    return _decoder(path).decode_rgb(path, _only_frame(path) if frame is None else frame)


def read_label(path: str | Sequence[str], *, out_channels: int = 1, instances: bool = False) -> np.ndarray:
    """Read a mask as class numbers.

    Args:
        path: The file, or several whose maximum is taken.
        out_channels: 1: the files hold 0 and one other value, which becomes 1. K > 1: they hold 0..K-1.
        instances: The files number objects; every value above 0 becomes 1.

    Returns:
        float32 (H, W).

    Raises:
        InputError: A file cannot be used, its values do not fit `out_channels`, or the files differ in size.
    """
    paths = [path] if isinstance(path, str) else list(path)
    masks = [
        to_classes(
            one, *_decoder(one).decode_values(one, _only_frame(one)), out_channels=out_channels, instances=instances
        )
        for one in paths
    ]
    for one, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{one} is {mask.shape[1]}x{mask.shape[0]} and {paths[0]} is {masks[0].shape[1]}x{masks[0].shape[0]}: "
                "the masks of one image must have one size."
            )
    return np.maximum.reduce(masks)


def read_size(path: str, *, whole: bool = False) -> tuple[int, int]:
    """Return an image's upright (H, W) without its pixels.

    Args:
        path: The file.
        whole: Decode the pixels too, to find a damaged file or one of several frames.

    Raises:
        InputError: The file cannot be used.
    """
    if whole:
        _only_frame(path)
    return _decoder(path).decode_size(path, whole=whole)


def count_frames(path: str) -> int:
    """Return how many frames, slices or pages a file holds.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be used.
    """
    return _decoder(path).count_frames(path)


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file's name into what its results are named after and its suffix; "1.2.840" has no suffix.

    Args:
        name: POSIX path.

    Example:
        >>> split_suffix("a/b.nii.gz"), split_suffix("a/1.2.840")
        (('a/b', '.nii.gz'), ('a/1.2.840', ''))
    """
    for suffix in (*SUFFIXES, *DICOM_SUFFIXES, *SLIDE_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


class _Decoder(Protocol):
    """What a module that decodes a kind of file has; `pictures` documents each function."""

    def count_frames(self, path: str) -> int: ...
    def decode_rgb(self, path: str, frame: int = 0) -> np.ndarray: ...
    def decode_values(self, path: str, frame: int = 0) -> tuple[np.ndarray, bool]: ...
    def decode_size(self, path: str, *, whole: bool = False) -> tuple[int, int]: ...


def _decoder(path: str) -> _Decoder:
    """Choose the decoder: the one place that tells kinds of file apart."""
    if path.lower().endswith(nifti.SUFFIXES):
        return nifti
    if is_dicom(path):
        return dicom
    return pictures


def _only_frame(path: str) -> int:
    num_frames = count_frames(path)
    if num_frames > 1:
        raise InputError(f"{path} holds {num_frames} frames, slices or pages: save each as a file of its own.")
    return 0
