"""DICOM Segmentation objects of what was found in DICOM images, by highdicom.

One object refers to the single-frame images of one series, or to the frames of one multi-frame image. Patient, study,
frame of reference and geometry are the source's; nothing is invented, so where the source lacks what the standard asks
for (frames without a Frame of Reference, a series without positions) there is no object but a `NoSegmentationError`.
Every object is read back and compared before it stands in its place.

A source may name a patient: no message here holds a value of its tags, nor the text of a library's exception, and the
libraries' own warnings are not passed on.

Letters: N source frames; H, W their size; S segments, which are the foreground classes 1..S.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.enum import SpecificCharacterSetValues
from highdicom.seg import Segmentation, SegmentDescription, segread
from highdicom.spatial import get_image_coordinate_system
from highdicom.sr import CodedConcept
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.version import __version__

_MAX_FRACTIONAL = 255
_SERIES_NUMBER_OFFSET = 1000  # so that the new series stands behind those of the study
_MAX_TEXT = 64  # characters of a label, a code's meaning or a name in DICOM
_UTF8 = "ISO_IR 192"
_CHARSETS = {charset.value for charset in SpecificCharacterSetValues} - {""}
_MAX_TILT = 1e-4  # of one series' image orientations against each other, as direction cosines
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_READ_HERE = (
    *_IDENTIFIERS,
    *("NumberOfFrames", "FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PatientOrientation"),
)
# What the standard wants to be there, if only empty, and what highdicom does not read without.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_INSTEAD = "the PNG masks hold the result"


class NoSegmentationError(InputError):
    """The source images allow no valid DICOM Segmentation; the message says why, and what holds the result."""


@dataclass(frozen=True)
class Segment:
    """What a foreground class is, in words and in codes.

    Args:
        label: Its name for people, up to 64 characters.
        category: What kind of thing it is: a code's value, scheme and meaning, of DICOM's context group 7150.
        type: What it is, likewise.
        anatomy: Where in the body it is, likewise, or None.

    Example:
        >>> Segment("nucleus", ["91723000", "SCT", "Anatomical Structure"], ["84640000", "SCT", "Nucleus"]).label
        'nucleus'
    """

    label: str
    category: Sequence[str]
    type: Sequence[str]
    anatomy: Sequence[str] | None = None


def write_segmentation(
    path: str | Path,
    *,
    sources: Sequence[tuple[str, int]],
    classes: Iterable[np.ndarray] | None,
    probabilities: Iterable[np.ndarray] | None = None,
    segments: Sequence[Segment | Mapping[str, Any]],
    algorithm: Mapping[str, Any],
) -> None:
    """Write what was found in images as one DICOM Segmentation: BINARY from classes, FRACTIONAL from probabilities.

    Frames in which nothing was found are left out, unless that would leave none.

    Args:
        path: Where the file shall be.
        sources: N pairs of file and frame from 0: single-frame images of one series, or frames of one file.
        classes: N class maps 0..S, uint8 (H, W), or None; not asked for, if the sources allow no object.
        probabilities: N arrays of the segments' probabilities in 0..1, (S, H, W), instead of classes.
        segments: S segments, or mappings of `Segment`'s arguments.
        algorithm: `name`, `version`, and perhaps `family`, a code's value, scheme and meaning; the default is
            Artificial Intelligence.

    Raises:
        NoSegmentationError: The sources allow no valid object.
        InputError: A source or a segment's description cannot be used, or the file cannot be written.
        ValueError: Classes or probabilities do not fit the sources or the segments.
        RuntimeError: The object read back differs from what was meant.
    """
    described = [as_segment(segment) for segment in segments]
    with _quiet():
        images = _read_sources(sources)
        frames = [frame for _, frame in sources]
        is_multiframe = int(images[0].get("NumberOfFrames") or 1) > 1
        _check_sources(sources, images)
        _check_places(sources[0][0], images)
        pixels = _stack(classes, probabilities, (images[0].Rows, images[0].Columns), len(sources), len(described))
        if not str((described, dict(algorithm))).isascii():
            images[
                0
            ].SpecificCharacterSet = _UTF8  # highdicom takes it over, and pydicom decodes texts as they were read
        descriptions = [_describe(number, one, algorithm) for number, one in enumerate(described, start=1)]
        everywhere = _at_frames(pixels, frames, int(images[0].NumberOfFrames)) if is_multiframe else pixels
        with _refusing(sources[0][0]):
            segmentation = _build(images, everywhere, descriptions=descriptions, algorithm=algorithm)

        def write(temporary: Path) -> None:
            segmentation.save_as(temporary)
            with _refusing(sources[0][0]):
                _check_written(temporary, images, frames if is_multiframe else None, pixels, len(described))

        write_atomically(path, write)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries, whose warnings and logs may hold values of tags."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def as_segment(segment: Segment | Mapping[str, Any]) -> Segment:
    """Return a segment from its arguments, checked.

    Args:
        segment: A segment, or a mapping of `Segment`'s arguments.

    Raises:
        InputError: If an argument is missing or cannot be used.
    """
    try:
        segment = segment if isinstance(segment, Segment) else Segment(**segment)
    except TypeError as error:
        raise InputError("A segment needs label, category and type, and may have anatomy: correct segments.") from error
    for code in (segment.category, segment.type, segment.anatomy):
        if code is not None and (isinstance(code, str) or len(code) != 3 or not all(map(str, code))):
            raise InputError(
                f"The codes of segment {segment.label} must be lists of value, scheme and meaning, got {code}."
            )
    if not 0 < len(segment.label) <= _MAX_TEXT:
        raise InputError(f"A segment's label must have 1 to {_MAX_TEXT} characters, got {len(segment.label)}.")
    return segment


def _stack(
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


def _read_sources(sources: Sequence[tuple[str, int]]) -> list[Dataset]:
    """Return the sources without their pixels, each file once."""
    images: list[Dataset] = []
    for path in dict.fromkeys(path for path, _ in sources):
        if not os.path.isfile(path):
            raise InputError(f"{path} is not a file: correct the path.")
        try:
            image = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            _mend(image, images)
        except Exception:  # a damaged file makes pydicom raise nearly anything
            raise _refused(path, "holds attributes that cannot be read") from None
        for keyword in _IDENTIFIERS:
            if not image.get(keyword):
                raise _refused(path, f"has no {keyword}")
        images.append(image)
    return images


def _mend(image: Dataset, others: Sequence[Dataset]) -> None:
    """Bring, in memory, into today's form what highdicom stumbles over and what means the same in both forms."""
    for keyword in _READ_HERE:
        image.get(keyword)  # raises here, if at all
    for keyword in _MAY_BE_EMPTY:
        if keyword not in image:
            setattr(image, keyword, None)
    if "SpecificCharacterSet" in image and not _CHARSETS.issuperset(_values_of(image["SpecificCharacterSet"])):
        image.SpecificCharacterSet = _UTF8  # pydicom decodes the texts as they were read
    for keyword, separator in (("StudyDate", "."), ("StudyTime", ":")):  # before 1993
        if separator in str(image[keyword].value):
            image[keyword].value = str(image[keyword].value).replace(separator, "")
    orientation = image.get("ImageOrientationPatient")
    shared = others[0].get("ImageOrientationPatient") if others else None
    if orientation and shared and np.allclose(orientation, shared, rtol=0, atol=_MAX_TILT):
        image.ImageOrientationPatient = shared
    if get_image_coordinate_system(image) is None and not image.get("SliceThickness") and "PixelSpacing" in image:
        del image.PixelSpacing  # alone it would give pixel measures that highdicom itself cannot read


