from __future__ import annotations

import logging
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.seg import NoSegmentationError, Segment, write_segmentation

HEIGHT, WIDTH = 24, 20
CT, ENHANCED_MR, SC, MULTIFRAME_US, VL = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.77.1.4",
)
ABNORMAL = ["49755003", "SCT", "Morphologically Abnormal Structure"]
LESION = Segment("lesion", ABNORMAL, ["52988006", "SCT", "Lesion"], ["39937001", "SCT", "Skin"])
MASS = {"label": "mass", "category": ABNORMAL, "type": ["4147007", "SCT", "Mass"]}
ALGORITHM = {"name": "IC-MoE", "version": "0.3.0"}


def class_map(height: int, width: int, *, shift: int = 0, num_classes: int = 3) -> np.ndarray:
    """Two blocks and a pixel, like neither their transposed nor their mirrored selves."""
    classes = np.zeros((height, width), dtype=np.uint8)
    classes[height // 8 + shift : height // 3 + shift, width // 4 : width // 2 + 1] = 1
    classes[height // 2 : height // 2 + height // 5, : width // 5 + shift] = num_classes - 1
    classes[0, -1] = 1
    return classes


def source(kind: str, number: int = 1, **attributes: Any) -> Dataset:
    """An image of the given SOP class with what every image has."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = kind, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = (
        generate_uid(entropy_srcs=["st"]),
        generate_uid(entropy_srcs=["se"]),
    )
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = (
        "Doe^Jane",
        "ID-4711",
        "19700101",
        "F",
    )
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240102", "101112", "st-9", "acc-7"
    image.ReferringPhysicianName, image.StudyDescription = "Who^Doctor", "a study"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "OT", 3, number
    image.Manufacturer, image.ConversionType = "nobody", "SYN"
    image.Rows, image.Columns, image.SamplesPerPixel = HEIGHT, WIDTH, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    num_frames = int(image.get("NumberOfFrames", 1))
    image.PixelData = bytes(num_frames * HEIGHT * WIDTH * image.SamplesPerPixel * image.BitsAllocated // 8)
    return image


def ct(number: int, z: float, **attributes: Any) -> Dataset:
    defaults = {
        "Modality": "CT",
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame"]),
        "PositionReferenceIndicator": "",
        "ImagePositionPatient": [-100.5, 20.25, z],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.75],
        "SliceThickness": 2.5,
    }
    return source(CT, number, **{**defaults, **attributes})


def enhanced_mr(num_frames: int) -> Dataset:
    image = source(ENHANCED_MR, Modality="MR", NumberOfFrames=num_frames, FrameOfReferenceUID=generate_uid())
    image.PositionReferenceIndicator = ""
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 3.0
    orientation.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    image.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for number in range(num_frames):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [3.0 * number, -50, 40]
        group.PlanePositionSequence = Items([position])
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = Items(groups)
    return image


def save(path: Path, image: Dataset) -> str:
    image.save_as(path, enforce_file_format=True)
    return str(path)


def shipped(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return path


def write(path: Path, sources: Sequence[tuple[str, int]], classes: Sequence[np.ndarray], **options: Any) -> Any:
    options = {"segments": [LESION, MASS], "algorithm": ALGORITHM, **options}
    write_segmentation(path, sources=sources, classes=classes, **options)
    return highdicom.seg.segread(path)


def by_instance(segmentation: Any, paths: Sequence[str]) -> np.ndarray:
    """The segments of single-frame images, (N, H, W, S)."""
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths]
    return segmentation.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, rescale_fractional=False
    )


def check_classes(found: np.ndarray, classes: Sequence[np.ndarray]) -> None:
    np.testing.assert_array_equal(found, np.stack(classes)[..., None] == [1, 2])


def errors_of(path: str | Path) -> list[str]:
    """The errors that dciodvfy finds, with the attribute at fault."""
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    return [line for line in lines if line.startswith("Error")]


needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")


@pytest.fixture
def series(tmp_path: Path) -> list[str]:
    """A CT series of four slices, not in the order of their places."""
    return [save(tmp_path / f"{n}.dcm", ct(n, z)) for n, z in enumerate([10.0, 0.0, 7.5, 2.5], start=1)]


def test_a_series_is_one_object_with_the_sources_geometry(tmp_path: Path, series: list[str]) -> None:
    classes = [class_map(HEIGHT, WIDTH, shift=n) for n in range(4)]
    classes[2][:] = 0
    written = write(tmp_path / "seg.dcm", [(path, 0) for path in series], classes)
    check_classes(by_instance(written, series), classes)
    plain = pydicom.dcmread(tmp_path / "seg.dcm")
    assert plain.SegmentationType == "BINARY"
    assert plain.NumberOfFrames == 6  # the empty slice is left out
    # and with pydicom alone: every frame's source, segment and place
    sources = {image.SOPInstanceUID: (n, image) for n, image in enumerate(map(pydicom.dcmread, series))}
    for frame, group in zip(plain.pixel_array, plain.PerFrameFunctionalGroupsSequence, strict=True):
        reference = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        n, image = sources[reference]
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(frame, classes[n] == segment)
        assert group.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
    shared = plain.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.5, 0.75]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 2.5
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert plain.FrameOfReferenceUID == image.FrameOfReferenceUID


def test_patient_study_segments_and_algorithm_are_told(tmp_path: Path, series: list[str]) -> None:
    family = ["123109", "DCM", "Artificial Neural Network"]
    for name, algorithm in (("a", ALGORITHM), ("b", {**ALGORITHM, "family": family})):
        write(tmp_path / name, [(series[0], 0)], [class_map(HEIGHT, WIDTH)], algorithm=algorithm)
    first, second = (pydicom.dcmread(tmp_path / name) for name in "ab")
    image = pydicom.dcmread(series[0])
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
        *("StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    ):
        assert first[keyword].value == image[keyword].value
    assert first.Modality == "SEG"
    assert first.SeriesInstanceUID != image.SeriesInstanceUID
    assert first.SeriesNumber == 1003
    assert first.SeriesDescription == "Segmentation by IC-MoE"
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, first.SeriesInstanceUID, second.SeriesInstanceUID}) == 4
    lesion, mass = first.SegmentSequence
    assert (lesion.SegmentNumber, lesion.SegmentLabel, lesion.SegmentAlgorithmType) == (1, "lesion", "AUTOMATIC")
    assert lesion.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    assert lesion.AnatomicRegionSequence[0].CodeMeaning == "Skin"
    assert mass.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Morphologically Abnormal Structure"
    assert "AnatomicRegionSequence" not in mass
    assert lesion.TrackingUID != mass.TrackingUID
    told = [one.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0] for one in (first, second)]
    assert [(one.AlgorithmName, one.AlgorithmVersion) for one in told] == [("IC-MoE", "0.3.0")] * 2
    assert [one.AlgorithmFamilyCodeSequence[0].CodeValue for one in told] == ["123110", "123109"]


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "examples_palette.dcm",
        "examples_rgb_color.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jpeg_dcmd.dcm",
        "dicomdirtests/77654033/CR1/6154",
    ],
    ids=["CT", "MR", "palette", "RGB", "YBR", "no spacing", "MONOCHROME1"],
)
def test_single_frames_of_all_colours(tmp_path: Path, name: str) -> None:
    path = shipped(name)
    image = pydicom.dcmread(path, stop_before_pixels=True)
    classes = class_map(image.Rows, image.Columns)
    written = write(tmp_path / "seg.dcm", [(path, 0)], [classes])
    check_classes(by_instance(written, [path]), [classes])
    assert (written.Rows, written.Columns) == (image.Rows, image.Columns)
    assert written.PatientID == image.PatientID


@pytest.mark.parametrize("fractional", [False, True], ids=["binary", "fractional"])
def test_nothing_found_is_a_valid_object(tmp_path: Path, series: list[str], fractional: bool) -> None:
    empty = [np.zeros((HEIGHT, WIDTH), dtype=np.uint8)] * 4
    zeros = [np.zeros((2, HEIGHT, WIDTH), dtype=np.float32)] * 4
    sources = [(path, 0) for path in series]
    written = write(
        tmp_path / "seg.dcm", sources, None if fractional else empty, probabilities=zeros if fractional else None
    )
    assert not by_instance(written, series).any()
    assert written.NumberOfFrames == 8


def test_probabilities_are_kept_in_255_steps(tmp_path: Path, series: list[str]) -> None:
    rng = np.random.default_rng(0)
    maps = [
        rng.random((2, HEIGHT, WIDTH), dtype=np.float32) * (class_map(HEIGHT, WIDTH, shift=n) > 0) for n in range(4)
    ]
    maps[0][:, 0, 0] = 1
    written = write(tmp_path / "seg.dcm", [(path, 0) for path in series], None, probabilities=maps)
    plain = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (plain.SegmentationType, plain.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert plain.MaximumFractionalValue == 255
    meant = np.moveaxis(np.stack(maps), 1, -1)
    found = by_instance(written, series)
    np.testing.assert_array_equal(found, np.around(meant * 255))
    assert found.max() == 255
    assert np.unique(found).size > 100


@pytest.mark.parametrize("frames", [[0, 1, 2, 3, 4], [3, 1], [2]], ids=["all", "some", "one"])
@pytest.mark.parametrize("fractional", [False, True], ids=["binary", "fractional"])
def test_frames_of_a_file_with_a_frame_of_reference(tmp_path: Path, frames: list[int], fractional: bool) -> None:
    image = enhanced_mr(5)
    path = save(tmp_path / "mr.dcm", image)
    classes = [class_map(HEIGHT, WIDTH, shift=n) for n in range(len(frames))]
    maps = [np.stack([(one == 1) * 0.25, (one == 2) * 0.6]) for one in classes]
    written = write(
        tmp_path / "seg.dcm",
        [(path, frame) for frame in frames],
        None if fractional else classes,
        probabilities=maps if fractional else None,
    )
    found = written.get_pixels_by_source_frame(
        image.SOPInstanceUID, [frame + 1 for frame in frames], assert_missing_frames_are_empty=True
    )
    if fractional:
        np.testing.assert_allclose(found, np.moveaxis(np.stack(maps), 1, -1), atol=0.5 / 255 + 1e-6)
    else:
        check_classes(found, classes)
    assert written.NumberOfFrames == 2 * len(frames)
    plain = pydicom.dcmread(tmp_path / "seg.dcm")
    for group in plain.PerFrameFunctionalGroupsSequence:
        number = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert number - 1 in frames
        assert group.PlanePositionSequence[0].ImagePositionPatient == [3.0 * (number - 1), -50, 40]


def test_a_file_for_several_frames_that_holds_one(tmp_path: Path) -> None:
    image = enhanced_mr(1)
    path = save(tmp_path / "mr.dcm", image)
    classes = class_map(HEIGHT, WIDTH)
    written = write(tmp_path / "seg.dcm", [(path, 0)], [classes])
    check_classes(written.get_pixels_by_source_frame(image.SOPInstanceUID, [1]), [classes])


def refused(path: Path, match: str, sources: Sequence[str], frames: Sequence[int] | None = None) -> None:
    classes = [class_map(HEIGHT, WIDTH)] * len(sources)
    with pytest.raises(NoSegmentationError, match=f"{match}.*the PNG masks hold the result") as caught:
        write(path / "seg.dcm", list(zip(sources, frames or [0] * len(sources), strict=True)), classes)
    assert not any(told in str(caught.value) for told in ("Doe", "4711", "acc-7"))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not list(path.glob("*seg*"))
    assert not list(path.glob(".*"))


def test_sources_without_a_valid_object_are_refused_with_the_reason(tmp_path: Path) -> None:
    cine = save(tmp_path / "cine.dcm", source(MULTIFRAME_US, NumberOfFrames=3, Modality="US"))
    refused(tmp_path, "several frames and has no Frame of Reference", [cine, cine], [0, 2])
    stills = [save(tmp_path / f"sc{n}.dcm", source(SC, n)) for n in range(2)]
    refused(tmp_path, "other images of its series have no Frame of Reference", stills)
    bare = ct(1, 0)
    del bare.FrameOfReferenceUID
    refused(tmp_path, "for example a Frame of Reference", [save(tmp_path / "bare.dcm", bare)])
    first = save(tmp_path / "first.dcm", ct(1, 0))
    for match, other in {
        "of different series": ct(2, 5, SeriesInstanceUID=generate_uid()),
        "differ in size": ct(2, 5, Rows=HEIGHT + 1),
        "lie in different directions": ct(2, 5, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "in part at the same place": ct(2, 0),
        "some hold several frames": enhanced_mr(2),
        "lacks attributes .* contradicts itself": ct(2, 5, FrameOfReferenceUID=generate_uid()),
        "has no SOPInstanceUID": ct(2, 5, SOPInstanceUID=""),
    }.items():
        other.save_as(tmp_path / "other.dcm", implicit_vr=False, little_endian=True)
        refused(tmp_path, match, [first, str(tmp_path / "other.dcm")])
    (tmp_path / "text.dcm").write_bytes(b"a letter to Doe^Jane" * 20)
    refused(tmp_path, "cannot be read|has no SOPClassUID", [str(tmp_path / "text.dcm")])


def test_a_series_tilted_by_a_rounding_error_is_one_object(tmp_path: Path) -> None:
    tilted = [ct(n, n, ImageOrientationPatient=[1, 1e-6 * n, 0, 0, 1, 0]) for n in range(3)]
    paths = [save(tmp_path / f"{n}.dcm", image) for n, image in enumerate(tilted)]
    classes = [class_map(HEIGHT, WIDTH, shift=n) for n in range(3)]
    check_classes(by_instance(write(tmp_path / "seg.dcm", [(path, 0) for path in paths], classes), paths), classes)


@pytest.mark.parametrize("charset", [None, "", "ISO_IR 100", "ISO_IR 192", "ISO-IR 100"])
@pytest.mark.parametrize("label", ["lesion", "Läsion 病変"])
def test_names_survive_every_character_set(tmp_path: Path, charset: str | None, label: str) -> None:
    image = source(VL)
    if charset is not None:
        image.SpecificCharacterSet = charset.replace("ISO-IR", "ISO_IR")
        image.PatientName = "Müller^Zoë" if charset else "Doe^Jane"
    path = Path(save(tmp_path / "a.dcm", image))
    if charset == "ISO-IR 100":  # a misspelling that is met in practice
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO-IR 100"))
    segment = Segment(label, LESION.category, LESION.type)
    written = write(
        tmp_path / "seg.dcm", [(str(path), 0)], [class_map(HEIGHT, WIDTH, num_classes=2)], segments=[segment]
    )
    assert str(written.PatientName) == str(image.PatientName)
    assert written.SegmentSequence[0].SegmentLabel == label


def test_old_dates_and_missing_texts_are_no_obstacle(tmp_path: Path) -> None:
    image = source(SC)
    for keyword in ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName", "Modality"):
        delattr(image, keyword)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the dates
        image.StudyDate, image.StudyTime = "2024.01.02", "10:11:12"
        path = save(tmp_path / "a.dcm", image)
    written = write(tmp_path / "seg.dcm", [(path, 0)], [class_map(HEIGHT, WIDTH)])
    assert (written.StudyDate, written.StudyTime) == ("20240102", "101112")
    assert not written.PatientID


def test_the_libraries_are_silenced_and_left_as_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    path = Path(save(tmp_path / "a.dcm", source(SC)))
    path.write_bytes(path.read_bytes().replace(b"20240102", b"2024O1O2"))  # no date: pydicom warns with its value
    levels = [logging.getLogger(name).level for name in ("pydicom", "highdicom")]
    with pytest.raises(NoSegmentationError, match="or contradicts itself") as caught:
        write(tmp_path / "seg.dcm", [(str(path), 0)], [class_map(HEIGHT, WIDTH)])
    assert "O1O2" not in str(caught.value)
    assert not caplog.records
    assert not recwarn.list
    assert [logging.getLogger(name).level for name in ("pydicom", "highdicom")] == levels


def test_wrong_arguments_are_named(tmp_path: Path, series: list[str]) -> None:
    one, classes = [(series[0], 0)], [class_map(HEIGHT, WIDTH)]
    maps = [np.zeros((2, HEIGHT, WIDTH))]
    for match, sources, given, options in [
        ("classes or probabilities, not both", one, classes, {"probabilities": maps}),
        ("classes or probabilities, not both", one, None, {}),
        ("one array per source, all of one size, got 1 for 2", [*one, (series[1], 0)], classes, {}),
        (r"with 0..1, got", one, classes, {"segments": [LESION]}),
        (r"with 0..2, got", one, [classes[0] + 256 * np.ones((HEIGHT, WIDTH), dtype=np.int64)], {}),
        (r"must be \(S, H, W\) with S 2, got \(1, 24, 20\)", one, None, {"probabilities": [maps[0][:1]]}),
        (r"must be 0..1, got 0.0..1.5", one, None, {"probabilities": [maps[0] + np.array([0, 1.5])[:, None, None]]}),
        (r"must be 0..1, got nan", one, None, {"probabilities": [maps[0] * np.nan]}),
        (r"source's size \(24, 20\), got \(20, 24\)", one, [classes[0].T], {}),
        ("named once, with a frame that it has", [(series[0], 1)], classes, {}),
        ("named once, with a frame that it has", [*one, *one], classes * 2, {}),
    ]:
        with pytest.raises(ValueError, match=match):
            write(tmp_path / "seg.dcm", sources, given, **options)
    for match, segment in [
        ("needs label, category and type", {"label": "a"}),
        ("codes of segment a must be lists of value, scheme and meaning", Segment("a", ABNORMAL, ["1", "SCT"])),
        ("codes of segment a must be lists", Segment("a", ABNORMAL, "abc")),
        ("label must have 1 to 64 characters, got 65", Segment("a" * 65, ABNORMAL, ABNORMAL)),
    ]:
        with pytest.raises(InputError, match=match):
            write(tmp_path / "seg.dcm", one, classes, segments=[segment, MASS])
    with pytest.raises(InputError, match=r"gone.dcm is not a file"):
        write(tmp_path / "seg.dcm", [(str(tmp_path / "gone.dcm"), 0)], classes)


def test_an_object_that_reads_back_otherwise_is_not_kept(
    tmp_path: Path, series: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other.dcm", [(series[0], 0)], [class_map(HEIGHT, WIDTH, shift=1)])
    monkeypatch.setattr("icmoe_monai.imageio.dicom.seg.segread", lambda path: other)
    with pytest.raises(RuntimeError, match="read back differs"):
        write(tmp_path / "seg.dcm", [(series[0], 0)], [class_map(HEIGHT, WIDTH)])
    assert not (tmp_path / "seg.dcm").exists()
    assert not list(tmp_path.glob(".*"))


@needs_dciodvfy
@pytest.mark.parametrize("kind", ["binary", "fractional", "empty"])
@pytest.mark.parametrize("of", ["series", "frames", "secondary capture", "photograph"])
def test_dciodvfy_finds_no_error(tmp_path: Path, series: list[str], of: str, kind: str) -> None:
    if of == "series":
        sources = [(path, 0) for path in series]
    elif of == "frames":
        path = save(tmp_path / "mr.dcm", enhanced_mr(3))
        sources = [(path, 0), (path, 2)]
    else:
        colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
        sources = [(save(tmp_path / "a.dcm", source(SC if of == "secondary capture" else VL, **colour)), 0)]
    classes = [class_map(HEIGHT, WIDTH, shift=n) * (kind != "empty") for n in range(len(sources))]
    maps = [np.stack([one == 1, one == 2]) * 0.7 for one in classes]
    fractional = kind == "fractional"
    write(tmp_path / "seg.dcm", sources, None if fractional else classes, probabilities=maps if fractional else None)
    assert errors_of(tmp_path / "seg.dcm") == []


@needs_dciodvfy
@pytest.mark.parametrize("name", ["CT_small.dcm", "examples_palette.dcm", "JPGExtended.dcm", "image_dfl.dcm"])
def test_dciodvfy_finds_no_error_but_the_sources(tmp_path: Path, name: str) -> None:
    path = shipped(name)
    image = pydicom.dcmread(path, stop_before_pixels=True)
    write(tmp_path / "seg.dcm", [(path, 0)], [class_map(image.Rows, image.Columns)])
    assert set(errors_of(tmp_path / "seg.dcm")) <= set(errors_of(path))
