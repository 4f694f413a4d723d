"""Measures of a mask: pixels, connected parts, and square millimetres where the image file gives a scale.

Letters: H W image size; K classes with the background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.measure import label

from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.scale import Scale, read_scale
from icmoe_monai.imageio.nifti.header import SUFFIXES as NIFTI_SUFFIXES
from icmoe_monai.imageio.nifti.scale import areas_mm2, pixel_spacing

PER_CLASS = ("foreground_pixels", "foreground_share", "area_mm2", "num_components")


def measure(
    classes: np.ndarray, *, num_classes: int, source: str | None = None, frame: int = 0, scale: Scale | None = None
) -> dict[str, Any]:
    """Measure every foreground class of a class map.

    Args:
        classes: The class map, (H, W).
        num_classes: K.
        source: The image file that the class map belongs to, which may give a scale; None for no scale.
        frame: Number of the frame in the file, from 0.
        scale: The scale of a DICOM image that comes from memory.

    Returns:
        Lists with one value per foreground class: `foreground_pixels`, `foreground_share` of the image, and
        `num_components`, parts that touch by a side or corner; `area_mm2`, a list as well, or None where the file gives
        no scale; and `spacing_mm`, the (row, column) spacing in mm where the foreground lies, or None.

    Example:
        >>> measure(np.array([[1, 0, 1], [1, 0, 0]]), num_classes=2)["num_components"]
        [2]
    """
    pixels = np.bincount(classes.ravel(), minlength=num_classes)[1:]
    return {
        "foreground_pixels": [int(count) for count in pixels],
        "foreground_share": [float(count) / classes.size for count in pixels],
        "num_components": [int(label(classes == k, connectivity=2).max()) for k in range(1, num_classes)],
        **_scale(classes, num_classes, source, frame, scale),
    }


def _scale(
    classes: np.ndarray, num_classes: int, source: str | None, frame: int, scale: Scale | None
) -> dict[str, Any]:
    if source is not None and source.lower().endswith(NIFTI_SUFFIXES):
        return {"area_mm2": areas_mm2(source, classes, num_classes), "spacing_mm": pixel_spacing(source)}
    if source is not None and is_dicom(source):
        scale = read_scale(source, frame)
    if scale is None:
        return {"area_mm2": None, "spacing_mm": None}
    return {"area_mm2": scale.areas_mm2(classes, num_classes), "spacing_mm": scale.spacing_mm(classes)}
