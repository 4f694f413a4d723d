"""The pixels of a DICOM Segmentation: brought into the form that highdicom takes, and compared once they are written.

Letters: N frames of an object; H, W their size, or that of a slide's mask; S segments, which are the foreground
classes 1..S.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from highdicom.seg import Segmentation

MAX_FRACTIONAL = 255
_ROWS = 512  # of a slide that are compared at a time


def stack(
    classes: Iterable[np.ndarray] | None,
    probabilities: Iterable[np.ndarray] | None,
    size: tuple[int, int],
    num_sources: int,
    num_segments: int,
) -> np.ndarray:
    """Return class maps uint8 (N, H, W), or probabilities float32 (N, H, W, S)."""
    if (classes is None) == (probabilities is None):
        raise ValueError("There must be classes or probabilities, not both and not neither.")
    given = [*(() if classes is None else classes), *(() if probabilities is None else probabilities)]
    if not num_sources or len(given) != num_sources or len({one.shape for one in given}) > 1:
        raise ValueError(f"There must be one array per source, all of one size, got {len(given)} for {num_sources}.")
    if given[0].shape[-2:] != size:
        raise ValueError(f"Masks must be of the source's size {size}, got {given[0].shape[-2:]}.")
    if classes is not None:
        if any(one.ndim != 2 or one.min() < 0 or one.max() > num_segments for one in given):
            raise ValueError(f"Classes must be (H, W) with 0..{num_segments}, got {given[0].shape} or other values.")
        return np.stack([one.astype(np.uint8) for one in given])
    if given[0].ndim != 3 or given[0].shape[0] != num_segments:
        raise ValueError(f"Probabilities must be (S, H, W) with S {num_segments}, got {given[0].shape}.")
    pixels = np.stack([np.moveaxis(np.asarray(one, dtype=np.float32), 0, -1) for one in given])
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"Probabilities must be 0..1, got {pixels.min()}..{pixels.max()}.")
    return pixels


def on_slide(classes: Iterable[np.ndarray] | None, matrix: tuple[int, int], num_segments: int) -> np.ndarray:
    """Return the one class map of a whole slide, uint8 (1, H, W), without a copy: it may lie on the disk.

    Args:
        classes: The class map alone.
        matrix: (H, W).
        num_segments: S.
    """
    (pixels,) = classes if classes is not None else ()
    if pixels.shape != matrix or pixels.dtype != np.uint8 or pixels.max() > num_segments:
        raise ValueError(f"Classes must be uint8 {matrix} with 0..{num_segments}, got {pixels.dtype} {pixels.shape}.")
    return pixels[None]


def has_pixels_on_slide(written: Segmentation, pixels: np.ndarray) -> bool:
    """Tell whether an object of a whole slide has the pixels that were meant; some rows are read at a time.

    Args:
        written: The object as it was read back.
        pixels: What was meant, class maps uint8 (1, H, W).
    """
    for top in range(0, pixels.shape[1], _ROWS):
        meant = pixels[0, top : top + _ROWS]
        found = written.get_total_pixel_matrix(
            row_start=top, row_end=top + len(meant), combine_segments=True, skip_overlap_checks=True, as_indices=True
        )
        if not np.array_equal(found, meant):
            return False
    return True


def has_pixels(
    written: Segmentation, references: Sequence[tuple[str, str, int | None]], pixels: np.ndarray, num_segments: int
) -> bool:
    """Tell whether an object has, frame by frame, the pixels that were meant.

    Args:
        written: The object as it was read back.
        references: SOP class, SOP instance and frame, from 1, of each source, as `references_of` returns them.
        pixels: What was meant: class maps uint8 (N, H, W), or probabilities (N, H, W, S).
        num_segments: S.
    """
    for (_, instance, frame), meant in zip(references, pixels, strict=True):
        if frame is None:
            read = partial(written.get_pixels_by_source_instance, [instance])
        else:
            read = partial(written.get_pixels_by_source_frame, instance, [frame])
        (found,) = read(assert_missing_frames_are_empty=True, rescale_fractional=False)
        if meant.dtype == np.uint8:
            meant = meant[..., None] == np.arange(1, num_segments + 1)
        else:
            meant = np.around(meant * MAX_FRACTIONAL)
        if not np.array_equal(found, meant):
            return False
    return True
