from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import HEIGHT, WIDTH, asymmetric, item, save
from pydicom import Dataset

from icmoe_monai.imageio.dicom.scale import read_scale


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelSpacing": [0.5, 0.25]}, (0.5, 0.25)),
        ({"ImagerPixelSpacing": [0.5, 0.25]}, None),
        ({"NominalScannedPixelSpacing": [0.5, 0.25]}, None),
        ({"PixelSpacing": [0.5, 0.25], "ImagerPixelSpacing": [0.5, 0.25]}, None),
        ({"PixelSpacing": [0.4, 0.2], "ImagerPixelSpacing": [0.5, 0.25]}, (0.4, 0.2)),
        (
            {"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [0.5, 0.5], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.5, 0.5),
        ),
        ({"PixelSpacing": [0, 0.25]}, None),
        ({"PixelSpacing": None}, None),
        ({"PixelSpacing": [0.5]}, None),
        ({}, None),
    ],
    ids=["spacing", "imager", "nominal", "imager-repeated", "corrected", "fiducial", "zero", "empty", "one", "none"],
)
def test_pixel_spacing(tmp_path: Path, tags: dict[str, Any], expected: tuple[float, float] | None) -> None:
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), **tags)
    classes = np.zeros((HEIGHT, WIDTH))
    classes[:3], classes[3] = 1, 3
    assert read_scale(path).spacing_mm(classes) == expected
    areas = read_scale(path).areas_mm2(classes, 4)
    if expected is None:
        assert areas is None
    else:
        assert areas == pytest.approx([3 * WIDTH * expected[0] * expected[1], 0, WIDTH * expected[0] * expected[1]])


def region(left: int, top: int, right: int, bottom: int, delta: float = 0.02, **tags: Any) -> Dataset:
    box = {"RegionLocationMinX0": left, "RegionLocationMinY0": top}
    box |= {"RegionLocationMaxX1": right, "RegionLocationMaxY1": bottom}
    units = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "RegionSpatialFormat": 1}
    return item(**(box | units | {"PhysicalDeltaX": -delta, "PhysicalDeltaY": 2 * delta} | tags))


@pytest.mark.parametrize(
    ("regions", "pixels", "expected"),
    [
        ([region(2, 3, 9, 8)], np.s_[3:9, 2:10], 48 * 0.08),
        ([region(2, 3, 9, 8)], np.s_[3:10, 2:10], None),
        ([region(2, 3, 9, 8)], np.s_[3:9, 2:11], None),
        ([region(0, 0, 4, 11), region(5, 0, 9, 11, delta=0.04)], np.s_[0:2, 4:6], 2 * 0.08 + 2 * 0.32),
        ([region(0, 0, 9, 11), region(5, 0, 12, 11)], np.s_[0:2, 4:6], 4 * 0.08),
        ([region(0, 0, 9, 11), region(5, 0, 12, 11, delta=0.04)], np.s_[0:2, 4:6], None),
        ([region(0, 0, 9, 11, PhysicalUnitsXDirection=4)], np.s_[0:2, 4:6], None),
        ([region(0, 0, 9, 11, RegionSpatialFormat=3)], np.s_[0:2, 4:6], None),
        ([region(0, 0, 9, 11, PhysicalDeltaX=None)], np.s_[0:2, 4:6], None),
        ([region(2, 3, 9, 8)], np.s_[0:0], 0.0),
        ([region(2, 3, 20, 12)], np.s_[3:9, 2:10], 48 * 0.08),
        ([region(2, 3, 40, 8)], np.s_[3:9, 2:10], None),
    ],
    ids=[
        *("inside", "below", "right", "two", "overlap", "contradict", "seconds", "doppler", "no-delta", "no-pixels"),
        *("counted from 1", "of a larger image"),
    ],
)
def test_ultrasound_regions(tmp_path: Path, regions: list[Dataset], pixels: Any, expected: float | None) -> None:
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), SequenceOfUltrasoundRegions=regions)
    classes = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    classes[pixels] = 2
    areas = read_scale(path).areas_mm2(classes, 3)
    assert areas == (None if expected is None else pytest.approx([0.0, expected]))


def test_class_map_of_another_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), PixelSpacing=[1, 1])
    with pytest.raises(ValueError, match=r"classes must have the image's size \(H, W\) = \(12, 20\), got \(20, 12\)"):
        read_scale(path).areas_mm2(np.zeros((WIDTH, HEIGHT)), 2)


@pytest.mark.parametrize(
    ("regions", "pixels", "expected"),
    [
        ([region(2, 3, 9, 8)], np.s_[3:9, 2:10], (0.4, 0.2)),
        ([region(2, 3, 9, 8)], np.s_[3:10, 2:10], None),
        ([region(0, 0, 4, 11), region(5, 0, 9, 11)], np.s_[0:2, 4:6], (0.4, 0.2)),
        ([region(0, 0, 4, 11), region(5, 0, 9, 11, delta=0.04)], np.s_[0:2, 4:6], None),
        ([region(0, 0, 19, 11)], np.s_[0:0], (0.4, 0.2)),
        ([region(2, 3, 9, 8)], np.s_[0:0], None),
    ],
    ids=["inside", "partly", "alike", "not alike", "nothing found", "nothing found, middle outside"],
)
def test_one_scale_of_what_was_found_in_ultrasound(
    tmp_path: Path, regions: list[Dataset], pixels: Any, expected: tuple[float, float] | None
) -> None:
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), SequenceOfUltrasoundRegions=regions)
    classes = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    classes[pixels] = 1
    assert read_scale(path).spacing_mm(classes) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("shared", [False, True], ids=["per-frame", "shared"])
def test_enhanced_frames_have_their_own_spacing(tmp_path: Path, shared: bool) -> None:
    groups = [item(PixelMeasuresSequence=[item(PixelSpacing=[spacing, 0.5])]) for spacing in (0.25, 0.75)]
    tags = {"SharedFunctionalGroupsSequence": groups[:1]} if shared else {"PerFrameFunctionalGroupsSequence": groups}
    path = save(tmp_path / "a.dcm", np.stack([asymmetric(), asymmetric()]).astype(np.uint8), **tags)
    ones = np.ones((HEIGHT, WIDTH))
    for frame, spacing in enumerate([0.25, 0.25 if shared else 0.75]):
        scale = read_scale(path, frame)
        assert scale.spacing_mm(ones) == (spacing, 0.5)
        assert scale.areas_mm2(ones, 2) == pytest.approx([HEIGHT * WIDTH * 0.5 * spacing])
