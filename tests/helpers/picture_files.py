"""Small PNG, TIFF and BMP files of kinds that no library here writes, packed as the formats' specifications say."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def packed(values: np.ndarray, bits: int) -> bytes:
    """Unsigned numbers (rows, n), each row from a new byte, the highest bit first."""
    spread = (values[..., None].astype(np.uint64) >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def save_png(path: Path, values: np.ndarray, *, bits: int, colour_type: int, chunks: bytes = b"") -> None:
    """PNG, third edition: (H, W, S) without filters; `chunks` come before the pixels."""
    height, width, samples = values.shape
    rows = packed(values.reshape(height, width * samples), bits)
    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[top : top + stride] for top in range(0, len(rows), stride))
    header = struct.pack(">2I5B", width, height, bits, colour_type, 0, 0, 0)
    content = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def save_tiff(
    path: Path,
    values: np.ndarray,
    *,
    bits: int,
    photometric: int = 1,
    byteorder: str = "<",
    sample_format: int = 1,
    data: bytes | None = None,
    tags: dict[int, tuple[int, ...]] | None = None,
) -> None:
    """TIFF 6.0: (H, W, S) in one strip; `data` are its bytes, where they are not the packed numbers."""
    height, width, samples = values.shape
    if data is None:
        rows = values.reshape(height, width * samples)
        data = rows.astype(f"{byteorder}u{bits // 8}").tobytes() if bits in (16, 32) else packed(rows, bits)
    said = {
        **{256: (width,), 257: (height,), 258: (bits,) * samples, 259: (1,), 262: (photometric,)},
        **{273: (8,), 277: (samples,), 278: (height,), 279: (len(data),), 339: (sample_format,) * samples},
        **(tags or {}),
    }
    data += b"\0" * (len(data) % 2)
    place = 8 + len(data) + 2 + 12 * len(said) + 4
    entries, beyond = b"", b""
    for tag, numbers in sorted(said.items()):
        packed_numbers = struct.pack(f"{byteorder}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            beyond += packed_numbers
            packed_numbers = struct.pack(byteorder + "I", place + len(beyond) - len(packed_numbers))
        entries += struct.pack(byteorder + "HHI", tag, 4, len(numbers)) + packed_numbers
    head = (b"II*\0" if byteorder == "<" else b"MM\0*") + struct.pack(byteorder + "I", 8 + len(data))
    path.write_bytes(head + data + struct.pack(byteorder + "H", len(said)) + entries + bytes(4) + beyond)


def save_bmp(
    path: Path,
    pixels: bytes,
    size: tuple[int, int],
    *,
    bits: int,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
    header_bytes: int = 40,
) -> None:
    """BMP, as Microsoft's BITMAPINFOHEADER and BITMAPV4HEADER say; `size` is (height, width), negative: top-down."""
    header = struct.pack("<IiiHHIIiiII", header_bytes, size[1], size[0], 1, bits, compression, len(pixels), 0, 0, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    header += bytes(max(header_bytes - len(header), 0))
    start = 14 + len(header) + len(palette)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels)


def bmp_rows(values: np.ndarray, bits: int) -> bytes:
    """Rows from the bottom to the top, each filled up to four bytes; of more than 8 bits little-endian."""
    if bits <= 8:
        rows = np.frombuffer(packed(values, bits), np.uint8).reshape(len(values), -1)
    else:
        rows = np.ascontiguousarray(values.astype(f"<u{bits // 8}")).view(np.uint8).reshape(len(values), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))[::-1].tobytes()
