"""One page of a TIFF: what its directory says, checked, and its strips or tiles as stored samples.

tifffile reads the directory. Strips and tiles are decompressed by zlib, by Pillow's libtiff, or, of compressions that
these do not know, by imagecodecs where it is installed. A file that is sound but of a kind that is not read is refused
by an `UnsupportedError`, which never asks to copy it again.

Letters: H W size of the page or of a strip or tile; S samples of a pixel.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.image_file import max_pixels
from icmoe_monai.imageio.tiff import libtiff
from icmoe_monai.imageio.tiff.samples import FLOAT, FLOAT_BITS, SIGNED, UNSIGNED, num_bytes, unpack

_NONE, _OLD_JPEG, _DEFLATE = 1, 6, (8, 32946)
_APERIO_YCBCR = 33003  # JPEG 2000 with YCbCr colours, whatever the photometric tag is
_KINDS = {1: UNSIGNED, 2: SIGNED, 3: FLOAT, 4: UNSIGNED}  # of the tag SampleFormat; 4 says nothing of the kind
_PREDICTORS = (1, 2, 3)
_SUBSAMPLINGS = (1, 2, 4)
_MOST_SAMPLES = 16
_LARGEST_PADDING = 4096  # pixels a side; a tile may reach so far beyond a small page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR)

Read = Callable[[int, int], bytes]


class UnsupportedError(InputError):
    """A sound file of a kind that is not read here; the sentence says what to make of it."""


class DamagedError(ValueError):
    """A file that holds less than it says, or something else."""


@dataclass(frozen=True)
class Page:
    """What a page's directory says.

    Attributes:
        path: The file, for messages.
        shape: (H, W) as stored.
        samples: S.
        bits: Of a sample.
        kind: Of a sample: "u" unsigned, "i" signed, "f" float.
        is_planar: Whether the samples of a pixel lie in planes of their own.
        chunk: (H, W) of a strip or tile.
        is_tiled: Whether it is in tiles, whose bytes go on beyond the page's edge.
        photometric: The tag, 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr.
        source: tifffile's page.
    """

    path: str
    shape: tuple[int, int]
    samples: int
    bits: int
    kind: str
    is_planar: bool
    chunk: tuple[int, int]
    is_tiled: bool
    photometric: int
    source: Any

    @property
    def grid(self) -> tuple[int, int]:
        """How many rows and columns of strips or tiles there are."""
        return -(-self.shape[0] // self.chunk[0]), -(-self.shape[1] // self.chunk[1])

    @property
    def is_lossy(self) -> bool:
        """Whether it is compressed by JPEG."""
        return int(self.source.compression) in (_OLD_JPEG, libtiff.JPEG, 33007, 34892)

    @property
    def is_old_jpeg(self) -> bool:
        """Whether it is compressed by JPEG in the way of TIFF 6.0, which only libtiff reads, and only whole pages."""
        return int(self.source.compression) == _OLD_JPEG

    @property
    def byteorder(self) -> str:
        """The file's, "<" or ">"."""
        return str(self.source.parent.byteorder)

    @property
    def orientation(self) -> int:
        """The tag Orientation, 1 to 8; 1, which is upright, where there is none."""
        found = self.tag(274, 1)
        return found if found in range(1, 9) else 1

    @property
    def extras(self) -> tuple[int, ...]:
        """What the samples beyond the colours are: 1 opacity that the colours are multiplied by, 2 not yet, 0 else."""
        return tuple(int(value) for value in self.source.extrasamples)

    def tag(self, code: int, default: Any = None) -> Any:
        """Return the value of a tag.

        Args:
            code: Its number.
            default: What to return where there is none.
        """
        return self.source.tags.valueof(code, default)


