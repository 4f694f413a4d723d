"""Read images that are too large for memory region by region.

`open_large_image` chooses the reader: OpenSlide for what it takes for the file of a scanner, and for DICOM whole slides
(`slides.scanner.ScannerImage`); tifffile for other TIFF and OME-TIFF (`TiffImage`); and `imageio.read` for PNG, JPEG
and the like, which cannot be read by regions and are read whole, within the limits of that room (`PlainImage`). All
readers give upright RGB of 8 bits.

Letters: H W size of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.slides import files_of_slide
from icmoe_monai.imageio.read import SLIDE_SUFFIXES, read_image
from icmoe_monai.slides.scale import at_scale, choose_level
from icmoe_monai.slides.scanner import ScannerImage, has_openslide, is_of_scanner
from icmoe_monai.slides.tiff import TIFF_SUFFIXES, TiffImage, UnreadableImageError, is_tiff, unreadable
from icmoe_monai.utils.files import check_file

_LONGEST = 500_000  # pixels a side; a header can claim any size, and the memory needed grows with the width


class LargeImage(Protocol):
    """Interface of an image that is read in regions.

    Attributes:
        shape: (H, W), in pixels.
        levels: (H, W) of each level of the file's pyramid, the full size first.
        spacing_um: Micrometres between rows and between columns, or None if the file does not state them.
    """

    shape: tuple[int, int]
    levels: tuple[tuple[int, int], ...]
    spacing_um: tuple[float, float] | None

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region, which must lie inside the image, as RGB, uint8 (height, width, 3)."""

    def close(self) -> None:
        """Close the file."""


@contextmanager
def open_large_image(path: str, *, level: int = 0, um_per_pixel: float | None = None) -> Iterator[LargeImage]:
    """Open an image for reading in regions, and close it at the end of the `with` block.

    Args:
        path: The file.
        level: Level of the file's pyramid; 0 is the full size, and the only level of a file without a pyramid.
        um_per_pixel: Scale at which the image is shown, in place of a level; None: that of the level.

    Yields:
        The image.

    Raises:
        UnreadableImageError: If the file is missing, cannot be read, does not tell its scale though `um_per_pixel` is
            given, or has more than 500000 pixels a side.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), (9, 8, 7)).save(f"{folder}/a.tif")
        ...     with open_large_image(f"{folder}/a.tif") as image:
        ...         print(image.shape, image.spacing_um, image.read(28, 38, 2, 2)[1, 1])
        (30, 40) None [9 8 7]
    """
    image = _open(path, level) if um_per_pixel is None else _open_at_scale(path, um_per_pixel)
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
        self.levels: tuple[tuple[int, int], ...] = (self.shape,)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region as RGB, uint8 (height, width, 3)."""
        return self._pixels[top : top + height, left : left + width]

    def close(self) -> None:
        """Do nothing: the file is closed already."""


def _open(path: str, level: int) -> LargeImage:
    try:
        check_file(path)
    except InputError as error:
        raise UnreadableImageError(str(error)) from error
    of_scanners = path.lower().endswith(SLIDE_SUFFIXES)
    is_plain_tiff = path.lower().endswith(TIFF_SUFFIXES) or (of_scanners and has_openslide() and is_tiff(path))
    of_dicom = is_dicom(path)
    if of_dicom:
        with unreadable(path, "is no DICOM whole slide"):
            files_of_slide(path)  # refuses what OpenSlide would not survive
    if is_of_scanner(path) or ((of_scanners or of_dicom) and not is_plain_tiff):
        return ScannerImage(path, level)  # which tells why, where it cannot read it
    if is_plain_tiff:
        return TiffImage(path, level)
    return PlainImage(path, level)


def _open_at_scale(path: str, um_per_pixel: float) -> LargeImage:
    full = _open(path, 0)
    try:
        level = choose_level(path, full, um_per_pixel)
    finally:
        full.close()
    return at_scale(_open(path, level), um_per_pixel)
