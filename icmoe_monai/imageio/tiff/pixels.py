"""TIFF files of every common kind, page by page, upright; `directories` says what a page is.

Read are samples of 1 to 32 and of 64 bits, unsigned, signed or float; grey, RGB, palettes, CMYK and YCbCr; in strips or
tiles, pixel by pixel or in planes. `greys.show` says which numbers become black and white. A mask's numbers are those
stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tifffile
from PIL import Image

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile
from icmoe_monai.imageio.masks import flat_greys
from icmoe_monai.imageio.tiff.chunks import keeps_numbers, read_page
from icmoe_monai.imageio.tiff.colours import check_colours, to_numbers, to_opacity, to_rgb
from icmoe_monai.imageio.tiff.directories import Source, find_pages
from icmoe_monai.imageio.tiff.page import Page, UnsupportedError, check_page, check_size, check_stack


class TiffFile(ImageFile):
    """A TIFF file; its frames are its pages.

    Where the directories of its pages lie is kept for the files read last, so that pages may be read one by one, each
    with the file opened anew, in a time that does not grow with their number.

    Args:
        path: The file, for messages.
        file: The same file, open at its beginning.

    Raises:
        InputError: It is no TIFF, or is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tifffile.imwrite(f"{folder}/a.tif", np.full((2, 30, 40), 5, np.uint8), photometric="minisblack")
        ...     with TiffFile.open(f"{folder}/a.tif") as picture:
        ...         print(picture.num_frames, picture.size, picture.rgb(1)[0, 0], picture.values(1)[0][0, 0])
        2 (30, 40) [5. 5. 5.] 5
    """

    suffixes = (".tif", ".tiff")
    magics = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        if not file.head().startswith(self.magics):
            raise InputError(f"{path} is no TIFF: convert it to one or remove it.", code="unsupported")
        with self._told():
            self._tiff = tifffile.TiffFile(file)
            self._pages = find_pages(Source(path, file.modified_ns, file.num_bytes, self._tiff))
        self._page: tuple[int, Page] | None = None

    @property
    def num_frames(self) -> int:
        """How many pages the file has."""
        return len(self._pages)

    @property
    def size(self) -> tuple[int, int]:
        """The upright (H, W) of the first page, from its directory."""
        with self._told():
            page = self._turn_to(0)
            check_size(page)
        height, width = page.shape
        return (height, width) if page.orientation < 5 else (width, height)

    @property
    def orientation(self) -> int:
        """The tag Orientation of the first page, 1 to 8."""
        with self._told():
            return self._turn_to(0).orientation

    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return the colours of a page.

        Args:
            frame: Which page.

        Returns:
            float32 (H, W, 3), RGB in 0..255.

        Raises:
            InputError: The page cannot be decoded or does not exist.
        """
        with self._told():
            page = self._turn_to(frame)
            check_colours(page)
            if page.is_old_jpeg:
                return self._rgb_of_old_jpeg(frame)
            samples = read_page(page, self._read)
            return _upright(self._over_black(to_rgb(samples, page), to_opacity(samples, page)), page.orientation)

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Return the numbers that a mask stores, unscaled; a palette's indices, not its colours.

        Args:
            frame: Which page.

        Returns:
            The values, (H, W), 0 where transparent; and whether they were stored without loss (JPEG does not).

        Raises:
            InputError: The page cannot be decoded or does not exist, its colour channels differ, or whether its zeros
                are the background cannot be known.
        """
        with self._told():
            page = self._turn_to(frame)
            check_colours(page)
            if not keeps_numbers(page, self._read):
                return flat_greys(self.path, self.rgb(frame).round().astype(np.uint8)), False
            return _upright(to_numbers(read_page(page, self._read), page), page.orientation), True

    def check_pixels(self) -> None:
        """Decode all pixels of the first page, to find a damaged file.

        Raises:
            InputError: They cannot be decoded.
        """
        self.rgb(0)

    def _turn_to(self, frame: int) -> Page:
        if self._page is None or self._page[0] != frame:
            if not 0 <= frame < len(self._pages):
                raise InputError(
                    f"{self.path} has {len(self._pages)} pages, and none has the number {frame} from 0.",
                    code="no_such_frame",
                )
            self.file.seek(self._pages[frame].offset)
            page = check_page(self.path, tifffile.TiffPage(self._tiff, frame))
            if len(self._pages) == 1:
                check_stack(page, self.file.num_bytes)
            self._page = (frame, page)
        return self._page[1]

    def _read(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(size)

    def _rgb_of_old_jpeg(self, frame: int) -> np.ndarray:
        """Return the colours of a page that only libtiff reads, by Pillow."""
        try:
            self.file.seek(0)
            picture = Image.open(self.file, formats=("TIFF",))
            picture.seek(self._pages[frame].number)
            return np.asarray(picture.convert("RGB"), dtype=np.float32)
        except Image.DecompressionBombError:
            raise
        except Exception as error:  # Pillow raises nearly anything
            raise UnsupportedError(
                f"{self.path} is compressed by the old JPEG of TIFF 6.0 in a way that is not read here: save it with "
                "deflate compression."
            ) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn all that a damaged file makes raise into a sentence."""
        try:
            yield
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(
                f"{self.path} is compressed in strips that are too large: save it as a tiled TIFF.",
                code="too_large",
            ) from None
        except MemoryError:
            raise InputError(f"{self.path} does not fit into memory: cut it into tiles.", code="too_large") from None
        except Exception as error:
            raise InputError(
                f"{self.path} cannot be decoded ({kind_of(error)}): copy it again or remove it.", code="damaged"
            ) from None


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels, (H, W, ...), as the tag Orientation says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # after the swap: which of rows and columns run backwards
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::rows, ::columns])
