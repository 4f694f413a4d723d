"""The interval of a lesion's area: its coverage, its ends, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from icmoe_monai.calibration.area import AreaInterval, area_curves, fit_area_interval, widest_miss, width_of


def blurred_disc(radius: float, shift: float, side: int = 48) -> tuple[Tensor, int]:
    """Return probabilities that fall off around a disc whose radius they miss by a shift, and the disc's area."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    distance = np.hypot(rows, columns)
    return torch.from_numpy(expit(radius + shift - distance)[None]).float(), int((distance < radius).sum())


def drawn(n: int, seed: int) -> list[tuple[Tensor, int]]:
    rng = np.random.default_rng(seed)
    return [blurred_disc(rng.uniform(5, 15), rng.normal(0, 1.5)) for _ in range(n)]


def test_the_interval_covers_as_often_as_stated() -> None:
    fitted, test = drawn(150, seed=0), drawn(400, seed=1)
    misses = [widest_miss(area_curves(P), [area]) for P, area in fitted]
    rule, told = fit_area_interval(misses, [0.5] * 150, level=0.9)
    assert rule is not None
    assert told == {"num_images": 150, "reason": None}
    low, high = rule.thresholds(0.5)
    covered = [int((high <= P).sum()) <= area <= int((low <= P).sum()) for P, area in test]
    assert 0.85 < np.mean(covered) < 0.96


def test_the_miss_is_the_least_step_whose_interval_holds_the_area() -> None:
    for P, area in drawn(20, seed=2):
        found = widest_miss(area_curves(P), [area])
        assert found is not None

        def holds(u: float, P: Tensor = P, area: int = area) -> bool:
            return int((expit(u) <= P).sum()) <= area <= int((expit(-u) <= P).sum())

        assert holds(found)
        assert found == 0 or not holds(found - 0.05)


def test_every_class_that_the_label_shows_counts() -> None:
    P = torch.stack([*(torch.zeros(10, 10),) * 3])
    P[1, :2] = 0.9
    P[2, 5:] = 0.6
    P[0] = 1 - P[1:].sum(0)
    curves = area_curves(P)
    assert curves.shape[0] == 2
    assert widest_miss(curves, [20, 50]) == 0
    assert widest_miss(curves, [20, 0]) == 0
    assert widest_miss(curves, [0, 0]) is None
    only_second = widest_miss(curves, [20, 30])
    assert only_second == pytest.approx(0.45)  # logit 0.6 is 0.405: the next level of 0.05 leaves the class out


def test_what_no_threshold_finds_needs_the_whole_image() -> None:
    nothing = torch.zeros(1, 8, 8)
    needed = widest_miss(area_curves(nothing), [5])
    assert needed is not None
    rule, _ = fit_area_interval([needed] * 20, [0.5] * 20, level=0.9)
    assert rule is not None
    low, high = rule.thresholds(0.5)
    assert low == 0.0
    assert int((nothing >= low).sum()) == 64
    assert int((nothing >= high).sum()) == 0


def test_a_worse_case_has_a_wider_interval_and_none_is_inverted() -> None:
    rule = AreaInterval(level=0.9, spread=3.0, num_images=20)
    sure, unsure = width_of(0.95, disagreement=0.02), width_of(0.3, disagreement=0.02)
    assert sure < width_of(0.95, disagreement=0.2) < unsure
    (low, high), (lower, higher) = rule.thresholds(sure), rule.thresholds(unsure)
    assert lower < low < 0.5 < high < higher


@pytest.mark.parametrize("widths", [None, [0.5] * 8], ids=["no-dice", "few"])
def test_without_enough_images_there_is_none(widths: list[float] | None) -> None:
    rule, told = fit_area_interval([1.0] * 8, widths, level=0.9)
    assert rule is None
    assert told["reason"]


def test_images_that_show_nothing_are_not_counted() -> None:
    rule, told = fit_area_interval([None] * 5 + [1.0] * 9, [0.5] * 14, level=0.9)
    assert rule is not None
    assert rule.num_images == told["num_images"] == 9
