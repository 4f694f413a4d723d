"""What highdicom is shown instead of a source: images of one frame, each with its place, or an image on a slide."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import PixelMeasuresSequence, PlanePositionSequence
from highdicom.enum import CoordinateSystemNames
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    VLMicroscopicImageStorage,
)
from pydicom.valuerep import DSfloat

from icmoe_monai.imageio.dicom.seg.places import thickness_of
from icmoe_monai.imageio.dicom.seg.sources import Image, Part

_ONE_FRAME = VLMicroscopicImageStorage  # of images of one frame, which may show a patient or a specimen
_GROUPS_OF_PLACES = (0x0020, 0x0028, 0x0048, 0x5200)  # of a slide's frames
_STAND_IN = "1.2.840.10008.{}"  # UIDs that no object keeps
_METHODS = {  # of compression that always loses, PS3.3 C.7.6.1.1.5.1
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}


def stand_ins_of(part: Part, taken: Dataset) -> list[Dataset]:
    """Return an image of one frame for each member of an object; their UIDs tell nothing but their order.

    Args:
        part: What the object holds.
        taken: What it takes over of its first image.
    """
    if part.matrix is not None:
        return [_slide(part.images[0], taken)]
    first, thickness = part.places[0], thickness_of(part.places)
    stand_ins = []
    for n, (place, source) in enumerate(zip(part.places, part.images, strict=True), start=1):
        image = Dataset()
        image.update(taken if n == 1 else {})
        image.SOPClassUID, image.SOPInstanceUID = _ONE_FRAME, UID(_STAND_IN.format(n))
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = part.frame_of_reference, None
        image.ImagePositionPatient = _decimals(place.position)
        image.ImageOrientationPatient = _decimals(first.orientation)
        image.PixelSpacing = _decimals(first.spacing)
        (image.SliceThickness,) = _decimals((thickness,))
        if first.gap is not None and len(part.places) == 1:
            (image.SpacingBetweenSlices,) = _decimals((first.gap,))
        _complete(image, source)
        stand_ins.append(image)
    return stand_ins


def tiling_of(level: Dataset, matrix: tuple[int, int]) -> dict[str, Any]:
    """Return what highdicom is told of a slide's mask: that it is to be tiled, and its grid if it is not the level's.

    Args:
        level: The header of the level.
        matrix: (H, W) of the mask.
    """
    tiling: dict[str, Any] = {"tile_pixel_array": True}
    full = int(level.TotalPixelMatrixRows), int(level.TotalPixelMatrixColumns)
    if matrix == full:
        return tiling
    spacing = [float(value) for value in _measures_of(level).PixelSpacing]
    own = [step * side / length for step, side, length in zip(spacing, full, matrix, strict=True)]
    # the middle of a larger pixel lies farther from the corner: along a row by a column's width, and down likewise
    along_row, down = np.reshape([float(value) for value in level.ImageOrientationSlide], (2, 3))
    origin = level.TotalPixelMatrixOriginSequence[0]
    corner = np.array([float(origin.get(f"{axis}OffsetInSlideCoordinateSystem", 0)) for axis in "XYZ"])
    corner += along_row * (own[1] - spacing[1]) / 2 + down * (own[0] - spacing[0]) / 2
    position = PlanePositionSequence(CoordinateSystemNames.SLIDE, corner.tolist(), (1, 1))
    return tiling | {"pixel_measures": _measures(level, own), "plane_positions": [position]}


def _measures_of(level: Dataset) -> Dataset:
    measures: Dataset = level.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return measures


def _measures(level: Dataset, spacing: Sequence[float]) -> PixelMeasuresSequence:
    """Return a level's measures with a spacing, and with a thickness if it has none."""
    thickness = float(_measures_of(level).get("SliceThickness") or 0)
    return PixelMeasuresSequence(spacing, thickness if thickness > 0 else min(spacing))


def _slide(source: Image, taken: Dataset) -> Dataset:
    """Return an image on a slide with what may be taken over, and with a thickness if it has none."""
    slide, groups = Dataset(), Dataset()
    for group in _GROUPS_OF_PLACES:
        for element in source.dataset.group_dataset(group):
            slide.add(copy.copy(element))  # pydicom changes elements in place
    slide.update(taken)
    groups.update(slide.SharedFunctionalGroupsSequence[0])
    spacing = [float(value) for value in _measures_of(source.dataset).PixelSpacing]
    groups.PixelMeasuresSequence = _measures(source.dataset, spacing)
    slide.SharedFunctionalGroupsSequence = [groups]
    slide.PositionReferenceIndicator = slide.get("PositionReferenceIndicator")
    _complete(slide, source)
    return slide


def _complete(image: Dataset, source: Image) -> None:
    """Give an image the source's study, series and size, and tell of its compression."""
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        setattr(image, keyword, str(source.dataset[keyword].value))
    image.Rows, image.Columns = source.dataset.Rows, source.dataset.Columns
    tell_compression(image, source)


def tell_compression(image: Dataset, source: Image) -> None:
    """Write into an image's header whether the source it was made from was compressed with loss, by what and how far.

    Args:
        image: The header; changed in place.
        source: The source.
    """
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in image:
            del image[keyword]
    syntax = source.dataset.file_meta.get("TransferSyntaxUID")
    is_lossy = source.dataset.get("LossyImageCompression") == "01" or syntax in _METHODS
    image.LossyImageCompression = "01" if is_lossy else "00"
    if not is_lossy:
        return
    ratios, methods = _compressions(source)
    if ratios:
        image.LossyImageCompressionRatio = _decimals(ratios)
    if methods:
        image.LossyImageCompressionMethod = methods


def _compressions(source: Image) -> tuple[tuple[float, ...], list[str]]:
    """Return ratios and methods of the lossy compressions that a source tells of, or else those of the file itself."""
    dataset, syntax = source.dataset, source.dataset.file_meta.get("TransferSyntaxUID")
    methods = [str(method) for method in _values(dataset, "LossyImageCompressionMethod")]
    if not methods and syntax in _METHODS:
        methods = [_METHODS[syntax]]
    try:
        ratios = [float(ratio) for ratio in _values(dataset, "LossyImageCompressionRatio")]
    except ValueError:
        ratios = []
    if (not ratios or min(ratios) <= 0) and syntax is not None and UID(syntax).is_compressed:
        num_bits = int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("BitsAllocated") or 8)
        num_bytes = source.num_frames * int(dataset.Rows) * int(dataset.Columns) * num_bits / 8
        ratios = [round(num_bytes / max(source.num_bytes, 1), 2)]
    return tuple(ratio for ratio in ratios if ratio > 0), methods


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    try:
        element = dataset[keyword]
        return list(element.value) if element.VM > 1 else [element.value] if element.VM else []
    except Exception:  # a damaged value makes pydicom raise nearly anything
        return []


def _decimals(values: tuple[float, ...]) -> list[DSfloat]:
    return [DSfloat(value, auto_format=True) for value in values]