def check_page(path: str, source: Any) -> Page:
    """Return what a page's directory says, if such a page is read.

    Args:
        path: The file, for messages.
        source: tifffile's page.

    Raises:
        DamagedError: The directory contradicts itself.
        UnsupportedError: The page is of a kind that is not read.
    """
    height, width = int(source.imagelength), int(source.imagewidth)
    is_tiled = 322 in source.tags
    chunk = (source.tilelength, source.tilewidth) if is_tiled else (source.rowsperstrip, width)
    if min(height, width, *chunk) < 1:
        raise DamagedError(f"it claims {width} x {height} pixels in parts of {chunk[1]} x {chunk[0]}")
    kind = _KINDS.get(_plain(source.sampleformat), "")
    bits = source.bitspersample
    fault = ""
    if not isinstance(bits, int) or not kind:
        fault = "stores its samples in different or complex formats: save it with 8 or 16 bits a sample"
    elif not (bits in FLOAT_BITS if kind == FLOAT else 1 <= bits <= 32 or bits == 64):
        fault = f"stores samples of {bits} bits: save it with 8 or 16 bits a sample"
    elif int(source.photometric) not in _COLOURS or int(source.compression) == _APERIO_YCBCR:
        fault = f"stores its colours as {name_of(source.photometric)}: convert it to RGB or greyscale"
        if int(source.compression) == _APERIO_YCBCR:
            fault = "stores YCbCr colours in JPEG 2000, of which RGB is not made here: save it as RGB"
    elif source.imagedepth > 1 or not 1 <= source.samplesperpixel <= _MOST_SAMPLES:
        fault = f"has {source.samplesperpixel} channels, {source.imagedepth} deep: save it as RGB or greyscale"
    elif int(source.predictor) not in _PREDICTORS or (int(source.predictor) == 3 and bits not in FLOAT_BITS):
        fault = f"is compressed with the predictor {name_of(source.predictor)}: save it without one"
    if fault:
        raise UnsupportedError(f"{path} {fault}.")
    if is_tiled and (chunk[0] > max(height, _LARGEST_PADDING) or chunk[1] > max(width, _LARGEST_PADDING)):
        raise DamagedError(f"it claims {width} x {height} pixels in tiles of {chunk[1]} x {chunk[0]}")
    return Page(
        path=path,
        shape=(height, width),
        samples=int(source.samplesperpixel),
        bits=int(bits),
        kind=kind,
        is_planar=int(source.planarconfig) == 2 and source.samplesperpixel > 1,
        chunk=(int(chunk[0]), int(chunk[1])) if is_tiled else (min(int(chunk[0]), height), width),
        is_tiled=is_tiled,
        photometric=int(source.photometric),
        source=source,
    )


def read_page(page: Page, read: Read) -> np.ndarray:
    """Return all stored samples of a page.

    Args:
        page: The page.
        read: Returns so many bytes (second argument) of the file from a place (first argument), or fewer at its end.

    Returns:
        (H, W, S), of the smallest type that holds such numbers; YCbCr is RGB already.

    Raises:
        DamagedError: The file holds less than its directory says, or something else.
        UnsupportedError: It is compressed in a way that is not read.
    """
    if page.shape[0] * page.shape[1] > max_pixels():
        raise UnsupportedError(
            f"{page.path} has too many pixels for one picture ({page.shape[1]} x {page.shape[0]}): cut it into tiles."
        )
    rows, columns = page.grid
    whole = None
    for index in range(rows * columns):
        part = read_chunk(page, index, read)
        if whole is None:
            whole = np.zeros((*page.shape, part.shape[2]), dtype=part.dtype)
        top, left = index // columns * page.chunk[0], index % columns * page.chunk[1]
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    if whole is None:
        raise DamagedError("it holds no pixels")
    return whole


