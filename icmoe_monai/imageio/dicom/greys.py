"""DICOM greys: from stored values to 0..255, through the tables, rescales and windows of the header.

Greys go through the modality LUT or rescale, then the first VOI LUT or window, whose output range becomes 0..255;
without one, the frame's 0.5..99.5 percentile range does, padding left out. MONOCHROME1 is inverted afterwards, by
`pixels`.

Letters: H W image size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_windowing

from icmoe_monai.imageio.dicom.attributes import first_number, macro
from icmoe_monai.imageio.dicom.header import Header
from icmoe_monai.imageio.greys import apply_window, find_window


def to_grey(image: Header, stored: np.ndarray, frame: int) -> np.ndarray:
    """Return the greys of a frame before MONOCHROME1 is inverted.

    Args:
        image: The image.
        stored: The frame's values as stored, (H, W).
        frame: Which frame, from 0.

    Returns:
        (H, W) in 0..255, NaN where a value is not finite.
    """
    big_endian = not image.syntax.is_little_endian
    values = _to_modality(stored, macro(image.dataset, frame, "PixelValueTransformationSequence"), big_endian)
    view = macro(image.dataset, frame, "FrameVOILUTSequence")
    table = _first_table(view.get("VOILUTSequence"))
    if table is not None:
        # some tables hold more than the bits that they name
        bits = max(int(table.LUTDescriptor[2]), int(_entries(table, big_endian).max()).bit_length(), 1)
        shown: np.ndarray | None = _look_up(values, table, big_endian) * (255 / (2**bits - 1))
    else:
        shown = _window(values, view)
    if shown is None:
        return _stretch(values, ~_padding(image.dataset, stored))
    return np.where(np.isfinite(values), shown, np.nan)


def _to_modality(stored: np.ndarray, item: Dataset, big_endian: bool) -> np.ndarray:
    table = _first_table(item.get("ModalityLUTSequence"))
    if table is not None:
        return _look_up(stored, table, big_endian)
    slope, intercept = first_number(item.get("RescaleSlope")), first_number(item.get("RescaleIntercept"))
    values = stored.astype(np.float64)
    return values if slope is None or intercept is None else values * slope + intercept


def _first_table(sequence: Any) -> Dataset | None:
    """Return the first item that holds a table; some programs write items without one."""
    return next((item for item in sequence or [] if item.get("LUTDescriptor") and item.get("LUTData")), None)


def _look_up(values: np.ndarray, item: Dataset, big_endian: bool) -> np.ndarray:
    """Apply a table as pydicom does, which wraps at 256 entries of 8 bits and refuses modality tables of 12 bits."""
    _, first, _ = item.LUTDescriptor
    entries = _entries(item, big_endian)
    places = np.nan_to_num(values.astype(np.float64) - first).clip(0, len(entries) - 1).astype(np.int64)
    return entries[places].astype(np.float64)


def _entries(item: Dataset, big_endian: bool) -> np.ndarray:
    """Return the entries of a table."""
    num_entries = int(item.LUTDescriptor[0]) or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        words = ">u2" if big_endian else "<u2"
        data = np.frombuffer(data, dtype=words if len(data) >= 2 * num_entries else "u1")
    return np.atleast_1d(np.asarray(data))[:num_entries]


def _window(values: np.ndarray, view: Dataset) -> np.ndarray | None:
    center, width = first_number(view.get("WindowCenter")), first_number(view.get("WindowWidth"))
    function = str(view.get("VOILUTFunction") or "").upper()
    function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    # PS3.3, C.11.2.1.2 and C.11.2.1.3: only LINEAR asks for a width of 1
    if center is None or width is None or (width < 1 if function == "LINEAR" else width <= 0):
        return None
    settings = Dataset()
    settings.add(view["WindowCenter"])
    settings.add(view["WindowWidth"])
    settings.VOILUTFunction = function
    settings.PhotometricInterpretation, settings.PixelRepresentation = "MONOCHROME2", 0
    settings.BitsStored = 8  # the window's output range: 0..255
    return apply_windowing(values, settings)


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    limits = [dataset.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    limits = [int(limit) for limit in limits if limit is not None]
    if "PixelPaddingValue" not in dataset or not limits or stored.dtype.kind == "f":
        return np.zeros(stored.shape, dtype=bool)
    # as the values: some write a signed one as if it were unsigned, or one that Bits Stored does not hold
    size = 2 ** int(dataset.BitsStored)
    least = -size // 2 if stored.dtype.kind == "i" else 0
    limits = [(limit - least) % size + least for limit in limits]
    return (stored >= min(limits)) & (stored <= max(limits))


def _stretch(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    counted = values[finite & counts] if (finite & counts).any() else values[finite]
    return apply_window(values, *find_window(counted)) if counted.size else np.full(values.shape, np.nan)
