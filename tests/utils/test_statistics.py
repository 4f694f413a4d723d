from __future__ import annotations

import numpy as np
import pytest

from icmoe_monai.utils.statistics import bootstrap_interval, rank_correlation


def test_an_interval_is_that_of_means_of_drawn_cases():
    dice = np.random.default_rng(1).random(40)
    drawn = np.random.default_rng(3).integers(40, size=(1000, 40))  # as SciPy draws, written out
    expected = np.percentile(dice[drawn].mean(1), [2.5, 97.5])
    np.testing.assert_allclose(bootstrap_interval(np.mean, dice, seed=3), expected, atol=1e-12)


def test_columns_are_drawn_together():
    first = np.random.default_rng(1).random(40)

    def difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        return one.mean(axis=axis) - other.mean(axis=axis)

    assert bootstrap_interval(difference, first + 0.25, first) == pytest.approx([0.25, 0.25])
    apart = bootstrap_interval(difference, first + 0.25, first[::-1])
    assert apart[0] < 0.24 < 0.26 < apart[1]


def test_samples_without_a_value_do_not_count():
    def never_of_the_first(sample: np.ndarray) -> float:
        return float("nan") if 0.0 in sample else sample.mean()

    low, high = bootstrap_interval(never_of_the_first, np.array([0.0, 1.0, 2.0, 3.0]), vectorized=False)
    assert 1 <= low <= high <= 3


def test_a_single_case_has_no_interval():
    assert bootstrap_interval(np.mean, np.array([0.5])) is None


def test_a_constant_column_has_no_rank_correlation():
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2, 3], [3, 5, 9]) == pytest.approx(1)
