"""A number in 0..1 predicted from a case's figures: logistic regression with a ridge penalty, in plain numbers.

  s(x) = sigmoid(b + sum_f w_f (x_f - mean_f) / scale_f)

minimises the mean cross-entropy of s(x) with the target y plus penalty |w|^2 / (2 n). y may be a decision (0 or 1) or a
share, such as a Dice score (the fractional logit of Papke and Wooldridge, 1996): s then estimates its mean. The penalty
is chosen by cross-validation: the largest whose mean loss exceeds the least by at most one standard error of the two
losses' paired difference.

Letters: n cases; F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

_PENALTIES = 10.0 ** np.arange(-1.0, 3.6, 0.25)
_NUM_FOLDS = 10
_NUM_STEPS = 50
_OUTSIDE = 3.0  # an x further from the mean than this many scales counts as that: no case of the fit was there


class Score(NamedTuple):
    """The fitted function; its fields are what a calibration file holds.

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
        """Return s of one case.

        Args:
            figures: The features by name; others are not looked at.
        """
        x = np.array([figures[name] for name in self.features])
        return float(expit(_standardised(x, self.mean, self.scale) @ np.array(self.coefficients) + self.intercept))


def fit_score(
    cases: Sequence[Mapping[str, float]], targets: Sequence[float], *, features: Sequence[str], seed: int = 0
) -> tuple[Score, np.ndarray]:
    """Fit.

    Args:
        cases: The figures of each case.
        targets: y, in 0..1, one per case.
        features: Names of the F figures to use.
        seed: Of the folds.

    Returns:
        The score, and what it predicts of each case when that is left out of the fit, (n,).

    Raises:
        ValueError: If there are fewer than 2 cases.
    """
    X = np.array([[case[name] for name in features] for case in cases], dtype=float)
    y = np.asarray(targets, dtype=float)
    n = len(y)
    if n < 2:
        raise ValueError(f"cases must be at least 2, got {n}.")
    folds = np.random.default_rng(seed).permutation(n) % min(_NUM_FOLDS, n)
    predicted = np.stack([_predict_left_out(X, y, folds, penalty) for penalty in _PENALTIES])
    losses = _cross_entropy(predicted, y)
    excess = losses - losses[losses.mean(1).argmin()]
    chosen = int(np.flatnonzero(excess.mean(1) <= excess.std(1, ddof=1) / np.sqrt(n)).max())
    return _fit(X, y, float(_PENALTIES[chosen]), features), predicted[chosen]


def score_from(content: Mapping[str, Any]) -> Score:
    """Return the score of a calibration file's part, `Score._asdict()` read back."""
    mean, scale, coefficients = (tuple(map(float, content[name])) for name in ("mean", "scale", "coefficients"))
    numbers = (float(content["intercept"]), float(content["penalty"]))
    return Score(tuple(map(str, content["features"])), mean, scale, coefficients, *numbers)


def _predict_left_out(X: np.ndarray, y: np.ndarray, folds: np.ndarray, penalty: float) -> np.ndarray:
    predicted = np.empty(len(y))
    names = [str(f) for f in range(X.shape[1])]
    for fold in range(folds.max() + 1):
        score = _fit(X[folds != fold], y[folds != fold], penalty, names)
        for index in np.flatnonzero(folds == fold):
            predicted[index] = score(dict(zip(names, X[index], strict=True)))
    return predicted


def _fit(X: np.ndarray, y: np.ndarray, penalty: float, features: Sequence[str]) -> Score:
    """Fit by Newton's method; half a case of each kind keeps the intercept finite where all targets are alike."""
    n, F = X.shape
    mean, spread = X.mean(0), X.std(0)
    scale = np.where(spread > 1e-9, spread, 1.0)
    Z = np.column_stack([np.ones(n), _standardised(X, mean, scale)])
    ridge = penalty * np.diag([0.0] + [1.0] * F)
    w = np.zeros(1 + F)
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
    mean_, scale_, coefficients = (tuple(map(float, values)) for values in (mean, scale, w[1:]))
    return Score(tuple(features), mean_, scale_, coefficients, float(w[0]), penalty)


def _standardised(x: np.ndarray, mean: Sequence[float] | np.ndarray, scale: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.clip((x - np.asarray(mean)) / np.asarray(scale), -_OUTSIDE, _OUTSIDE)


def _cross_entropy(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    p = np.clip(predicted, 1e-9, 1 - 1e-9)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))
