"""Statistics of scores over cases: bootstrap intervals and rank correlation, by SciPy.

Cases of one group, such as the images of one patient, are alike, so that many of them tell less than as many of
different groups. Their interval is that of the cluster bootstrap, which draws whole groups with replacement (Davison
and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any

import numpy as np
from scipy.stats import bootstrap, spearmanr

_NUMBERS_AT_ONCE = 2_000_000  # 16 MB a column


def bootstrap_interval(
    statistic: Callable[..., Any],
    *columns: np.ndarray,
    num_samples: int = 1000,
    seed: int = 0,
    vectorized: bool = True,
    groups: Sequence[str | None] | None = None,
) -> list[float] | None:
    """Return the 95 % percentile bootstrap interval of a statistic; a sample draws the same cases from all columns.

    Args:
        statistic: Maps the columns to a number, or with `vectorized` columns (..., n) and the `axis` of the cases to
            as many numbers. Samples for which it is NaN do not count.
        columns: Arrays with a number per case, (n,) each.
        num_samples: Number of bootstrap samples.
        seed: Seed of the samples.
        vectorized: Whether the statistic takes many samples at once.
        groups: The group of each case, of which whole ones are drawn; no matter where they are not known, as None.

    Returns:
        The lower and the upper end, or None for a single case or group.

    Example:
        >>> [round(end, 2) for end in bootstrap_interval(np.mean, np.array([0.0, 0.0, 1.0, 1.0]))]
        [0.0, 1.0]
    """
    num_cases = len(columns[0])
    num_groups = count_groups(groups or ())
    if min(num_cases, num_groups or num_cases) < 2:
        return None
    if groups and num_groups and num_groups < num_cases:
        return _ends(np.array([statistic(*sample) for sample in _draw_cases(columns, groups, num_samples, seed)]))
    drawn = bootstrap(
        columns,
        statistic,
        n_resamples=num_samples,
        batch=max(1, _NUMBERS_AT_ONCE // num_cases) if vectorized else None,
        vectorized=vectorized,
        paired=True,
        method="percentile",
        random_state=np.random.default_rng(seed),  # named rng only since SciPy 1.15
    ).bootstrap_distribution
    return _ends(drawn)


def count_groups(groups: Sequence[str | None]) -> int | None:
    """Return how many groups cases have, or None where groups are not known.

    Args:
        groups: The group of each case; one that is None says that they are not known.

    Example:
        >>> count_groups(["a", "b", "a"]), count_groups([None, None])
        (2, None)
    """
    return None if None in groups else len(set(groups)) or None


def conformal_quantile(scores: Sequence[float] | np.ndarray, level: float) -> float | None:
    """Return the value that a further score, exchangeable with these, does not exceed with at least a probability.

    It is the ceil((n + 1) level)-th smallest of n scores (split conformal prediction).

    Args:
        scores: The scores, (n,).
        level: The probability, 0..1.

    Returns:
        The value, or None if n is too small for the level.

    Example:
        >>> conformal_quantile([3.0, 1.0, 2.0, 5.0], 0.8), conformal_quantile([3.0, 1.0], 0.9)
        (5.0, None)
    """
    place = ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(np.asarray(scores, dtype=float))[place - 1]) if 0 < place <= len(scores) else None


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float | None:
    """Return Spearman's correlation of two columns (n,), or None if one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def grouped_interval(
    statistic: Callable[..., Any], *columns: np.ndarray, groups: Sequence[str], num_samples: int = 1000, seed: int = 0
) -> list[float]:
    """Return `bootstrap_interval` of a statistic of the columns' means, faster, by the sums of groups (at least two).

    Args:
        statistic: Maps the columns' means, of every sample at once, to as many numbers.
        columns: Arrays with a number per case, (n,) each.
        groups: The group of each case.
        num_samples: Number of bootstrap samples.
        seed: Seed of the samples.

    Example:
        >>> values, groups = np.array([0.0, 0.0, 1.0, 1.0, 1.0]), ["a", "a", "b", "b", "c"]
        >>> bootstrap_interval(np.mean, values, groups=groups) == grouped_interval(lambda x: x, values, groups=groups)
        True
    """
    group_of_case = np.unique(np.array(groups, dtype=str), return_inverse=True)[1]
    times = np.array(list(_draw_groups(group_of_case, num_samples, seed)))
    sizes = times @ np.bincount(group_of_case)
    means = [times @ np.bincount(group_of_case, weights=column) / sizes for column in columns]
    return _ends(np.asarray(statistic(*means)))


def _draw_groups(group_of_case: np.ndarray, num_samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn in a sample."""
    generator, num_groups = np.random.default_rng(seed), group_of_case.max() + 1
    for _ in range(num_samples):
        yield np.bincount(generator.integers(num_groups, size=num_groups), minlength=num_groups)


def _draw_cases(
    columns: Sequence[np.ndarray], groups: Sequence[str | None], num_samples: int, seed: int
) -> Iterator[list[np.ndarray]]:
    """Yield samples of columns, in which a case is as often as its group was drawn."""
    group_of_case = np.unique(np.array(groups, dtype=str), return_inverse=True)[1]
    for times in _draw_groups(group_of_case, num_samples, seed):
        cases = np.repeat(np.arange(len(groups)), times[group_of_case])
        yield [column[cases] for column in columns]


def _ends(drawn: np.ndarray) -> list[float]:
    return [float(end) for end in np.nanpercentile(drawn, [2.5, 97.5])]


def rounded(value: Any) -> float:
    """Return a number rounded to six decimals, as the result files hold it."""
    return round(float(value), 6)
