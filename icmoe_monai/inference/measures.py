"""Measures of a mask: pixels, connected parts, and square millimetres where the image file gives a scale.

Letters: H W image size; K classes with the background.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.scale import Scale, read_scale
from icmoe_monai.imageio.nifti.header import SUFFIXES as NIFTI_SUFFIXES
from icmoe_monai.imageio.nifti.scale import areas_mm2, pixel_spacing
from icmoe_monai.transforms.parts import part_sizes

AREAS = ("foreground_pixels", "area_mm2")
INTERVALS = tuple(f"{area}_{end}" for area in AREAS for end in ("low", "high"))
PER_CLASS = ("foreground_pixels", "foreground_share", "area_mm2", "num_components", *INTERVALS)


def measure(
    classes: np.ndarray,
    *,
    num_classes: int,
    source: str | None = None,
    frame: int = 0,
    scale: Scale | None = None,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Measure every foreground class of a class map.

    Args:
        classes: The class map, (H, W).
        num_classes: K.
        source: The image file that the class map belongs to, which may give a scale; None for no scale.
        frame: Number of the frame in the file, from 0.
        scale: The scale of a DICOM image that comes from memory.
        ends: What each foreground class is at least, and at most, bool (K - 1, H, W); None: no interval of the areas.

    Returns:
        Lists with one value per foreground class: `foreground_pixels`, `foreground_share` of the image, and
        `num_components`, parts that touch by a side or corner; `area_mm2`, a list as well, or None where the file gives
        no scale; the lists of `INTERVALS`, the areas of `ends`, or None; and `spacing_mm`, the (row, column) spacing in
        mm where the foreground lies, or None.

    Example:
        >>> measure(np.array([[1, 0, 1], [1, 0, 0]]), num_classes=2)["num_components"]
        [2]
    """
    areas, spacing = _scale(classes, source, frame, scale)
    parts = [part_sizes(classes == k) for k in range(1, num_classes)]
    pixels = [int(sizes.sum()) for sizes in parts]
    return {
        "foreground_pixels": pixels,
        "foreground_share": [float(count) / classes.size for count in pixels],
        "num_components": [len(sizes) for sizes in parts],
        "area_mm2": areas(classes, num_classes),
        "spacing_mm": spacing,
        **dict.fromkeys(INTERVALS),
        **({} if ends is None else _intervals(ends, areas)),
    }


_Areas: TypeAlias = Callable[[np.ndarray, int], "list[float] | None"]  # of the classes of a map, in mm2


def _intervals(ends: tuple[np.ndarray, np.ndarray], areas: _Areas) -> dict[str, list[Any] | None]:
    """Return the lists of `INTERVALS`; the masks of several classes may overlap, so that each is measured by itself."""
    found: dict[str, list[Any] | None] = {}
    for end, masks in zip(("low", "high"), ends, strict=True):
        found[f"foreground_pixels_{end}"] = [np.count_nonzero(mask) for mask in masks]
        in_mm = [areas(mask.astype(np.uint8), 2) for mask in masks]
        found[f"area_mm2_{end}"] = [one[0] for one in in_mm if one] if all(in_mm) else None
    if None in found.values():  # the larger area may lie where there is no scale
        found |= dict.fromkeys(("area_mm2_low", "area_mm2_high"))
    return found


def _scale(
    classes: np.ndarray, source: str | None, frame: int, scale: Scale | None
) -> tuple[_Areas, tuple[float, float] | None]:
    """Return what measures areas on the image's grid, and the spacing where the foreground lies."""
    if source is not None and source.lower().endswith(NIFTI_SUFFIXES):
        return partial(areas_mm2, source), pixel_spacing(source)
    if source is not None and is_dicom(source):
        scale = read_scale(source, frame)
    if scale is None:
        return lambda map_, num_classes: None, None
    return scale.areas_mm2, scale.spacing_mm(classes)
