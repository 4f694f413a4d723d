"""Statistics of scores over cases: bootstrap intervals and rank correlation, by SciPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
) -> list[float] | None:
    """Return the 95 % percentile bootstrap interval of a statistic; a sample draws the same cases from all columns.

    Args:
        statistic: Maps the columns to a number, or with `vectorized` columns (..., n) and the `axis` of the cases to
            as many numbers. Samples for which it is NaN do not count.
        columns: Arrays with a number per case, (n,) each.
        num_samples: Number of bootstrap samples.
        seed: Seed of the samples.
        vectorized: Whether the statistic takes many samples at once.

    Returns:
        The lower and the upper end, or None for a single case.

    Example:
        >>> [round(end, 2) for end in bootstrap_interval(np.mean, np.array([0.0, 0.0, 1.0, 1.0]))]
        [0.0, 1.0]
    """
    num_cases = len(columns[0])
    if num_cases < 2:
        return None
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
    return [float(end) for end in np.nanpercentile(drawn, [2.5, 97.5])]


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float | None:
    """Return Spearman's correlation of two columns (n,), or None if one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def rounded(value: Any) -> float:
    """Return a number rounded to six decimals, as the result files hold it."""
    return round(float(value), 6)
