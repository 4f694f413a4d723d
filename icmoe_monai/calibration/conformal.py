"""Conformal risk control: choose a threshold whose masks miss at most a chosen share of a lesion on average.

Source: Angelopoulos, Bates, Fisch, Lei and Schuster, "Conformal risk control" (arXiv 2208.02814).

The loss of an image at the threshold l is its false-negative rate: the share of its foreground pixels at which the
voted probability of foreground is below l. The loss never falls as l rises. With R(l) the mean loss of n calibration
images, the threshold is

  l* = the largest l up to 0.5 of a fixed list with  n / (n + 1) R(l) + 1 / (n + 1) <= alpha,

and the expected loss of a further image that is exchangeable with those n is at most alpha. The list begins with 0, at
which nothing is missed, so that there is an l* whenever 1 / (n + 1) <= alpha. No l above 0.5 is taken, so that the mask
is never smaller than the default one, even if the default one already keeps the rate.

The guarantee holds on average over images, not for each image; images of another hospital or device are not
exchangeable. An image without foreground has no false-negative rate: it is not among the n, and the guarantee does not
cover such images. The threshold applies to the vote's probability before temperature scaling, because the temperature
was fitted on the same images, and the loss must not depend on the images that calibrate it. For K > 1 foreground is any
class but 0.

Letters: K output channels; H W image; n images; L thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.transforms.vote_features import foreground

# the list of thresholds, (L,), float32 like the probabilities: 0, then steps of 0.05 in logits from -13.8 (the vote
# clamps probabilities at 1e-6) to 13.8
LEVELS: np.ndarray = np.concatenate([[0.0], expit(np.arange(-276, 277) / 20)]).astype(np.float32)


class Control(NamedTuple):
    """Hold the chosen threshold and how it was chosen, as a calibration file stores them.

    Attributes:
        alpha: The largest false-negative rate that is accepted on average.
        threshold: l*.
        num_images: n.
        empirical_rate: R(l*), the mean false-negative rate of the n images at the threshold.
        bound: n / (n + 1) R(l*) + 1 / (n + 1), at most alpha.
    """

    alpha: float
    threshold: float
    num_images: int
    empirical_rate: float
    bound: float


def miss_curve(voted: Tensor, label: Tensor) -> np.ndarray | None:
    """Compute the false-negative rate of an image at each threshold of `LEVELS`.

    Args:
        voted: The vote's probabilities, (K, H, W).
        label: Class map, (1, H, W).

    Returns:
        The rates, (L,), or None if the label is empty.
    """
    lesion = foreground(voted)[label[0] > 0].float().cpu().numpy()
    if not lesion.size:
        return None
    num_levels_passed = np.searchsorted(LEVELS, lesion, side="right")  # a pixel is found at l <= P
    return np.cumsum(np.bincount(num_levels_passed, minlength=len(LEVELS) + 1))[:-1] / lesion.size


def control_risk(curves: Sequence[np.ndarray] | np.ndarray, *, alpha: float) -> Control:
    """Choose the largest threshold whose expected false-negative rate is at most alpha.

    Args:
        curves: `miss_curve` of each image with foreground, (n, L).
        alpha: The largest false-negative rate that is accepted on average.

    Raises:
        InputError: If alpha is not between 0 and 1, or n is too small for it.

    Example:
        >>> curve = miss_curve(torch.tensor([[[0.9, 0.8, 0.4, 0.2]]]), torch.ones(1, 1, 4))
        >>> control = control_risk([curve] * 9, alpha=0.35)  # 0.9 / 4 + 0.1 <= 0.35: one of four may be missed
        >>> 0.38 < control.threshold < 0.4, round(control.bound, 3)
        (True, 0.325)
    """
    n = len(curves)
    check_alpha(alpha, num_images=n)
    rates = np.mean(np.asarray(curves, dtype=float), axis=0)
    bounds = n / (n + 1) * rates + 1 / (n + 1)
    chosen = int(np.flatnonzero((bounds <= alpha + 1e-12) & (LEVELS <= 0.5)).max())
    return Control(float(alpha), float(LEVELS[chosen]), n, float(rates[chosen]), float(bounds[chosen]))


def miss_rate(mask: Tensor, label: Tensor) -> float | None:
    """Compute the false-negative rate of a mask: the share of the label's foreground pixels that it misses.

    Args:
        mask: Class map, (1, H, W); any class but 0 is foreground.
        label: Class map, (1, H, W).

    Returns:
        The rate, 0..1, or None if the label is empty.
    """
    lesion = mask[label > 0]
    return float((lesion == 0).float().mean()) if lesion.numel() else None


def check_alpha(alpha: float, *, num_images: int | None = None, of_folds: bool = False) -> None:
    """Check that alpha is a rate, and that there are enough calibration images for it.

    Args:
        alpha: The largest false-negative rate that is accepted on average.
        num_images: n; None: not known yet.
        of_folds: Whether they are the images of all folds, to which a list of the validation's would add none.

    Raises:
        InputError: If alpha is not between 0 and 1, or n is too small for it.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        raise InputError(f"alpha must be a number between 0 and 1, got {alpha!r}.")
    if num_images is not None and 1 / (num_images + 1) > alpha + 1e-12:
        needed = ceil(1 / alpha - 1e-9) - 1
        # the next larger hundredth; with 1 and more images it is below 1
        enough = (
            f"--alpha {ceil(100 / (num_images + 1) - 1e-9) / 100:g} for these" if num_images else "masks that show one"
        )
        more = f"list {needed} or more under val in a splits.json (without one, a tenth of the set is taken)"
        if of_folds:
            more = f"label {needed - num_images} or more further ones"
        raise InputError(
            f"alpha {alpha:g} needs at least {needed} validation images with foreground, and there are {num_images}: "
            f"{more}, or give {enough}."
        )


def level_index(threshold: float) -> int:
    """Return the index of a threshold in `LEVELS`, and thus in a `miss_curve`."""
    return int(np.searchsorted(LEVELS, np.float32(threshold)))


def controlled_mask(voted: Tensor, threshold: float) -> Tensor:
    """Decide the class of every pixel by a threshold on the probability of foreground.

    A pixel whose probability of foreground is at least the threshold gets its most probable foreground class.

    Args:
        voted: The vote's probabilities, (K, H, W).
        threshold: l*.

    Returns:
        Class map, (1, H, W), uint8 (int32 above 256 classes).
    """
    K = voted.shape[0]
    P = foreground(voted).float()
    is_found = P.ge(P.new_tensor(threshold))
    classes = is_found if K == 1 else (voted[1:].argmax(0) + 1) * is_found
    return classes[None].to(torch.uint8 if K <= 256 else torch.int32)
