"""Probability that an image shows no lesion, from the features of the vote, and the threshold for that decision.

A lesion that is called none is the costly error. So the threshold is not the one with the fewest errors, but the one
that keeps a stated sensitivity for lesions (split conformal prediction, `utils.statistics.conformal_quantile`); what
specificity that leaves is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from scipy.stats import binomtest, mannwhitneyu

from icmoe_monai.calibration.score import Score, fit_score
from icmoe_monai.calibration.shares import check_share
from icmoe_monai.utils.statistics import conformal_quantile

NO_LESION_FEATURES = ("peak",)  # of few lesion-free images, more figures learn what is chance (docs/reliability.md)
_NUM_FOLDS = 5  # each has an image of both kinds
_FEWEST_LESION_FREE = _NUM_FOLDS


def fit_no_lesion(
    features: Sequence[Mapping[str, float]], is_empty: Sequence[bool], *, sensitivity: float = 0.95, seed: int = 0
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Fit the probability that an image shows no lesion, and the threshold above which an image is called lesion-free.

    The threshold is the conformal quantile of the predictions for the images with a lesion, each by a score that it was
    not fitted to. The rates that are told are of images that neither score nor threshold was fitted to: the images are
    dealt into folds, and each fold is judged by a score and a threshold of the other folds.

    Args:
        features: `vote_features` of each image.
        is_empty: Whether the label of each image is empty.
        sensitivity: The share of images with a lesion that must not be called lesion-free, on average.
        seed: Seed of the folds of cross-validation.

    Returns:
        The part of the calibration file, with `score`, `threshold` and the stated `sensitivity`, or None if there are
        too few images with or without a lesion; and a report with `sensitivity`, the share of the images with a lesion
        that are not called lesion-free, and `specificity`, the share of the images without a lesion that are called
        lesion-free, both with 95 % intervals, and `auroc`, all by cross-validation; `num_with_lesion`,
        `num_lesion_free`, and the `reason` if nothing was fitted.

    Raises:
        InputError: If the sensitivity is not between 0 and 1.
    """
    check_share("lesion_sensitivity", sensitivity)
    empty = np.asarray(is_empty, dtype=bool)
    counts = {"num_with_lesion": int((~empty).sum()), "num_lesion_free": int(empty.sum())}
    fewest = _fewest_with_lesion(sensitivity)
    if counts["num_with_lesion"] < fewest or counts["num_lesion_free"] < _FEWEST_LESION_FREE:
        reason = (
            f"At a sensitivity of {sensitivity:g}, {fewest} images with a lesion and {_FEWEST_LESION_FREE} without are "
            f"needed, and there are {counts['num_with_lesion']} with a lesion, {counts['num_lesion_free']} without: "
            "not fitted."
        )
        return None, {"sensitivity": None, "specificity": None, **counts, "reason": reason}
    score, threshold = _fit(features, empty, sensitivity, seed)
    folds = _deal(empty, seed)
    probability, called = np.zeros(len(empty)), np.zeros(len(empty), dtype=bool)
    for fold in range(_NUM_FOLDS):
        others = np.flatnonzero(folds != fold)
        of_others, its_threshold = _fit([features[i] for i in others], empty[others], sensitivity, seed)
        for i in np.flatnonzero(folds == fold):
            probability[i] = of_others(features[i])
            called[i] = probability[i] > its_threshold
    return (
        {"score": score._asdict(), "threshold": threshold, "sensitivity": float(sensitivity)},
        {**rates_of(called, empty), "auroc": auroc_of(probability, empty), **counts, "reason": None},
    )


def rates_of(called: np.ndarray, empty: np.ndarray) -> dict[str, Any]:
    """Return sensitivity and specificity, each with its 95 % interval (Wilson), None where there is no such image.

    Args:
        called: Whether each image is called lesion-free, (n,).
        empty: Whether it is, (n,).

    Example:
        >>> rates = rates_of(np.array([False, False, True, True]), np.array([False, False, False, True]))
        >>> round(rates["sensitivity"], 3), [round(end, 3) for end in rates["sensitivity_interval"]]
        (0.667, [0.208, 0.939])
    """
    rates: dict[str, Any] = {}
    for name, right in (("sensitivity", ~called[~empty]), ("specificity", called[empty])):
        rates[name], rates[f"{name}_interval"] = None, None
        if len(right):
            interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
            rates[name], rates[f"{name}_interval"] = float(right.mean()), [float(interval.low), float(interval.high)]
    return rates


def auroc_of(probability: np.ndarray, empty: np.ndarray) -> float | None:
    """Return the area under the ROC curve of telling the empty images by their probability, None without both kinds.

    Args:
        probability: Of each image, (n,).
        empty: Whether it is, (n,).

    Example:
        >>> auroc_of(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
        0.875
    """
    pairs = int(empty.sum()) * int((~empty).sum())
    return float(mannwhitneyu(probability[empty], probability[~empty]).statistic) / pairs if pairs else None


def _fit(
    features: Sequence[Mapping[str, float]], empty: np.ndarray, sensitivity: float, seed: int
) -> tuple[Score, float]:
    """Return the score of some images, and the threshold that left-out predictions of lesions exceed seldom enough.

    Of the thresholds that call the same images it is the one in the middle.
    """
    score, left_out = fit_score(features, empty.astype(float).tolist(), features=NO_LESION_FEATURES, seed=seed)
    lowest = conformal_quantile(left_out[~empty], sensitivity)
    assert lowest is not None  # there are enough images with a lesion
    above = left_out[left_out > lowest]
    return score, (lowest + float(above.min())) / 2 if len(above) else lowest


def _fewest_with_lesion(sensitivity: float) -> int:
    """Return how many images with a lesion are needed, so that those outside of a fold are enough for the quantile."""
    needed = ceil(sensitivity / (1 - sensitivity) - 1e-9)
    number = needed
    while number - ceil(number / _NUM_FOLDS) < needed:
        number += 1
    return max(number, _NUM_FOLDS)


def _deal(empty: np.ndarray, seed: int) -> np.ndarray:
    """Return a fold for each image, so that each fold has its share of both kinds."""
    rng = np.random.default_rng(seed)
    folds = np.empty(len(empty), dtype=int)
    for kind in (empty, ~empty):
        folds[kind] = rng.permutation(int(kind.sum())) % _NUM_FOLDS
    return folds
