"""Overlays: a picture with the contours of the classes found in it, and below it a legend with a scale bar.

A contour runs just outside its class, so that it hides no pixel of the class; only where a class meets the border
of the picture it lies on the class's own outermost pixels. Beside it runs a second line, black along light colours and
white along dark ones, so that one of the two is seen on any background.

Letters: H W size of the picture.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import floor, log10
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from icmoe_monai.visualize.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION, YELLOW, rgb

# by class; class 0, the background, is black
CLASS_COLOURS = tuple(map(rgb, (BLACK, ORANGE, SKY_BLUE, GREEN, YELLOW, BLUE, VERMILION, PURPLE)))
_MIN_WIDTH = 220
_THUMBNAIL_SIDE = 160  # pixels, the longer side
_SHRINK = Image.Resampling.BOX
_PAPER, _INK, _FAINT, _BLACK, _WHITE = (17, 17, 17), (240, 240, 240), (165, 165, 165), (0, 0, 0), (255, 255, 255)


def draw_overlay(
    picture: np.ndarray,
    classes: np.ndarray,
    *,
    labels: Sequence[str],
    spacing: tuple[float, float] | None = None,
) -> Image.Image:
    """Draw the contours of the classes over a picture, on its own pixels, and a legend below it.

    Args:
        picture: The picture, uint8, (H, W, 3).
        classes: The class map, uint8, (H, W); 0 is background.
        labels: The names of classes 1, 2, ...
        spacing: Millimetres between rows and between columns; None if the file does not tell them.

    Returns:
        An RGB image, at least 220 pixels wide, whose top left (H, W) pixels are the picture.

    Raises:
        ValueError: If the shapes, the classes or the spacing do not fit.

    Example:
        >>> classes = np.zeros((300, 400), dtype=np.uint8)
        >>> classes[100:200, 50:90] = 1
        >>> overlay = draw_overlay(np.full((300, 400, 3), 90, np.uint8), classes, labels=["lesion"])
        >>> overlay.width, overlay.height > 300, overlay.getpixel((49, 150)), overlay.getpixel((50, 150))
        (400, True, (230, 159, 0), (90, 90, 90))
    """
    _check(picture, classes, labels, spacing)
    found = np.flatnonzero(np.bincount(classes.ravel(), minlength=len(labels) + 1)[1:]) + 1
    H, W = classes.shape
    size = max(12, round(max(W, _MIN_WIDTH) / 52))
    entries = [
        _Entry(f"{_one_line(label)}{'' if k in found else ': none found'}", class_colour(k), None)
        for k, label in enumerate(labels, start=1)
    ]
    rows = list(_rows([*entries, _scale_bar(W, spacing)], max(W, _MIN_WIDTH), size))
    # Margins of two thirds of a letter's height above and below the rows.
    canvas = Image.new("RGB", (max(W, _MIN_WIDTH), H + round(size * (1.35 + 1.7 * len(rows)))), _PAPER)
    canvas.paste(_BLACK, (0, 0, canvas.width, H))
    canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, 0))
    _draw_contours(canvas, classes, found)
    _draw_legend(ImageDraw.Draw(canvas), rows, H, size)
    return canvas


def draw_contours(picture: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Draw the contours of the classes over a picture, on its own pixels, and nothing else.

    Args:
        picture: The picture, uint8, (H, W, 3).
        classes: The class map, uint8, (H, W); 0 is background.

    Returns:
        Another picture, uint8, (H, W, 3).

    Example:
        >>> classes = np.zeros((30, 40), dtype=np.uint8)
        >>> classes[10:20, 5:9] = 1
        >>> draw_contours(np.full((30, 40, 3), 90, np.uint8), classes)[15, 3:6].tolist()
        [[0, 0, 0], [230, 159, 0], [90, 90, 90]]
    """
    canvas = Image.fromarray(np.ascontiguousarray(picture))
    _draw_contours(canvas, classes, np.setdiff1d(classes, [0]))
    return np.asarray(canvas)


