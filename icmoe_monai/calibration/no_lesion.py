"""Probability that an image shows no lesion, from the features of the vote, and the threshold for that decision.

Both are fitted only if at least 5 validation images have a lesion and at least 5 have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icmoe_monai.calibration.score import fit_score

NO_LESION_FEATURES = ("peak", "foreground_share", "soft_dice", "disagreement")
_FEWEST_OF_A_KIND = 5


def fit_no_lesion(
    features: Sequence[Mapping[str, float]], is_empty: Sequence[bool], *, seed: int = 0
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Fit the probability that an image shows no lesion, and the threshold from which an image is called lesion-free.

    The threshold is the one with the largest sensitivity + specificity in cross-validation (Youden's index).

    Args:
        features: `vote_features` of each image.
        is_empty: Whether the label of each image is empty.
        seed: Seed of the folds of cross-validation.

    Returns:
        The part of the calibration file, with `score` and `threshold`, or None if there are too few images with or
        without a lesion; and a report with `sensitivity`, the share of the images with a lesion that are not called
        lesion-free, and `specificity`, the share of the images without a lesion that are called lesion-free, both by
        cross-validation, `num_with_lesion`, `num_lesion_free`, and the `reason` if nothing was fitted.
    """
    empty = np.asarray(is_empty, dtype=bool)
    counts = {"num_with_lesion": int((~empty).sum()), "num_lesion_free": int(empty.sum())}
    if min(counts.values()) < _FEWEST_OF_A_KIND:
        kinds = f"{counts['num_with_lesion']} with a lesion, {counts['num_lesion_free']} without"
        reason = f"At least {_FEWEST_OF_A_KIND} images of each kind are needed, and there are {kinds}: not fitted."
        return None, {"sensitivity": None, "specificity": None, **counts, "reason": reason}
    score, left_out = fit_score(features, empty.astype(float).tolist(), features=NO_LESION_FEATURES, seed=seed)
    levels = np.unique(left_out)
    thresholds = np.append((levels[1:] + levels[:-1]) / 2, 0.5)
    youden = [(left_out[empty] >= t).mean() + (left_out[~empty] < t).mean() for t in thresholds]
    threshold = float(thresholds[int(np.argmax(youden))])
    told = {
        "sensitivity": float((left_out[~empty] < threshold).mean()),
        "specificity": float((left_out[empty] >= threshold).mean()),
    }
    return {"score": score._asdict(), "threshold": threshold}, {**told, **counts, "reason": None}
