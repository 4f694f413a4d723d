from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.inference.measures import measure

CLASSES = np.array([[1, 0, 2, 2], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.uint8)


def test_pixels_shares_and_parts_of_every_class() -> None:
    found = measure(CLASSES, num_classes=4)
    assert found["foreground_pixels"] == [3, 2, 0]
    assert found["foreground_share"] == pytest.approx([3 / 12, 2 / 12, 0])
    assert found["num_components"] == [2, 1, 0]
    assert (found["area_mm2"], found["spacing_mm"]) == (None, None)


def test_a_picture_has_no_scale_even_where_it_claims_a_resolution(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "a.png", dpi=(254, 254))
    assert measure(CLASSES, num_classes=3, source=str(tmp_path / "a.png"))["area_mm2"] is None
