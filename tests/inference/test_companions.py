"""Structured Reports and Secondary Captures beside the DICOM Segmentations of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_seg import ABNORMAL, LESION, MASS, SERIES, errors_of, needs_dciodvfy
from dicom_sources import CR, HEIGHT, VL, WIDTH, cine, ct, enhanced_mr, item, save, source
from highdicom.seg import segread
from highdicom.sr import srread
from PIL import Image
from pydicom.dataset import Dataset
from slide_files import save_dicom_slide

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.seg import plan_slide
from icmoe_monai.imageio.read import read_image
from icmoe_monai.inference import Journal, VolumeWriter, find_inputs
from icmoe_monai.inference.companions import CompanionWriter, Subject, Written
from icmoe_monai.inference.journal import CASE, VOLUME
from icmoe_monai.inference.measures import measure
from icmoe_monai.inference.volumes import tell_remarks
from icmoe_monai.visualize.overlay import class_colour

SEGMENTS = [vars(LESION), MASS]
BOTH = {"structured_reports": True, "secondary_captures": True}
PATIENT_AND_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
)
COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}


def grey(number: int = 1, z: float = 0.0, **attributes: Any) -> Dataset:
    """A CT slice in which there is something to see."""
    image = ct(number, z, **attributes)
    image.PixelData = np.arange(HEIGHT * WIDTH).astype(np.uint8).tobytes()
    return image


def mask_of(number: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if number != 2:  # nothing is found in the third
        mask[4:9, 3 + number : 9 + number] = 1
        mask[14:18, 2:5] = 2 * (number % 2 == 0)
    return mask


def run(folder: Path, images: Sequence[Dataset], *, of_journal: dict | None = None, **options: Any) -> Journal:
    """Write all objects of images, as a run with a calibration does."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(images):
        save(folder / "in" / f"i{n}.dcm", image)
    output = folder / "out"
    cases = find_inputs(str(folder / "in"), output_dir=str(output)).cases
    journal = Journal(output_dir=output, **(of_journal or {}))
    journal.missing(cases)
    journal.begin()
    options = {"segments": SEGMENTS, "out_channels": 3, **BOTH, **options}
    writer = VolumeWriter(cases=cases, journal=journal, **options)
    writer.start()
    (output / "masks").mkdir(exist_ok=True)
    for n, case in enumerate(cases):
        mask, path = mask_of(n) % max(2, options["out_channels"]), f"masks/{n}.png"
        Image.fromarray(mask).save(output / path)
        num_classes = max(2, options["out_channels"])
        measures = measure(mask, num_classes=num_classes, source=case["source"], frame=case["frame"])
        told = {"stamp": case["stamp"], "mask": path, "predicted_dice": 0.87654321, "review": n == 0}
        journal.add(CASE, {"name": case["name"], "status": "done", **told, **measures})
        writer.add(case["name"])
    return journal


def objects(journal: Journal, folder: str) -> list[Dataset]:
    files = [one["file"] for volume in journal.records(VOLUME).values() for one in volume["files"]]
    assert all((journal.output_dir / file).is_file() for file in files)
    return [pydicom.dcmread(journal.output_dir / file) for file in files if file.startswith(folder)]


def own_evaluations(group: Any) -> list[Any]:
    """What is judged of a region; highdicom counts the finding and its category as well."""
    return [one for one in group.get_qualitative_evaluations() if one.name.scheme_designator == "99ICMOE"]