def _values_of(element: DataElement) -> list[str]:
    return list(element.value) if element.VM > 1 else [str(element.value or "")]


def _check_sources(sources: Sequence[tuple[str, int]], images: Sequence[Dataset]) -> None:
    """Refuse, with the reason, what highdicom would refuse."""
    path = sources[0][0]
    num_frames = [int(image.get("NumberOfFrames") or 1) for image in images]
    if len(images) > 1 and max(num_frames) > 1:
        raise _refused(path, "is one of several files, of which some hold several frames")
    if len({image.SeriesInstanceUID for image in images}) > 1:
        raise _refused(path, "and the other files are of different series")
    if len({(image.Rows, image.Columns) for image in images}) > 1:
        raise _refused(path, "and the other images of its series differ in size")
    named = [frame for _, frame in sources]
    if len(set(sources)) < len(sources) or min(named) < 0 or max(named) >= max(num_frames):
        raise ValueError("Each source must be named once, with a frame that it has.")


def _check_places(path: str, images: Sequence[Dataset]) -> None:
    """Refuse images that do not lie in one space, each at its place."""
    alone = len(images) == 1
    if any(get_image_coordinate_system(image) is None for image in images):
        if not alone:
            raise _refused(path, "and the other images of its series have no Frame of Reference with positions")
        if int(images[0].get("NumberOfFrames") or 1) > 1:
            raise _refused(path, "holds several frames and has no Frame of Reference with positions")
    elif not alone:
        if len({tuple(image.get("ImageOrientationPatient") or ()) for image in images}) > 1:
            raise _refused(path, "and the other images of its series lie in different directions")
        if len({tuple(image.get("ImagePositionPatient") or ()) for image in images}) < len(images):
            raise _refused(path, "and the other images of its series lie in part at the same place")


