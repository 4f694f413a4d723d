"""Decode one strip or tile by the libtiff that comes with Pillow.

tifffile decodes most compressions by imagecodecs, which is an extra. libtiff knows them as well, but Pillow lets few
kinds of pixels through it. So the compressed bytes are put into a small TIFF of their own: LZW and its like pack bytes,
whatever these mean, and are given as a row of 8-bit samples; JPEG and fax pack pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from PIL import TiffImagePlugin, features

from icmoe_monai.errors import DamagedError

_GREY, _RGB, _CMYK, _YCBCR = 1, 2, 5, 6
_MSB_FIRST, _CONTIGUOUS = 1, 1
_HEADER, _ENTRY = struct.Struct("<4sI"), struct.Struct("<HHI4s")
_LONG, _UNDEFINED = 4, 7  # types of a tag's values

# By their TIFF numbers.
FAX = {2: "CCITT RLE", 3: "CCITT fax 3", 4: "CCITT fax 4"}
JPEG = 7
_ZSTANDARD, _ZSTANDARD_FRAME = 50000, bytes.fromhex("28b52ffd 20 01 090000 00")
BYTES = {5: "LZW", 32773: "PackBits", _ZSTANDARD: "Zstandard"}

# How many bytes, rows or pixels a byte holds at most: a header can claim any number, and memory is taken for it.
_MOST_BYTES = {5: 4096, 32773: 128, _ZSTANDARD: 2**17}
_MOST_FAX_ROWS = 8
_MOST_JPEG_PIXELS = 2**11


def unpack_bytes(data: bytes, num_bytes: int, *, compression: int) -> bytes:
    """Decompress bytes.

    Args:
        data: A compressed strip or tile.
        num_bytes: How many bytes it holds at least.
        compression: One of `BYTES`.

    Raises:
        OSError, DamagedError: The data are damaged or too few.
    """
    _check_claim(num_bytes, len(data) * _MOST_BYTES[compression])
    # of four samples, for Pillow counts pixels, and finds too many of one sample
    samples = 4 if num_bytes % 4 == 0 else 1
    tags = {262: (_CMYK if samples == 4 else _GREY,)}
    return _decode(data, (1, num_bytes // samples), compression=compression, samples=samples, tags=tags).tobytes()


def unpack_fax(data: bytes, shape: tuple[int, int], *, compression: int, options: Mapping[int, int]) -> np.ndarray:
    """Decompress the bits of a fax page.

    Args:
        data: A compressed strip or tile.
        shape: Its rows and columns.
        compression: One of `FAX`.
        options: The tags T4Options (292) and T6Options (293), where the file has them.

    Returns:
        uint8 of 0 and 1, of that shape.

    Raises:
        OSError, DamagedError: The data are damaged or too few.
    """
    _check_claim(shape[0], len(data) * _MOST_FAX_ROWS)
    return _decode(
        data, shape, compression=compression, bits=1, tags={tag: (value,) for tag, value in options.items()}
    ).astype(np.uint8)


def unpack_jpeg(
    data: bytes,
    shape: tuple[int, int, int],
    *,
    is_ycbcr: bool,
    is_rgb: bool,
    subsampling: tuple[int, ...] | None,
    tables: bytes | None,
) -> np.ndarray:
    """Decompress a JPEG of 8 bits.

    Args:
        data: A compressed strip or tile.
        shape: Its rows, columns and samples.
        is_ycbcr: Its colours are YCbCr and become RGB.
        is_rgb: Its colours are RGB.
        subsampling: The tag YCbCrSubSampling, where the file has it.
        tables: The tag JPEGTables, where the file has it.

    Returns:
        uint8 of that shape.

    Raises:
        OSError, DamagedError: The data are damaged or too few.
    """
    _check_claim(shape[0] * shape[1], len(data) * _MOST_JPEG_PIXELS)
    kinds = {1: _GREY, 3: _YCBCR if is_ycbcr else _RGB, 4: _RGB if is_rgb else _CMYK}
    tags: dict[int, tuple[int, ...] | bytes] = {262: (kinds[shape[2]],)}
    if tables:
        tags[347] = tables
    if is_ycbcr and subsampling:
        tags[530] = subsampling
    if shape[2] == 4 and is_rgb:
        tags[338] = (0,)
    return _decode(data, shape[:2], compression=JPEG, samples=shape[2], tags=tags).reshape(shape)


def knows(compression: int) -> bool:
    """Tell whether this Pillow's libtiff decodes a compression.

    Args:
        compression: Its number.
    """
    if not features.check_codec("libtiff"):
        return False
    return _knows_zstandard() if compression == _ZSTANDARD else compression in (*FAX, *BYTES, JPEG)


@lru_cache(maxsize=1)
def _knows_zstandard() -> bool:
    """Tell whether libtiff was built with Zstandard, by a frame that holds one byte."""
    try:
        return unpack_bytes(_ZSTANDARD_FRAME, 1, compression=_ZSTANDARD) == b"\0"
    except OSError:
        return False


def _check_claim(claimed: int, most: int) -> None:
    if claimed > most:
        raise DamagedError("a strip or tile is too short for what it claims to hold")


def _decode(
    data: bytes,
    shape: tuple[int, int],
    *,
    compression: int,
    bits: int = 8,
    samples: int = 1,
    tags: Mapping[int, tuple[int, ...] | bytes] | None = None,
) -> np.ndarray:
    rows, columns = shape
    said: dict[int, tuple[int, ...] | bytes] = {
        **{256: (columns,), 257: (rows,), 258: (bits,) * samples, 259: (compression,), 262: (_GREY,)},
        **{266: (_MSB_FIRST,), 273: (8,), 277: (samples,), 278: (rows,), 279: (len(data),), 284: (_CONTIGUOUS,)},
        **(tags or {}),
    }
    content = _HEADER.pack(b"II*\0", 8 + len(data)) + data + _directory(said, 8 + len(data))
    # not Image.open, which counts packed bytes as pixels and may find them too many
    with TiffImagePlugin.TiffImageFile(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def _directory(tags: Mapping[int, tuple[int, ...] | bytes], place: int) -> bytes:
    """Return a directory that begins at a place of the file, and, behind it, what does not fit into it."""
    entries, beyond = b"", b""
    place += 2 + len(tags) * _ENTRY.size + 4
    for tag, value in sorted(tags.items()):
        packed = value if isinstance(value, bytes) else struct.pack(f"<{len(value)}I", *value)
        kind = _UNDEFINED if isinstance(value, bytes) else _LONG
        if len(packed) <= 4:
            entries += _ENTRY.pack(tag, kind, len(value), packed)
        else:
            entries += _ENTRY.pack(tag, kind, len(value), (place + len(beyond)).to_bytes(4, "little"))
            beyond += packed
    return len(tags).to_bytes(2, "little") + entries + bytes(4) + beyond