KINDS = {
    "series": lambda: [grey(n, 2.5 * n) for n in range(3)],
    "frames": lambda: [enhanced_mr(3)],
    "cine": lambda: [cine(2)],
    "radiograph": lambda: [source(CR, Modality="CR", BodyPartExamined="LEG", ImageLaterality="R")],
    "dermoscopy": lambda: [source(VL, Modality="XC", LossyImageCompression="01", **COLOUR)],
    "umlauts": lambda: [source(CR, Modality="CR", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")],
    "malformed": lambda: [item(grey(), PatientBirthDate="1970.01.01", AccessionNumber="", PatientComments="a\x01b")],
}


@needs_dciodvfy
@pytest.mark.parametrize("kind", KINDS)
def test_the_objects_are_valid_and_in_the_same_study(tmp_path: Path, kind: str) -> None:
    images = KINDS[kind]()
    journal = run(tmp_path, images)
    segmentations, reports, captures = (objects(journal, name) for name in ("seg", "struct", "sec"))
    assert len(segmentations) == len(reports) == (2 if kind == "cine" else 1)
    assert len(captures) == (2 if kind in ("series", "frames", "cine") else 1)
    for one in (*segmentations, *reports, *captures):
        assert errors_of(one.filename) == []
        for keyword in PATIENT_AND_STUDY:
            assert one.get(keyword) == segmentations[0].get(keyword)
    assert {one.SeriesInstanceUID for one in reports} & {one.SeriesInstanceUID for one in captures} == set()
    for of_kind in (segmentations, reports, captures):
        assert len({one.SOPInstanceUID for one in of_kind}) == len({one.InstanceNumber for one in of_kind})
        assert len({one.SeriesInstanceUID for one in of_kind}) == 1
    # the scanner made the source, and not this program
    assert {item.get("Manufacturer") for one in (*reports, *captures) for item in one.ContributingEquipmentSequence
            if item.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"} == {"nobody"}  # fmt: skip


@pytest.mark.parametrize("num_segments", [1, 2])
@pytest.mark.parametrize("kind", ["series", "frames", "radiograph"])
def test_a_report_tells_of_each_frame_and_segment(tmp_path: Path, kind: str, num_segments: int) -> None:
    images = KINDS[kind]()
    options = {"segments": SEGMENTS[:num_segments], "out_channels": 2 * num_segments - 1}
    journal = run(tmp_path, images, of_journal={"checkpoint": None, "settings": {"voting": "mean"}}, **options)
    (segmentation,), (report,) = objects(journal, "seg"), objects(journal, "struct")
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED"
    )  # fmt: skip
    pixels = segread(segmentation.filename).pixel_array.reshape(-1, HEIGHT, WIDTH)
    groups = srread(report.filename).content.get_planar_roi_measurement_groups()
    assert len(groups) == len(pixels)  # each frame of the segmentation is told of once
    has_scale = kind != "radiograph"
    seen = []
    for group in groups:
        item = group.referenced_segmentation_frame[0].ReferencedSOPSequence[0]
        assert (item.ReferencedSOPInstanceUID, "ReferencedSegmentNumber" in item) == (
            segmentation.SOPInstanceUID, False
        )  # fmt: skip
        frame = int(item.ReferencedFrameNumber) - 1
        functional = segmentation.PerFrameFunctionalGroupsSequence[frame]
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        of_segment = functional if num_segments > 1 else shared
        number = of_segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        meant = functional.DerivationImageSequence[0].SourceImageSequence[0]
        told = group.referenced_segmentation_frame.source_image_for_segmentation.ReferencedSOPSequence[0]
        assert told.ReferencedSOPInstanceUID == meant.ReferencedSOPInstanceUID
        assert told.get("ReferencedFrameNumber") == meant.get("ReferencedFrameNumber")
        assert group.finding_type.meaning == ("Lesion", "Mass")[number - 1]
        assert group.finding_category.value == ABNORMAL[0]
        assert group.tracking_uid == segmentation.SegmentSequence[number - 1].TrackingUID
        size, dice = group.get_measurements()
        count = int(pixels[frame].sum())
        assert (size.name.meaning, size.unit.value, size.value) == (
            ("Area", "mm2", pytest.approx(count * 0.5 * 0.75)) if has_scale else ("Number of pixels", "{pixels}", count)
        )
        assert (dice.name.scheme_designator, dice.value, dice.unit.value) == ("99ICMOE", 0.8765, "1")
        seen.append(frame)
    assert sorted(seen) == list(range(len(pixels)))
    (review,) = own_evaluations(groups[0])
    assert (review.name.value, review.value.meaning) == ("review-advised", "Yes")
    parameters = [item.TextValue for item in report.ContentSequence[-1].ContentSequence[0].ContentSequence
                  if item.ConceptNameCodeSequence[0].CodeMeaning == "Algorithm Parameters"]  # fmt: skip
    assert [text.split(",")[0] for text in parameters] == ["all that determines a mask"]


@needs_dciodvfy
def test_what_goes_with_a_label_map_is_valid(tmp_path: Path) -> None:
    journal = run(tmp_path, KINDS["series"](), dicom_seg="labelmap")
    (capture, *_), (report,) = objects(journal, "sec"), objects(journal, "struct")
    assert errors_of(capture.filename) == []
    # the program is older than label maps, and does not know that they have frames
    unknown = "Referenced SOP Class that is not multi-frame - attribute <ReferencedFrameNumber>"
    assert [error for error in errors_of(report.filename) if unknown not in error] == []


@pytest.mark.parametrize("kind", ["series", "frames", "radiograph"])
def test_a_report_of_a_label_map_tells_what_that_of_a_binary_object_tells(tmp_path: Path, kind: str) -> None:
    told, images = [], KINDS[kind]()
    for dicom_seg in ("binary", "labelmap"):
        journal = run(tmp_path / dicom_seg, images, dicom_seg=dicom_seg)
        (segmentation,), (report,) = objects(journal, "seg"), objects(journal, "struct")
        groups = srread(report.filename).content.get_planar_roi_measurement_groups()
        rows = []
        for group in groups:
            item = group.referenced_segmentation_frame[0].ReferencedSOPSequence[0]
            assert item.ReferencedSOPClassUID == segmentation.SOPClassUID
            frame = segmentation.PerFrameFunctionalGroupsSequence[int(item.ReferencedFrameNumber) - 1]
            source = frame.DerivationImageSequence[0].SourceImageSequence[0]
            assert group.tracking_uid in [one.get("TrackingUID") for one in segmentation.SegmentSequence]
            values = [(one.name.meaning, one.value) for one in group.get_measurements()]
            place = (source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"))
            rows.append((*map(str, place), group.finding_type.meaning, values))
        told.append(sorted(rows))
    assert told[0] == told[1]
    assert told[0]


def test_without_a_calibration_there_is_no_figure_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Journal.add
    nothing = {"predicted_dice": None, "review": None}
    monkeypatch.setattr(Journal, "add", lambda self, kind, record: add(self, kind, {**record, **nothing}))
    (report,) = objects(run(tmp_path, [grey()]), "struct")
    (group, _) = srread(report.filename).content.get_planar_roi_measurement_groups()
    assert [one.name.meaning for one in group.get_measurements()] == ["Area"]
    assert own_evaluations(group) == []


def test_a_capture_is_the_image_with_outlines_and_nothing_else(tmp_path: Path) -> None:
    image = grey(BurnedInAnnotation="YES", Laterality="L")
    journal = run(tmp_path, [image])
    (capture,) = objects(journal, "sec")
    shown = read_image(str(tmp_path / "in" / "i0.dcm")).round().astype(np.uint8)
    changed = (capture.pixel_array != shown).any(axis=2)
    colours = {tuple(map(int, colour)) for colour in capture.pixel_array[changed]}
    assert {class_colour(1), class_colour(2)} <= colours <= {class_colour(1), class_colour(2), (0, 0, 0)}
    assert not changed[mask_of(0) > 0].any()  # the lines run outside
    assert (capture.BurnedInAnnotation, capture.Laterality) == ("YES", "L")
    assert capture.PixelSpacing == [0.5, 0.75]
    assert capture.PatientOrientation == ["L", "P"]
    (reference,) = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert "stays" in capture.DerivationDescription


@pytest.mark.parametrize(
    ("attributes", "meant"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, ["P", "F"]),
        ({"ImageOrientationPatient": [0.8, -0.6, 0, 0, 0, -1]}, ["LA", "F"]),
        ({"PatientOrientation": ["A", "FL"]}, ["A", "FL"]),
        ({"PatientOrientation": ["A", "LR"]}, ["L", "P"]),
        ({"AnatomicalOrientationType": "QUADRUPED"}, None),
        ({"ImagePositionPatient": None}, None),
    ],
    ids=["sagittal", "oblique", "told", "impossible", "animal", "no_place"],
)
def test_where_rows_and_columns_lead(tmp_path: Path, attributes: dict, meant: list[str] | None) -> None:
    (capture,) = objects(run(tmp_path, [grey(**attributes)]), "sec")
    assert (capture.PatientOrientation or None) == meant


def test_a_second_run_writes_the_same_uids_and_other_weights_others(tmp_path: Path) -> None:
    images = KINDS["series"]()
    uids: dict[str, list[str]] = {}
    for name, settings in (
        *(("first", {"voting": "mean"}), ("again", {"voting": "mean", "overlays": False, "trace": True})),
        *(("other", {"voting": "adaptive"}), ("threshold", {"voting": "mean", "review_below": 0.5})),
    ):
        journal = run(tmp_path / name, images, of_journal={"settings": settings})
        uids[name] = [one.SOPInstanceUID for kind in ("seg", "struct", "sec") for one in objects(journal, kind)]
    assert len(set(uids["first"])) == 4
    assert uids["again"] == uids["first"]
    assert not set(uids["other"]) & set(uids["first"])
    same = [one == other for one, other in zip(uids["threshold"], uids["first"], strict=True)]
    assert same == [True, False, True, True]  # the threshold is told in the report alone


def test_an_object_that_was_lost_is_made_up_for(tmp_path: Path) -> None:
    journal = run(tmp_path, [grey()])
    lost = [one["file"] for volume in journal.records(VOLUME).values() for one in volume["files"]][1:]
    assert lost == ["structured_reports/i0.dcm", "secondary_captures/i0.dcm"]
    for file in lost:
        (journal.output_dir / file).unlink()
    cases = find_inputs(str(tmp_path / "in"), output_dir=str(journal.output_dir)).cases
    again = Journal(output_dir=journal.output_dir)
    again.missing(cases)
    again.begin()
    VolumeWriter(cases=cases, journal=again, segments=SEGMENTS, out_channels=3, **BOTH).start()
    assert all((journal.output_dir / file).is_file() for file in lost)


def test_what_cannot_be_made_is_told_and_the_segmentation_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Jane Doe")

    monkeypatch.setattr("icmoe_monai.inference.companions.write_report", fail)
    journal = run(tmp_path, [grey()])
    (record,) = journal.records(VOLUME).values()
    assert record["reason_code"] == "no_object"
    assert [file["file"] for file in record["files"]] == ["segmentations/i0.dcm", "secondary_captures/i0.dcm"]
    (note,) = tell_remarks([record])
    assert note == "i0.dcm has no DICOM Structured Report, which could not be made (RuntimeError)."


def test_what_highdicom_refuses_is_told_without_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise KeyError("Jane Doe")

    monkeypatch.setattr("icmoe_monai.imageio.dicom.seg.reports.ComprehensiveSR", fail)
    monkeypatch.setattr("icmoe_monai.imageio.dicom.seg.captures.SCImage.from_ref_dataset", fail)
    (record,) = run(tmp_path, [grey()]).records(VOLUME).values()
    assert [file["file"] for file in record["files"]] == ["segmentations/i0.dcm"]
    assert record["remarks"] == [
        f"cannot be described by a DICOM {kind} (highdicom: KeyError), so there can be no such object: the masks "
        "hold the result"
        for kind in ("Structured Report", "Secondary Capture")
    ]


def test_a_slide_has_neither(tmp_path: Path) -> None:
    level = save_dicom_slide(tmp_path / "slide", np.zeros((150, 211, 3), np.uint8), num_levels=1)[0]
    journal = Journal(output_dir=tmp_path / "out")
    writer = CompanionWriter(
        journal=journal, segments=SEGMENTS, empty=False, classes=lambda case: np.zeros((1, 1)),
        **BOTH,
    )  # fmt: skip
    subject = Subject("segmentations/0.dcm", plan_slide(str(level), (150, 211)), [], [], {}, SERIES)
    assert writer.write(subject) == Written(
        [], ["lies on a slide, so that it has no DICOM Structured Report and no Secondary Capture"]
    )


def test_an_anonymous_run_writes_none(tmp_path: Path) -> None:
    journal = run(tmp_path, [grey()], anonymous=True)
    (record,) = journal.records(VOLUME).values()
    assert record["files"] == []
    (note,) = record["remarks"]
    assert note.startswith(
        "has no DICOM Segmentation and no Structured Report and no Secondary Capture, which would hold"
    )


@pytest.mark.parametrize("asked", BOTH)
def test_they_go_with_segmentations(tmp_path: Path, asked: str) -> None:
    with pytest.raises(InputError, match="structured_reports and secondary_captures go with DICOM Segmentations"):
        VolumeWriter(cases=[], journal=Journal(output_dir=tmp_path), segments=SEGMENTS, out_channels=3,
                     dicom_seg="none", **{asked: True})  # fmt: skip
