"""Images that show the same are found, and images that are merely alike are not."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.data.phantoms import draw_dermoscopy, draw_glands, draw_ultrasound
from icmoe_monai.planning.duplicates import find_duplicates, overlap
from icmoe_monai.planning.looks import Look

SIDE = 128


def look(picture: np.ndarray) -> Look:
    small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
    return Look("a", "train", "", "a.png", size=picture.shape[:2], picture=np.asarray(small))


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=40)
    return np.asarray(Image.open(file))


def marked(picture: np.ndarray) -> np.ndarray:
    """Add a pair of callipers."""
    copy = picture.copy()
    for row, column in ((60, 40), (90, 110)):
        copy[row - 3 : row + 4, column] = copy[row, column - 3 : column + 4] = (255, 255, 0)
    return copy


COPIES = {
    "the same": lambda picture: picture,
    "JPEG": as_jpeg,
    "half the size": lambda picture: np.asarray(Image.fromarray(picture).resize((80, 70), Image.Resampling.BOX)),
    "darker": lambda picture: (0.6 * picture).astype(np.uint8),
    "grey": lambda picture: np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
    "marked": marked,
}


@cache
def ten_looks(draw):
    """Return ten pictures and their looks, which no test changes."""
    pictures = [draw(np.random.default_rng(n), (140, 160))[0] for n in range(10)]
    return pictures, [look(picture) for picture in pictures]


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("draw", [draw_dermoscopy, draw_ultrasound, draw_glands])
def test_a_copy_is_found_among_others(draw, copy):
    pictures, looks = ten_looks(draw)
    assert [pair[:2] for pair in find_duplicates([*looks, look(copy(pictures[4]))])] == [(4, 10)]


@pytest.mark.parametrize("num_images", [0, 1, 2, 9])
def test_all_images_the_same_are_all_pairs(num_images):
    picture = draw_glands(np.random.default_rng(0), (100, 100))[0]
    assert len(find_duplicates([look(picture)] * num_images)) in (num_images * (num_images - 1) // 2, 0)


def test_what_all_images_have_in_common_is_no_sign_of_a_copy():
    """As the round field of a retinal camera."""
    rows, columns = np.mgrid[:140, :140]
    field = np.hypot(rows - 70, columns - 70) < 60
    looks = [look(draw_glands(np.random.default_rng(n), (140, 140))[0] * field[..., None]) for n in range(20)]
    assert find_duplicates(looks) == []


def test_blank_images_are_no_copies_of_each_other():
    blank = Look("a", "train", "", "a.png", size=(9, 9), picture=np.zeros((64, 64, 3), np.uint8), is_blank=True)
    assert find_duplicates([blank] * 3) == []


def test_the_overlap_is_the_dice():
    half = np.zeros((4, 4), np.float16)
    half[:2] = 1
    assert (overlap(half, half), overlap(half, 1 - half), overlap(0 * half, 0 * half)) == (1, 0, 1)
    assert overlap(half, np.ones((4, 4), np.float16)) == pytest.approx(2 / 3)
