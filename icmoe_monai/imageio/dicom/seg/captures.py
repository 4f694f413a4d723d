"""Secondary Captures that show outlines on an image, for viewers that show no DICOM Segmentation; by highdicom.

A capture holds the pixels of one image or frame as they are displayed, in RGB, with outlines drawn into them, and no
text. Text that was burnt into the source stays there.

Letters: H, W the size of the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from icmoe_monai.imageio.dicom.attributes import text_in
from icmoe_monai.imageio.dicom.seg.identity import Series
from icmoe_monai.imageio.dicom.seg.making import NOT_REVIEWED, equipment, finish, reference_of, taken_for, write_checked
from icmoe_monai.imageio.dicom.seg.segments import MAX_TEXT
from icmoe_monai.imageio.dicom.seg.sources import Part, references_of
from icmoe_monai.imageio.dicom.seg.stand_ins import tell_compression

_SOURCE = ("121322", "DCM", "Source image for image processing operation")
_IS_DIRECTION = re.compile(r"(?!.*(?:L.*R|R.*L|A.*P|P.*A|H.*F|F.*H))[ALRPHF]{1,3}")
_DIRECTIONS = (("L", "R"), ("P", "A"), ("H", "F"))  # along x, y and z of the patient, and against them
_LEAST_SHARE = 1e-3  # of a direction, as a cosine
_AS_IN_SOURCE = {  # what holds of the outlined image as well, and its values
    "BurnedInAnnotation": ("YES", "NO"),
    "RecognizableVisualFeatures": ("YES", "NO"),
    "Laterality": ("L", "R"),
    "ImageLaterality": ("L", "R", "U", "B"),
}


def write_capture(
    path: str | Path,
    part: Part,
    member: int,
    *,
    picture: np.ndarray,
    segmentation: Dataset,
    algorithm: Mapping[str, Any],
    series: Series,
    uid: str,
    number: int = 1,
) -> None:
    """Write a picture of one image or frame, outlines included, as a Secondary Capture.

    Args:
        path: Where the file shall be.
        part: The images or frames of the segmentation whose outlines are shown.
        member: Which of them, from 0.
        picture: What is to be seen, RGB, uint8 (H, W, 3).
        segmentation: Header of the segmentation, from which patient and study are taken.
        algorithm: `name`.
        series: The series of the run's captures.
        uid: The object's own UID.
        number: The object's number in its series.

    Raises:
        NoSegmentationError: highdicom refuses the source.
        InputError: The file cannot be written.
        RuntimeError: The object read back differs from what was meant.
    """

    def make() -> Dataset:
        taken, emptied = taken_for(segmentation, series.description)
        capture = _build(part, member, taken, picture, segmentation, algorithm, series, uid, number)
        finish(capture, segmentation, taken, emptied)
        return capture

    def is_whole(file: Path) -> bool:
        return np.array_equal(dcmread(file).pixel_array, picture)

    write_checked(path, part.images[member].path, "Secondary Capture", make, is_whole)


def _build(
    part: Part,
    member: int,
    taken: Dataset,
    picture: np.ndarray,
    segmentation: Dataset,
    algorithm: Mapping[str, Any],
    series: Series,
    uid: str,
    number: int,
) -> SCImage:
    image, study = part.images[member], str(segmentation.StudyInstanceUID)
    reference = reference_of(segmentation, taken)
    capture = SCImage.from_ref_dataset(
        reference,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # replaced below
        series_instance_uid=series.uid(study, ""),
        series_number=series.number(study, ""),
        sop_instance_uid=uid,
        instance_number=number,
        pixel_spacing=cast(Any, part.places[member].spacing) if part.has_scale else None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=series.description[:MAX_TEXT],
        specific_character_set=taken.get("SpecificCharacterSet"),
        **equipment(str(algorithm["name"])),
    )
    capture["PatientOrientation"].value = orientation_of(part, member)
    capture.DerivationDescription = f"Outlines drawn on the source image. {NOT_REVIEWED}. Text burnt into it stays"
    capture.SourceImageSequence = [_source(*references_of(part)[member])]
    for keyword, allowed in _AS_IN_SOURCE.items():
        value = text_in(image.dataset, keyword)
        if value in allowed:
            setattr(capture, keyword, value)
    if "ImageLaterality" in capture:
        capture.pop("Laterality", None)
    elif "Laterality" not in capture:
        capture.add_new("Laterality", "CS", None)  # has to be there, if only empty
    tell_compression(capture, image)
    capture.copy_specimen_information(reference)
    capture.copy_patient_and_study_information(reference)
    return capture


def _source(class_uid: str, instance_uid: str, frame: int | None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, instance_uid
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.PurposeOfReferenceCodeSequence = [CodedConcept(*_SOURCE)]
    return item


def orientation_of(part: Part, member: int) -> list[str] | None:
    """Return where the rows and the columns of an image lead, in letters; None where the source does not tell.

    Args:
        part: The images or frames of an object.
        member: Which of them, from 0.
    """
    dataset = part.images[member].dataset
    if text_in(dataset, "AnatomicalOrientationType") == "QUADRUPED":
        return None
    try:
        told = [str(value) for value in dataset.get("PatientOrientation") or ()]
    except Exception:  # a damaged value makes pydicom raise nearly anything
        told = []
    if len(told) == 2 and all(map(_IS_DIRECTION.fullmatch, told)):
        return told
    if part.is_unplaced:
        return None
    cosines = part.places[member].orientation
    return [_letters(cosines[:3]), _letters(cosines[3:])]


def _letters(cosines: tuple[float, ...]) -> str:
    axes = sorted(range(3), key=lambda axis: -abs(cosines[axis]))
    return "".join(_DIRECTIONS[axis][cosines[axis] < 0] for axis in axes if abs(cosines[axis]) >= _LEAST_SHARE)
