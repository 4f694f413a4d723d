from __future__ import annotations

import numpy as np
import pytest
from stand_ins import InMemory

from icmoe_monai.slides.overview import Overview


@pytest.mark.parametrize(("longest_side", "level"), [(200, 0), (100, 1), (40, 3), (25, 3), (24, 4)])
def test_a_picture_is_of_means_of_squares(longest_side: int, level: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (197, 150, 3), dtype=np.uint8)
    overview = Overview(InMemory(pixels), longest_side=longest_side)
    for top in (0, 3, 40, 41, 80, 120, 147):  # the same rows come more than once
        np.testing.assert_array_equal(overview.read(top, 0, 50, 150), pixels[top : top + 50])
    f = 2**level
    picture = overview.picture()
    assert overview.level == level
    assert picture.shape == (-(-197 // f), -(-150 // f), 3)
    for row, column in ((0, 0), (1, 2), (picture.shape[0] - 1, picture.shape[1] - 1)):
        square = pixels[row * f : (row + 1) * f, column * f : (column + 1) * f]
        np.testing.assert_array_equal(picture[row, column], np.rint(square.mean(axis=(0, 1))))
