"""How large the pixels of a NIfTI volume's slices are in the patient.

Letters: H, W an upright slice; K classes with the background.
"""

from __future__ import annotations

import numpy as np

from icmoe_monai.imageio.nifti.header import QUIET, read_layout

_MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_MAX_SPACING_ERROR = 0.01  # between the voxel sizes and the affine, relative


@QUIET
def pixel_spacing(path: str) -> tuple[float, float] | None:
    """Return how far an upright slice's rows, and how far its columns are apart, in mm.

    Args:
        path: The file.

    Returns:
        (between rows, between columns); None if the header names no unit, no sizes, or others than its affine.

    Raises:
        InputError: The file cannot be read.
    """
    layout = read_layout(path)
    header = layout.header
    try:
        factor = _MM_PER_UNIT.get(header.get_xyzt_units()[0])
    except KeyError:  # a code that the standard does not have
        return None
    # pixdim, not the affine: one that leads to an atlas (MNI) stretches
    sizes = np.abs(header["pixdim"][1:3].astype(np.float64))
    if factor is None or not np.isfinite(sizes).all() or not (sizes > 0).all():
        return None
    if header["sform_code"] in (1, 2):
        by_affine = np.linalg.norm(header.get_sform()[:3, :2], axis=0)
        if not np.allclose(sizes, by_affine, rtol=_MAX_SPACING_ERROR, atol=0):
            return None
    along_x, along_y = (float(size) * factor for size in sizes)
    return (along_y, along_x) if layout.turn.swapped else (along_x, along_y)


def areas_mm2(path: str, classes: np.ndarray, num_classes: int) -> list[float] | None:
    """Return the area of every foreground class of a class map, in square millimetres.

    Args:
        path: The volume that the class map lies on.
        classes: The class map of a slice, (H, W).
        num_classes: K, with the background.

    Returns:
        K - 1 areas, or None where `pixel_spacing` is None.

    Raises:
        InputError: The file cannot be read.
    """
    spacing = pixel_spacing(path)
    if spacing is None:
        return None
    pixels = np.bincount(classes.ravel(), minlength=num_classes)[1:num_classes]
    return [float(count) * spacing[0] * spacing[1] for count in pixels]
