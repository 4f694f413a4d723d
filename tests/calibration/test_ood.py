"""The out-of-distribution score: its rate of false alarms, what it finds, and what a file of it may hold."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from icmoe_monai.calibration.ood import (
    Prototypes,
    find_prototypes_damage,
    fit_out_of_distribution,
    fit_prototypes,
    out_of_distribution_from,
)


def images(n: int, *, seed: int, centre: float = 1.0, windows: int = 1) -> list[np.ndarray]:
    """Return features of images whose directions lie around one."""
    rng = np.random.default_rng(seed)
    return [np.eye(12)[0] * centre + rng.normal(0, 0.2, (windows, 12)) for _ in range(n)]


def fit(**changes: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    given = {
        "training": np.concatenate(images(200, seed=0)),
        "seen": images(100, seed=1),
        "views": images(100, seed=2),
        "false_alarms": 0.1,
    } | changes
    training, seen, views = (given.pop(name) for name in ("training", "seen", "views"))
    return fit_out_of_distribution(training, seen, views, **given)


def test_like_images_are_called_so_as_often_as_stated_and_unlike_ones_are_found() -> None:
    content, told = fit()
    assert content is not None
    found = out_of_distribution_from(content)
    like = np.array([found.score(one) for one in images(2000, seed=3)])
    assert 0.04 < (like > 1).mean() < 0.16
    assert min(found.score(one) for one in images(50, seed=4, centre=-1.0)) > 1.2
    assert content["bound"] == pytest.approx(1 - 91 / 101)
    assert told == {"num_images": 100, "num_prototypes": 50, "flagged": told["flagged"], "reason": None}


def test_the_score_is_that_of_the_stored_numbers() -> None:
    content, _ = fit(false_alarms=0.01)  # the largest distance of the views is 1
    assert content is not None
    scores = [out_of_distribution_from(content).score(one) for one in images(100, seed=2)]
    assert max(scores) == pytest.approx(1, abs=1e-9)


def test_the_percentile_is_the_share_of_validation_images_below() -> None:
    content, _ = fit()
    assert content is not None
    found = out_of_distribution_from(content)
    assert found.percentile(0.0) == 0
    assert found.percentile(1e9) == 100
    scores = sorted(found.score(one) for one in images(100, seed=1))
    assert found.percentile((scores[49] + scores[50]) / 2) == pytest.approx(50, abs=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e300])
def test_features_that_are_no_numbers_are_unlike_all(value: float) -> None:
    content, _ = fit()
    assert content is not None
    score = out_of_distribution_from(content).score(np.full((1, 12), value))
    assert 1 < score <= 1e6 or value == 1e300


def test_of_folds_each_image_is_judged_without_its_own() -> None:
    """An image that is its fold's alone is far from the others' prototypes, and near to its own."""
    rng = np.random.default_rng(5)
    folds = np.arange(40) % 4
    seen = [np.eye(12)[fold] + rng.normal(0, 0.02, (1, 12)) for fold in folds]
    content, _ = fit(training=None, seen=seen, views=seen, folds=folds.tolist())
    assert content is not None
    assert content["threshold"] > 1  # not below 0.1, as by prototypes of all
    assert out_of_distribution_from(content).score(seen[0]) < 0.2


@pytest.mark.parametrize("part", ["training", "seen"])
def test_with_too_few_images_nothing_is_fitted(part: str) -> None:
    few = np.concatenate(images(9, seed=0)) if part == "training" else images(9, seed=0)
    content, told = fit(**{part: few}, **({"views": few} if part == "seen" else {}))
    assert content is None
    assert "fewer than 10 images" in told["reason"]


def test_too_few_images_for_the_rate_are_told_by_the_bound() -> None:
    content, _ = fit(seen=images(12, seed=1), views=images(12, seed=2), false_alarms=0.01)
    assert content is not None
    assert content["bound"] == pytest.approx(1 / 13)


def test_windows_have_a_threshold_of_their_own() -> None:
    """A single window varies more than the mean over an image's windows."""
    content, _ = fit(seen=images(100, seed=1, windows=8), views=images(100, seed=2, windows=8))
    assert content is not None
    assert content["window_threshold"] > content["threshold"]
    scores = np.array(out_of_distribution_from(content).window_scores(np.concatenate(images(500, seed=6))))
    assert 0.04 < (scores > 1).mean() < 0.16


def test_images_without_features_do_not_disturb_the_prototypes() -> None:
    found = fit_prototypes(np.concatenate([*images(40, seed=0), np.zeros((5, 12))]))
    assert isinstance(found, Prototypes)
    assert np.isfinite(found.centres).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("prototypes", "AAAA"), ("prototypes", "no base64!"), ("num_prototypes", 3), ("prototypes", None)],
    ids=["short", "other", "count", "infinite"],
)
def test_damaged_prototypes_are_told(name: str, value: Any) -> None:
    content, _ = fit()
    assert content is not None
    assert find_prototypes_damage(content) is None
    damaged = copy.deepcopy(content)
    damaged[name] = value if value is not None else "AHwA" * (50 * 12 * 2 // 3)  # 0x7c00 is infinite
    assert find_prototypes_damage(damaged) == (
        f"prototypes must be {damaged['num_prototypes']} x 12 finite numbers of 2 bytes, in base64"
    )