def _refused(path: str, reason: str) -> NoSegmentationError:
    return NoSegmentationError(f"{path} {reason}, so there can be no DICOM SEG: {_INSTEAD}.")


@contextmanager
def _refusing(path: str) -> Iterator[None]:
    """Turn what highdicom raises about a source, with its values in the text, into a sentence without them."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        lacks = (
            "lacks attributes that such an object takes over, for example a Frame of Reference, or contradicts itself"
        )
        raise _refused(path, lacks) from None  # not even a traceback shall show the values


def _at_frames(pixels: np.ndarray, frames: Sequence[int], num_frames: int) -> np.ndarray:
    """Return a mask for every frame of a file, empty where a frame is not among the sources."""
    everywhere = np.zeros((num_frames, *pixels.shape[1:]), dtype=pixels.dtype)
    everywhere[list(frames)] = pixels
    return everywhere


def _describe(number: int, segment: Segment, algorithm: Mapping[str, Any]) -> SegmentDescription:
    family = algorithm.get("family")
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=CodedConcept(*segment.category),
        segmented_property_type=CodedConcept(*segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=str(algorithm["name"]),
            family=CodedConcept(*family) if family else codes.DCM.ArtificialIntelligence,
            version=str(algorithm["version"]),
        ),
        tracking_uid=UID(),
        tracking_id=f"{segment.label} {number}"[:_MAX_TEXT],
        anatomic_regions=[CodedConcept(*segment.anatomy)] if segment.anatomy else None,
    )


def _build(
    images: Sequence[Dataset],
    pixels: np.ndarray,
    *,
    descriptions: Sequence[SegmentDescription],
    algorithm: Mapping[str, Any],
) -> Segmentation:
    name = str(algorithm["name"])
    segmentation = Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type="BINARY" if pixels.dtype == np.uint8 else "FRACTIONAL",
        fractional_type="PROBABILITY",
        max_fractional_value=_MAX_FRACTIONAL,
        segment_descriptions=descriptions,
        series_instance_uid=UID(),
        series_number=_SERIES_NUMBER_OFFSET + int(images[0].get("SeriesNumber") or 0),
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="icmoe_monai",
        manufacturer_model_name=name,
        software_versions=__version__,
        device_serial_number="0",
        series_description=f"Segmentation by {name}"[:_MAX_TEXT],
        content_label="SEGMENTATION",
        content_description="Found by an algorithm, not reviewed",
        omit_empty_frames=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    if get_image_coordinate_system(images[0]) is None:
        segmentation.PatientOrientation = images[0].get("PatientOrientation")  # has to be there, if only empty
    return segmentation


def _check_written(
    path: Path, images: Sequence[Dataset], frames: Sequence[int] | None, pixels: np.ndarray, num_segments: int
) -> None:
    """Compare a written object, frame by frame, with what was meant."""
    written = segread(path)
    for n, meant in enumerate(pixels):
        if frames is None:
            found = written.get_pixels_by_source_instance(
                [images[n].SOPInstanceUID], assert_missing_frames_are_empty=True, rescale_fractional=False
            )[0]
        else:
            found = written.get_pixels_by_source_frame(
                images[0].SOPInstanceUID,
                [frames[n] + 1],
                assert_missing_frames_are_empty=True,
                rescale_fractional=False,
            )[0]
        if meant.dtype == np.uint8:
            meant = meant[..., None] == np.arange(1, num_segments + 1)
        else:
            meant = np.around(meant * _MAX_FRACTIONAL)
        if not np.array_equal(found, meant):
            raise RuntimeError("A DICOM Segmentation read back differs from what was written; it was not kept.")
