"""Logistic regression with a ridge penalty, which predicts a number in 0..1 from the features of a case.

  s(x) = sigmoid(b + sum_f w_f (x_f - mean_f) / scale_f)

minimises the mean cross-entropy of s(x) with the target y, plus penalty |w|^2 / (2 n). The target y may be a decision
(0 or 1) or a share, such as a Dice score (the fractional logit of Papke and Wooldridge, 1996); s then estimates the
mean of y. The penalty is chosen by cross-validation: it is the largest one whose mean loss exceeds the smallest mean
loss by at most one standard error of the paired difference of the two losses.

Letters: n cases; F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from icmoe_monai.calibration.folds import deal
from icmoe_monai.errors import InputError

_PENALTIES = 10.0 ** np.arange(-1.0, 3.6, 0.25)
_NUM_FOLDS = 10
_NUM_STEPS = 50
_OUTSIDE = 3.0  # an x is clipped to this many scales from the mean; hardly any case of the fit is farther out


class Score(NamedTuple):
    """Hold the fitted function s, as a calibration file stores it.

    Attributes:
        features: Names of the F features.
        mean: Mean of each feature, (F,).
        scale: Standard deviation of each feature, (F,); 1 for a feature that does not vary.
        coefficients: w, (F,).
        intercept: b.
        penalty: The chosen penalty.

    Example:
        >>> score = Score(("x",), (1.0,), (2.0,), (0.5,), 0.0, 1.0)
        >>> score({"x": 1.0, "other": 9.0})
        0.5
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    penalty: float

    def __call__(self, figures: Mapping[str, float]) -> float:
        """Return the prediction s for one case.

        Args:
            figures: The features by name; further entries are ignored.

        Raises:
            InputError: If a feature is not among them.
        """
        missing = [name for name in self.features if name not in figures]
        if missing:
            raise InputError(
                f"The calibration needs the vote's {missing[0]}, which this network's has not: calibrate again, or go "
                "without, --calibration none."
            )
        x = np.array([figures[name] for name in self.features])
        return float(expit(_standardised(x, self.mean, self.scale) @ np.array(self.coefficients) + self.intercept))


def fit_score(
    cases: Sequence[Mapping[str, float]],
    targets: Sequence[float],
    *,
    features: Sequence[str],
    signs: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Score, np.ndarray]:
    """Fit the logistic regression, with a penalty chosen by cross-validation.

    Args:
        cases: The features of each case, by name.
        targets: y, in 0..1, one per case.
        features: Names of the F features to use.
        signs: +1 or -1 for each: w is one number times these, so that the standardised features count alike and their
            weights need no cases to be learnt from; None: each has a weight of its own.
        groups: The group of each case, which cross-validation does not divide; None: each is one.
        seed: Seed of the folds of cross-validation.

    Returns:
        The fitted function, and the prediction for each case by a fit without this case's fold, (n,).

    Raises:
        ValueError: If there are fewer than 2 groups of cases.
    """
    X = np.array([[case[name] for name in features] for case in cases], dtype=float)
    y = np.asarray(targets, dtype=float)
    n = len(y)
    num_groups = len(set(groups or range(n)))
    if num_groups < 2:
        raise ValueError(f"cases must be of at least 2 groups, got {num_groups}.")
    folds = deal(groups or n, _NUM_FOLDS, seed=seed)
    predicted = np.stack([_predict_left_out(X, y, folds, penalty, signs) for penalty in _PENALTIES])
    losses = _cross_entropy(predicted, y)
    excess = losses - losses[losses.mean(1).argmin()]
    chosen = int(np.flatnonzero(excess.mean(1) <= excess.std(1, ddof=1) / np.sqrt(n)).max())
    return _fit(X, y, float(_PENALTIES[chosen]), features, signs), predicted[chosen]


def score_from(content: Mapping[str, Any]) -> Score:
    """Return the score that a calibration file stores as `Score._asdict()`."""
    mean, scale, coefficients = (tuple(map(float, content[name])) for name in ("mean", "scale", "coefficients"))
    numbers = (float(content["intercept"]), float(content["penalty"]))
    return Score(tuple(map(str, content["features"])), mean, scale, coefficients, *numbers)


def _predict_left_out(
    X: np.ndarray, y: np.ndarray, folds: np.ndarray, penalty: float, signs: Sequence[float] | None
) -> np.ndarray:
    predicted = np.empty(len(y))
    names = [str(f) for f in range(X.shape[1])]
    for fold in range(folds.max() + 1):
        score = _fit(X[folds != fold], y[folds != fold], penalty, names, signs)
        for index in np.flatnonzero(folds == fold):
            predicted[index] = score(dict(zip(names, X[index], strict=True)))
    return predicted


def _fit(
    X: np.ndarray, y: np.ndarray, penalty: float, features: Sequence[str], signs: Sequence[float] | None = None
) -> Score:
    """Fit by Newton's method for one penalty.

    Half a case with the target 0 and half a case with the target 1 are added to the intercept's loss, which keeps it
    finite if all targets are alike.
    """
    n, F = X.shape
    mean, spread = X.mean(0), X.std(0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    tied = np.eye(F) if signs is None else np.asarray(signs, dtype=float)[:, None]
    Z = np.column_stack([np.ones(n), _standardised(X, mean, scale) @ tied])
    ridge = penalty * np.diag([0.0] + [1.0] * tied.shape[1])
    w: np.ndarray = np.zeros(1 + tied.shape[1])
    for _ in range(_NUM_STEPS):
        s = expit(Z @ w)
        prior = expit(w[0])
        gradient = Z.T @ (s - y) + ridge @ w
        hessian = (Z * (s * (1 - s))[:, None]).T @ Z + ridge
        gradient[0] += prior - 0.5
        hessian[0, 0] += prior * (1 - prior)
        step = np.linalg.solve(hessian, gradient)
        w = w - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    mean_, scale_, coefficients = (tuple(map(float, values)) for values in (mean, scale, tied @ w[1:]))
    return Score(tuple(features), mean_, scale_, coefficients, float(w[0]), penalty)


def _standardised(x: np.ndarray, mean: Sequence[float] | np.ndarray, scale: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.clip((x - np.asarray(mean)) / np.asarray(scale), -_OUTSIDE, _OUTSIDE)


def _cross_entropy(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    p = np.clip(predicted, 1e-9, 1 - 1e-9)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))
