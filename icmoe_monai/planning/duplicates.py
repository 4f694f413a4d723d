"""Pairs of images that show the same: found among all pairs by the correlation of small grey copies.

A copy is 64 pixels wide and high. Of each its local mean is taken off and it is divided by its local contrast, so that
brightness, a vignette or a scanner's border count for little; of all, what the whole set has in common is taken off. So
copies that were saved again, resized, brightened or marked with callipers are found, and images of one organ by one
device are not. A copy that is cut, shifted or mirrored is not found.

Letters: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]

from icmoe_monai.planning.looks import Look

# The most alike of different images in six public sets have 0.74 (retinas through one camera); of pairs above this, all
# that were looked at are one lesion, skin or retina twice.
ALIKE = 0.85
_SIDE = 64
_SIGMA = 2.5  # pixels; what is smoother is brightness
_MOST_CONTRAST = 2.0
_FEW = 8  # so few images have nothing in common that could be told from what is the same
_ROWS = 512  # correlated with all others at a time


class Pair(NamedTuple):
    """Hold two images that are alike.

    Attributes:
        first: Place of the first in the list.
        second: Place of the second, behind it.
        alike: Correlation, at most 1.
    """

    first: int
    second: int
    alike: float


def find_duplicates(looks: Sequence[Look], *, threshold: float = ALIKE) -> list[Pair]:
    """Return the pairs of images that show the same, the most alike first.

    Args:
        looks: What was seen of the cases; images that could not be read or are blank are passed over.
        threshold: Correlation from which on two images are alike.
    """
    places = [n for n, look in enumerate(looks) if look.picture is not None and not look.is_blank]
    if len(places) < 2:
        return []
    copies = np.stack([_copy(looks[n].picture) for n in places])
    if len(places) >= _FEW:
        copies -= copies.mean(axis=0)
    copies -= copies.mean(axis=1, keepdims=True)
    copies /= np.maximum(np.linalg.norm(copies, axis=1, keepdims=True), 1e-6)
    pairs = []
    for start in range(0, len(places), _ROWS):
        alike = copies[start : start + _ROWS] @ copies.T
        for row, column in zip(*np.nonzero(alike >= threshold), strict=True):
            if start + row < column:
                pairs.append(Pair(places[start + row], places[column], min(float(alike[row, column]), 1.0)))
    return sorted(pairs, key=lambda pair: (-pair.alike, pair.first, pair.second))


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two masks' thumbnails, 1 if both are empty.

    Args:
        first: Share of the foreground in each pixel, (S, S).
        second: The other's.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    both = one.sum() + other.sum()
    return float(2 * np.minimum(one, other).sum() / both) if both else 1.0


def _copy(picture: np.ndarray | None) -> np.ndarray:
    """Return a grey copy whose local contrast is the same everywhere, flat float32."""
    grey = Image.fromarray(np.asarray(picture)).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    detail = np.asarray(grey, np.float32)
    detail = detail - gaussian_filter(detail, _SIGMA)
    contrast = np.sqrt(gaussian_filter(detail**2, 2 * _SIGMA))
    floor = 0.25 * max(float(contrast.mean()), 0.5)  # grey values; below half of one there is nothing but rounding
    return np.asarray(np.clip(detail / (contrast + floor), -_MOST_CONTRAST, _MOST_CONTRAST), np.float32).ravel()
