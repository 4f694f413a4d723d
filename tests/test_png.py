from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.png import encode_rgb


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (1, 7), (61, 83)], ids=["one pixel", "column", "row", "any"])
@pytest.mark.parametrize("effort", [0, 1, 9])
def test_pillow_reads_the_very_pixels_back(size: tuple[int, int], effort: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Image.open(io.BytesIO(encode_rgb(picture, effort=effort))) as read:
            read.verify()  # the checksums too
        with Image.open(io.BytesIO(encode_rgb(picture, effort=effort))) as read:
            assert (read.format, read.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(read), picture)


def test_a_smooth_picture_takes_a_small_part_of_its_pixels() -> None:
    slope = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    assert len(encode_rgb(slope)) < slope.size / 50