def thumbnail(
    overlay: Image.Image,
    *,
    size: tuple[int, int] | None = None,
    num_labels: int = len(CLASS_COLOURS) - 1,
    side: int = _THUMBNAIL_SIDE,
) -> bytes:
    """Return an overlay as a small JPEG, with the contours still visible.

    A contour would fade as the picture shrinks. So pixels of exactly a class's colour are drawn again, where they fill
    enough of a pixel of the thumbnail to be a line.

    Args:
        overlay: The overlay.
        size: Width and height of the picture in the overlay, to leave out the legend, which would be too small to read;
            None keeps the whole overlay.
        num_labels: Number of foreground classes that may have contours.
        side: Most pixels of its longer side.

    Example:
        >>> jpeg = thumbnail(Image.new("RGB", (640, 480)))
        >>> Image.open(io.BytesIO(jpeg)).size
        (160, 120)
    """
    small = (overlay if size is None else overlay.crop((0, 0, *size))).convert("RGB")
    scale = side / max(small.size)
    if scale < 1:
        red, green, blue = (np.asarray(channel) for channel in small.split())
        small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))), _SHRINK)
        for k in range(1, num_labels + 1):
            line = (red == class_colour(k)[0]) & (green == class_colour(k)[1]) & (blue == class_colour(k)[2])
            if line.any():
                share = np.asarray(_as_mask(line).resize(small.size, _SHRINK)) / 255
                small.paste(class_colour(k), mask=_as_mask(share > min(0.2, scale)))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=80, subsampling=0)  # or the contours grow pale
    return file.getvalue()


def class_hex(k: int) -> str:
    """Return the colour of a class as plots and pages take it.

    Example:
        >>> class_hex(1) == ORANGE
        True
    """
    return "#{:02X}{:02X}{:02X}".format(*class_colour(k))