def read_chunk(page: Page, index: int, read: Read) -> np.ndarray:
    """Return the stored samples of a strip or tile, without the part beyond the page's edge.

    Args:
        page: The page.
        index: Number of the strip or tile; of planes, in the first.
        read: As `read_page` takes it.

    Returns:
        (h, w, S), of the smallest type that holds such numbers; YCbCr is RGB already.

    Raises:
        DamagedError: The file holds less than its directory says, or something else.
        UnsupportedError: It is compressed in a way that is not read.
    """
    rows, columns = page.grid
    row, column = divmod(index, columns)
    height = min(page.chunk[0], page.shape[0] - row * page.chunk[0])
    width = min(page.chunk[1], page.shape[1] - column * page.chunk[1])
    stored = page.chunk if page.is_tiled else (height, page.shape[1])
    if stored[0] * stored[1] > max_pixels():
        raise DamagedError(f"a strip or tile claims {stored[1]} x {stored[0]} pixels")
    if page.is_planar:
        step = rows * columns
        planes = [_read_plane(page, index + step * plane, (*stored, 1), read) for plane in range(page.samples)]
        part = np.concatenate(planes, axis=2)
    else:
        part = _read_plane(page, index, (*stored, page.samples), read)
    return part[:height, :width]


def name_of(value: Any) -> Any:
    """Return the name of a tag's value, or the number itself if tifffile does not know it.

    Args:
        value: A member of one of tifffile's enumerations, or a number.
    """
    return getattr(value, "name", value)


def _read_plane(page: Page, index: int, shape: tuple[int, int, int], read: Read) -> np.ndarray:
    offsets, counts = page.source.dataoffsets, page.source.databytecounts
    if index >= min(len(offsets), len(counts)):
        raise DamagedError(f"it lists {min(len(offsets), len(counts))} strips or tiles, and needs more")
    if offsets[index] == 0 and counts[index] == 0:  # never written, which stands for zeros
        return np.zeros(shape, dtype=_empty_type(page))
    data = read(offsets[index], counts[index])
    if len(data) < counts[index] and int(page.source.compression) != _NONE:  # else it may hold enough all the same
        raise DamagedError("it ends too early")
    try:
        return _decode(page, index, data, shape)
    except zlib.error as error:
        raise DamagedError(str(error)) from error


