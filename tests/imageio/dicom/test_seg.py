from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_seg import ABNORMAL, ALGORITHM, LESION, MASS, class_map, errors_of, needs_dciodvfy, write, write_all
from dicom_sources import CR, HEIGHT, SC, VL, WIDTH, cine, ct, enhanced_mr, save, source
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from skimage.color import lab2rgb

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.seg import (
    NoSegmentationError,
    Segment,
    Series,
    plan_segmentations,
)


def shipped(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return path


def by_instance(segmentation: Any, paths: Sequence[str]) -> np.ndarray:
    """The segments of single-frame images, (N, H, W, S)."""
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths]
    return segmentation.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, rescale_fractional=False
    )


def check_classes(found: np.ndarray, classes: Sequence[np.ndarray]) -> None:
    np.testing.assert_array_equal(found, np.stack(classes)[..., None] == [1, 2])


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
        of = Series(name, "IC-MoE: lesion, mass")
        write(tmp_path / name, [(series[0], 0)], [class_map(HEIGHT, WIDTH)], algorithm=algorithm, series=of)
    first, second = (pydicom.dcmread(tmp_path / name) for name in "ab")
    image = pydicom.dcmread(series[0])
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
        *("StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    ):
        assert first[keyword].value == image[keyword].value
    assert first.Modality == "SEG"
    assert first.SeriesInstanceUID != image.SeriesInstanceUID
    assert 1000 <= first.SeriesNumber < 10000
    assert first.SeriesNumber != second.SeriesNumber
    assert first.SeriesDescription == "IC-MoE: lesion, mass"
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, first.SeriesInstanceUID, second.SeriesInstanceUID}) == 4
    lesion, mass = first.SegmentSequence
    assert (lesion.SegmentNumber, lesion.SegmentLabel, lesion.SegmentAlgorithmType) == (1, "lesion", "AUTOMATIC")
    scaled = np.divide(lesion.RecommendedDisplayCIELabValue, 65535)  # PS3.3 C.10.7.1.1
    assert lab2rgb(scaled * [100, 255, 255] - [0, 128, 128]) == pytest.approx(np.divide((230, 159, 0), 255), abs=0.01)
    assert (first["ContentCreatorName"].VM, first.ContentDescription) == (0, "Found by an algorithm, not reviewed")
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


@pytest.mark.parametrize("of", ["series", "frames", "cine", "radiograph", "empty"])
def test_a_label_map_has_the_classes_and_what_a_binary_object_has(tmp_path: Path, of: str) -> None:
    images = {"series": [ct(n, 2.5 * n) for n in range(3)], "frames": [enhanced_mr(3)], "cine": [cine(1)]}
    sources = [
        (save(tmp_path / f"{n}.dcm", image), frame)
        for n, image in enumerate(images.get(of, [source(CR, Modality="CR")]))
        for frame in range(int(image.get("NumberOfFrames", 1)))
    ]
    classes = [class_map(HEIGHT, WIDTH, shift=n) * (of != "empty") for n in range(len(sources))]
    binary = write(tmp_path / "binary.dcm", sources, classes)
    written = write(tmp_path / "seg.dcm", sources, classes, as_label_map=True)
    plain = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (plain.SOPClassUID, plain.SegmentationType) == ("1.2.840.10008.5.1.4.1.1.66.7", "LABELMAP")
    assert not plain.get("PixelPaddingValue")  # 0, if it is there: the background
    np.testing.assert_array_equal(plain.pixel_array.reshape(-1, HEIGHT, WIDTH).sum(0), np.sum(classes, axis=0))
    assert [one.SegmentNumber for one in plain.SegmentSequence] == [0, 1, 2]
    shared = ("SegmentLabel", "TrackingID", "SegmentedPropertyTypeCodeSequence")
    for one, other in zip(plain.SegmentSequence[1:], binary.SegmentSequence, strict=True):
        assert [one[keyword].value for keyword in shared] == [other[keyword].value for keyword in shared]
    assert [one.ReferencedSOPInstanceUID for one in plain.SourceImageSequence] == [
        one.ReferencedSOPInstanceUID for one in binary.SourceImageSequence
    ]
    assert written.FrameOfReferenceUID == binary.FrameOfReferenceUID


def uids_of(path: Path) -> list[str]:
    """All UIDs in an object but those of its own file's maker, sorted."""
    found = pydicom.dcmread(path)
    return sorted(str(element.value) for element in found.iterall() if element.VR == "UI")


