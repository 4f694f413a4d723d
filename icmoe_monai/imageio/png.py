"""What Pillow does not give of a PNG: its bits, and colours of 16 bits.

Pillow multiplies greys of few bits, and keeps one byte of each sample of 16 bits where there are several channels.

Letters: H W size of the picture; S samples of a pixel.
"""

from __future__ import annotations

import io
import os
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from icmoe_monai.errors import DamagedError
from icmoe_monai.imageio.greys import opacity_of, show
from icmoe_monai.imageio.image_file import BoundedFile

_MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, _COLOUR, _GREY_AND_OPACITY, _COLOUR_AND_OPACITY = 0, 2, 4, 6  # colour types
_SUMMED = (b"PLTE", b"tRNS", b"IDAT")  # chunks that say what the pixels are


class PngKind(NamedTuple):
    """A PNG's bits of a sample, and its colour type; None of other files."""

    bits: int | None = None
    colour_type: int | None = None

    @property
    def is_deep_colour(self) -> bool:
        """Whether it has 16 bits and several channels."""
        return self.bits == 16 and self.colour_type in (_COLOUR, _GREY_AND_OPACITY, _COLOUR_AND_OPACITY)

    @property
    def multiple(self) -> int:
        """By what Pillow multiplies its greys."""
        return 255 // ((1 << self.bits) - 1) if self.bits in (2, 4) and self.colour_type == GREY else 1


def read_kind(head: bytes) -> PngKind:
    """Return the kind of a PNG.

    Args:
        head: The first bytes of a file of any kind, 26 or more.
    """
    return PngKind(head[24], head[25]) if head.startswith(_MAGIC) and len(head) > 25 else PngKind()


def is_png(head: bytes) -> bool:
    """Tell whether a file begins as a PNG.

    Args:
        head: Its first bytes.
    """
    return head.startswith(_MAGIC)


def check_sums(file: BoundedFile) -> None:
    """Refuse a PNG whose palette or pixels do not fit their checksums, which Pillow does not compare.

    Args:
        file: The file.

    Raises:
        DamagedError: It is such a file; one that is cut short is not.
    """
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name not in _SUMMED:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data, stored = file.read(length), file.read(4)
        if len(stored) == 4 and zlib.crc32(data, zlib.crc32(name)) != int.from_bytes(stored, "big"):
            raise DamagedError("its checksums do not fit")


def read_deep(content: bytes, kind: PngKind) -> np.ndarray:
    """Return the samples of a PNG of 16 bits and several channels, upright.

    The file is decoded for the high bytes, and again for the low ones; two channels of 16 bits are decoded as four of
    8, whose bytes are the same.

    Args:
        content: The whole file.
        kind: Its kind.

    Returns:
        uint16 (H, W, S).

    Raises:
        Exception: Nearly any, as Pillow does, where the file is damaged.
    """
    if kind.colour_type == _GREY_AND_OPACITY:
        header = b"IHDR" + content[16:24] + bytes((8, _COLOUR_AND_OPACITY)) + content[26:29]
        content = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
        parts = _decode(content, None)
        high, low = parts[..., ::2], parts[..., 1::2]
    else:
        mode = "RGBA" if kind.colour_type == _COLOUR_AND_OPACITY else "RGB"
        high, low = (_decode(content, f"{mode};16{order}") for order in "BL")
    return high.astype(np.uint16) << 8 | low


def rgb_of_deep(samples: np.ndarray, kind: PngKind) -> np.ndarray:
    """Return the colours of such samples, whatever their opacity.

    Args:
        samples: uint16 (H, W, S).
        kind: The file's kind.

    Returns:
        float32 (H, W, 3), RGB in 0..255.
    """
    if kind.colour_type == _GREY_AND_OPACITY:
        return np.repeat(show(samples[..., 0])[..., None], 3, axis=2)
    return show(samples[..., :3])


def opacity_of_deep(samples: np.ndarray, kind: PngKind, transparent: object) -> np.ndarray | None:
    """Return how opaque such samples are.

    Args:
        samples: uint16 (H, W, S).
        kind: The file's kind.
        transparent: The colour that is transparent, a tuple, in a file that names one.

    Returns:
        float32 (H, W) in 0..1; None where all is opaque.
    """
    return opacity_of(samples[..., -1]) if kind.colour_type != _COLOUR else opacity_of_marked(samples, transparent)


def opacity_of_marked(samples: np.ndarray, transparent: object) -> np.ndarray | None:
    """Return how opaque samples are of which the chunk tRNS marks some as transparent.

    Args:
        samples: Greys or indices of a palette as stored, (H, W), or colours, (H, W, 3).
        transparent: What Pillow tells of the chunk: the grey, index or colour that is transparent, or the opacities of
            the first indices; None where there is none.

    Returns:
        float32 (H, W) in 0..1; None where all is opaque.
    """
    if isinstance(transparent, bytes):
        opacities = np.frombuffer(transparent[:256].ljust(256, b"\xff"), np.uint8)
        return opacities[samples] * np.float32(1 / 255)
    if isinstance(transparent, tuple) and samples.ndim == 3:
        return (samples != np.asarray(transparent)).any(axis=2) * np.float32(1)
    return (samples != transparent) * np.float32(1) if isinstance(transparent, int) and samples.ndim == 2 else None


def _decode(content: bytes, rawmode: str | None) -> np.ndarray:
    """Return a PNG's samples, uint8 (H, W, S), upright; `rawmode` tells Pillow which bytes to keep."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
        if rawmode is not None:
            picture.tile = [(*tile[:3], rawmode) for tile in picture.tile]
        picture.load()
        return np.asarray(ImageOps.exif_transpose(picture))
