"""The writer of DICOM Segmentations, by highdicom.

highdicom is shown a stand-in for each source frame, so that frames of any kind of file are written alike, also of
retired kinds that it does not know; the references are the sources' own. Every object is read back and compared before
it stands in its place.

Letters: N frames of an object; H, W their size; S segments, which are the foreground classes 1..S.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.seg import Segmentation, segread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from icmoe_monai.imageio.dicom.seg.identity import Series, uid_of
from icmoe_monai.imageio.dicom.seg.making import NOT_REVIEWED, equipment, taken_for, write_checked
from icmoe_monai.imageio.dicom.seg.modules import settle
from icmoe_monai.imageio.dicom.seg.pixels import (
    MAX_FRACTIONAL,
    has_pixels,
    has_pixels_on_slide,
    on_slide,
    stack,
)
from icmoe_monai.imageio.dicom.seg.segments import MAX_TEXT, Segment, as_segment, describe
from icmoe_monai.imageio.dicom.seg.sources import Part, references_of
from icmoe_monai.imageio.dicom.seg.stand_ins import stand_ins_of, tiling_of


def write_segmentation(
    path: str | Path,
    part: Part,
    *,
    classes: Iterable[np.ndarray] | None,
    probabilities: Iterable[np.ndarray] | None = None,
    as_label_map: bool = False,
    segments: Sequence[Segment | Mapping[str, Any]],
    algorithm: Mapping[str, Any],
    series: Series,
    uid: str,
    number: int = 1,
) -> list[str]:
    """Write what was found in images as one DICOM Segmentation.

    It is BINARY or LABELMAP from classes, FRACTIONAL from probabilities.
    Frames in which nothing was found are left out, unless that would leave none.

    Args:
        path: Where the file shall be.
        part: The images or frames that it segments, as `plan_segmentations` returns them.
        classes: N class maps 0..S, uint8 (H, W), or None; of a whole slide one, which may be mapped from a file.
        probabilities: N arrays of the segments' probabilities in 0..1, (S, H, W), instead of classes.
        as_label_map: Write classes as the numbers of segments, a byte a pixel, instead of a bit for each segment.
        segments: S segments, or mappings of `Segment`'s arguments.
        algorithm: `name`, `version`, and perhaps `family`, a code's value, scheme and meaning; the default is
            Artificial Intelligence.
        series: The series of the run's objects.
        uid: The object's own UID.
        number: The object's number in its series.

    Returns:
        The keywords of what the source has and the object has not, because it is not valid.

    Raises:
        NoSegmentationError: highdicom refuses the source.
        InputError: A segment's description cannot be used, or the file cannot be written.
        ValueError: Classes or probabilities do not fit the source or the segments.
        RuntimeError: The object read back differs from what was meant.
    """
    described = [as_segment(segment) for segment in segments]
    image = part.images[0]
    if part.matrix is not None:
        pixels = on_slide(classes, part.matrix, len(described))
    else:
        size = (int(image.dataset.Rows), int(image.dataset.Columns))
        pixels = stack(classes, probabilities, size, len(part.members), len(described))
    left_out: list[str] = []

    def make() -> Dataset:
        taken, emptied = taken_for(image.dataset, described, dict(algorithm))
        kind = "FRACTIONAL" if probabilities is not None else "LABELMAP" if as_label_map else "BINARY"
        segmentation = _build(part, taken, pixels, kind, described, algorithm, series, uid, number)
        left_out.extend(settle(segmentation, taken, emptied))
        return segmentation

    def is_whole(file: Path) -> bool:
        if part.matrix is not None:
            return has_pixels_on_slide(segread(file, lazy_frame_retrieval=True), pixels)
        return has_pixels(segread(file), references_of(part), pixels, len(described))

    write_checked(path, image.path, "Segmentation", make, is_whole)
    return left_out


def _build(
    part: Part,
    taken: Dataset,
    pixels: np.ndarray,
    kind: str,
    segments: Sequence[Segment],
    algorithm: Mapping[str, Any],
    series: Series,
    uid: str,
    number: int,
) -> Segmentation:
    name, study, space = str(algorithm["name"]), str(part.images[0].dataset.StudyInstanceUID), part.frame_of_reference
    segmentation = Segmentation(
        source_images=stand_ins_of(part, taken),
        pixel_array=pixels,
        segmentation_type=kind,
        fractional_type="PROBABILITY",
        max_fractional_value=MAX_FRACTIONAL,
        segment_descriptions=[
            describe(n, segment, algorithm=algorithm, tracking_uid=uid_of("Tracking", uid, n))
            for n, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=series.uid(study, space),
        series_number=series.number(study, space),
        sop_instance_uid=uid,
        instance_number=number,
        series_description=series.description[:MAX_TEXT],
        content_label="SEGMENTATION",
        content_description=NOT_REVIEWED + ("" if part.has_scale else "; 1 mm stands for a pixel"),
        omit_empty_frames=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **equipment(name),
        **({} if part.matrix is None else tiling_of(part.images[0].dataset, part.matrix)),
    )
    segmentation.ContentCreatorName = None  # has to be there, if only empty
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.get("DimensionIndexSequence", [])):
        item.DimensionOrganizationUID = uid_of("Dimensions", uid)
    if part.matrix is None:
        _refer_to_sources(segmentation, part)
    else:
        segmentation.PatientOrientation = None  # has to be there without a place in the patient, if only empty
    return segmentation


def _refer_to_sources(segmentation: Segmentation, part: Part) -> None:
    """Replace the stand-ins' references by the sources'."""
    references = [_reference(*reference) for reference in references_of(part)]
    stand_ins = [item.ReferencedSOPInstanceUID for item in segmentation.SourceImageSequence]
    of = dict(zip(stand_ins, references, strict=True))
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        derivation = group.DerivationImageSequence[0]
        for item in derivation.SourceImageSequence:
            item.update(of.get(item.ReferencedSOPInstanceUID, {}))  # the segments of a plane share an item
    instances = {(class_uid, uid): _reference(class_uid, uid) for class_uid, uid, _ in references_of(part)}
    segmentation.SourceImageSequence = list(instances.values())
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(instances.values())


def _reference(class_uid: str, instance_uid: str, frame: int | None = None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, instance_uid
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    return reference
