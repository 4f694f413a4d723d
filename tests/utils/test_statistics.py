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


def test_an_interval_over_groups_is_that_of_drawn_groups():
    rng = np.random.default_rng(1)
    dice, other = rng.random(60), rng.random(60)
    groups = [f"patient {number}" for number in rng.integers(15, size=60)]
    members = [[i for i in range(60) if groups[i] == group] for group in sorted(set(groups))]
    generator = np.random.default_rng(3)
    means, differences = [], []
    for _ in range(1000):
        drawn = [members[number] for number in generator.integers(len(members), size=len(members))]
        cases = np.concatenate(drawn)
        means.append(sum(dice[i] for i in cases) / len(cases))
        differences.append(sum(dice[i] - other[i] for i in cases) / len(cases))
    found = bootstrap_interval(np.mean, dice, seed=3, groups=groups)
    np.testing.assert_allclose(found, np.percentile(means, [2.5, 97.5]), atol=1e-12)

    def difference(one: np.ndarray, another: np.ndarray) -> float:
        return float(one.mean() - another.mean())

    found = bootstrap_interval(difference, dice, other, seed=3, groups=groups, vectorized=False)
    np.testing.assert_allclose(found, np.percentile(differences, [2.5, 97.5]), atol=1e-12)


def test_images_of_one_patient_are_no_independent_evidence():
    """Of 200 samples of 20 patients with 8 like images each, about 95 % of the intervals must hold the true mean."""
    held = {"patients": 0, "images": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        dice = np.repeat(rng.normal(0.8, 0.1, 20), 8) + rng.normal(0, 0.02, 160)
        groups = [str(number) for number in np.repeat(np.arange(20), 8)]
        for name, known in (("patients", groups), ("images", None)):
            low, high = bootstrap_interval(np.mean, dice, groups=known, num_samples=200)
            held[name] += low <= 0.8 <= high
    assert held["patients"] > 0.85 * 200
    assert held["images"] < 0.7 * 200


def test_groups_of_one_image_each_or_unknown_ones_change_nothing():
    dice = np.random.default_rng(1).random(40)
    expected = bootstrap_interval(np.mean, dice, seed=3)
    assert bootstrap_interval(np.mean, dice, seed=3, groups=[str(i) for i in range(40)]) == expected
    assert bootstrap_interval(np.mean, dice, seed=3, groups=[None] * 40) == expected
    assert bootstrap_interval(np.mean, dice, seed=3, groups=["a"] * 40) is None


def test_a_constant_column_has_no_rank_correlation():
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2, 3], [3, 5, 9]) == pytest.approx(1)
