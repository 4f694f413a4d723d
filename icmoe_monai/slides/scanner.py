"""Read regions of a slide in the format of a slide scanner, or of a DICOM whole slide, by OpenSlide.

Letters: H W size of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icmoe_monai.slides.tiff import UnreadableImageError, positive_um, unreadable

_PLAIN = "generic-tiff"  # what OpenSlide calls a tiled TIFF of no scanner; `slides.tiff` reads more kinds of those
_LARGEST_TILE = 1 << 26  # pixels; a tile is decoded whole
_NEEDED = (
    "needs OpenSlide, which is not installed: pip install openslide-python openslide-bin, or save the slide as a tiled "
    "TIFF"
)


class ScannerImage:
    """Read a slide by OpenSlide; areas that were not scanned are white.

    Args:
        path: The file; of a DICOM whole slide one of its files, whose folder holds the others.
        level: Level of the slide's pyramid; 0 is the full size.

    Attributes:
        shape: (H, W) of the level.
        levels: (H, W) of each level.
        spacing_um: Micrometres between rows and between columns of the level; None if unknown.

    Raises:
        UnreadableImageError: If OpenSlide is not installed or cannot read the file, or there is no such level.
    """

    def __init__(self, path: str, level: int = 0) -> None:
        if not has_openslide():
            raise UnreadableImageError(f"{path} {_NEEDED}.")
        self._path, self._level = path, level
        with unreadable(path, "cannot be read by OpenSlide"):
            self._slide: Any = _openslide().OpenSlide(path)
        try:
            with unreadable(path, "is a damaged slide"):
                self._measure()
        except BaseException:
            self.close()
            raise

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region as RGB, uint8 (height, width, 3).

        Raises:
            UnreadableImageError: If the region cannot be decoded.
        """
        corner = (round(left * self._downsample), round(top * self._downsample))  # in pixels of level 0
        with unreadable(self._path, "is damaged"):
            pixels = np.asarray(self._slide.read_region(corner, self._level, (width, height)))
        return np.where(pixels[..., 3:] == 0, np.uint8(255), pixels[..., :3])

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def _measure(self) -> None:
        slide, level = self._slide, self._level
        self.levels = tuple((height, width) for width, height in slide.level_dimensions)
        if not 0 <= level < len(self.levels):
            raise UnreadableImageError(f"{self._path} has levels 0 to {len(self.levels) - 1}, and level is {level}.")
        sides = (slide.properties.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height"))
        width, height = (int(side or 0) for side in sides)
        if width * height > _LARGEST_TILE:
            raise UnreadableImageError(
                f"{self._path} claims tiles of {width} x {height} pixels: save it in smaller ones."
            )
        self.shape = self.levels[level]
        self._downsample = slide.level_downsamples[level]  # the one factor by which OpenSlide finds a level's pixels
        step = positive_um(*(slide.properties.get(f"openslide.mpp-{axis}") for axis in "yx"))
        scale = (self.levels[0][0] / self.shape[0], self.levels[0][1] / self.shape[1])
        self.spacing_um = None if step is None else (step[0] * scale[0], step[1] * scale[1])


def is_of_scanner(path: str) -> bool:
    """Tell whether OpenSlide is installed and takes a file for that of a scanner, or for a DICOM whole slide.

    Args:
        path: The file.
    """
    if not has_openslide():
        return False
    with unreadable(path, "cannot be read by OpenSlide"):
        return _openslide().OpenSlide.detect_format(path) not in (None, _PLAIN)


def has_openslide() -> bool:
    """Tell whether OpenSlide is installed; its Python package may be missing, or its library."""
    return _openslide() is not None


def _openslide() -> Any:
    try:
        import openslide
    except (ImportError, OSError):
        return None
    return openslide
