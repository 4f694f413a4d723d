"""Read images that are too large for memory region by region.

`open_large_image` chooses the reader by the file's suffix: tifffile for TIFF, OME-TIFF and SVS (`TiffImage`);
OpenSlide, if it is installed, for other formats of slide scanners (`ScannerImage`); and `imageio.read` for PNG,
JPEG and the like, which cannot be read by regions and are read whole, within the limits of that room (`PlainImage`).
All readers give upright RGB of 8 bits.

Letters: H W size of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import SLIDE_SUFFIXES, read_image
from icmoe_monai.slides.tiff import TIFF_SUFFIXES, TiffImage, UnreadableImageError, positive_um, unreadable
from icmoe_monai.utils.files import check_file

_LONGEST = 500_000  # pixels a side; a header can claim any size, and the memory needed grows with the width


class LargeImage(Protocol):
    """Interface of an image that is read in regions.

    Attributes:
        shape: (H, W), in pixels.
        spacing_um: Micrometres between rows and between columns, or None if the file does not state them.
    """

    shape: tuple[int, int]
    spacing_um: tuple[float, float] | None

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region, which must lie inside the image, as RGB, uint8 (height, width, 3)."""

    def close(self) -> None:
        """Close the file."""


@contextmanager
def open_large_image(path: str, *, level: int = 0) -> Iterator[LargeImage]:
    """Open an image for reading in regions, and close it at the end of the `with` block.

    Args:
        path: The file.
        level: Level of the file's pyramid; 0 is the full size, and the only level of a file without a pyramid.

    Yields:
        The image.

    Raises:
        UnreadableImageError: If the file is missing, cannot be read, or has more than 500000 pixels a side.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), (9, 8, 7)).save(f"{folder}/a.tif")
        ...     with open_large_image(f"{folder}/a.tif") as image:
        ...         print(image.shape, image.spacing_um, image.read(28, 38, 2, 2)[1, 1])
        (30, 40) None [9 8 7]
    """
    image = _open(path, level)
    try:
        height, width = image.shape
        if max(height, width) > _LONGEST:
            raise UnreadableImageError(
                f"{path} claims {width} x {height} pixels, and at most {_LONGEST} a side are read: choose a smaller "
                "level of its pyramid (--level), or cut it."
            )
        yield image
    finally:
        image.close()


class PlainImage:
    """Hold a picture of a format that cannot be read by regions (PNG, JPEG and the like) in memory.

    Args:
        path: The file.
        level: Must be 0, as there is no pyramid.

    Raises:
        UnreadableImageError: If the level is not 0, or the file cannot be read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30), 5).save(f"{folder}/a.png")
        ...     PlainImage(f"{folder}/a.png").read(0, 0, 1, 2).tolist()
        [[[5, 5, 5], [5, 5, 5]]]
    """

    spacing_um: tuple[float, float] | None = None

    def __init__(self, path: str, level: int = 0) -> None:
        if level:
            raise UnreadableImageError(f"{path} has no level {level}, as it holds no pyramid: set level to 0.")
        try:
            self._pixels = read_image(path).round().astype(np.uint8)
        except InputError as error:
            raise UnreadableImageError(str(error)) from error
        self.shape = (self._pixels.shape[0], self._pixels.shape[1])

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region as RGB, uint8 (height, width, 3)."""
        return self._pixels[top : top + height, left : left + width]

    def close(self) -> None:
        """Do nothing: the file is closed already."""


class ScannerImage:
    """Read a slide in the format of a slide scanner by OpenSlide; areas that were not scanned are white.

    Args:
        path: The file.
        level: Level of the slide's pyramid; 0 is the full size.

    Raises:
        UnreadableImageError: If OpenSlide is not installed or cannot read the file, or there is no such level.
    """

    def __init__(self, path: str, level: int = 0) -> None:
        openslide = _openslide(path)
        self._path, self._level = path, level
        with unreadable(path, "cannot be read by OpenSlide"):
            self._slide: Any = openslide.OpenSlide(path)
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
        corner = (round(left * self._scale[1]), round(top * self._scale[0]))  # in pixels of level 0
        with unreadable(self._path, "is damaged"):
            pixels = np.asarray(self._slide.read_region(corner, self._level, (width, height)))
        return np.where(pixels[..., 3:] == 0, np.uint8(255), pixels[..., :3])

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def _measure(self) -> None:
        slide, level = self._slide, self._level
        if not 0 <= level < slide.level_count:
            raise UnreadableImageError(f"{self._path} has levels 0 to {slide.level_count - 1}, and level is {level}.")
        width, height = slide.level_dimensions[level]
        self.shape = (height, width)
        full_width, full_height = slide.level_dimensions[0]
        self._scale = (full_height / height, full_width / width)
        step = positive_um(*(slide.properties.get(f"openslide.mpp-{axis}") for axis in "yx"))
        self.spacing_um = None if step is None else (step[0] * self._scale[0], step[1] * self._scale[1])


def _open(path: str, level: int) -> LargeImage:
    try:
        check_file(path)
    except InputError as error:
        raise UnreadableImageError(str(error)) from error
    if path.lower().endswith(TIFF_SUFFIXES):
        return TiffImage(path, level)
    if path.lower().endswith(SLIDE_SUFFIXES):
        return ScannerImage(path, level)
    return PlainImage(path, level)


def _openslide(path: str) -> ModuleType:
    try:
        import openslide
    except (ImportError, OSError) as error:  # the Python package may be missing, or its binary library
        raise UnreadableImageError(
            f"{path} needs OpenSlide, which is not installed: pip install openslide-python openslide-bin, or save the "
            "slide as a tiled TIFF."
        ) from error
    return openslide
