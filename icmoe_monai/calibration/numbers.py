"""Arrays of numbers in a calibration file, in base64."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np


def write_numbers(numbers: np.ndarray, kind: str) -> str:
    """Return an array as text.

    Args:
        numbers: The array.
        kind: The type that its numbers are stored in, as "<f2".

    Example:
        >>> read_numbers(write_numbers(np.array([[0.5, 2.0]]), "<f2"), "<f2", (1, 2))
        array([[0.5, 2. ]])
    """
    return base64.b64encode(numbers.astype(kind).tobytes()).decode("ascii")


def read_numbers(text: str, kind: str, shape: Sequence[int]) -> np.ndarray:
    """Return the array that `write_numbers` stored, float64 of a shape.

    Raises:
        ValueError: If the text is no base64, or not of so many numbers.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind).reshape(tuple(shape)).astype(float)


def find_numbers_damage(name: str, text: str, kind: str, shape: Sequence[int]) -> str | None:
    """Return what is wrong with a stored array, or None.

    Args:
        name: Name of the array in the file.
        text: What the file holds.
        kind: The type that its numbers are stored in.
        shape: Its shape.
    """
    try:
        is_sound = bool(np.isfinite(read_numbers(text, kind, shape)).all())
    except ValueError:
        is_sound = False
    size = " x ".join(map(str, shape))
    return None if is_sound else f"{name} must be {size} finite numbers of {np.dtype(kind).itemsize} bytes, in base64"
