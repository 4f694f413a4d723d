"""Probability that an image shows no lesion, and the threshold for that decision.

It is a logistic function of one number: the peak of the vote, with the sign turned, plus what the frozen features tell
(`appearance`) where that was fitted, both standardised. The two count alike: of as few lesion-free images as validation
sets have, weights learn what is chance (docs/reliability.md).

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

from icmoe_monai.calibration.appearance import APPEARANCE
from icmoe_monai.calibration.folds import deal
from icmoe_monai.calibration.score import Score, fit_score
from icmoe_monai.calibration.shares import check_share
from icmoe_monai.utils.statistics import conformal_quantile

_SIGNS = {"peak": -1.0, APPEARANCE: 1.0}  # of what speaks for no lesion
_NUM_FOLDS = 5  # each has an image of both kinds
_FEWEST_LESION_FREE = _NUM_FOLDS


def fit_no_lesion(
    features: Sequence[Mapping[str, float]],
    is_empty: Sequence[bool],
    *,
    sensitivity: float = 0.95,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Fit the probability that an image shows no lesion, and the threshold above which an image is called lesion-free.

    The threshold is the conformal quantile of the predictions for the images with a lesion. The labels decide nothing
    of their order, which is that of one number, so that it need not be of predictions by other images' fits. The rates
    that are told are of images that neither score nor threshold was fitted to: the images are dealt into folds, and
    each fold is judged by a score and a threshold of the other folds.

    Args:
        features: `vote_features` of each image, all with the `appearance` of images that it was not fitted to, or none.
        is_empty: Whether the label of each image is empty.
        sensitivity: The share of images with a lesion that must not be called lesion-free, on average.
        groups: The group of each image, such as its patient, which is not divided into folds; None: each is one.
        seed: Seed of the folds of cross-validation.

    Returns:
        The part of the calibration file, with `score`, `threshold` and the stated `sensitivity`, or None if there are
        too few images with or without a lesion; and a report with `sensitivity`, the share of the images with a lesion
        that are not called lesion-free, and `specificity`, the share of the images without a lesion that are called
        lesion-free, both with 95 % intervals, by cross-validation; `auroc` and `specificity_at_sensitivity` as of
        `order_of`; `num_with_lesion`, `num_lesion_free`, and the `reason` if nothing was fitted.

    Raises:
        InputError: If the sensitivity is not between 0 and 1.
    """
    check_share("lesion_sensitivity", sensitivity)
    empty = np.asarray(is_empty, dtype=bool)
    counts = {"num_with_lesion": int((~empty).sum()), "num_lesion_free": int(empty.sum())}
    fewest = _fewest_with_lesion(sensitivity)
    reason = None
    if counts["num_with_lesion"] < fewest or counts["num_lesion_free"] < _FEWEST_LESION_FREE:
        reason = (
            f"At a sensitivity of {sensitivity:g}, {fewest} images with a lesion and {_FEWEST_LESION_FREE} without are "
            f"needed, and there are {counts['num_with_lesion']} with a lesion, {counts['num_lesion_free']} without: "
            "not fitted."
        )
    of_group = np.array([str(i) for i in range(len(empty))] if groups is None else groups)
    folds = _deal(empty, of_group, seed)
    if reason is None and not _suffice(folds, empty, of_group, sensitivity):
        reason = (
            f"The images with a lesion, {counts['num_with_lesion']}, and without, {counts['num_lesion_free']}, are of "
            f"too few groups for cross-validation at a sensitivity of {sensitivity:g}: not fitted."
        )
    if reason is not None:
        return None, {"sensitivity": None, "specificity": None, **counts, "reason": reason}
    score, threshold = _fit(features, empty, sensitivity, of_group, seed)
    if not all(weight * _SIGNS[name] > 0 for name, weight in zip(score.features, score.coefficients, strict=True)):
        reason = "Images without a lesion do not have the lower peaks here: nothing tells them by the vote, not fitted."
        return None, {"sensitivity": None, "specificity": None, **counts, "reason": reason}
    called = np.zeros(len(empty), dtype=bool)
    for fold in np.unique(folds):
        others = np.flatnonzero(folds != fold)
        of_others, its_threshold = _fit(
            [features[i] for i in others], empty[others], sensitivity, of_group[others], seed
        )
        for i in np.flatnonzero(folds == fold):
            called[i] = of_others(features[i]) > its_threshold
    order = order_of(np.array([score(case) for case in features]), empty, sensitivity)
    return (
        {"score": score._asdict(), "threshold": threshold, "sensitivity": float(sensitivity)},
        {**rates_of(called, empty), **order, **counts, "reason": None},
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


def order_of(probability: np.ndarray, empty: np.ndarray, sensitivity: float | None) -> dict[str, float | None]:
    """Return how well the probabilities order images, whatever the threshold; None of images of one kind.

    Args:
        probability: Of each image, (n,).
        empty: Whether it is lesion-free, (n,).
        sensitivity: The stated share of images with a lesion; None: none was stated.

    Returns:
        `auroc`, the area under the ROC curve of telling the lesion-free images; and `specificity_at_sensitivity`, their
        specificity at the least threshold that keeps the share of these very images with a lesion.

    Example:
        >>> order_of(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]), 0.5)
        {'auroc': 0.875, 'specificity_at_sensitivity': 1.0}
    """
    nothing, lesions = probability[empty], np.sort(probability[~empty])
    if not len(nothing) or not len(lesions):
        return {"auroc": None, "specificity_at_sensitivity": None}
    auroc = float(mannwhitneyu(nothing, lesions).statistic) / (len(nothing) * len(lesions))
    if sensitivity is None:
        return {"auroc": auroc, "specificity_at_sensitivity": None}
    kept = lesions[max(ceil(len(lesions) * sensitivity - 1e-9), 1) - 1]
    return {"auroc": auroc, "specificity_at_sensitivity": float((nothing > kept).mean())}


def _fit(
    features: Sequence[Mapping[str, float]], empty: np.ndarray, sensitivity: float, groups: np.ndarray, seed: int
) -> tuple[Score, float]:
    """Return the score of some images, and the threshold that predictions of lesions exceed seldom enough.

    Of the thresholds that call the same images it is the one in the middle.
    """
    names = [name for name in _SIGNS if name in features[0]]
    signs = [_SIGNS[name] for name in names]
    targets = empty.astype(float).tolist()
    score, _ = fit_score(features, targets, features=names, signs=signs, groups=groups.tolist(), seed=seed)
    probability = np.array([score(case) for case in features])
    lowest = conformal_quantile(probability[~empty], sensitivity)
    assert lowest is not None  # there are enough images with a lesion
    above = probability[probability > lowest]
    return score, (lowest + float(above.min())) / 2 if len(above) else lowest


def _fewest_with_lesion(sensitivity: float) -> int:
    """Return how many images with a lesion are needed, so that those outside of a fold are enough for the quantile."""
    number = needed = _needed(sensitivity)
    while number - ceil(number / _NUM_FOLDS) < needed:
        number += 1
    return max(number, _NUM_FOLDS)


def _needed(sensitivity: float) -> int:
    """Return of how many images with a lesion there is a conformal quantile."""
    return ceil(sensitivity / (1 - sensitivity) - 1e-9)


def _suffice(folds: np.ndarray, empty: np.ndarray, groups: np.ndarray, sensitivity: float) -> bool:
    """Return whether the images outside of each fold are enough for a score and a threshold."""
    outside = [folds != fold for fold in np.unique(folds)]
    return len(outside) > 1 and all(
        empty[others].any()
        and (~empty[others]).sum() >= _needed(sensitivity)
        and len(np.unique(groups[others])) > 1  # for the cross-validation of the score's penalty
        for others in outside
    )


def _deal(empty: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return a fold for each image, so that each fold has its share of groups with and of groups without a lesion."""
    has_lesion = np.isin(groups, groups[~empty])
    folds = np.zeros(len(empty), dtype=int)
    for number, kind in enumerate((has_lesion, ~has_lesion)):
        folds[kind] = deal(groups[kind].tolist(), _NUM_FOLDS, seed=seed + number)
    return folds
