"""What becomes black and white where a file does not say: of greys, of colours of more than 8 bits, of opacity."""

from __future__ import annotations

from typing import Any

import numpy as np

_PERCENTILES = (0.5, 99.5)
_DEPTHS = (8, 10, 12, 14, 16, 24, 32, 64)  # bits that cameras and scanners make


def find_window(values: np.ndarray) -> tuple[Any, Any]:
    """Return the 0.5 and the 99.5 percentile, or where these are the same value, the minimum and the maximum.

    Args:
        values: Finite numbers, at least one, of any shape.

    Example:
        >>> [float(end) for end in find_window(np.array([7] * 999 + [9]))]
        [7.0, 9.0]
    """
    low, high = np.percentile(values, _PERCENTILES)
    return (low, high) if low != high else (values.min(), values.max())


def apply_window(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Take low..high to 0..255.

    Args:
        values: float64, of any shape; what is not finite becomes NaN.
        low: What becomes 0, and so does all below.
        high: What becomes 255, and so does all above; if it is `low`, all up to `low` becomes 0.

    Returns:
        float64 in 0..255 or NaN, of the same shape.

    Example:
        >>> apply_window(np.array([-1.0, 2.0, 5.0, np.nan]), 0, 4).tolist()
        [0.0, 127.5, 255.0, nan]
    """
    half = high / 2 - low / 2 if high > low else 0.5  # halves, for the whole range of floats is no float
    finite = np.isfinite(values)
    return np.where(finite, (np.where(finite, values, low) / 2 - low / 2) * (255 / half), np.nan).clip(0, 255)


def stretch(values: np.ndarray) -> np.ndarray:
    """Take the finite minimum..maximum to 0..255, and a constant image to 0.

    Args:
        values: Numbers, of any shape.

    Returns:
        float32 of the same shape, NaN where a value is not finite.
    """
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.full(values.shape, np.nan, dtype=np.float32)
    return apply_window(values, finite.min(), finite.max()).astype(np.float32)


def white_of(values: np.ndarray) -> int:
    """Return the white of unsigned integers: the largest of the bits that they need, of 8, 10, 12, 14, 16 and so on.

    Cameras and scanners of 12 bits, say, write 0..4095 as 16 bits.

    Args:
        values: Unsigned integers, of any shape.

    Example:
        >>> [white_of(np.array([most], np.uint16)) for most in (3, 255, 256, 4095, 60_000)]
        [255, 255, 1023, 4095, 65535]
    """
    most = int(values.max()) if values.size else 0
    return next((1 << bits) - 1 for bits in _DEPTHS if most < 1 << bits)


def show(values: np.ndarray, *, bits: int | None = None) -> np.ndarray:
    """Take the numbers of an image to 0..255.

    Of up to 8 bits, the whole range of so many bits is shown. Of more, colours, which are unsigned, go from 0 to
    `white_of` them; greys, floats and signed numbers from their own minimum..maximum, one for all channels.

    Args:
        values: Greys, (H, W), or colours, (H, W, 3).
        bits: Of a number, where these are fewer than those of its type.

    Returns:
        float32 of the same shape, NaN where a value is not finite.

    Example:
        >>> show(np.array([[0, 1, 3]], np.uint8), bits=2).tolist()
        [[0.0, 85.0, 255.0]]
    """
    kind, held = values.dtype.kind, values.dtype.itemsize * 8
    bits = bits or held
    if kind in "ui" and bits <= 8:
        black = 0 if kind == "u" else 1 << bits - 1
        shown = values.astype(np.float32)
        return shown if (black, bits) == (0, 8) else (shown + black) * np.float32(255 / ((1 << bits) - 1))
    if kind == "u" and values.ndim == 3:
        white = white_of(values) if bits == held else (1 << bits) - 1
        return (values * (255 / white)).astype(np.float32)
    return stretch(values)


def opacity_of(values: np.ndarray, *, bits: int | None = None) -> np.ndarray:
    """Return how opaque an image is.

    Args:
        values: The channel of opacity, (H, W), of any type; not finite is transparent.
        bits: Of a number, where these are fewer than those of its type.

    Returns:
        float32 (H, W) in 0..1.
    """
    if values.dtype.kind in "ui":
        bits = bits or values.dtype.itemsize * 8
        whole = (1 << bits) - 1 if bits < 16 else white_of(values)
        return (values * (1 / whole)).astype(np.float32).clip(0, 1)
    opaque = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    return (opaque / max(float(opaque.max()), 1.0)).clip(0, 1)
