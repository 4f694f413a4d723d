"""Read regions of a TIFF, OME-TIFF or SVS file by tifffile; only the tiles or strips that a region touches are decoded.

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
from PIL import Image

from icmoe_monai.errors import InputError, in_our_words

TIFF_SUFFIXES = (".tif", ".tiff", ".svs")
_COARSEST_UM = 10.0  # a coarser resolution tag is meant for printing, or is a default of 72 dots per inch
_JPEG = (6, 7, 33007, 34892)  # compressions for which tifffile converts YCbCr to RGB
_APERIO_YCBCR = 33003  # JPEG 2000 with YCbCr colours, whatever the photometric tag is
_TRANSPARENT = 2  # the extra sample is opacity, and the colours are not multiplied by it yet (unassociated alpha)
_COLOURS = ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR")


class UnreadableImageError(InputError):
    """Error for a large image that cannot be read; a run goes on with the other images."""


@contextmanager
def unreadable(path: str, fault: str) -> Iterator[None]:
    """Turn exceptions of a `with` block that reads a file into an `UnreadableImageError` with a clear sentence.

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
    with in_our_words(f"{path} {fault}", "copy it again", UnreadableImageError):
        yield


class TiffImage:
    """Read the first image of a TIFF by regions; thumbnails, labels and further images of the file are ignored.

    The decoded tiles or strips of the last region stay in memory. Therefore each tile is decoded only once if a row of
    windows is read from left to right, or at once.

    Args:
        path: The file.
        level: Level of the image's pyramid; 0 is the full size.

    Attributes:
        shape: (H, W) of the level.
        spacing_um: Micrometres between rows and between columns of the level, from the metadata of an OME or SVS file,
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
        full, self._page = self._find(0), self._find(level)
        _check(self._path, self._page)
        spacing = _spacing_um(self._file, full)
        self.shape = (self._page.imagelength, self._page.imagewidth)
        scale = (full.imagelength / self.shape[0], full.imagewidth / self.shape[1])
        self.spacing_um = None if spacing is None else (spacing[0] * scale[0], spacing[1] * scale[1])

    def _find(self, level: int) -> Any:
        levels = self._file.series[0].levels
        pages: list[Any] = [one.pages[0] for one in levels]
        if not 0 <= level < len(levels):
            sizes = ", ".join(f"{k}: {page.imagewidth} x {page.imagelength}" for k, page in enumerate(pages))
            raise UnreadableImageError(f"{self._path} has no level {level}; it has {sizes}.")
        num_planes = len(levels[level].pages)
        if num_planes > 1:
            raise UnreadableImageError(
                f"{self._path} holds {num_planes} planes or channels of one size: save one RGB image of them."
            )
        return pages[level].aspage()

    def _region(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        tall, wide = self._page.chunks[:2]
        across = -(-self.shape[1] // wide)
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
        page = self._page
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        data = None
        if size:  # a tile that was never written is black
            self._file.filehandle.seek(offset)
            data = self._file.filehandle.read(size)
            if len(data) < size:
                raise ValueError("it ends too early")
        try:
            tile, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:
            if "imagecodecs" not in str(error):
                raise
            raise UnreadableImageError(
                f"{self._path} is compressed by {_name(page.compression)}, whose decoder is not installed: pip install "
                "imagecodecs, or save the image with deflate compression."
            ) from None
        if tile is None:
            return np.zeros((*shape[1:3], 3), dtype=np.uint8)
        return _as_rgb(np.asarray(tile).reshape(tile.shape[-3:])[: shape[1], : shape[2]], page)


def _as_rgb(pixels: np.ndarray, page: Any) -> np.ndarray:
    """Return uint8 (h, w, 1 to 4) as RGB, uint8 (h, w, 3)."""
    if _name(page.photometric) == "MINISWHITE":
        pixels = 255 - pixels
    if page.extrasamples[:1] == (_TRANSPARENT,):  # black shines through, as in `pictures`
        pixels = (pixels[..., :-1] * (pixels[..., -1:] / 255)).round().astype(np.uint8)
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _check(path: str, page: Any) -> None:
    """Raise an `UnreadableImageError` for kinds of TIFF whose pixels or colours would be read wrongly."""
    fault = ""
    if min(page.imagelength, page.imagewidth, *page.chunks[:2]) < 1:
        fault = f"claims {page.imagewidth} x {page.imagelength} pixels in tiles of {page.chunks[1]} x {page.chunks[0]}"
        fault += ": copy it again"
    elif page.dtype != np.uint8:
        fault = f"stores {page.dtype} values and not 8 bits: save it with 8 bits a channel"
    elif _name(page.photometric) not in _COLOURS:
        fault = f"stores {_name(page.photometric)} colours: save it as RGB"
    elif _is_ycbcr(page) and (page.compression not in _JPEG or page.extrasamples):
        fault = "stores YCbCr colours in another way than a plain JPEG, of which RGB is not made here: save it as RGB"
    elif page.samplesperpixel > 1 and page.planarconfig != tifffile.PLANARCONFIG.CONTIG:
        fault = "stores its colours one after the other: save it with interleaved RGB"
    elif page.samplesperpixel not in (1, 2, 3, 4) or page.imagedepth > 1:
        fault = f"has {page.samplesperpixel} channels, {page.imagedepth} deep: save it as RGB"
    elif "Orientation" in page.tags and page.tags["Orientation"].value != 1:
        fault = "is stored turned (its Orientation tag is not 1): save it upright"
    elif page.chunks[0] * page.chunks[1] > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
        fault = f"has no tiles, or huge ones ({page.chunks[1]} x {page.chunks[0]} pixels): save it as a tiled TIFF"
    if fault:
        raise UnreadableImageError(f"{path} {fault}.")


def _is_ycbcr(page: Any) -> bool:
    return _name(page.photometric) == "YCBCR" or page.compression == _APERIO_YCBCR


def _spacing_um(file: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    if file.is_svs:
        found = re.search(r"\bMPP\s*=\s*([\d.]+)", page.description)
        return positive_um(found[1], found[1]) if found else None
    if file.is_ome:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata or "")
        named = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0])) if pixels else {}
        if {named.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"} <= {"µm", "μm", "um"}:
            return positive_um(named.get("PhysicalSizeY", "0"), named.get("PhysicalSizeX", "0"))
        return None
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


def _name(value: Any) -> Any:
    """Return the name of a tag's value, or the number itself if tifffile does not know it."""
    return getattr(value, "name", value)
