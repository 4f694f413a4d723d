"""How thick targets are, of bands and discs whose thickness is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.data.thickness import median_thickness, thickness_of


@pytest.mark.parametrize("width", [1, 3, 5, 9, 21])
def test_a_band_is_about_as_thick_as_it_is_wide(width):
    mask = np.zeros((60, 200), bool)
    mask[20 : 20 + width] = True
    assert thickness_of(mask) == pytest.approx(width, abs=2)
    assert thickness_of(mask.T) == thickness_of(mask)


def test_a_disc_is_some_six_tenths_as_thick_as_wide():
    rows, columns = np.mgrid[-50:51, -50:51]
    assert thickness_of(rows**2 + columns**2 <= 40**2) == pytest.approx(0.6 * 80, abs=4)


def put_bands(folder: Path, widths: list[int]) -> list[dict]:
    cases = []
    for i, width in enumerate(widths):
        mask = np.zeros((50, 100), np.uint8)
        mask[10 : 10 + width] = 255
        path = folder / f"{i:03d}.png"
        Image.fromarray(mask).save(path)
        cases.append({"name": path.stem, "label": str(path)})
    return cases


def test_a_set_is_as_thick_as_its_median_mask_where_images_are_that_long(tmp_path):
    cases = put_bands(tmp_path, [3, 3, 7, 11, 21, 0])  # the last is empty
    assert median_thickness(cases, longest_side=100) == 7
    assert median_thickness(cases, longest_side=200) == 14


def test_masks_that_are_missing_or_broken_are_left_out(tmp_path):
    cases = put_bands(tmp_path, [3, 7, 7])
    Path(cases[0]["label"]).write_bytes(b"no picture")
    cases.append({"name": "without"})
    assert median_thickness(cases, longest_side=100) == 7
    assert median_thickness(cases[:1] + cases[3:], longest_side=100) is None
    assert median_thickness([], longest_side=100) is None


def test_of_many_masks_some_at_equal_distances_are_read(tmp_path):
    cases = put_bands(tmp_path, [3] * 150 + [7] * 50)
    assert median_thickness(cases, longest_side=100) == 3
    assert median_thickness(cases[125:], longest_side=100) == 7


def test_instances_are_one_foreground(tmp_path):
    mask = np.zeros((50, 100), np.uint8)
    mask[10:13], mask[30:33] = 1, 7
    Image.fromarray(mask).save(tmp_path / "glands.png")
    case = {"name": "glands", "label": str(tmp_path / "glands.png"), "label_kind": "instances"}
    assert median_thickness([case], longest_side=100) == 3


def test_a_class_is_as_thick_as_it_is_beside_another(tmp_path):
    mask = np.zeros((50, 100), np.uint8)
    mask[10:13], mask[13:34] = 1, 2
    Image.fromarray(mask).save(tmp_path / "layers.png")
    case = {"name": "layers", "label": str(tmp_path / "layers.png")}
    assert median_thickness([case], longest_side=100, out_channels=3) == 3


def test_where_an_image_ends_a_target_does_not():
    mask = np.zeros((40, 100), bool)
    mask[:, :10] = True  # 20 pixels wide, of which half are seen
    assert thickness_of(mask) == pytest.approx(20, abs=2)
