"""The predicted quality: fits against a general optimiser, the choice of the penalty, what lies outside of the fit."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from icmoe_monai.calibration.score import Score, _fit, fit_score, score_from

NAMES = ("informative", "noise", "constant")


def cases(n: int, seed: int = 0) -> tuple[list[dict[str, float]], np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = expit(1.5 * x[:, 0] + 0.3 * rng.normal(size=n))
    return [{"informative": a, "noise": b, "constant": 4.0, "unused": 1.0} for a, b in x], y


def test_newtons_result_is_that_of_a_general_optimiser():
    found, y = cases(60)
    X = np.array([[case[name] for name in NAMES] for case in found])
    score = _fit(X, y, 2.0, NAMES)
    Z = np.clip((X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1), -3, 3)

    def loss(w):
        s = expit(Z @ w[1:] + w[0])
        prior = -0.5 * (np.log(expit(w[0])) + np.log(expit(-w[0])))
        return -(y * np.log(s) + (1 - y) * np.log(1 - s)).sum() + prior + (w[1:] ** 2).sum()

    expected = minimize(loss, np.zeros(4), tol=1e-10).x
    assert (score.intercept, *score.coefficients) == pytest.approx(expected, abs=1e-4)


def test_it_finds_what_informs_and_predicts_cases_that_it_has_not_seen():
    found, y = cases(80)
    score, left_out = fit_score(found, y, features=NAMES)
    assert score.coefficients[0] > 5 * abs(score.coefficients[1])
    assert score.coefficients[2] == 0
    assert np.corrcoef(left_out, y)[0, 1] > 0.9
    further, y = cases(200, seed=1)
    predicted = np.array([score(case) for case in further])
    assert np.abs(predicted - y).mean() < 0.08
    assert predicted.mean() == pytest.approx(y.mean(), abs=0.03)


def test_what_says_nothing_gets_the_largest_penalty_and_the_mean_of_all():
    rng = np.random.default_rng(0)
    found = [{"noise": value} for value in rng.normal(size=40)]
    y = rng.uniform(0.3, 0.9, 40)
    score, left_out = fit_score(found, y, features=["noise"])
    assert score.penalty > 1000
    assert left_out == pytest.approx(np.full(40, y.mean()), abs=0.1)


def test_tied_features_count_alike_in_the_directions_that_are_given():
    found, y = cases(80)
    score, _ = fit_score(found, y, features=NAMES[:2], signs=(1.0, -1.0))
    assert score.coefficients[0] == -score.coefficients[1] > 0.1
    alone, _ = fit_score(found, y, features=NAMES[:1], signs=(-1.0,))
    free, _ = fit_score(found, y, features=NAMES[:1])
    assert alone.coefficients == pytest.approx(free.coefficients)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_targets_that_are_all_alike_have_a_finite_fit(target):
    found, _ = cases(12)
    score, _ = fit_score(found, [target] * 12, features=NAMES)
    assert np.isfinite(score.intercept)
    assert score(found[0]) == pytest.approx(target, abs=0.1)


def test_a_case_far_outside_counts_as_the_edge_of_what_was_seen():
    score = Score(("x",), (0.0,), (2.0,), (1.0,), 0.0, 1.0)
    assert score({"x": 1e9}) == score({"x": 6.0}) == pytest.approx(expit(3.0))
    assert np.isnan(score({"x": float("nan")}))


def test_a_score_comes_back_from_its_file():
    found, y = cases(20)
    score, _ = fit_score(found, y, features=NAMES)
    assert score_from(json.loads(json.dumps(score._asdict()))) == score


def test_one_group_is_too_few():
    with pytest.raises(ValueError, match="at least 2 groups, got 1"):
        fit_score([{"x": 1.0}], [0.5], features=["x"])
    with pytest.raises(ValueError, match="at least 2 groups, got 1"):
        fit_score([{"x": 1.0}, {"x": 2.0}], [0.5, 0.6], features=["x"], groups=["patient", "patient"])


def test_a_case_is_not_predicted_by_a_fit_to_its_twin():
    """Of twins that are alike, with targets that nothing explains, a fit without groups knows the answer."""
    rng = np.random.default_rng(0)
    twins, targets = np.repeat(rng.normal(size=(12, 10)), 4, axis=0), np.repeat(rng.uniform(size=12), 4)
    found = [dict(zip("abcdefghij", row, strict=True)) for row in twins]
    groups = [f"patient {i // 4}" for i in range(48)]
    _, leaky = fit_score(found, targets, features=list("abcdefghij"))
    _, honest = fit_score(found, targets, features=list("abcdefghij"), groups=groups)
    assert np.corrcoef(leaky, targets)[0, 1] > 0.5
    assert np.abs(honest - targets).mean() > np.abs(leaky - targets).mean() + 0.05
