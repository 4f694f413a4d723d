"""How large the pixels of a DICOM image are in the patient: by Pixel Spacing, or by the regions of an ultrasound image.

A detector's own spacing (ImagerPixelSpacing, alone or merely repeated as PixelSpacing without a calibration type) and a
scanner's nominal spacing do not count; nor do regions of ultrasound other than planes in centimetres, and those that do
not fit into the image, which was scaled or cut after them.

Letters: H W image size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from icmoe_monai.imageio.dicom.attributes import first_number, macro, numbers
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.dicom.header import Header, check_frame, read_header
from icmoe_monai.imageio.image_file import open_file

_2D, _CENTIMETRES = 1, 3  # RegionSpatialFormat, PhysicalUnitsXDirection
_MM_OF_CM = 10


@dataclass(frozen=True)
class Scale:
    """The scale of one frame, which need not be the same everywhere.

    Args:
        steps: mm from each pixel to the next row and to the next column, (H, W, 2); NaN where it is not calibrated.

    Example:
        >>> scale = Scale(np.broadcast_to((0.5, 0.2), (3, 4, 2)))
        >>> found = np.eye(3, 4, dtype=np.uint8)
        >>> [round(area, 3) for area in scale.areas_mm2(found, 2)], scale.spacing_mm(found)
        ([0.3], (0.5, 0.2))
    """

    steps: np.ndarray

    def areas_mm2(self, classes: np.ndarray, num_classes: int) -> list[float] | None:
        """Return the area of each foreground class.

        Args:
            classes: Class numbers, 0 the background, (H, W).
            num_classes: How many classes, the background among them.

        Returns:
            mm² of class 1 to num_classes - 1, 0.0 for a class without pixels. None where the frame is not calibrated,
            and where a pixel of any foreground class lies where it is not.

        Raises:
            ValueError: classes has another size than the image.
        """
        size = self.steps.shape[:2]
        if classes.shape != size:
            raise ValueError(f"classes must have the image's size (H, W) = {size}, got {classes.shape}.")
        if np.isnan(self.steps).all() or np.isnan(self.steps[classes > 0]).any():
            return None
        return [float(self.steps[classes == number].prod(axis=1).sum()) for number in range(1, num_classes)]

    def spacing_mm(self, classes: np.ndarray) -> tuple[float, float] | None:
        """Return the one scale of all that was found, or where nothing was found that of the image's middle.

        Args:
            classes: Class numbers, 0 the background, (H, W).

        Returns:
            mm between rows and between columns, or None if it is not calibrated there, or not alike.
        """
        H, W = classes.shape
        steps = self.steps[classes > 0] if classes.any() else self.steps[H // 2, W // 2][None]
        if not np.isclose(steps, steps[0]).all():
            return None
        return float(steps[0, 0]), float(steps[0, 1])


@guarded
def read_scale(path: str, frame: int = 0) -> Scale:
    """Return the scale of a frame; no pixels are decoded.

    Args:
        path: The file.
        frame: Which frame, from 0.

    Raises:
        InputError: The file cannot be read, or has no such frame.
        NotAnImageError: The file is DICOM, but no image to segment.
    """
    with open_file(path) as file:
        return scale_of(read_header(path, file), frame)


@guarded
def scale_of(image: Header, frame: int = 0) -> Scale:
    """Return the scale of a frame of an image whose header was read.

    Args:
        image: The image.
        frame: Which frame, from 0.

    Raises:
        InputError: It has no such frame, or its header is damaged.
    """
    check_frame(image, frame)
    spacing = _spacing(image.dataset, frame)
    if spacing is not None:
        return Scale(np.broadcast_to(spacing, (image.rows, image.columns, 2)))
    return Scale(_steps_of_regions(image))


def _spacing(dataset: Dataset, frame: int) -> tuple[float, ...] | None:
    spacing = numbers(macro(dataset, frame, "PixelMeasuresSequence").get("PixelSpacing"), 2)
    repeated = numbers(dataset.get("ImagerPixelSpacing"), 2) == spacing
    if spacing is None or min(spacing) <= 0 or (repeated and not dataset.get("PixelSpacingCalibrationType")):
        return None
    return spacing


def _steps_of_regions(image: Header) -> np.ndarray:
    """Return the steps in all regions of ultrasound, NaN where two contradict each other."""
    size = (image.rows, image.columns, 2)
    regions = image.dataset.get("SequenceOfUltrasoundRegions")
    if not regions:
        return np.broadcast_to(np.nan, size)
    steps = np.full(size, np.nan)
    covered = np.zeros(size[:2], dtype=bool)
    for region in regions:
        if any(region.get(f"RegionLocation{end}") is None for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")):
            continue  # an item without a place
        left, top = max(region.RegionLocationMinX0, 0), max(region.RegionLocationMinY0, 0)
        inside = np.s_[top : region.RegionLocationMaxY1 + 1, left : region.RegionLocationMaxX1 + 1]
        own = _steps_of_region(region) if _fits(region, image) else (np.nan, np.nan)
        contradicts = covered[inside] & ~np.isclose(steps[inside], own).all(axis=2)
        steps[inside] = np.where(contradicts[..., None], np.nan, own)
        covered[inside] = True
    return steps


def _fits(region: Dataset, image: Header) -> bool:
    """Tell whether an ultrasound region lies in the image; if not, that was scaled or cut after it was calibrated."""
    # some count the last pixel's number from 1
    return bool(region.RegionLocationMaxX1 <= image.columns and region.RegionLocationMaxY1 <= image.rows)


def _steps_of_region(region: Dataset) -> tuple[float, float]:
    """Return the steps in an ultrasound region, NaN where it shows no plane in centimetres."""
    units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
    if region.get("RegionSpatialFormat") != _2D or units != (_CENTIMETRES, _CENTIMETRES):
        return np.nan, np.nan
    deltas = [abs(first_number(region.get(keyword)) or np.nan) for keyword in ("PhysicalDeltaY", "PhysicalDeltaX")]
    return (_MM_OF_CM * deltas[0], _MM_OF_CM * deltas[1]) if not np.isnan(deltas).any() else (np.nan, np.nan)
