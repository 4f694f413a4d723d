"""The window of an image without one of its own: which of its values become black and white."""

from __future__ import annotations

from typing import Any

import numpy as np

_PERCENTILES = (0.5, 99.5)


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
        values: float64, of any shape; what is not finite becomes 0.
        low: What becomes 0, and so does all below.
        high: What becomes 255, and so does all above; if it is `low`, all up to `low` becomes 0.

    Returns:
        float64 in 0..255, of the same shape.

    Example:
        >>> apply_window(np.array([-1.0, 2.0, 5.0, np.nan]), 0, 4).tolist()
        [0.0, 127.5, 255.0, 0.0]
    """
    span = high - low if high > low else 1.0
    return np.nan_to_num(np.where(np.isfinite(values), values - low, 0.0) * (255 / span)).clip(0, 255)
