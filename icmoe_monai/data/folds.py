"""Folds for a cross-validation: images are dealt so that every fold resembles the whole set.

Folds are alike in number, in classes (BUSI), in empty masks and in the size of the target. Groups, such as the images
of one patient, are never divided. What a fold holds follows from the seed, the names and the masks alone, and is the
same on every machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from icmoe_monai.data.splits import OUT_OF_FOLD, Case, shuffle_key
from icmoe_monai.errors import InputError

_NUM_SIZES = 4  # kinds of targets by their size: quarters of the images, from small to large
_POOLED = ("train", "val")


def deal_folds(cases: Sequence[Case], num_folds: int, *, seed: int, shares: Mapping[str, float]) -> list[int]:
    """Deal cases into folds of one size and one mixture, and return the fold of each.

    Groups are dealt one by one, the largest first, and among those of one size from small targets to large ones. A
    group goes to the fold that has least of the kinds of images in it, among those to which it may go without making
    the folds' numbers more unequal than its own size.

    Args:
        cases: The cases, each with its `name`, and perhaps its `group` and `class`.
        num_folds: Number of folds, at least 2.
        seed: Another seed gives other folds.
        shares: Share of the image's pixels that belong to the target, 0 to 1, by the name of the case.

    Returns:
        The fold of each case, from 1. Their numbers of cases differ by at most the largest group's, so that they differ
        by at most 1 where there are no groups; no fold is empty.

    Raises:
        InputError: If there are fewer groups than folds; a case without a group is one.

    Example:
        >>> cases = [{"name": f"case_{i}"} for i in range(6)]
        >>> folds = deal_folds(cases, 3, seed=0, shares={f"case_{i}": i / 10 for i in range(6)})
        >>> sorted(folds[:3]), sorted(folds[3:])  # small targets, large targets
        ([1, 2, 3], [1, 2, 3])
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[str(case.get("group", case["name"]))].append(case["name"])
    if len(groups) < num_folds:
        what = "images" if len(groups) == len(cases) else "groups of images"
        raise InputError(f"There are {len(groups)} {what} to deal into {num_folds} folds: set folds to fewer.")
    kinds = _kinds(cases, seed, shares)
    totals = Counter(kind for name in kinds for kind in kinds[name])
    place = {name: number for number, name in enumerate(kinds)}
    dealt: dict[str, int] = {}
    held = [Counter[tuple[Any, ...]]() for _ in range(num_folds)]
    sizes = [0] * num_folds
    for names in sorted(groups.values(), key=lambda names: (-len(names), min(place[name] for name in names))):
        most = max(*sizes, min(sizes) + len(names))
        may = [k for k in range(num_folds) if sizes[k] + len(names) <= most and sizes[k] < min(sizes) + len(names)]
        alike = {k: sum(held[k][kind] / totals[kind] for name in names for kind in kinds[name]) for k in may}
        # rounded, as sums of shares in another order differ in their last digits
        chosen = min(may, key=lambda k: (round(alike[k], 9), shuffle_key(f"{k}/{min(names)}", seed)))
        sizes[chosen] += len(names)
        held[chosen].update(kind for name in names for kind in kinds[name])
        dealt.update(dict.fromkeys(names, chosen + 1))
    return [dealt[case["name"]] for case in cases]


def take_fold(
    splits: Mapping[str, list[Case]], *, folds: int, fold: int | None, seed: int, shares: Mapping[str, float]
) -> dict[str, list[Case]]:
    """Pool the training and the validation cases, deal them into folds, and validate on one of these.

    Args:
        splits: Cases by split. All splits but "train" and "val" stay as they are.
        folds: Number of folds.
        fold: The fold that becomes "val", from 1; the others are "train". None: all are "train", and also
            "out_of_fold", each there with its `fold`.
        seed: Seed of the dealing.
        shares: Share of the target, by name, as `deal_folds` takes it.

    Raises:
        InputError: If there are fewer groups than folds.
    """
    pooled = sorted((case for split in _POOLED for case in splits[split]), key=lambda case: str(case["name"]))
    numbers = deal_folds(pooled, folds, seed=seed, shares=shares)
    parts: dict[str, list[Case]] = {split: [] for split in _POOLED}
    for case, number in zip(pooled, numbers, strict=True):
        parts["val" if number == fold else "train"].append(case)
    if fold is None:
        parts[OUT_OF_FOLD] = [{**case, "fold": number} for case, number in zip(pooled, numbers, strict=True)]
    return {**splits, **parts}


def check_fold(folds: int | None, fold: int | None, *, of_all: bool = False) -> None:
    """Check that the settings `folds` and `fold` go together.

    Args:
        folds: Number of folds.
        fold: One of them, from 1.
        of_all: Whether a run goes through the images of all folds, so that it has folds and no fold.

    Raises:
        InputError: If there is only one of them where there must be both, or there is no such fold.

    Example:
        >>> check_fold(5, 6)
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: fold must be a whole number from 1 to folds, which is 5, got 6.
    """
    if of_all and (folds is None or fold is not None):
        raise InputError(f"The split {OUT_OF_FOLD} is of all folds together: set folds, and no fold.")
    if folds is None and fold is None:
        return
    if folds is None or (fold is None and not of_all):
        raise InputError(f"folds and fold belong together, got folds {folds} and fold {fold}: set both, or neither.")
    if folds < 2:
        raise InputError(f"folds must be a whole number of at least 2, got {folds}.")
    if fold is not None and not 1 <= fold <= folds:
        raise InputError(f"fold must be a whole number from 1 to folds, which is {folds}, got {fold}.")


def _kinds(cases: Sequence[Case], seed: int, shares: Mapping[str, float]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the kinds to which each case belongs, coarse to fine, by its name: small targets first, class by class."""
    by_name = {case["name"]: (case.get("class", ""), shares[case["name"]] > 0) for case in cases}
    names = sorted(by_name, key=lambda name: (*by_name[name], shares[name], shuffle_key(name, seed)))
    totals, seen = Counter(by_name.values()), Counter[tuple[Any, ...]]()
    kinds: dict[str, list[tuple[Any, ...]]] = {}
    for name in names:
        kind = by_name[name]
        size = _NUM_SIZES * seen[kind] // totals[kind] if kind[1] else 0
        seen[kind] += 1
        kinds[name] = [kind[:1], kind, (*kind, size)]
    return kinds
