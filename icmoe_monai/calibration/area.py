"""Interval of a lesion's area: the areas at two thresholds, which conformal prediction chooses.

The lesion is what is above a threshold of the vote's probability P. At a high one it is small, at a low one large; the
interval is the pair of areas at

  sigmoid(+u) and sigmoid(-u),   u = e sqrt(1 - q + 0.05),

where q is the case's predicted Dice: the worse the mask, the further apart. A calibration image's score is the least e
whose interval holds the label's area, of several classes all their areas. e is the ceil((n + 1) (1 - alpha))-th
smallest score of n images, so that of images that are exchangeable with them at least the share 1 - alpha has its area
in the interval (split conformal prediction; Vovk, Gammerman and Shafer, 2005), on average over such draws of n images.
The promise is one of images that show the class. P is the vote's own, as for the risk-controlled masks, and q of the
calibration images is by cross-validation.

Letters: K output channels; H W image; n images; L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from torch import Tensor

from icmoe_monai.utils.statistics import conformal_quantile

_LEVELS = np.concatenate([[0.0], expit(np.arange(-276, 277) / 20)])  # (L,); the vote clamps P at 1e-6
_MIDDLE = 277  # the place of 0.5
_MOST = _MIDDLE / 20  # u at which the interval is from what is certain to the whole image
_LEAST_ERROR = 0.05


class AreaInterval(NamedTuple):
    """Hold the rule of an area's interval, as a calibration file stores it.

    Attributes:
        level: The share of areas that the interval is to hold, 1 - alpha.
        spread: e.
        num_images: n.

    Example:
        >>> low, high = AreaInterval(level=0.9, spread=2.0, num_images=9).thresholds(predicted_dice=0.8)
        >>> round(low, 3), round(high, 3)
        (0.269, 0.731)
    """

    level: float
    spread: float
    num_images: int

    def thresholds(self, predicted_dice: float) -> tuple[float, float]:
        """Return the thresholds of P at which a case's area is largest and smallest.

        Args:
            predicted_dice: q.
        """
        u = min(self.spread * _width(predicted_dice), _MOST)
        return (0.0 if u > _MOST - 1e-6 else float(expit(-u))), float(expit(u))


def area_curves(voted: Tensor) -> np.ndarray:
    """Count the pixels of each foreground class at each level of its probability.

    Args:
        voted: The vote's probabilities, (K, H, W).

    Returns:
        Pixels with P of at least the level, (max(K - 1, 1), L).
    """
    curves = []
    for P in voted if voted.shape[0] == 1 else voted[1:]:
        num_passed = np.searchsorted(_LEVELS, P.float().cpu().numpy().ravel(), side="right")
        passed = np.bincount(num_passed, minlength=len(_LEVELS) + 1)
        curves.append(passed[:0:-1].cumsum()[::-1])
    return np.stack(curves)


def widest_miss(curves: np.ndarray, areas: Sequence[int]) -> float | None:
    """Return the least u at which the interval of each class that a label shows holds its area, or None if it is empty.

    Args:
        curves: `area_curves` of an image.
        areas: Pixels of each foreground class of its label.
    """
    needed = []
    for curve, area in zip(curves, areas, strict=True):
        if area:
            above = np.flatnonzero(curve[_MIDDLE:] <= area)  # the first level that is high enough
            below = np.flatnonzero(curve[_MIDDLE::-1] >= area)  # the first that is low enough; at 0 all pixels are in
            needed.append(max(above[0] if above.size else _MIDDLE, below[0]))
    return max(needed) / 20 if needed else None


def fit_area_interval(
    misses: Sequence[float | None], predicted_dice: np.ndarray | None, *, level: float
) -> tuple[AreaInterval | None, dict[str, Any]]:
    """Choose e by the calibration images.

    Args:
        misses: `widest_miss` of each image.
        predicted_dice: q of each image, by a fit without it, or None if it was not fitted.
        level: 1 - alpha.

    Returns:
        The rule, or None if there are too few images; and a report with `num_images` and the `reason`.
    """
    if predicted_dice is None:
        return None, {"num_images": 0, "reason": "Without a predicted Dice there is no interval of the area."}
    pairs = [(u, float(q)) for u, q in zip(misses, predicted_dice, strict=True) if u is not None]
    spread = conformal_quantile([u / _width(q) for u, q in pairs], level)
    if spread is None:
        reason = f"{len(pairs)} images that show something are too few for an interval at {level:g}."
        return None, {"num_images": len(pairs), "reason": reason}
    return AreaInterval(level, spread, len(pairs)), {"num_images": len(pairs), "reason": None}


def _width(predicted_dice: float) -> float:
    return sqrt(1 - predicted_dice + _LEAST_ERROR)
