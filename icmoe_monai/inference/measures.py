"""How much was found in an image: pixels, connected parts, and square millimetres where the file tells its scale.

Letters: H W image size; K classes with the background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage.measure import label

from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.scale import read_scale
from icmoe_monai.imageio.nifti.header import SUFFIXES as NIFTI_SUFFIXES
from icmoe_monai.imageio.nifti.scale import areas_mm2, pixel_spacing


def measure(classes: np.ndarray, *, num_classes: int, source: str | None = None, frame: int = 0) -> dict[str, Any]:
    """Measure every foreground class of a class map.

    Args:
        classes: The class map, (H, W).
        num_classes: K.
        source: The image file that it lies on; None has no scale.
        frame: Which of the file's frames.

    Returns:
        Lists with one value per foreground class: `foreground_pixels`, `foreground_share` of the image, and
        `num_components`, parts that touch by a side or corner; `area_mm2`, such a list too, or None where the file does
        not tell its scale; and `spacing_mm`, the (row, column) spacing there, or None.

    Example:
        >>> measure(np.array([[1, 0, 1], [1, 0, 0]]), num_classes=2)["num_components"]
        [2]
    """
    pixels = np.bincount(classes.ravel(), minlength=num_classes)[1:]
    return {
        "foreground_pixels": [int(count) for count in pixels],
        "foreground_share": [float(count) / classes.size for count in pixels],
        "num_components": [int(label(classes == k, connectivity=2).max()) for k in range(1, num_classes)],
        **_scale(classes, num_classes, source, frame),
    }


def _scale(classes: np.ndarray, num_classes: int, source: str | None, frame: int) -> dict[str, Any]:
    if source is not None and source.lower().endswith(NIFTI_SUFFIXES):
        return {"area_mm2": areas_mm2(source, classes, num_classes), "spacing_mm": pixel_spacing(source)}
    if source is not None and is_dicom(source):
        scale = read_scale(source, frame)
        return {"area_mm2": scale.areas_mm2(classes, num_classes), "spacing_mm": scale.spacing_mm(classes)}
    return {"area_mm2": None, "spacing_mm": None}
