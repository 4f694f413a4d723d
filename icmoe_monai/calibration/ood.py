"""Out-of-distribution score: how far an image is from those that the network was trained on, by its frozen features.

The training images' pooled features x, and those of a view of each, are brought to unit length and gathered into k
prototypes c (k-means). The distance of an image is that to the nearest one,

  D(x) = min_j | x / |x| - c_j |,

and its score is D divided by a threshold: above 1 the image is out of distribution. The threshold is a conformal
quantile of the distances of views of the n validation images. Of a further view that is exchangeable with them, the
probability of a score above 1 is at most `bound`: the stated share, or 1 / (n + 1) where n is too small for it. The
image as it is, which is less far than its views, is called so less often. Nothing is promised of how many strange
images are found; docs/reliability.md tells what was measured, and what else was tried.

Scores of networks over the same frozen parts can be compared, as each is in units of its own threshold.

Letters: n validation images; N vectors of the training images; F features; k prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from icmoe_monai.calibration.folds import leave_out_folds
from icmoe_monai.calibration.numbers import find_numbers_damage, read_numbers, write_numbers

_MOST_PROTOTYPES = 64
_VECTORS_A_PROTOTYPE = 4  # at least
_FEWEST_IMAGES = 10
_FARTHEST = 1e6  # a score of features that are no numbers, or of what is still farther
_LEVELS = 101  # quantiles of the validation images' scores that are kept
_STORED = "<f2"


class Prototypes(NamedTuple):
    """Hold what the training images look like to the network's frozen parts.

    Attributes:
        centres: c, (k, F).

    Example:
        >>> Prototypes(np.array([[1.0, 0.0]])).distance(np.array([[3.0, 0.0], [0.0, 0.5], [0.0, 0.0]])).round(2)
        array([0.  , 1.41,  inf])
    """

    centres: np.ndarray

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return D of features (N, F), as (N,); infinite where they are no numbers, or all zero."""
        x = np.asarray(features, dtype=float)
        with np.errstate(all="ignore"):
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            apart = np.linalg.norm(unit[:, None] - self.centres, axis=2).min(1)
        return np.where(np.isfinite(apart), apart, np.inf)


def fit_prototypes(features: np.ndarray, *, seed: int = 0) -> Prototypes:
    """Gather the features of training images, (N, F), into prototypes.

    Args:
        features: The features, of which at least one is not all zero.
        seed: Seed of the first centres.
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(length, 1e-12))[length[:, 0] > 0]
    k = int(np.clip(len(unit) // _VECTORS_A_PROTOTYPE, 1, _MOST_PROTOTYPES))
    with threadpool_limits(1):  # or the sums' order, and so their last bits, differ from run to run
        centres = KMeans(k, n_init=1, random_state=seed % 2**32).fit(unit).cluster_centers_
    return Prototypes(centres.astype(_STORED).astype(float))  # as they are stored: thresholds are of what is used


class OutOfDistribution(NamedTuple):
    """Hold the score and its threshold.

    Attributes:
        prototypes: What the training images look like.
        threshold: The distance D that counts as 1.
        window_threshold: The same for the windows of a whole slide, of which each is judged by itself.
        quantiles: Scores of the validation images at even shares from 0 to 1, rising.
    """

    prototypes: Prototypes
    threshold: float
    window_threshold: float
    quantiles: np.ndarray

    def score(self, features: np.ndarray) -> float:
        """Return the score of an image; above 1 it is out of distribution.

        Args:
            features: Features of the image's windows, (windows, F); the image's are their mean.
        """
        return self._scores(np.asarray(features, dtype=float).mean(0)[None], self.threshold)[0]

    def window_scores(self, features: np.ndarray) -> list[float]:
        """Return the score of each window of a slide, of features (windows, F)."""
        return self._scores(features, self.window_threshold)

    def percentile(self, score: float) -> float:
        """Return the share of validation images, in per cent, whose score is lower."""
        return float(100 * np.searchsorted(self.quantiles, score) / len(self.quantiles))

    def _scores(self, features: np.ndarray, threshold: float) -> list[float]:
        return np.minimum(self.prototypes.distance(features) / threshold, _FARTHEST).tolist()


def fit_out_of_distribution(
    training: np.ndarray | None,
    seen: Sequence[np.ndarray],
    views: Sequence[np.ndarray],
    *,
    false_alarms: float,
    folds: Sequence[int] = (),
    seed: int = 0,
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Fit the prototypes to training images, and the thresholds to validation images.

    Args:
        training: Features of the training images and of views of them, (N, F); None: the validation images are those,
            as of an ensemble of folds, and each is judged by prototypes without its fold.
        seen: Features of each validation image's windows, (windows, F).
        views: The same of a view of each.
        false_alarms: The share of views like the validation images' whose score may be above 1.
        folds: Fold of each validation image, where `training` is None.
        seed: Seed of the prototypes.

    Returns:
        The part of the calibration file, or None if there are too few images; and a report with `num_images`,
        `num_prototypes`, `flagged`, the share of validation images that are out of distribution as they are, and the
        `reason` if nothing was fitted.
    """
    n = len(seen)
    if min(n, n if training is None else len(training)) < _FEWEST_IMAGES:
        reason = f"There are fewer than {_FEWEST_IMAGES} images: no score tells images that are out of distribution."
        return None, {"num_images": n, "reason": reason}
    if training is None:
        prototypes, as_they_are, varied = _distances_left_out(seen, views, folds, seed)
    else:
        prototypes = fit_prototypes(training, seed=seed)
        as_they_are, varied = (_Distances.of(prototypes, features) for features in (seen, views))
    threshold, bound = _threshold(varied.images, false_alarms)
    k, F = prototypes.centres.shape
    content = {
        "num_prototypes": k,
        "num_features": F,
        "prototypes": write_numbers(prototypes.centres, _STORED),
        "threshold": threshold,
        "window_threshold": _threshold(varied.windows, false_alarms)[0],
        "quantiles": np.quantile(as_they_are.images / threshold, np.linspace(0, 1, _LEVELS)).round(6).tolist(),
        "false_alarms": false_alarms,
        "bound": bound,
    }
    flagged = float((as_they_are.images > threshold).mean())
    return content, {"num_images": n, "num_prototypes": k, "flagged": flagged, "reason": None}


