"""Strips and tiles of a TIFF's page as stored samples.

They are decompressed by zlib and lzma, by Pillow's libtiff, or, of compressions that these do not know, by imagecodecs
where it is installed.

Letters: H W size of the page or of a strip or tile; S samples of a pixel.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable

import numpy as np

from icmoe_monai.errors import DamagedError
from icmoe_monai.imageio.dicom.codestream import read_codestream
from icmoe_monai.imageio.image_file import BoundedFile, max_pixels
from icmoe_monai.imageio.pictures import is_lossy_webp
from icmoe_monai.imageio.tiff import libtiff, ycbcr
from icmoe_monai.imageio.tiff.page import RGB, YCBCR, Page, UnsupportedError, check_size, name_of
from icmoe_monai.imageio.tiff.samples import UNSIGNED, num_bytes, unpack

_NONE, _DEFLATE, _LZMA = 1, (8, 32946), 34925
_WEBP, _JPEG_2000 = 50001, (33003, 33004, 33005, 34712)
_MAY_LOSE = (22610, 34934, 32909, 34887, 48124, 50002, 52546)  # JPEG XR, Pixar's, LERC, Jetraw, JPEG XL
_LONGEST_HEADER = 2**16
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Read = Callable[[int, int], bytes]


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
    check_size(page)
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


def keeps_numbers(page: Page, read: Read) -> bool:
    """Tell whether a page's samples are those that were compressed; where that cannot be known, they are not.

    Args:
        page: The page.
        read: As `read_page` takes it.

    Raises:
        ValueError: It is compressed by JPEG 2000, and damaged.
    """
    compression = int(page.source.compression)
    if page.is_lossy or compression in _MAY_LOSE:
        return False
    if compression != _WEBP and compression not in _JPEG_2000:
        return True
    parts = zip(page.source.dataoffsets, page.source.databytecounts, strict=False)
    offset, count = next((part for part in parts if part[1]), (0, 0))
    head = read(offset, min(count, _LONGEST_HEADER))
    return not (is_lossy_webp(BoundedFile(head)) if compression == _WEBP else read_codestream(head).lossy)


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
    except (zlib.error, lzma.LZMAError):
        raise DamagedError("its compressed bytes are damaged") from None


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
    is_ycbcr = page.photometric == YCBCR and not page.is_lossy
    size = ycbcr.num_bytes(page, shape) if is_ycbcr else num_bytes(shape, page.bits)
    plain = _decompress(data, size, compression)
    if plain is None:
        return _by_imagecodecs(page, index, data, shape)
    if len(plain) < size:
        raise DamagedError(f"a strip or tile holds {len(plain)} bytes, and {size} are needed")
    if is_ycbcr:
        return ycbcr.to_rgb(page, plain, shape)
    predictor = int(page.source.predictor)
    return unpack(plain, shape, bits=page.bits, kind=page.kind, byteorder=page.byteorder, predictor=predictor)


def _decompress(data: bytes, size: int, compression: int) -> bytes | None:
    """Return the first `size` bytes or fewer; None: nothing that is always there knows the compression."""
    if compression == _NONE:
        return data
    if compression in _DEFLATE:
        inflater = zlib.decompressobj()
        plain = inflater.decompress(data, size)
        inflater.decompress(inflater.unconsumed_tail, size)  # to the end, where the checksum is compared
        return plain
    if compression == _LZMA:
        return lzma.LZMADecompressor().decompress(data, size)
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
            "the image with deflate compression.",
            code="no_decoder",
        ) from error
    part = np.asarray(decoded)
    return part.reshape(part.shape[-3:])[: shape[0], : shape[1]]


def _empty_type(page: Page) -> np.dtype:
    size = next(whole for whole in (8, 16, 32, 64) if whole >= page.bits)
    return np.dtype(f"{page.kind}{size // 8}")