def test_the_same_again_has_the_same_uids_and_another_model_others(tmp_path: Path, series: list[str]) -> None:
    sources = [(path, 0) for path in series]
    classes = [class_map(HEIGHT, WIDTH, shift=n) for n in range(4)]
    again = Series("model and settings", "read by people")
    for name, of in (("a", Series("model and settings", "x")), ("b", again), ("c", Series("another", "x"))):
        write(tmp_path / name, sources, classes, series=of)
    first, second, other = (uids_of(tmp_path / name) for name in "abc")
    assert first == second
    kept = {one.SOPInstanceUID for one in map(pydicom.dcmread, series)}
    image = pydicom.dcmread(series[0])
    kept |= {image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID}
    own = {uid for uid in set(first) - kept if not uid.startswith("1.2.840.10008.")}
    assert len(own) == 5  # instance, series, dimensions, two tracked findings
    assert not own & set(other)
    assert {uid for uid in other if not uid.startswith("1.2.840.10008.")} & set(first) == kept
    write(tmp_path / "d", sources[:3], classes[:3], series=again)  # other sources, the same series
    a, d = (pydicom.dcmread(tmp_path / name) for name in "ad")
    assert a.SeriesInstanceUID == d.SeriesInstanceUID
    assert a.SOPInstanceUID != d.SOPInstanceUID


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_what_cannot_be_referred_to_is_refused_and_named(tmp_path: Path, keyword: str) -> None:
    image = ct(1, 0)
    del image[keyword]
    image.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
    reason = f"has no {keyword} by which .*the masks hold the result"
    with pytest.raises(NoSegmentationError, match=reason) as caught:
        plan_segmentations([(str(tmp_path / "a.dcm"), 0)])
    assert not any(told in str(caught.value) for told in ("Doe", "4711", "acc-7"))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_bytes(b"a letter to Doe^Jane" * 20)
    with pytest.raises(NoSegmentationError, match=r"cannot be read|has no SOPClassUID") as caught:
        plan_segmentations([(str(tmp_path / "text.dcm"), 0)])
    assert "Doe" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(InputError, match=r"gone.dcm is not a file"):
        plan_segmentations([(str(tmp_path / "gone.dcm"), 0)])


def test_what_highdicom_refuses_is_told_without_its_words(
    tmp_path: Path, series: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: Any) -> None:
        raise ValueError("Doe^Jane")

    monkeypatch.setattr("icmoe_monai.imageio.dicom.seg.writing.Segmentation", refuse)
    with pytest.raises(NoSegmentationError, match=r"1\.dcm cannot be described .*highdicom: ValueError") as caught:
        write(tmp_path / "seg.dcm", [(series[0], 0)], [class_map(HEIGHT, WIDTH)])
    assert "Doe" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert not list(tmp_path.glob("*seg*"))


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
    written = write(tmp_path / "seg.dcm", [(str(path), 0)], [class_map(HEIGHT, WIDTH)])
    assert not written.StudyDate
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


def test_an_object_that_reads_back_otherwise_is_not_kept(
    tmp_path: Path, series: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "other.dcm", [(series[0], 0)], [class_map(HEIGHT, WIDTH, shift=1)])
    monkeypatch.setattr("icmoe_monai.imageio.dicom.seg.writing.segread", lambda path: other)
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
def test_dciodvfy_finds_of_a_label_map_what_it_does_not_know(tmp_path: Path, series: list[str]) -> None:
    """Supplement 243 is newer than the program: it does not know the object, nor that 0 is a segment of it."""
    sources = [(path, 0) for path in series]
    write(tmp_path / "seg.dcm", sources, [class_map(HEIGHT, WIDTH, shift=n) for n in range(4)], as_label_map=True)
    unknown = ("Information Object Not found", "with SegmentNumber of 0")
    assert [error for error in errors_of(tmp_path / "seg.dcm") if not error.strip().endswith(unknown)] == []


@needs_dciodvfy
@pytest.mark.parametrize("name", ["CT_small.dcm", "examples_palette.dcm", "JPGExtended.dcm", "image_dfl.dcm"])
def test_dciodvfy_finds_no_error_but_the_sources(tmp_path: Path, name: str) -> None:
    path = shipped(name)
    image = pydicom.dcmread(path, stop_before_pixels=True)
    write(tmp_path / "seg.dcm", [(path, 0)], [class_map(image.Rows, image.Columns)])
    assert set(errors_of(tmp_path / "seg.dcm")) <= set(errors_of(path))


@pytest.mark.parametrize(("image", "num_frames"), [(ct(1, 0), 1), (enhanced_mr(2), 2), (cine(2), 2), (source(SC), 1)])
def test_a_file_with_changed_bytes_has_a_segmentation_or_a_sentence(
    tmp_path: Path, image: Dataset, num_frames: int
) -> None:
    rng = np.random.default_rng(num_frames)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"  # the same bytes in every run
    if "FrameOfReferenceUID" in image:
        image.FrameOfReferenceUID = "1.2.3.5"
    path = Path(save(tmp_path / "a.dcm", image))
    data = path.read_bytes()
    num_written = 0
    for _ in range(6):
        changed = np.frombuffer(data, dtype=np.uint8).copy()
        places = rng.integers(132, len(data) - HEIGHT * WIDTH, rng.choice([1, 3, 10]))
        changed[places] = rng.integers(0, 256, len(places))
        path.write_bytes(changed.tobytes())
        with contextlib.suppress(NoSegmentationError):
            num_written += len(write_all(tmp_path, [(str(path), n) for n in range(num_frames)]))
    assert num_written > 0
