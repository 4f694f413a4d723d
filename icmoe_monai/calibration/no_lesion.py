"""Probability that an image shows no lesion, from the features of the vote, and the threshold for that decision.

Both are fitted only if at least 5 validation images have a lesion and at least 5 have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icmoe_monai.calibration.score import Score, fit_score

NO_LESION_FEATURES = ("peak", "foreground_share", "soft_dice", "disagreement")
_FEWEST_OF_A_KIND = 5
_NUM_FOLDS = 5  # each has an image of both kinds


def fit_no_lesion(
    features: Sequence[Mapping[str, float]], is_empty: Sequence[bool], *, seed: int = 0
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Fit the probability that an image shows no lesion, and the threshold from which an image is called lesion-free.

    The threshold is the one with the largest sensitivity + specificity (Youden's index) on predictions for images that
    the score was not fitted to. Both rates are of images that neither score nor threshold was fitted to: the images are
    dealt into folds, and each fold is judged by a score and a threshold of the other folds.

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
    fitted = _fit(features, empty, seed)
    folds = _deal(empty, seed)
    called_empty = np.zeros(len(empty), dtype=bool)
    for fold in range(_NUM_FOLDS):
        others = np.flatnonzero(folds != fold)
        score, threshold = _fit([features[i] for i in others], empty[others], seed)
        for i in np.flatnonzero(folds == fold):
            called_empty[i] = score(features[i]) >= threshold
    told = {"sensitivity": float((~called_empty[~empty]).mean()), "specificity": float(called_empty[empty].mean())}
    return {"score": fitted[0]._asdict(), "threshold": fitted[1]}, {**told, **counts, "reason": None}


def _fit(features: Sequence[Mapping[str, float]], empty: np.ndarray, seed: int) -> tuple[Score, float]:
    """Return the score of some images, and the threshold with the largest Youden's index of left-out predictions."""
    score, left_out = fit_score(features, empty.astype(float).tolist(), features=NO_LESION_FEATURES, seed=seed)
    levels = np.unique(left_out)
    thresholds = np.append((levels[1:] + levels[:-1]) / 2, 0.5)
    youden = [(left_out[empty] >= t).mean() + (left_out[~empty] < t).mean() for t in thresholds]
    return score, float(thresholds[int(np.argmax(youden))])


def _deal(empty: np.ndarray, seed: int) -> np.ndarray:
    """Return a fold for each image, so that each fold has its share of both kinds."""
    rng = np.random.default_rng(seed)
    folds = np.empty(len(empty), dtype=int)
    for kind in (empty, ~empty):
        folds[kind] = rng.permutation(int(kind.sum())) % _NUM_FOLDS
    return folds
