"""Which objects the images of a study make: by direction, phase and space; and images that have no place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_seg import class_map, errors_of, needs_dciodvfy, write_all
from dicom_sources import CR, HEIGHT, RETIRED_US, SC, VL, WIDTH, cine, ct, enhanced_mr, item, save, source
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from icmoe_monai.imageio.dicom.seg import plan_segmentations
from icmoe_monai.imageio.dicom.seg.places import Place, group_places, place_of, thickness_of

SAGITTAL = [0, 1, 0, 0, 0, -1]


def saved(folder: Path, *images: Dataset) -> list[str]:
    return [save(folder / f"{n}.dcm", image) for n, image in enumerate(images)]


def members(paths: list[str], num_frames: int = 1) -> list[tuple[int, ...]]:
    return [part.members for part in plan_segmentations([(path, n) for path in paths for n in range(num_frames)])]


def enhanced(orientations: list[list[float]], positions: list[list[float]]) -> Dataset:
    """An enhanced MR whose frames have directions and places of their own."""
    image = enhanced_mr(len(positions))
    shared = image.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    for group, orientation, position in zip(
        image.PerFrameFunctionalGroupsSequence, orientations, positions, strict=True
    ):
        group.PlaneOrientationSequence = [item(ImageOrientationPatient=orientation)]
        group.PlanePositionSequence = [item(ImagePositionPatient=position)]
    return image


def check_sources(folder: Path, paths: list[str], num_frames: int = 1) -> list[Dataset]:
    """Write all objects, and compare every frame's pixels with its source's, by pydicom alone; return the objects."""
    sources = [(path, n) for path in paths for n in range(num_frames)]
    uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path, _ in sources]
    index = {
        (uid, n + 1 if num_frames > 1 else None): k for k, (uid, (_, n)) in enumerate(zip(uids, sources, strict=True))
    }
    parts = plan_segmentations(sources)
    write_all(folder, sources)
    objects = [pydicom.dcmread(folder / f"seg{n}.dcm") for n in range(len(parts))]
    seen = set()
    for segmentation, part in zip(objects, parts, strict=True):
        for frame, group in zip(
            segmentation.pixel_array.reshape(-1, HEIGHT, WIDTH),
            segmentation.PerFrameFunctionalGroupsSequence,
            strict=True,
        ):
            (reference,) = group.DerivationImageSequence[0].SourceImageSequence
            k = index[reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")]
            assert k in part.members
            segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            np.testing.assert_array_equal(frame, class_map(HEIGHT, WIDTH, shift=k) == segment)
            seen.add((k, segment))
    assert seen == {(k, segment) for k in range(len(sources)) for segment in (1, 2)}
    return objects


def test_phases_at_one_place_are_an_object_each(tmp_path: Path) -> None:
    paths = saved(tmp_path, *(ct(n, 0) for n in range(3)))
    assert members(paths) == [(0,), (1,), (2,)]
    objects = check_sources(tmp_path, paths)
    assert len({one.SOPInstanceUID for one in objects}) == 3
    assert [one.InstanceNumber for one in objects] == [1, 2, 3]
    assert len({(one.SeriesInstanceUID, one.SeriesNumber) for one in objects}) == 1


def test_a_stack_scanned_twice_is_two_objects(tmp_path: Path) -> None:
    paths = saved(tmp_path, *(ct(n, z) for n, z in enumerate([0, 0, 2.5, 2.5, 5])))
    assert members(paths) == [(0, 2, 4), (1, 3)]
    check_sources(tmp_path, paths)


def test_planes_in_two_directions_of_one_file_are_two_objects(tmp_path: Path) -> None:
    axial = [1, 0, 0, 0, 1, 0]
    image = enhanced([axial, SAGITTAL, axial], [[0, 0, 0], [0, 0, 0], [0, 0, 4]])
    (path,) = saved(tmp_path, image)
    assert members([path], 3) == [(0, 2), (1,)]
    first, second = check_sources(tmp_path, [path], 3)
    assert [
        one.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
        for one in (first, second)
    ] == [axial, SAGITTAL]
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


def test_series_spaces_and_sizes_are_kept_apart(tmp_path: Path) -> None:
    others = [ct(2, 5, SeriesInstanceUID=generate_uid()), ct(2, 5, FrameOfReferenceUID=generate_uid())]
    others += [ct(2, 5, Rows=HEIGHT + 1), ct(2, 5, PixelSpacing=[1, 1]), ct(2, 5, ImageOrientationPatient=SAGITTAL)]
    paths = saved(tmp_path, ct(1, 0), *others, ct(3, 10))
    assert members(paths) == [(0, 6), (1,), (2,), (3,), (4,), (5,)]
    written = [
        pydicom.dcmread(tmp_path / f"seg{n}.dcm") for n, _ in enumerate(write_all(tmp_path, [(p, 0) for p in paths]))
    ]
    spaces = {(one.SeriesInstanceUID, one.FrameOfReferenceUID) for one in written}
    assert len({series for series, _ in spaces}) == len({space for _, space in spaces}) == 2  # one space, one series


WITHOUT_A_PLACE = {
    "CR": (source, (CR,), {"Modality": "CR"}),
    "photograph": (source, (VL,), {}),
    "secondary capture": (source, (SC,), {}),
    "retired ultrasound": (source, (RETIRED_US,), {"Modality": "US"}),
    "with a space but no place": (source, (CR,), {"FrameOfReferenceUID": "1.2.3", "PositionReferenceIndicator": ""}),
    "skew": (ct, (1, 0), {"ImageOrientationPatient": [1, 0.5, 0, 0, 1, 0], "PixelSpacing": [0, 0]}),
    "no spacing": (ct, (1, 0), {"PixelSpacing": [0, 0]}),
    "cine": (cine, (3,), {}),
}


@needs_dciodvfy
@pytest.mark.parametrize("kind", WITHOUT_A_PLACE)
def test_an_image_without_a_place_has_an_object_in_a_space_of_its_own(tmp_path: Path, kind: str) -> None:
    make, arguments, attributes = WITHOUT_A_PLACE[kind]
    image = make(*arguments, **attributes)
    (path,) = saved(tmp_path, image)
    num_frames = int(image.get("NumberOfFrames", 1))
    objects = check_sources(tmp_path, [path], num_frames)
    assert len(objects) == num_frames  # nobody knows how the frames of a cine lie to each other
    for n, one in enumerate(objects):
        shared = one.SharedFunctionalGroupsSequence[0]
        assert one.FrameOfReferenceUID not in (None, "", image.get("FrameOfReferenceUID"))
        assert shared.PixelMeasuresSequence[0].PixelSpacing == [1, 1]
        assert "1 mm stands for a pixel" in one.ContentDescription
        assert errors_of(tmp_path / f"seg{n}.dcm") == []
    (remark, *others) = {part.remark for part in plan_segmentations([(path, n) for n in range(num_frames)])}
    assert remark.startswith("has no Frame of Reference with positions")
    assert not others


def test_the_scale_of_an_image_without_a_place_is_kept(tmp_path: Path) -> None:
    region = item(RegionSpatialFormat=1, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3)
    item(region, RegionLocationMinX0=2, RegionLocationMinY0=2, RegionLocationMaxX1=15, RegionLocationMaxY1=20)
    item(region, PhysicalDeltaX=0.02, PhysicalDeltaY=0.05)
    scaled = source(VL, PixelSpacing=[0.25, 0.5]), source(RETIRED_US, SequenceOfUltrasoundRegions=[region])
    for one in check_sources(tmp_path, saved(tmp_path, *scaled)):
        spacing = one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        assert spacing in ([0.25, 0.5], [0.5, 0.2])
        assert "pixel" not in one.ContentDescription


def test_images_without_a_place_are_one_series_of_the_study(tmp_path: Path) -> None:
    paths = saved(tmp_path, *(source(CR, n, SeriesInstanceUID=generate_uid()) for n in range(3)))
    objects = check_sources(tmp_path, paths)
    assert len({(one.SeriesInstanceUID, one.SeriesNumber, one.FrameOfReferenceUID) for one in objects}) == 1
    assert len({one.SOPInstanceUID for one in objects}) == 3


def test_places_without_a_frame_of_reference_are_kept(tmp_path: Path) -> None:
    images = [ct(n, 2.5 * n) for n in range(3)]
    for image in images:
        del image.FrameOfReferenceUID
    (one,) = check_sources(tmp_path, saved(tmp_path, *images))
    positions = [group.PlanePositionSequence[0].ImagePositionPatient for group in one.PerFrameFunctionalGroupsSequence]
    assert sorted({tuple(position) for position in positions}) == [(-100.5, 20.25, z) for z in (0, 2.5, 5)]


@needs_dciodvfy
@pytest.mark.parametrize(
    ("attributes", "positions", "thickness"),
    [
        ({"SliceThickness": 0}, (0, 4, 8), 4),
        ({"SliceThickness": None}, (0, 4, 8), 4),
        ({"SliceThickness": -3}, (0, 4, 8), 3),
        ({"SliceThickness": 0, "SpacingBetweenSlices": -5}, (0,), 5),
        ({"SliceThickness": 2, "SpacingBetweenSlices": -4}, (0, 4, 8), 2),
        ({"SliceThickness": 0}, (0,), 0.5),  # a pixel's smaller side
    ],
)
def test_thickness_and_gap_are_what_the_standard_permits(
    tmp_path: Path, attributes: dict[str, Any], positions: tuple[float, ...], thickness: float
) -> None:
    (one,) = check_sources(tmp_path, saved(tmp_path, *(ct(n, z, **attributes) for n, z in enumerate(positions))))
    measures = one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == thickness
    assert measures.get("SpacingBetweenSlices", 1) > 0
    assert errors_of(tmp_path / "seg0.dcm") == []


@needs_dciodvfy
def test_directions_that_are_nearly_at_right_angles_are_mended(tmp_path: Path) -> None:
    (one,) = check_sources(tmp_path, saved(tmp_path, ct(1, 0, ImageOrientationPatient=[1, 0.004, 0, 0, 1.003, 0])))
    mended = one.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(mended, [1, 0.004, 0, -0.004, 1, 0], atol=1e-4)
    assert errors_of(tmp_path / "seg0.dcm") == []


@needs_dciodvfy
@pytest.mark.parametrize(
    ("attributes", "ratio", "method"),
    [
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": "7.5"}, 7.5, None),
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": None}, None, None),
        ({"LossyImageCompression": "01", "LossyImageCompressionRatio": "-1"}, None, None),
        ({"LossyImageCompression": ""}, None, None),
        ({"LossyImageCompression": "NO"}, None, None),
    ],
)
def test_what_a_source_tells_of_its_compression(
    tmp_path: Path, attributes: dict[str, Any], ratio: float | None, method: str | None
) -> None:
    (one,) = check_sources(tmp_path, saved(tmp_path, item(source(SC), **attributes)))
    assert one.LossyImageCompression == ("01" if attributes["LossyImageCompression"] == "01" else "00")
    assert (one.get("LossyImageCompressionRatio"), one.get("LossyImageCompressionMethod")) == (ratio, method)
    assert errors_of(tmp_path / "seg0.dcm") == []


@needs_dciodvfy
def test_a_lossy_file_that_does_not_say_so_is_measured(tmp_path: Path) -> None:
    image = source(SC)
    image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(44) + b"\xff\xd9"])
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    image["PixelData"].VR = "OB"
    (one,) = check_sources(tmp_path, saved(tmp_path, image))
    assert (one.LossyImageCompression, one.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert 4 < one.LossyImageCompressionRatio < 10  # 480 bytes in 48 and a few
    assert errors_of(tmp_path / "seg0.dcm") == []


def test_a_plane_is_read_from_wherever_the_header_has_it() -> None:
    assert place_of(ct(1, 3.5), 0) == Place((-100.5, 20.25, 3.5), (1, 0, 0, 0, 1, 0), (0.5, 0.75), 2.5, None)
    assert place_of(enhanced_mr(3), 2) == Place((6, -50, 40), tuple(SAGITTAL), (0.5, 0.75), 3, None)
    assert place_of(source(SC), 0) is None


def test_many_phases_are_grouped_in_no_time() -> None:
    plane = Place((0, 0, 0), (1, 0, 0, 0, 1, 0), (1, 1))
    planes = [plane._replace(position=(0, 0, float(n % 50))) for n in range(3000)]
    groups = group_places(planes, [()] * 3000)
    assert [len(group) for group in groups] == [50] * 60
    assert groups[1] == list(range(50, 100))
    assert thickness_of([planes[n] for n in groups[0]]) == 1
