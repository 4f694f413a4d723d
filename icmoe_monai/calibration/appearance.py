"""Appearance: what the network's frozen features tell of whether an image shows a lesion, beside the experts' vote.

The pooled features x of an image (`networks.pooling`, the mean over its windows) make a figure,

  a(x) = w . x + b,

the logit of an empty label by logistic regression with a ridge penalty over standardised features. It is fitted to
training images, of which there are many: the experts know these by heart, the frozen parts do not. The penalty is the
one with the least loss in cross-validation by groups, so that near-duplicates do not choose it.

Letters: N training images; n validation images; F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from icmoe_monai.calibration.folds import leave_out_folds
from icmoe_monai.calibration.numbers import find_numbers_damage, read_numbers, write_numbers

APPEARANCE = "appearance"  # the name of the figure, and of its part of a calibration file
_FEWEST_IMAGES = 20  # of both kinds; from half as many nothing was gained (docs/reliability.md)
_NUM_FOLDS = 5
_STRENGTHS = 10.0 ** np.arange(-5.0, 0.1, 0.5)  # one over the penalty
_STORED = "<f4"


class LabelledFeatures(NamedTuple):
    """Hold the pooled features of images and whether they show a lesion.

    Attributes:
        features: x, (N, F).
        is_empty: Whether the label of each is empty, (N,).
        groups: The group of each, of which no two are divided, (N,).
    """

    features: np.ndarray
    is_empty: np.ndarray
    groups: np.ndarray

    def of(self, chosen: np.ndarray) -> LabelledFeatures:
        """Return those that an array of bool chooses, or of places."""
        return LabelledFeatures(*(part[chosen] for part in self))


class Appearance(NamedTuple):
    """Hold the fitted figure a.

    Attributes:
        weights: w, (F,).
        bias: b.

    Example:
        >>> Appearance(np.array([1.0, -2.0]), 0.5)(np.array([[1.0, 0.0], [3.0, 1.0]]))
        1.5
    """

    weights: np.ndarray
    bias: float

    def __call__(self, features: np.ndarray) -> float:
        """Return a of an image, NaN of features that are no numbers.

        Args:
            features: Features of the image's windows, (windows, F); the image's are their mean.
        """
        with np.errstate(all="ignore"):
            return float(np.asarray(features, dtype=float).mean(0) @ self.weights + self.bias)

    def to_file(self) -> dict[str, Any]:
        """Return what a calibration file stores."""
        return {
            "num_features": len(self.weights),
            "weights": write_numbers(self.weights, _STORED),
            "bias": self.bias,
        }


def appearance_from(content: Mapping[str, Any]) -> Appearance:
    """Return the figure that a calibration file stores as `Appearance.to_file()`."""
    weights = read_numbers(content["weights"], _STORED, (int(content["num_features"]),))
    return Appearance(weights, float(content["bias"]))


def find_weights_damage(content: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the stored weights of a calibration file, or None.

    Args:
        content: The part of the file, which is as the schema says.
    """
    return find_numbers_damage("weights", content["weights"], _STORED, (int(content["num_features"]),))


def fit_appearance(
    training: LabelledFeatures | None, validation: LabelledFeatures, *, folds: Sequence[int] = (), seed: int = 0
) -> tuple[Appearance | None, np.ndarray, dict[str, Any]]:
    """Fit the figure to training images, and take it of validation images.

    Args:
        training: The training images; None: the validation images are those, as of an ensemble of folds, and of each
            the figure is taken by a fit without its fold.
        validation: The validation images.
        folds: Fold of each validation image, where `training` is None.
        seed: Seed of the folds of cross-validation.

    Returns:
        The figure, or None if there are too few images with or without a lesion; a of each validation image, (n,); and
        a report with `appearance_auroc`, of telling the lesion-free images by a of images that it was not fitted to:
        the training's by cross-validation, or the validation's; and the `appearance_reason` if nothing was fitted.
    """
    images = validation if training is None else training
    fitted = _fit(images, seed)
    if training is None and fitted is not None:
        taken = _taken_left_out(validation, folds, seed)
        fitted = None if taken is None else (fitted[0], taken)
    if fitted is None:
        reason = (
            f"Of the {len(images.is_empty)} images that frozen features could be learnt from, "
            f"{int(images.is_empty.sum())} show no lesion: {_FEWEST_IMAGES} with and without are needed, in "
            f"{_NUM_FOLDS} groups each. The peak decides alone."
        )
        return None, np.array([]), {"appearance_auroc": None, "appearance_reason": reason}
    appearance, left_out = fitted
    taken = left_out if training is None else validation.features @ appearance.weights + appearance.bias
    auroc = float(roc_auc_score(images.is_empty, left_out))
    return appearance, taken, {"appearance_auroc": auroc, "appearance_reason": None}


def _taken_left_out(images: LabelledFeatures, folds: Sequence[int], seed: int) -> np.ndarray | None:
    """Return a of each image by a fit to the other folds' images, or None if these are too few."""
    taken = np.zeros(len(folds))
    for others, own in leave_out_folds(folds):
        fitted = _fit(images.of(others), seed)
        if fitted is None:
            return None
        appearance = fitted[0]
        taken[own] = images.features[own] @ appearance.weights + appearance.bias
    return taken


def _fit(images: LabelledFeatures, seed: int) -> tuple[Appearance, np.ndarray] | None:
    """Return the figure and a of each image by a fit without its fold, or None if there are too few images."""
    kinds = (images.is_empty, ~images.is_empty)
    if min(int(kind.sum()) for kind in kinds) < _FEWEST_IMAGES:
        return None
    if min(len(np.unique(images.groups[kind])) for kind in kinds) < _NUM_FOLDS:
        return None
    dealt = StratifiedGroupKFold(_NUM_FOLDS, shuffle=True, random_state=seed % 2**32)
    parts = list(dealt.split(images.features, images.is_empty, images.groups))
    if any(np.ptp(images.is_empty[others].astype(int)) == 0 for others, _ in parts):  # groups of most of a kind
        return None
    with threadpool_limits(1):  # or the sums' order, and so their last bits, differ from run to run
        left_out = np.zeros((len(_STRENGTHS), len(images.is_empty)))
        for row, strength in zip(left_out, _STRENGTHS, strict=True):
            for others, own in parts:
                row[own] = _model(images.of(others), strength).decision_function(images.features[own])
        losses = [log_loss(images.is_empty, 1 / (1 + np.exp(-row))) for row in left_out]
        best = int(np.argmin(losses))
        scaler, regression = (step for _, step in _model(images, _STRENGTHS[best]).steps)
    weights = (regression.coef_[0] / scaler.scale_).astype(_STORED).astype(float)  # as they are stored
    return Appearance(weights, float(regression.intercept_[0] - scaler.mean_ @ weights)), left_out[best]


def _model(images: LabelledFeatures, strength: float) -> Any:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=float(strength), max_iter=1000))
    return model.fit(images.features, images.is_empty)
