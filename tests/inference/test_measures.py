from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.imageio.dicom.scale import Scale
from icmoe_monai.inference.measures import INTERVALS, measure

CLASSES = np.array([[1, 0, 2, 2], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.uint8)


def test_pixels_shares_and_parts_of_every_class() -> None:
    found = measure(CLASSES, num_classes=4)
    assert found["foreground_pixels"] == [3, 2, 0]
    assert found["foreground_share"] == pytest.approx([3 / 12, 2 / 12, 0])
    assert found["num_components"] == [2, 1, 0]
    assert (found["area_mm2"], found["spacing_mm"]) == (None, None)


def test_an_interval_is_measured_class_by_class_in_the_units_of_the_areas() -> None:
    smallest = np.stack([CLASSES == 1, CLASSES == 2])
    largest = np.stack([CLASSES != 2, np.ones_like(CLASSES, dtype=bool)])  # the classes' largest masks overlap
    found = measure(CLASSES, num_classes=3, ends=(smallest, largest), scale=Scale(np.full((3, 4, 2), 0.5)))
    assert (found["foreground_pixels_low"], found["foreground_pixels_high"]) == ([3, 2], [10, 12])
    assert (found["area_mm2_low"], found["area_mm2_high"]) == ([0.75, 0.5], [2.5, 3.0])


def test_an_interval_that_reaches_beyond_the_scale_is_told_in_pixels_alone() -> None:
    steps = np.full((3, 4, 2), 0.5)
    steps[2, 3] = np.nan
    masks = np.stack([CLASSES == 2])
    found = measure((CLASSES == 2).astype(np.uint8), num_classes=2, ends=(masks, ~masks), scale=Scale(steps))
    assert found["area_mm2"] == [0.5]
    assert (found["area_mm2_low"], found["area_mm2_high"]) == (None, None)
    assert found["foreground_pixels_high"] == [10]


def test_without_an_interval_its_ends_are_none() -> None:
    found = measure(CLASSES, num_classes=3)
    assert {name: found[name] for name in INTERVALS} == dict.fromkeys(INTERVALS)


def test_a_picture_has_no_scale_even_where_it_claims_a_resolution(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "a.png", dpi=(254, 254))
    assert measure(CLASSES, num_classes=3, source=str(tmp_path / "a.png"))["area_mm2"] is None
