"""Interval of a lesion's area: the areas at two thresholds, which conformal prediction chooses.

The lesion is what is above a threshold of the vote's probability P. At a high one it is small, at a low one large; the
interval is the pair of areas at

  sigmoid(+u) and sigmoid(-u),   u = e w,   w = sqrt(1 - q + d + 0.05),

where q is the case's predicted Dice and d the experts' disagreement: the worse the mask, the further apart. A
calibration image's score is the least e whose interval holds the label's area, of several classes all their areas. e is
the ceil((n + 1) (1 - alpha))-th smallest score of n images, so that of images that are exchangeable with them at least
the share 1 - alpha has its area in the interval (split conformal prediction; Vovk, Gammerman and Shafer, 2005), on
average over such draws of n images. The promise is one of images that show the class. P is the vote's own, as for the
risk-controlled masks, and q of the calibration images is by cross-validation.

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
        >>> low, high = AreaInterval(level=0.9, spread=2.0, num_images=9).thresholds(width_of(0.9, disagreement=0.1))
        >>> round(low, 3), round(high, 3)
        (0.269, 0.731)
    """

    level: float
    spread: float
    num_images: int

    def thresholds(self, width: float) -> tuple[float, float]:
        """Return the thresholds of P at which a case's area is largest and smallest.

        Args:
            width: w.
        """
        u = min(self.spread * width, _MOST)
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
    misses: Sequence[float | None], widths: Sequence[float] | None, *, level: float
) -> tuple[AreaInterval | None, dict[str, Any]]:
    """Choose e by the calibration images.

    Args:
        misses: `widest_miss` of each image.
        widths: w of each image, its predicted Dice by a fit without it; None if no Dice is predicted.
        level: 1 - alpha.

    Returns:
        The rule, or None if there are too few images; and a report with `num_images` and the `reason`.
    """
    if widths is None:
        return None, {"num_images": 0, "reason": "Without a predicted Dice there is no interval of the area."}
    scores = [u / w for u, w in zip(misses, widths, strict=True) if u is not None]
    spread = conformal_quantile(scores, level)
    if spread is None:
        reason = f"{len(scores)} images that show something are too few for an interval at {level:g}."
        return None, {"num_images": len(scores), "reason": reason}
    return AreaInterval(level, spread, len(scores)), {"num_images": len(scores), "reason": None}


def width_of(predicted_dice: float, disagreement: float) -> float:
    """Return w of a case.

    Args:
        predicted_dice: q.
        disagreement: d, the figure of that name (`vote_features`).
    """
    return sqrt(1 - predicted_dice + disagreement + _LEAST_ERROR)