def out_of_distribution_from(content: Mapping[str, Any]) -> OutOfDistribution:
    """Return the score that a calibration file stores as `fit_out_of_distribution` returns it."""
    return OutOfDistribution(
        Prototypes(read_numbers(content["prototypes"], _STORED, _size(content))),
        float(content["threshold"]),
        float(content["window_threshold"]),
        np.array(content["quantiles"], dtype=float),
    )


def find_prototypes_damage(content: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the stored prototypes of a calibration file, or None.

    Args:
        content: The part of the file, which is as the schema says.
    """
    return find_numbers_damage("prototypes", content["prototypes"], _STORED, _size(content))


class _Distances(NamedTuple):
    """Hold the distances of images, (n,), and of all their windows."""

    images: np.ndarray
    windows: np.ndarray

    @classmethod
    def of(cls, prototypes: Prototypes, features: Sequence[np.ndarray]) -> _Distances:
        return cls(prototypes.distance(_of_images(features)), prototypes.distance(np.concatenate(features)))


def _distances_left_out(
    seen: Sequence[np.ndarray], views: Sequence[np.ndarray], folds: Sequence[int], seed: int
) -> tuple[Prototypes, _Distances, _Distances]:
    """Return the prototypes of all images, and the distances of each fold's by prototypes of the other folds."""
    found: list[tuple[_Distances, _Distances]] = []
    for others, own in leave_out_folds(folds):
        prototypes = fit_prototypes(_of_images([of[i] for of in (seen, views) for i in others]), seed=seed)
        found.append(tuple(_Distances.of(prototypes, [of[i] for i in own]) for of in (seen, views)))  # type: ignore[arg-type]
    both = [_Distances(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*found, strict=True)]
    return fit_prototypes(_of_images([*seen, *views]), seed=seed), both[0], both[1]


def _of_images(features: Sequence[np.ndarray]) -> np.ndarray:
    """Return the features of images, (N, F), of those of their windows."""
    return np.stack([windows.mean(0) for windows in features])


def _threshold(distances: np.ndarray, false_alarms: float) -> tuple[float, float]:
    """Return the conformal quantile, of too few images the largest distance, and the share that may exceed it."""
    n = len(distances)
    place = min(ceil((n + 1) * (1 - false_alarms) - 1e-9), n)
    return max(float(np.sort(distances)[place - 1]), 1e-6), 1 - place / (n + 1)


def _size(content: Mapping[str, Any]) -> tuple[int, int]:
    return int(content["num_prototypes"]), int(content["num_features"])