def _decode(page: Page, index: int, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    compression = int(page.source.compression)
    if page.photometric == YCBCR and page.is_planar:
        raise UnsupportedError(f"{page.path} stores YCbCr colours in planes of their own: save it as RGB.")
    is_plain_jpeg = compression == libtiff.JPEG and page.bits == 8 and page.kind == UNSIGNED and shape[2] in (1, 3, 4)
    if is_plain_jpeg and libtiff.knows(compression):
        return libtiff.unpack_jpeg(
            data,
            shape,
            is_ycbcr=page.photometric == YCBCR,
            is_rgb=page.photometric == RGB,
            subsampling=page.tag(530),
            tables=page.tag(347),
        )
    if int(page.source.fillorder) == 2 and not page.is_lossy:
        data = data.translate(_REVERSED)
    if compression in libtiff.FAX and libtiff.knows(compression) and (page.bits, shape[2]) == (1, 1):
        options = {tag: value for tag in (292, 293) if (value := page.tag(tag)) is not None}
        return libtiff.unpack_fax(data, shape[:2], compression=compression, options=options)[..., None]
    is_ycbcr, subsampling = page.photometric == YCBCR and not page.is_lossy, _subsampling(page)
    size = _num_bytes_ycbcr(shape, subsampling) if is_ycbcr else num_bytes(shape, page.bits)
    plain = _decompress(data, size, compression)
    if plain is None:
        return _by_imagecodecs(page, index, data, shape)
    if len(plain) < size:
        raise DamagedError(f"a strip or tile holds {len(plain)} bytes, and {size} are needed")
    if is_ycbcr:
        return _rgb_of_ycbcr(page, plain, shape, subsampling)
    predictor = int(page.source.predictor)
    return unpack(plain, shape, bits=page.bits, kind=page.kind, byteorder=page.byteorder, predictor=predictor)


def _decompress(data: bytes, size: int, compression: int) -> bytes | None:
    """Return the first `size` bytes or fewer; None: nothing that is always there knows the compression."""
    if compression == _NONE:
        return data
    if compression in _DEFLATE:
        return zlib.decompressobj().decompress(data, size)
    if compression in libtiff.BYTES and libtiff.knows(compression):
        return libtiff.unpack_bytes(data, size, compression=compression)
    return None


def _by_imagecodecs(page: Page, index: int, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        decoded, _, _ = page.source.decode(data, index, jpegtables=page.source.jpegtables)
    except Exception as error:
        name = name_of(page.source.compression)
        if "not supported" in str(error) or "not a known" in str(error):
            raise UnsupportedError(
                f"{page.path} is compressed by {name}, which is not read here: save it with deflate compression."
            ) from error
        if "imagecodecs" not in str(error):
            raise
        if page.is_lossy:
            name = f"{name} of {page.bits} bits and {page.samples} channels"
        raise UnsupportedError(
            f"{page.path} is compressed by {name}, whose decoder is not installed: pip install imagecodecs, or save "
            "the image with deflate compression."
        ) from error
    part = np.asarray(decoded)
    return part.reshape(part.shape[-3:])[: shape[0], : shape[1]]


def _subsampling(page: Page) -> tuple[int, int]:
    """Return how many columns and rows of pixels share their colour."""
    found = page.tag(530, (2, 2))
    if not (isinstance(found, tuple) and len(found) == 2 and all(value in _SUBSAMPLINGS for value in found)):
        raise DamagedError(f"its colours are subsampled by {found}")
    return found


def _num_bytes_ycbcr(shape: tuple[int, int, int], subsampling: tuple[int, int]) -> int:
    across, down = subsampling
    return -(-shape[0] // down) * -(-shape[1] // across) * (across * down + 2)


def _rgb_of_ycbcr(page: Page, plain: bytes, shape: tuple[int, int, int], subsampling: tuple[int, int]) -> np.ndarray:
    """Return the RGB of YCbCr, stored as section 21 of TIFF 6.0 says: by blocks of pixels that share Cb and Cr."""
    if page.bits != 8 or page.samples != 3 or page.kind != UNSIGNED:
        raise UnsupportedError(f"{page.path} stores YCbCr colours of more than 8 bits or channels: save it as RGB.")
    across, down = subsampling
    tall, wide = -(-shape[0] // down), -(-shape[1] // across)
    size = _num_bytes_ycbcr(shape, subsampling)
    raw = np.frombuffer(plain, np.uint8, size)
    if int(page.source.predictor) == 2:
        raise UnsupportedError(f"{page.path} stores YCbCr colours with a predictor: save it as RGB.")
    blocks = raw.reshape(tall, wide, across * down + 2).astype(np.float32)
    luma = blocks[..., :-2].reshape(tall, wide, down, across).swapaxes(1, 2).reshape(tall * down, wide * across)
    chroma = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    levels = _numbers(page.tag(532), 6, (0, 255, 128, 255, 128, 255))
    red, green, blue = _numbers(page.tag(529), 3, (0.299, 0.587, 0.114))
    if not min(levels[1] - levels[0], levels[3] - levels[2], levels[5] - levels[4], green) > 0:
        raise DamagedError("its tags of YCbCr colours contradict each other")
    y = (luma - levels[0]) * (255 / (levels[1] - levels[0]))
    cb = (chroma[..., 0] - levels[2]) * (127 / (levels[3] - levels[2]))
    cr = (chroma[..., 1] - levels[4]) * (127 / (levels[5] - levels[4]))
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    g = (y - blue * b - red * r) / green
    return np.stack([r, g, b], axis=-1).round().clip(0, 255).astype(np.uint8)[: shape[0], : shape[1]]


def _numbers(found: Any, length: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return a tag's numbers, of which rationals are pairs."""
    if not isinstance(found, tuple) or len(found) not in (length, 2 * length):
        return default
    if len(found) == 2 * length:
        found = tuple(top / bottom if bottom else math.inf for top, bottom in zip(found[::2], found[1::2], strict=True))
    return tuple(found) if all(math.isfinite(value) for value in found) else default


def _empty_type(page: Page) -> np.dtype:
    size = next(whole for whole in (8, 16, 32, 64) if whole >= page.bits)
    return np.dtype(f"{page.kind}{size // 8}")


def _plain(value: Any) -> Any:
    return value if isinstance(value, tuple) else int(value)
