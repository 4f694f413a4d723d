"""Read regions of a TIFF or OME-TIFF file by tifffile; only the tiles or strips that a region touches are decoded.

Letters: H W size of the image; S samples of a pixel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tifffile

from icmoe_monai.errors import InputError, in_our_words
from icmoe_monai.imageio.image_file import max_pixels, read_head
from icmoe_monai.imageio.tiff.chunks import read_chunk
from icmoe_monai.imageio.tiff.colours import check_colours, to_opacity, to_rgb
from icmoe_monai.imageio.tiff.page import Page, UnsupportedError, check_page

TIFF_SUFFIXES = (".tif", ".tiff")
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}  # the micro sign and the letter
_COARSEST_UM = 10.0  # a coarser resolution tag is meant for printing, or is a default of 72 dots per inch


class UnreadableImageError(InputError):
    """Error for a large image that cannot be read; a run goes on with the other images."""

    code = "unsupported"


@contextmanager
def unreadable(path: str, fault: str) -> Iterator[None]:
    """Turn exceptions of a `with` block that reads a file into an `UnreadableImageError` with a clear sentence.

    Damaged bytes make libraries raise any kind of exception. An `InputError` keeps its sentence, and a `MemoryError` is
    passed on as it is.

    Args:
        path: The file.
        fault: What is wrong with the file; the sentence is "<path> <fault> (<kind of exception>): copy it again."

    Raises:
        UnreadableImageError: In place of the exception.

    Example:
        >>> with unreadable("a.tif", "is damaged"):
        ...     {}["tag"]
        Traceback (most recent call last):
        icmoe_monai.slides.tiff.UnreadableImageError: a.tif is damaged (KeyError): copy it again.
    """
    try:
        with in_our_words(f"{path} {fault}", "copy it again", UnreadableImageError):
            yield
    except UnreadableImageError:
        raise
    except InputError as error:
        raise UnreadableImageError(str(error), code=error.code) from None


class TiffImage:
    """Read the first image of a TIFF by regions; thumbnails, labels and further images of the file are ignored.

    The decoded tiles or strips of the last region stay in memory. Therefore each tile is decoded only once if a row of
    windows is read from left to right, or at once.

    Args:
        path: The file.
        level: Level of the image's pyramid; 0 is the full size.

    Attributes:
        shape: (H, W) of the level.
        levels: (H, W) of each level: those that the image has as SubIFDs or by OME's metadata, or else the smaller
            tiled versions of it that follow it.
        spacing_um: Micrometres between rows and between columns of the level, from the metadata of an OME file,
            or of another TIFF from the resolution tags if they are finer than 10 µm; None if unknown.

    Raises:
        UnreadableImageError: If the file cannot be read, or has no such level.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tifffile.imwrite(f"{folder}/a.tif", np.full((90, 70, 3), 7, np.uint8), tile=(32, 32))
        ...     image = TiffImage(f"{folder}/a.tif")
        ...     region = image.read(60, 60, 30, 10)
        ...     image.close()
        >>> image.shape, region.shape, region.min()
        ((90, 70), (30, 10, 3), np.uint8(7))
    """

    def __init__(self, path: str, level: int = 0) -> None:
        self._path = path
        with unreadable(path, "is no TIFF that can be read"):
            self._file = tifffile.TiffFile(path)
        try:
            with unreadable(path, "is a damaged TIFF"):
                self._open(level)
        except BaseException:
            self.close()
            raise
        self._kept: dict[int, np.ndarray] = {}

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region, which must lie inside the image, as RGB, uint8 (height, width, 3).

        Raises:
            UnreadableImageError: If a tile is damaged, or needs a decoder that is not installed.
        """
        with unreadable(self._path, "is damaged, or cut short"):
            return self._region(top, left, height, width)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self, level: int) -> None:
        full, source = self._find(0), self._find(level)
        self.levels = tuple((int(page.imagelength), int(page.imagewidth)) for page, _ in self._pages())
        self._page = check_page(self._path, source)
        _check(self._page)
        spacing = _spacing_um(self._file, full)
        self.shape = self._page.shape
        scale = (full.imagelength / self.shape[0], full.imagewidth / self.shape[1])
        self.spacing_um = None if spacing is None else (spacing[0] * scale[0], spacing[1] * scale[1])
        self._has_opacity = 2 in self._page.extras and self._is_seen()

    def _find(self, level: int) -> Any:
        pages = self._pages()
        if not 0 <= level < len(pages):
            sizes = ", ".join(f"{k}: {page.imagewidth} x {page.imagelength}" for k, (page, _) in enumerate(pages))
            raise UnreadableImageError(f"{self._path} has no level {level}; it has {sizes}.")
        page, num_planes = pages[level]
        if num_planes > 1:
            raise UnreadableImageError(
                f"{self._path} holds {num_planes} planes or channels of one size: save one RGB image of them."
            )
        return page.aspage()

    def _pages(self) -> list[tuple[Any, int]]:
        """Return the page of each level, and how many planes of one size it is the first of."""
        first, *others = self._file.series
        levels: list[Any] = list(first.levels)
        if len(levels) == 1:
            levels += [one for one in others if _is_smaller(one.pages[0], first.pages[0])]
        return [(level.pages[0], len(level.pages)) for level in levels]

    def _region(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        tall, wide = self._page.chunk
        across = self._page.grid[1]
        rows, columns = range(top // tall, -(-(top + height) // tall)), range(left // wide, -(-(left + width) // wide))
        places = {row * across + column: (row * tall, column * wide) for row in rows for column in columns}
        # first drop the tiles outside the region, to free their memory
        self._kept = {index: tile for index, tile in self._kept.items() if index in places}
        self._kept = {index: self._decoded(index) for index in places}
        region = np.zeros((height, width, 3), dtype=np.uint8)
        for index, (y, x) in places.items():
            tile = self._kept[index][max(0, top - y) : top + height - y, max(0, left - x) : left + width - x]
            y, x = max(0, y - top), max(0, x - left)
            region[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        return region

    def _decoded(self, index: int) -> np.ndarray:
        """Return a tile or strip as RGB, uint8 (h, w, 3), without the part beyond the image's edge."""
        if index in self._kept:
            return self._kept[index]
        samples = read_chunk(self._page, index, self._bytes)
        rgb, opacity = to_rgb(samples, self._page), to_opacity(samples, self._page)
        if opacity is not None and self._has_opacity:
            rgb = rgb * opacity[..., None]
        return rgb.round().astype(np.uint8)

    def _is_seen(self) -> bool:
        """Tell whether any pixel is opaque; if none is, the opacity counts for nothing, as in `imageio`."""
        rows, columns = self._page.grid
        for index in range(rows * columns):
            opacity = to_opacity(read_chunk(self._page, index, self._bytes), self._page)
            if opacity is None or opacity.any():  # mostly the first is
                return True
        return False

    def _bytes(self, offset: int, size: int) -> bytes:
        self._file.filehandle.seek(offset)
        return self._file.filehandle.read(min(size, self._file.filehandle.size))


def _check(page: Page) -> None:
    """Raise an `UnsupportedError` for kinds of TIFF that are read whole, but not by regions."""
    check_colours(page)
    fault = ""
    if page.bits > 8:
        names = {"u": "uint", "i": "int", "f": "float"}
        # black and white would be those of the whole image
        fault = f"stores {names[page.kind]}{page.bits} values and not 8 bits: save it with 8 bits a channel"
    elif page.chunk[0] * page.chunk[1] > max_pixels():
        fault = f"has no tiles, or huge ones ({page.chunk[1]} x {page.chunk[0]} pixels): save it as a tiled TIFF"
    elif page.is_old_jpeg:
        fault = "is compressed by the old JPEG of TIFF 6.0: save it with deflate compression"
    elif page.orientation != 1:
        fault = "is stored turned (its Orientation tag is not 1): save it upright"
    if fault:
        raise UnsupportedError(f"{page.path} {fault}.")


def is_tiff(path: str) -> bool:
    """Tell whether a file begins as a TIFF.

    Args:
        path: The file.
    """
    return read_head(path)[:4] in _MAGIC


def _is_smaller(page: Any, full: Any) -> bool:
    """Tell whether a page says that it is a smaller version of the first one, and has its shape but for rounding."""
    if not (page.is_reduced and page.is_tiled and 0 < page.imagelength < full.imagelength and page.imagewidth > 0):
        return False
    factor = full.imagelength / page.imagelength
    return abs(page.imagewidth - full.imagewidth / factor) <= 1 + page.imagewidth / page.imagelength


def _spacing_um(file: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    if file.is_ome:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata or "")
        named = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0])) if pixels else {}
        if not {named.setdefault(f"PhysicalSize{axis}Unit", "µm") for axis in "YX"} <= _UM.keys():
            return None
        found = positive_um(named.get("PhysicalSizeY"), named.get("PhysicalSizeX"))
        units = _UM[named["PhysicalSizeYUnit"]], _UM[named["PhysicalSizeXUnit"]]
        return found and (found[0] * units[0], found[1] * units[1])
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit))  # inch and centimetre
    x, y = page.resolution
    if unit is None or not min(x, y) > 0:
        return None
    return (unit / y, unit / x) if unit / min(x, y) < _COARSEST_UM else None


def positive_um(y: str | None, x: str | None) -> tuple[float, float] | None:
    """Convert the pixel spacing in a file's metadata from text to numbers.

    Args:
        y: Micrometres between rows, as text; None: missing.
        x: Micrometres between columns, as text; None: missing.

    Returns:
        (y, x), or None if one of them is no positive number.
    """
    try:
        steps = (float(y or 0), float(x or 0))
    except ValueError:
        return None
    return steps if all(0 < step < math.inf for step in steps) else None
