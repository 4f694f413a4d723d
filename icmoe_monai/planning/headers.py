"""What the header of a picture says of how it is stored: its kind, mode, bits of a sample, and size of a pixel."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from icmoe_monai.imageio import png

_BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}  # of Pillow's modes; of all others 8
# dots an inch that programs write without knowing: of screens, printers and paper scanners
_OF_NOBODY = (1, 72, 96, 100, 120, 144, 150, 200, 240, 300, 400, 600, 1200)
_MM_OF_INCH, _INCH, _CENTIMETRE = 25.4, 2, 3


class Header(NamedTuple):
    """Hold how a picture is stored.

    Attributes:
        kind: Such as PNG.
        mode: Pillow's name of its channels, such as L, P or RGB.
        bits: Of a sample.
        spacing: Millimetres from pixel to pixel; None where the file does not tell.
    """

    kind: str = "other"
    mode: str = "other"
    bits: int = 0
    spacing: float | None = None


def read_header(path: str) -> Header:
    """Read the header of a picture; of one that only other readers understand, nothing is known.

    Args:
        path: The file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 3)).save(f"{folder}/a.png", dpi=(508, 508))
        ...     read_header(f"{folder}/a.png")
        Header(kind='PNG', mode='L', bits=8, spacing=0.05)
    """
    with suppress(Exception):  # a picture that can be read at all is read by `imageio`, which tells of damage
        return _read_tiff(path) if path.lower().endswith((".tif", ".tiff")) else _read_picture(path)
    return Header()


def _read_picture(path: str) -> Header:
    with open(path, "rb") as file:
        bits = png.read_kind(file.read(32)).bits
    with Image.open(path) as picture:
        dots = picture.info.get("dpi", (0, 0))[0]
        return Header(str(picture.format), picture.mode, bits or _BITS.get(picture.mode, 8), _spacing(float(dots)))


def _read_tiff(path: str) -> Header:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if not isinstance(page, tifffile.TiffPage):
            return Header("TIFF")
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(page.samplesperpixel, "other")
        bits = int(np.max(page.bitspersample))
        unit, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
        if resolution is None or not resolution.value[0]:
            return Header("TIFF", mode, bits)
        dots = resolution.value[0] / max(resolution.value[1], 1)
        if unit is not None and unit.value == _CENTIMETRE:
            return Header("TIFF", mode, bits, _spacing(dots * _MM_OF_INCH / 10))
        return Header("TIFF", mode, bits, _spacing(dots) if unit is not None and unit.value == _INCH else None)


def _spacing(dots: float) -> float | None:
    """Return the millimetres between pixels of so many an inch, or None where nobody has measured them."""
    if dots <= 0 or any(abs(dots - common) < 0.5 for common in _OF_NOBODY):
        return None
    return round(_MM_OF_INCH / dots, 6)
