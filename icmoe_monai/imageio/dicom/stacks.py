"""Where a DICOM file stands among the others of its series."""

from __future__ import annotations

import hashlib

import numpy as np
from pydicom import Dataset

from icmoe_monai.imageio.dicom.attributes import first_number, numbers


def series_of(dataset: Dataset) -> str:
    """Return what is equal for the files of one series, frame of reference, orientation and size.

    Args:
        dataset: The header of a file of one frame.

    Returns:
        A digest, so that it may be logged; "" where the header names no series or no place in it.
    """
    directions = numbers(dataset.get("ImageOrientationPatient"), 6)
    if not dataset.get("SeriesInstanceUID") or directions is None or not dataset.get("ImagePositionPatient"):
        return ""  # pictures of one series, such as ultrasound stills, are no stack
    directions = tuple(round(number, 2) + 0.0 for number in directions)
    uids = [str(dataset.get(keyword) or "") for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID")]
    return hashlib.sha256(repr((uids, directions, dataset.Rows, dataset.Columns)).encode()).hexdigest()


def position_of(dataset: Dataset) -> tuple[float, ...]:
    """Return what sorts the files of a series: mm along the slice normal, 0 if not given, then the instance number.

    Args:
        dataset: The header.
    """
    return _place(dataset), first_number(dataset.get("InstanceNumber")) or 0.0


def _place(dataset: Dataset) -> float:
    """Return the position along the slice normal in mm, 0 where it is not given."""
    directions = numbers(dataset.get("ImageOrientationPatient"), 6)
    position = numbers(dataset.get("ImagePositionPatient"), 3)
    if directions is None or position is None:
        return 0.0
    return float(np.cross(directions[:3], directions[3:]) @ np.asarray(position))
