"""Structured Reports that tell in numbers what a DICOM Segmentation shows, by highdicom.

A Comprehensive SR with a measurement report (PS3.16 TID 1500): for each frame and segment a planar region of interest
(TID 1410) that refers to the segment's frame and to the source image, with its area, the Dice score to be expected of
the mask, and whether to review it. Where the source tells no scale, it counts pixels and tells no area.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegmentationFrame,
    SourceImageForSegmentation,
    TrackingIdentifier,
    srread,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from icmoe_monai.imageio.dicom.attributes import macro, text_in
from icmoe_monai.imageio.dicom.seg.identity import Series, uid_of
from icmoe_monai.imageio.dicom.seg.making import as_evidence, equipment, finish, reference_of, taken_for, write_checked
from icmoe_monai.imageio.dicom.seg.segments import MAX_TEXT, Segment, as_segment
from icmoe_monai.imageio.dicom.seg.sources import Part, references_of

_OWN = "99ICMOE"  # the scheme of codes that DICOM's dictionaries do not have
_NUM_PIXELS = CodedConcept("130922", "DCM", "Number of pixels")
_PIXELS = CodedConcept("{pixels}", "UCUM", "pixels")
_PREDICTED_DICE = CodedConcept("predicted-dice", _OWN, "Predicted Dice coefficient of the image's segmentation")
_REVIEW = CodedConcept("review-advised", _OWN, "Review of the image's segmentation advised")
_PROCEDURES = {  # of CID 100, by the modality of the source
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    **dict.fromkeys(("CR", "DX"), codes.LN.XRUnspecifiedBodyRegion),
}


class Finding(NamedTuple):
    """What is said of one image or frame.

    Attributes:
        num_pixels: The size of each segment.
        areas_mm2: The area of each segment in square mm; None where the source tells no scale.
        predicted_dice: The Dice score to be expected of the mask, 0 to 1; None without a calibration.
        review: Whether to review the mask; None without a calibration.
    """

    num_pixels: tuple[int, ...]
    areas_mm2: tuple[float, ...] | None = None
    predicted_dice: float | None = None
    review: bool | None = None


def write_report(
    path: str | Path,
    part: Part,
    *,
    findings: Sequence[Finding],
    segmentation: Dataset,
    segments: Sequence[Segment | Mapping[str, Any]],
    algorithm: Mapping[str, Any],
    series: Series,
    uid: str,
    number: int = 1,
) -> None:
    """Write what is said of the segments of a DICOM Segmentation as a Structured Report.

    Args:
        path: Where the file shall be.
        part: The images or frames of the segmentation.
        findings: What is said of each of them.
        segmentation: Header of the segmentation, from which patient and study are taken.
        segments: The segments, as they were written.
        algorithm: `name`, `version`, and perhaps `parameters`, texts that tell which weights and settings it has.
        series: The series of the run's reports.
        uid: The object's own UID.
        number: The object's number in its series.

    Raises:
        NoSegmentationError: highdicom refuses the source.
        InputError: The file cannot be written.
        RuntimeError: The report read back lacks something.
    """
    described = [as_segment(segment) for segment in segments]
    regions: list[PlanarROIMeasurementsAndQualitativeEvaluations] = []

    def make() -> Dataset:
        taken, emptied = taken_for(segmentation, described, dict(algorithm))
        regions.extend(_regions(part, findings, segmentation, described, algorithm))
        report = _build(part, taken, segmentation, regions, algorithm, series, uid, number)
        finish(report, segmentation, taken, emptied)
        return report

    def is_whole(file: Path) -> bool:
        content = cast(MeasurementReport, srread(file).content)
        return len(content.get_planar_roi_measurement_groups()) == len(regions)

    write_checked(path, part.images[0].path, "Structured Report", make, is_whole)


def _build(
    part: Part,
    taken: Dataset,
    segmentation: Dataset,
    regions: Sequence[PlanarROIMeasurementsAndQualitativeEvaluations],
    algorithm: Mapping[str, Any],
    series: Series,
    uid: str,
    number: int,
) -> ComprehensiveSR:
    name, study = str(algorithm["name"]), str(segmentation.StudyInstanceUID)
    evidence = reference_of(segmentation, taken)
    observer = DeviceObserverIdentifyingAttributes(
        uid=uid_of("Device", series.made_by), name=name, manufacturer_name="icmoe_monai", model_name=name
    )
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device, observer_identifying_attributes=observer
            )
        ),
        procedure_reported=_PROCEDURES.get(text_in(part.images[0].dataset, "Modality"), codes.SCT.ImagingProcedure),
        imaging_measurements=regions,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return ComprehensiveSR(
        evidence=[evidence, *map(as_evidence, part.images)],
        content=content[0],
        series_instance_uid=series.uid(study, ""),
        series_number=series.number(study, ""),
        sop_instance_uid=uid,
        instance_number=number,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=series.description[:MAX_TEXT],
        coding_schemes=[CodingSchemeIdentificationItem(designator=_OWN, name="IC-MoE for MONAI: own codes")],
        **equipment(name),
    )


def _regions(
    part: Part,
    findings: Sequence[Finding],
    segmentation: Dataset,
    segments: Sequence[Segment],
    algorithm: Mapping[str, Any],
) -> Iterator[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """Yield what is measured of each segment that was found; of each, if none was."""
    frames = _frames_of(segmentation)
    is_empty = not any(any(finding.num_pixels) for finding in findings)
    for reference, finding in zip(references_of(part), findings, strict=True):
        for k, segment in enumerate(segments):
            frame = frames.get((reference[1:], k + 1))
            if frame is None or not (finding.num_pixels[k] or is_empty):
                continue
            yield PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=_tracking(segmentation, k),
                referenced_segment=_referenced(segmentation, frame, k + 1, reference),
                finding_type=CodedConcept(*segment.type),
                finding_category=CodedConcept(*segment.category),
                finding_sites=[FindingSite(CodedConcept(*segment.anatomy))] if segment.anatomy else None,
                algorithm_id=AlgorithmIdentification(
                    name=str(algorithm["name"]),
                    version=str(algorithm["version"]),
                    parameters=list(algorithm.get("parameters", ())) or None,
                    family=codes.DCM.ArtificialIntelligence,
                ),
                measurements=list(_measurements(finding, k)),
                qualitative_evaluations=_evaluations(finding),
            )


def _frames_of(segmentation: Dataset) -> dict[tuple[tuple[str, int | None], int], int]:
    """Return the numbers of a segmentation's frames, from 1, by the source's UID and frame, and the segment.

    A frame of a label map shows all segments.
    """
    all_segments = [int(segment.SegmentNumber) for segment in segmentation.SegmentSequence if segment.SegmentNumber]
    is_label_map = segmentation.SegmentationType == "LABELMAP"
    frames: dict[tuple[tuple[str, int | None], int], int] = {}
    for n in range(int(segmentation.NumberOfFrames)):
        (source,) = macro(segmentation, n, "DerivationImageSequence").SourceImageSequence
        shown = all_segments
        if not is_label_map:  # of one segment it is shared by all frames
            shown = [int(macro(segmentation, n, "SegmentIdentificationSequence").ReferencedSegmentNumber)]
        frame = source.get("ReferencedFrameNumber")
        key = str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame)
        frames |= {(key, segment): n + 1 for segment in shown}
    return frames


def _referenced(
    segmentation: Dataset, frame: int, segment: int, reference: tuple[str, str, int | None]
) -> ReferencedSegmentationFrame:
    class_uid, instance_uid, source_frame = reference
    referenced = ReferencedSegmentationFrame(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        frame_number=frame,
        segment_number=segment,
        source_image=SourceImageForSegmentation(
            class_uid, instance_uid, None if source_frame is None else [source_frame]
        ),
    )
    # PS3.3 10.3.1 forbids that both are told: the tracking identifier tells which segment of a label map it is
    del referenced[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return referenced


def _tracking(segmentation: Dataset, k: int) -> TrackingIdentifier:
    """Return the identifier under which the segmentation has the segment."""
    (segment,) = (segment for segment in segmentation.SegmentSequence if segment.SegmentNumber == k + 1)
    return TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID)


def _measurements(finding: Finding, k: int) -> Iterator[Measurement]:
    if finding.areas_mm2 is None:
        count = Measurement(name=_NUM_PIXELS, value=finding.num_pixels[k], unit=_PIXELS)
        count[0].MeasuredValueSequence[0].NumericValue = str(finding.num_pixels[k])  # highdicom writes a float
        yield count
    else:
        yield Measurement(name=codes.SCT.Area, value=round(finding.areas_mm2[k], 4), unit=codes.UCUM.SquareMillimeter)
    if finding.predicted_dice is not None:
        yield Measurement(name=_PREDICTED_DICE, value=round(finding.predicted_dice, 4), unit=codes.UCUM.NoUnits)


def _evaluations(finding: Finding) -> list[QualitativeEvaluation] | None:
    if finding.review is None:
        return None
    return [QualitativeEvaluation(_REVIEW, codes.SCT.Yes if finding.review else codes.SCT.No)]
