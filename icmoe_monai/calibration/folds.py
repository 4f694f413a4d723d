"""Folds of calibration images for cross-validation; a group of images, such as those of a patient, is never divided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def deal(groups: Sequence[str] | int, num_folds: int, *, seed: int) -> np.ndarray:
    """Deal images into folds, group by group.

    Args:
        groups: The group of each image; or the number of images, each of which is then a group.
        num_folds: Number of folds, at least 2.
        seed: Seed of the dealing.

    Returns:
        The fold of each image, from 0, (n,); fewer folds where there are fewer groups. Their numbers of groups differ
        by at most 1.

    Example:
        >>> folds = deal(["a", "a", "b", "c", "b"], 3, seed=0).tolist()
        >>> folds[0] == folds[1], folds[2] == folds[4], sorted(set(folds))
        (True, True, [0, 1, 2])
    """
    names = range(groups) if isinstance(groups, int) else groups
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    folds = np.random.default_rng(seed).permutation(len(numbers)) % min(num_folds, max(len(numbers), 1))
    return folds[[numbers[name] for name in names]]


def leave_out_folds(folds: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, for each fold, the places of the other folds' images, to fit to, and those of its own, to judge.

    Args:
        folds: The fold of each image, (n,).

    Example:
        >>> [(others.tolist(), own.tolist()) for others, own in leave_out_folds([2, 1, 2])]
        [([0, 2], [1]), ([1], [0, 2])]
    """
    for fold in np.unique(folds):
        is_own = np.asarray(folds) == fold
        yield np.flatnonzero(~is_own), np.flatnonzero(is_own)
