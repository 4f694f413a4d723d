"""YCbCr that is no JPEG: section 21 of TIFF 6.0.

Blocks of pixels share their colour: a block's Y values, row by row, are followed by its Cb and Cr.

Letters: H W size of a strip or tile; S samples of a pixel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from icmoe_monai.errors import DamagedError
from icmoe_monai.imageio.tiff.page import Page, UnsupportedError
from icmoe_monai.imageio.tiff.samples import UNSIGNED

_SUBSAMPLINGS = (1, 2, 4)


def num_bytes(page: Page, shape: tuple[int, int, int]) -> int:
    """Return how many bytes a strip or tile takes.

    Args:
        page: The page.
        shape: (H, W, S).

    Raises:
        DamagedError: Its colours are subsampled in a way that there is not.
    """
    across, down = _subsampling(page)
    return -(-shape[0] // down) * -(-shape[1] // across) * (across * down + 2)


def to_rgb(page: Page, plain: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the colours of a strip or tile.

    Args:
        page: The page, whose tags say how colours are coded.
        plain: At least `num_bytes` of it, decompressed.
        shape: (H, W, S).

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        DamagedError: The tags contradict each other.
        UnsupportedError: It is not of 8 bits, or has further channels or a predictor.
    """
    if page.bits != 8 or page.samples != 3 or page.kind != UNSIGNED:
        raise UnsupportedError(f"{page.path} stores YCbCr colours of more than 8 bits or channels: save it as RGB.")
    across, down = _subsampling(page)
    tall, wide = -(-shape[0] // down), -(-shape[1] // across)
    raw = np.frombuffer(plain, np.uint8, num_bytes(page, shape))
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


def _subsampling(page: Page) -> tuple[int, int]:
    """Return how many columns and rows of pixels share their colour."""
    found = page.tag(530, (2, 2))
    if not (isinstance(found, tuple) and len(found) == 2 and all(value in _SUBSAMPLINGS for value in found)):
        raise DamagedError(f"its colours are subsampled by {found}")
    return found


def _numbers(found: Any, length: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return a tag's numbers, of which rationals are pairs."""
    if not isinstance(found, tuple) or len(found) not in (length, 2 * length):
        return default
    if len(found) == 2 * length:
        found = tuple(top / bottom if bottom else math.inf for top, bottom in zip(found[::2], found[1::2], strict=True))
    return tuple(found) if all(math.isfinite(value) for value in found) else default
