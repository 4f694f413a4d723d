"""Find windows of a slide that show nothing to segment: bare glass, or black areas that were not scanned.

A pixel is glass if its channels are all at least `white` and differ by at most 20, and unscanned if all are at most 10.
A window is background if at most one in a thousand of its pixels is neither glass nor unscanned; this allows for dust,
while a window with a thread of tissue is still segmented.
"""

from __future__ import annotations

import numpy as np

from icmoe_monai.errors import InputError

_COLOURLESS = 20
BLACK = 10
_DUST = 1e-3


def is_background(window: np.ndarray, *, white: int = 225) -> bool:
    """Tell whether a window shows nothing but glass and unscanned areas.

    Args:
        window: RGB, uint8 (H, W, 3).
        white: Least brightness of bare glass, a whole number in 11..255.

    Raises:
        InputError: If `white` is no whole number in its range.

    Example:
        >>> glass = np.full((64, 64, 3), 240, np.uint8)
        >>> tissue = glass.copy()
        >>> tissue[10:20, 10:20] = (180, 90, 160)
        >>> is_background(glass), is_background(tissue)
        (True, False)
    """
    if isinstance(white, bool) or not isinstance(white, int) or not BLACK < white <= 255:
        raise InputError(f"white_level must be a whole number of {BLACK + 1} to 255, got {white!r}.")
    red, green, blue = np.moveaxis(window, -1, 0)  # much faster than min(axis=-1)
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    empty = ((least >= white) & (most - least <= _COLOURLESS)) | (most <= BLACK)
    return bool(np.count_nonzero(~empty) <= _DUST * empty.size)
