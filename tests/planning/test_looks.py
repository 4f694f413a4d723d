"""What is kept of images and masks of several kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from icmoe_monai.planning.headers import read_header
from icmoe_monai.planning.looks import look_at_cases

SIDE = 40


def look(folder: Path, image: np.ndarray, mask: np.ndarray, **case):
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    files = {"image": str(folder / "image.png"), "label": str(folder / "mask.png"), "name": "a"}
    (found,) = look_at_cases({"train": [files | case]}, progress=False)
    return found


def test_a_deep_image_with_two_discs(tmp_path):
    rows, columns = np.mgrid[:SIDE, : 2 * SIDE]
    mask = 255 * ((np.hypot(rows - 20, columns - 20) < 10) | (np.hypot(rows - 20, columns - 60) < 5)).astype(np.uint8)
    image = (1000 * rows + columns).astype(np.uint16)
    found = look(tmp_path, image, mask)
    assert found.header[:3] == ("PNG", "I;16", 16)
    assert (found.size, found.is_grey, found.is_blank, found.fits) == ((SIDE, 2 * SIDE), True, False, True)
    assert found.low < 10
    assert found.high > 245
    assert found.mask.values == (0, 255)
    assert sorted(found.mask.areas) == pytest.approx([np.pi * 25, np.pi * 100], rel=0.15)
    assert found.mask.foreground == pytest.approx((mask > 0).mean())
    assert found.mask.at_border == 0
    assert found.picture.shape == (256, 256, 3)
    assert found.mask.share.mean() == pytest.approx((mask > 0).mean(), abs=0.01)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_the_thickness_of_a_band_is_its_width(width, tmp_path):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10 : 10 + width] = 1
    assert look(tmp_path, mask, mask).mask.thickness == pytest.approx(width, abs=1)


def test_numbered_objects_that_touch_are_targets_of_one_class(tmp_path):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[5:15], mask[15:25] = 1, 2
    assert len(look(tmp_path, mask, mask, label_kind="instances").mask.areas) == 2
    assert look(tmp_path, mask, mask, label_kind="instances").mask.values == (0, 1)
    assert look(tmp_path, mask, mask).mask.values == (0, 1, 2)


def test_an_empty_mask_and_a_case_without_one(tmp_path):
    empty = np.zeros((SIDE, SIDE), np.uint8)
    found = look(tmp_path, empty + 9, empty)
    assert (found.mask.foreground, found.mask.thickness, len(found.mask.areas), found.is_blank) == (0, 0, 0, True)
    files = {"image": str(tmp_path / "image.png"), "name": "a"}
    (found,) = look_at_cases({"unlabelled": [files]}, progress=False)
    assert found.mask is None
    assert not found.fits


def test_the_size_of_pixels_is_told_where_somebody_has_measured_them(tmp_path):
    pixels = np.zeros((8, 8), np.uint16)
    for unit, resolution, spacing in (
        ("CENTIMETER", 200, 0.05),
        ("INCH", 508, 0.05),
        ("INCH", 300, None),
        ("NONE", 9, None),
    ):
        tifffile.imwrite(tmp_path / "a.tif", pixels, resolution=(resolution, resolution), resolutionunit=unit)
        assert read_header(str(tmp_path / "a.tif")) == ("TIFF", "L", 16, spacing)
    (tmp_path / "a.png").write_bytes(b"nothing")
    assert read_header(str(tmp_path / "a.png")) == ("other", "other", 0, None)
