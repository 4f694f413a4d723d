"""Regions of a TIFF, OME-TIFF or SVS by tifffile: only the tiles or strips that a region touches are decoded.

Letters: H W size of the image; S samples of a pixel.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from icmoe_monai.errors import InputError

TIFF_SUFFIXES = (".tif", ".tiff", ".svs")
_COARSEST_UM = 10.0  # a coarser "resolution" is a printer's or a default of 72 dots per inch
_COLOURS = ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR")
_DECODING = (tifffile.TiffFileError, ValueError, RuntimeError, OSError, TypeError, IndexError, zlib.error)


class UnreadableImageError(InputError):
    """A large image that cannot be used; the others of its run can."""


class TiffImage:
    """The first image of a TIFF; thumbnails, labels and further images of the file are not read.

    Memory: the tiles or strips that the last region touched. A row of windows read from left to right, or at once,
    thus decodes each tile once.

    Args:
        path: The file.
        level: Level of its pyramid.

    Attributes:
        shape: (H, W).
        spacing_um: Micrometres between rows and between columns, as OME or SVS metadata or, if finer than 10 µm, the
            resolution tags tell, or None.

    Raises:
        UnreadableImageError: If the file cannot be used.

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
        try:
            self._file = tifffile.TiffFile(path)
        except _DECODING as error:
            raise UnreadableImageError(f"{path} is no TIFF that can be read ({error}): copy it again.") from error
        try:
            full, self._page = self._find(0), self._find(level)
            _check(path, self._page)
            spacing = _spacing_um(self._file, full)
        except _DECODING as error:
            self.close()
            if isinstance(error, InputError):
                raise
            raise UnreadableImageError(f"{path} is a damaged TIFF ({error}): copy it again.") from error
        self.shape = (self._page.imagelength, self._page.imagewidth)
        scale = (full.imagelength / self.shape[0], full.imagewidth / self.shape[1])
        self.spacing_um = None if spacing is None else (spacing[0] * scale[0], spacing[1] * scale[1])
        self._kept: dict[int, np.ndarray] = {}

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region inside the image, uint8 (height, width, 3).

        Raises:
            UnreadableImageError: If a tile is damaged, or needs a decoder that is not installed.
        """
        tall, wide = self._page.chunks[:2]
        across = -(-self.shape[1] // wide)
        rows, columns = range(top // tall, -(-(top + height) // tall)), range(left // wide, -(-(left + width) // wide))
        places = {row * across + column: (row * tall, column * wide) for row in rows for column in columns}
        self._kept = {
            index: tile for index, tile in self._kept.items() if index in places
        }  # the others first, for room
        self._kept = {index: self._decoded(index) for index in places}
        region = np.zeros((height, width, 3), dtype=np.uint8)
        for index, (y, x) in places.items():
            tile = self._kept[index][max(0, top - y) : top + height - y, max(0, left - x) : left + width - x]
            y, x = max(0, y - top), max(0, x - left)
            region[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        return region

    def close(self) -> None:
        """Close the file."""
        self._file.close()

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

    def _decoded(self, index: int) -> np.ndarray:
        """Return a tile or strip as RGB, uint8 (h, w, 3), without what hangs over the image's edge."""
        if index in self._kept:
            return self._kept[index]
        page = self._page
        try:
            offset, size = page.dataoffsets[index], page.databytecounts[index]
            data = None
            if size:  # a tile that was never written is black
                self._file.filehandle.seek(offset)
                data = self._file.filehandle.read(size)
                if len(data) < size:
                    raise ValueError("it ends too early")
            tile, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except _DECODING as error:
            raise self._refusal(error) from error
        if tile is None:
            return np.zeros((*shape[1:3], 3), dtype=np.uint8)
        pixels = np.asarray(tile).reshape(tile.shape[-3:])[: shape[1], : shape[2]]
        if page.photometric.name == "MINISWHITE":
            pixels = 255 - pixels
        return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)

    def _refusal(self, error: Exception) -> UnreadableImageError:
        kind = self._page.compression.name
        if "imagecodecs" in str(error):
            return UnreadableImageError(
                f"{self._path} is compressed by {kind}, whose decoder is not installed: pip install imagecodecs, or "
                "save the image with deflate compression."
            )
        return UnreadableImageError(f"{self._path} is damaged, or cut short ({error}): copy it again.")


def _check(path: str, page: Any) -> None:
    """Refuse what would not be read as the eye sees it."""
    fault = ""
    if page.dtype != np.uint8:
        fault = f"stores {page.dtype} values and not 8 bits: save it with 8 bits a channel"
    elif page.photometric.name not in _COLOURS:
        fault = f"stores {page.photometric.name} colours: save it as RGB"
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


def _spacing_um(file: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    if file.is_svs:
        found = re.search(r"\bMPP\s*=\s*([\d.]+)", page.description)
        return _positive(found[1], found[1]) if found else None
    if file.is_ome:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", file.ome_metadata or "")
        named = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0])) if pixels else {}
        if {named.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"} <= {"µm", "μm", "um"}:
            return _positive(named.get("PhysicalSizeY", "0"), named.get("PhysicalSizeX", "0"))
        return None
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit))  # inch and centimetre
    x, y = page.resolution
    if unit is None or not min(x, y) > 0:
        return None
    return (unit / y, unit / x) if unit / min(x, y) < _COARSEST_UM else None


def _positive(y: str, x: str) -> tuple[float, float] | None:
    found = (float(y), float(x))
    return found if min(found) > 0 else None
