from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from icmoe_monai.visualize.overlay import class_colour, draw_overlay, thumbnail


def picture_of(height: int, width: int, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def classes_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes (top, bottom, left, right) of classes 1, 2, ..."""
    classes = np.zeros((height, width), dtype=np.uint8)
    for k, (top, bottom, left, right) in enumerate(boxes, start=1):
        classes[top:bottom, left:right] = k
    return classes


def has_colour(pixels: np.ndarray, k: int) -> np.ndarray:
    return (pixels == class_colour(k)).all(-1)


def strip_of(classes: np.ndarray, **arguments: object) -> np.ndarray:
    overlay = draw_overlay(picture_of(*classes.shape), classes, **{"labels": ["lesion"], **arguments})
    return np.asarray(overlay)[classes.shape[0] :]


@pytest.mark.parametrize(
    ("height", "width"),
    [(16, 16), (1, 1), (1500, 40), (30, 900), (480, 640)],
    ids=["tiny", "pixel", "tall", "wide", "usual"],
)
def test_picture_keeps_its_pixels_at_the_top_left(height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    overlay = np.asarray(draw_overlay(picture, classes_of(height, width), labels=["lesion"]))
    np.testing.assert_array_equal(overlay[:height, :width], picture)
    assert overlay.shape[1] == max(width, 220)
    assert not overlay[:height, width:].any()
    assert has_colour(overlay[height:], 1).sum() > 80  # the swatch
    assert (overlay[height:] > 200).all(-1).sum() > 50  # the words


def test_contour_runs_just_outside_its_class() -> None:
    classes = classes_of(100, 120, (30, 60, 40, 80))
    overlay = np.asarray(draw_overlay(picture_of(100, 120), classes, labels=["lesion"]))[:100, :120]
    inside = classes == 1
    assert (overlay[inside] == 90).all()
    ring = ndimage.binary_dilation(inside) & ~inside
    np.testing.assert_array_equal(has_colour(overlay, 1), ring)
    beside = ndimage.binary_dilation(ring | inside) & ~ring & ~inside
    assert (overlay[beside] == 0).all()


@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize("value", [0, 128, 255])
def test_one_of_the_two_lines_is_seen_on_any_grey(k: int, value: int) -> None:
    classes = classes_of(60, 60, (20, 40, 20, 40)) * np.uint8(k)
    overlay = np.asarray(draw_overlay(picture_of(60, 60, value), classes, labels=["a"] * k))[:60, :60]
    outside = overlay[classes == 0].astype(float)
    linear = (outside / 255) ** 2.2 @ np.array([0.2126, 0.7152, 0.0722])
    contrasts = (np.maximum(linear, (value / 255) ** 2.2) + 0.05) / (np.minimum(linear, (value / 255) ** 2.2) + 0.05)
    assert contrasts.max() > 3  # what WCAG 2.1 asks of graphics


def test_contour_closes_at_the_border_of_the_picture() -> None:
    overlay = np.asarray(draw_overlay(picture_of(300, 300), np.ones((300, 300), np.uint8), labels=["all"]))[:300]
    frame = np.ones((300, 300), dtype=bool)
    frame[1:-1, 1:-1] = False
    np.testing.assert_array_equal(has_colour(overlay, 1), frame)


def test_contour_grows_with_the_picture() -> None:
    widths = []
    for size in (200, 1000, 3000):
        classes = classes_of(size, size, (size // 4, size // 2, size // 4, size // 2))
        overlay = np.asarray(draw_overlay(picture_of(size, size), classes, labels=["lesion"]))
        widths.append(has_colour(overlay[3 * size // 8, : size // 4], 1).sum())
    assert widths == [1, 3, 10]  # a 300th of the side


def test_classes_that_meet_both_keep_their_colour() -> None:
    classes = classes_of(100, 100, (20, 80, 20, 50), (20, 80, 50, 80))
    overlay = np.asarray(draw_overlay(picture_of(100, 100), classes, labels=["a", "b"]))
    assert has_colour(overlay[50], 1)[[19, 50]].all()
    assert has_colour(overlay[50], 2)[[49, 80]].all()


def test_empty_class_is_said_in_the_legend() -> None:
    found = strip_of(classes_of(300, 600, (100, 200, 100, 200)))
    empty = strip_of(classes_of(300, 600))
    assert found.shape == empty.shape
    assert (empty > 200).all(-1).sum() > (found > 200).all(-1).sum() + 50  # ": none found"


def bar_length(strip: np.ndarray) -> int:
    """Return the longest run of the ink's colour in a row, which is the scale bar's."""
    ink = (strip == 240).all(-1)
    return max(int(np.diff(np.flatnonzero(np.diff(np.pad(row, 1).astype(int)))).max(initial=0)) for row in ink)


@pytest.mark.parametrize(
    ("width", "spacing", "length"),
    [
        (640, None, 100),
        (640, (0.2, 0.2), 100),  # 20 mm of 128
        (640, (9.0, 0.1), 100),  # 10 mm of 64, by the columns
        (400, (0.001, 0.001), 100),  # 0.1 mm of 0.4
        (400, (30.0, 30.0), 67),  # 2,000 mm of 12,000
    ],
    ids=["uncalibrated", "square", "not square", "microscope", "coarse"],
)
def test_scale_bar_has_a_round_length(width: int, spacing: tuple[float, float] | None, length: int) -> None:
    assert bar_length(strip_of(classes_of(100, width), spacing=spacing)) == length


@pytest.mark.parametrize(
    "label",
    ["optic disc " * 40, "Läsion", "two\nlines\tand\x00", "日本", "\udcfc", ""],
    ids=["long", "umlaut", "lines", "kanji", "not UTF-8", "empty"],
)
def test_any_label_fits(label: str) -> None:
    strip = strip_of(classes_of(50, 300), labels=[label])
    assert strip.shape[1] == 300
    assert (strip[:, -8:] == 17).all()  # nothing runs out of the strip


def test_many_labels_take_several_rows() -> None:
    one, many = (strip_of(classes_of(50, 300), labels=["class"] * n) for n in (1, 12))
    assert many.shape[0] > one.shape[0] + 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"picture": np.zeros((4, 4), np.uint8)}, r"picture must be uint8 \(H, W, 3\), got uint8 \(4, 4\)"),
        ({"picture": np.zeros((4, 4, 3))}, r"picture must be uint8 \(H, W, 3\), got float64"),
        ({"picture": picture_of(5, 4)}, r"classes must be uint8 \(H, W\) = \(5, 4\), got uint8 \(4, 4\)"),
        ({"classes": np.full((4, 4), 255, np.uint8)}, "classes must be at most 1, the number of labels, got 255"),
        ({"spacing": (0.1, 0.0)}, r"spacing must be two positive numbers of millimetres, got \(0.1, 0.0\)"),
        ({"spacing": (0.1, float("nan"))}, "spacing must be two positive numbers"),
    ],
    ids=["no colours", "no uint8", "other size", "mask of 255", "no spacing", "not a number"],
)
def test_what_cannot_be_drawn(arguments: dict, message: str) -> None:
    valid = {"picture": picture_of(4, 4), "classes": classes_of(4, 4), "labels": ["lesion"]}
    with pytest.raises(ValueError, match=message):
        draw_overlay(**{**valid, **arguments})


def test_overlay_takes_little_time() -> None:
    picture, classes = picture_of(1024, 1024), classes_of(1024, 1024, (100, 900, 100, 900))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        draw_overlay(picture, classes, labels=["lesion"])
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15  # 0.015 on the machine this was written on


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (160, 120)), ((3000, 1), (160, 1)), ((20, 30), (20, 30))], ids=str
)
def test_thumbnail_is_a_small_jpeg(size: tuple[int, int], expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(Image.new("RGB", size)))) as small:
        assert (small.format, small.size) == ("JPEG", expected)


def test_contour_is_seen_on_a_thumbnail() -> None:
    overlay = draw_overlay(picture_of(1024, 1024), classes_of(1024, 1024, (200, 800, 200, 800)), labels=["lesion"])
    with Image.open(io.BytesIO(thumbnail(overlay.crop((0, 0, 1024, 1024))))) as small:
        pixels = np.asarray(small).astype(int)
    near = np.abs(pixels - class_colour(1)).max(-1) < 40
    assert near[80, :40].any()
    assert near[:40, 80].any()
    assert near.sum() < 0.06 * near.size