def class_colour(k: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue; 0 to 255) of a class in overlays and in palette masks.

    Args:
        k: The class, 0 to 255.

    Example:
        >>> class_colour(1), class_colour(8)
        ((230, 159, 0), (230, 92, 92))
    """
    if k < len(CLASS_COLOURS):
        return CLASS_COLOURS[k]
    red, green, blue = colorsys.hsv_to_rgb(0.618034 * (k - len(CLASS_COLOURS)) % 1.0, 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


class _Entry(NamedTuple):
    """An entry of the legend: its text, and its swatch's colour or its scale bar's length in pixels."""

    text: str
    colour: tuple[int, int, int] | None
    bar: int | None


def _check(
    picture: np.ndarray, classes: np.ndarray, labels: Sequence[str], spacing: tuple[float, float] | None
) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"picture must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}.")
    if classes.dtype != np.uint8 or classes.shape != picture.shape[:2]:
        raise ValueError(f"classes must be uint8 (H, W) = {picture.shape[:2]}, got {classes.dtype} {classes.shape}.")
    if classes.max() > len(labels):
        raise ValueError(f"classes must be at most {len(labels)}, the number of labels, got {classes.max()}.")
    if spacing is not None and not all(0 < step < float("inf") for step in spacing):
        raise ValueError(f"spacing must be two positive numbers of millimetres, got {spacing}.")


def _draw_contours(canvas: Image.Image, classes: np.ndarray, found: np.ndarray) -> None:
    # Thick enough to be seen where the whole picture, up to 8000 pixels, fills a screen.
    thick = min(12, max(1, round(max(classes.shape) / 300)))
    beside = max(1, round(thick / 2))
    bands = [(int(k), *_bands(classes, int(k), thick, beside)) for k in found]
    # The black and white lines come first, so that they hide no class's colour where classes meet.
    for k, corner, _, outer in bands:
        canvas.paste(_WHITE if _luminance(class_colour(k)) < 0.28 else _BLACK, corner, outer)
    for k, corner, inner, _ in bands:
        canvas.paste(class_colour(k), corner, inner)


def _bands(classes: np.ndarray, k: int, thick: int, beside: int) -> tuple[tuple[int, int], Image.Image, Image.Image]:
    """Return the top left corner of a part of the picture, and the masks in it of the two lines around class k."""
    H, W = classes.shape
    margin = thick + beside
    rows = np.flatnonzero((classes == k).any(1))
    columns = np.flatnonzero((classes == k).any(0))
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    bottom, right = min(H, rows[-1] + 1 + margin), min(W, columns[-1] + 1 + margin)
    inside = classes[top:bottom, left:right] == k
    near = _dilate(inside, thick)
    inner, outer = near & ~inside, _dilate(near, beside) & ~near
    border = np.zeros_like(inside)
    border[: max(0, thick - top)] = border[:, : max(0, thick - left)] = True
    border[max(0, H - thick - top) :] = border[:, max(0, W - thick - left) :] = True
    return (int(left), int(top)), _as_mask(inner | (border & inside)), _as_mask(outer)


def _as_mask(here: np.ndarray) -> Image.Image:
    return Image.fromarray(here.view(np.uint8) * np.uint8(255))


def _dilate(mask: np.ndarray, steps: int) -> np.ndarray:
    """Widen a mask by `steps` pixels; alternating crosses and squares make an octagon, nearly a disc."""
    for step in range(steps):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        across = wide if step % 2 else mask
        result = wide.copy()
        result[:, 1:] |= across[:, :-1]
        result[:, :-1] |= across[:, 1:]
        mask = result
    return mask


def _scale_bar(W: int, spacing: tuple[float, float] | None) -> _Entry:
    unit = 1.0 if spacing is None else spacing[1]
    length = _round_length(W * unit * 0.3)
    if spacing is None:
        length = max(1.0, length)
        return _Entry(f"{length:.0f} px, uncalibrated", None, round(length))
    # A bar lies along a row; where pixels are not square it measures nothing else.
    square = abs(spacing[0] / spacing[1] - 1) < 0.01
    text = f"{length:,.0f} mm" if length >= 1 else f"{length:.6f}".rstrip("0") + " mm"
    return _Entry(text if square else f"{text} along a row", None, max(1, round(length / unit)))


def _round_length(longest: float) -> float:
    power = 10.0 ** floor(log10(longest))
    return float(max(step * power for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9)))


def _rows(entries: Sequence[_Entry], width: int, size: int) -> Iterator[list[tuple[int, _Entry]]]:
    """Yield rows of entries, each with its left edge in pixels; an entry that does not fit begins a new row."""
    row: list[tuple[int, _Entry]] = []
    left = size
    for entry in entries:
        entry = entry._replace(text=_shortened(entry.text, width - 2 * size - _mark_width(entry, size), size))
        needed = _mark_width(entry, size) + _text_width(entry.text, size)
        if row and left + needed > width - size:
            yield row
            row, left = [], size
        row.append((left, entry))
        left += needed + round(1.6 * size)
    yield row


def _mark_width(entry: _Entry, size: int) -> int:
    return (size if entry.bar is None else entry.bar) + round(0.55 * size)


def _shortened(text: str, width: int, size: int) -> str:
    """Leave out the middle of a text that is too long: its end may say that nothing was found."""
    kept = len(text)
    short = text
    while _text_width(short, size) > width and kept > 2:
        kept -= 1
        short = f"{text[: kept - kept // 2].rstrip()}…{text[-(kept // 2) :].lstrip()}"
    return short


def _draw_legend(draw: ImageDraw.ImageDraw, rows: Sequence[Sequence[tuple[int, _Entry]]], top: int, size: int) -> None:
    for index, row in enumerate(rows):
        middle = top + round(size * (1.5 + 1.7 * index))
        for left, entry in row:
            if entry.colour is not None:
                half = size // 2
                box = (left, middle - half, left + 2 * half, middle + half)
                draw.rectangle(box, fill=entry.colour, outline=_FAINT, width=max(1, size // 14))
            if entry.bar is not None:
                _draw_bar(draw, left, middle, entry.bar, size)
            place = (left + _mark_width(entry, size), middle)
            draw.text(place, entry.text, fill=_INK, font=_font(size), anchor="lm")


def _draw_bar(draw: ImageDraw.ImageDraw, left: int, middle: int, length: int, size: int) -> None:
    line, half = max(1, size // 8), max(2, size // 3)
    right = left + length - 1  # Pillow's boxes hold their last pixel too
    draw.rectangle((left, middle - line // 2, right, middle - line // 2 + line - 1), fill=_INK)
    for end in (left, max(left, right - line + 1)):
        draw.rectangle((end, middle - half, min(end + line - 1, right), middle + half), fill=_INK)


def _one_line(label: str) -> str:
    return " ".join(label.encode("utf-8", errors="replace").decode("utf-8").split())


def _text_width(text: str, size: int) -> int:
    return round(_font(size).getlength(text))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font has no letter beyond ASCII; matplotlib brings one for Latin, Greek and Cyrillic.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    # Without the layout engine Raqm, which not every Pillow has, so that the picture is the same everywhere.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _luminance(colour: tuple[int, int, int]) -> float:
    """Return the relative luminance of a colour of sRGB, 0 to 1, as WCAG defines it."""
    linear = (np.array(colour) / 255) ** 2.2
    return float(linear @ (0.2126, 0.7152, 0.0722))
