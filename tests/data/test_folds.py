"""Folds of a cross-validation: dealt alike, by groups, the same everywhere; and as a training finds them."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from folders import put_image, put_plain
from PIL import Image

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.folds import check_fold, deal_folds, take_fold
from icmoe_monai.data.splits import describe_training
from icmoe_monai.errors import InputError
from icmoe_monai.training.pretraining import find_sets


def made(num_cases: int, seed: int = 0, *, classes: tuple[str, ...] = (), grouped: bool = False) -> tuple[list, dict]:
    """Return cases and the shares of their targets, of which a tenth are empty and few are large."""
    rng = np.random.default_rng(seed)
    cases, shares = [], {}
    for i in range(num_cases):
        case = {"name": f"case_{i}"}
        if classes:
            case["class"] = classes[int(rng.integers(len(classes)))]
        if grouped:
            case["group"] = f"patient {int(rng.integers(num_cases // 3))}"
        cases.append(case)
        shares[case["name"]] = 0.0 if rng.random() < 0.1 else float(rng.beta(1, 6))
    return cases, shares


def by_fold(folds: list[int], values: list) -> list[list]:
    return [[value for fold, value in zip(folds, values, strict=True) if fold == k] for k in range(1, max(folds) + 1)]


@pytest.mark.parametrize("num_folds", [2, 3, 5, 10])
@pytest.mark.parametrize("classes", [(), ("benign", "malignant", "normal")], ids=["no classes", "classes"])
@pytest.mark.parametrize("num_cases", [10, 47, 203])
def test_folds_are_of_one_size_and_one_mixture(num_cases: int, classes: tuple, num_folds: int) -> None:
    for seed in range(5):
        cases, shares = made(num_cases, seed, classes=classes)
        folds = deal_folds(cases, num_folds, seed=seed, shares=shares)
        for kinds, most in (
            ([1] * num_cases, 1),
            ([case.get("class") for case in cases], 1),
            ([(case.get("class"), shares[case["name"]] > 0) for case in cases], 2),
        ):
            counts = [Counter(fold) for fold in by_fold(folds, kinds)]
            for kind in set(kinds):
                found = [count[kind] for count in counts]
                assert max(found) - min(found) <= most, (kind, found)


def spread(folds: list[int], cases: list, shares: dict) -> float:
    means = [np.mean(fold) for fold in by_fold(folds, [shares[case["name"]] for case in cases])]
    return float(np.std(means))


@pytest.mark.parametrize("grouped", [False, True], ids=["images", "groups"])
def test_targets_are_of_more_equal_size_than_by_chance(grouped: bool) -> None:
    ours, by_chance = [], []
    for seed in range(20):
        cases, shares = made(120, seed, grouped=grouped)
        folds = deal_folds(cases, 5, seed=seed, shares=shares)
        ours.append(spread(folds, cases, shares))
        groups = sorted({case.get("group", case["name"]) for case in cases})
        drawn = dict(zip(groups, random.Random(seed).choices(range(1, 6), k=len(groups)), strict=True))
        by_chance.append(spread([drawn[case.get("group", case["name"])] for case in cases], cases, shares))
    assert np.mean(ours) < (0.75 if grouped else 0.35) * np.mean(by_chance)


@pytest.mark.parametrize("classes", [(), ("benign", "malignant")], ids=["no classes", "classes"])
def test_groups_are_whole_and_folds_as_equal_as_they_allow(classes: tuple) -> None:
    for seed in range(10):
        cases, shares = made(100, seed, classes=classes, grouped=True)
        groups = Counter(case["group"] for case in cases)
        folds = deal_folds(cases, 5, seed=seed, shares=shares)
        held = [set(fold) for fold in by_fold(folds, [case["group"] for case in cases])]
        assert sum(map(len, held)) == len(groups)
        assert set(folds) == {1, 2, 3, 4, 5}
        sizes = Counter(folds).values()
        assert max(sizes) - min(sizes) <= max(groups.values())


def test_a_group_that_is_larger_than_a_fold_leaves_none_empty() -> None:
    sizes = {"a": 20, "b": 5, "c": 2, "d": 1}
    cases = [{"name": f"{group}{i}", "group": group} for group, size in sizes.items() for i in range(size)]
    folds = deal_folds(cases, 4, seed=0, shares={case["name"]: 0.1 for case in cases})
    assert sorted(Counter(folds).values()) == [1, 2, 5, 20]


def test_folds_follow_from_names_and_seed_and_not_from_the_order() -> None:
    cases, shares = made(60, classes=("a", "b"), grouped=True)
    folds = {case["name"]: fold for case, fold in zip(cases, deal_folds(cases, 5, seed=3, shares=shares), strict=True)}
    for shuffled in (cases[::-1], random.Random(1).sample(cases, len(cases))):
        again = deal_folds(shuffled, 5, seed=3, shares=shares)
        assert {case["name"]: fold for case, fold in zip(shuffled, again, strict=True)} == folds
    assert deal_folds(cases, 5, seed=4, shares=shares) != list(folds.values())
    # written down, so that another machine or version must give the same
    few = [{"name": name} for name in "abcdefgh"]
    assert deal_folds(few, 3, seed=0, shares={name: ord(name) / 200 for name in "abcdefgh"}) == [2, 3, 1, 3, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (5, None, r"folds and fold belong together, got folds 5 and fold None: set both, or neither"),
        (None, 2, r"folds and fold belong together, got folds None and fold 2: set both, or neither"),
        (1, 1, r"folds must be a whole number of at least 2, got 1"),
        (5, 6, r"fold must be a whole number from 1 to folds, which is 5, got 6"),
        (5, 0, r"fold must be a whole number from 1 to folds, which is 5, got 0"),
        (9, 1, r"There are 8 images to deal into 9 folds: set folds to fewer"),
    ],
)
def test_folds_that_there_are_not(folds: int | None, fold: int | None, message: str, tmp_path: Path) -> None:
    put_plain(tmp_path)
    with pytest.raises(InputError, match=message):
        find_cases(str(tmp_path), folds=folds, fold=fold)


def test_no_folds_are_fine() -> None:
    check_fold(None, None)


def test_fewer_groups_than_folds_are_told() -> None:
    cases = [{"name": f"case_{i}", "group": f"p{i % 3}"} for i in range(12)]
    with pytest.raises(InputError, match="There are 3 groups of images to deal into 4 folds: set folds to fewer"):
        deal_folds(cases, 4, seed=0, shares={case["name"]: 0.1 for case in cases})


def names(splits: dict[str, list]) -> dict[str, list[str]]:
    return {split: [case["name"] for case in cases] for split, cases in splits.items()}


@pytest.mark.parametrize(
    "listed",
    [
        None,
        {"train": ["case_0", "case_1", "case_2", "case_3"], "val": ["case_4", "case_5"], "test": ["case_6", "case_7"]},
        {"train": [f"case_{i}" for i in range(8)], "val": [], "test": ["case_8"]},
        {"train": [f"case_{i}" for i in range(8)], "val": ["case_8"], "unlabelled": ["case_9"]},
    ],
    ids=["cut", "named", "nothing to validate on", "unlabelled"],
)
def test_every_image_but_the_tests_is_validated_on_once(listed: dict | None, tmp_path: Path) -> None:
    folder = str(put_plain(tmp_path, 10, listed))
    without = names(find_cases(folder, needed=()))
    folds = [names(find_cases(folder, folds=4, fold=fold)) for fold in range(1, 5)]
    pooled = sorted(without["train"] + without["val"])
    assert sorted(chain.from_iterable(fold["val"] for fold in folds)) == pooled
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == pooled
        assert fold["train"] == sorted(fold["train"])
        assert fold["val"] == sorted(fold["val"])
        assert {split: fold[split] for split in fold if split not in ("train", "val")} == {
            split: without[split] for split in without if split not in ("train", "val")
        }


def put_shares(folder: Path, shares: dict[str, float]) -> None:
    """Make a plain set without a test split, whose masks' targets are of such shares of the image."""
    put_plain(folder, 0, {"train": list(shares), "val": [], "test": []})
    for name, share in shares.items():
        put_image(folder / "images" / f"{name}.png", height=20, width=20)
        mask = np.zeros((20, 20), np.uint8)
        mask.ravel()[: round(400 * share)] = 1 + np.arange(round(400 * share)) % 2
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)


def test_the_masks_of_a_set_decide_its_folds_and_classes_count_together(tmp_path: Path) -> None:
    shares = {"a": 0.0, "b": 0.0, "c": 0.1, "d": 0.1, "e": 0.5, "f": 0.5, "g": 0.9, "h": 0.9}
    put_shares(tmp_path, shares)
    for seed in range(5):
        splits = find_cases(str(tmp_path), out_channels=3, folds=2, fold=1, seed=seed)
        assert sorted(shares[case["name"]] for case in splits["val"]) == [0.0, 0.1, 0.5, 0.9]
        unread = find_cases(str(tmp_path), out_channels=3, folds=2, fold=1, seed=seed, check=False)
        assert names(unread) == names(splits)


def test_what_is_known_of_a_training_tells_its_fold(tmp_path: Path) -> None:
    folder = str(put_plain(tmp_path))
    one, other = (
        describe_training(find_cases(folder, folds=2, fold=fold), split_seed=0, folds=2, fold=fold) for fold in (1, 2)
    )
    assert (one["folds"], one["fold"]) == (2, 1)
    assert one["sha256"] != other["sha256"]
    assert one["seen_sha256"] == other["seen_sha256"] == describe_training(find_cases(folder))["seen_sha256"]
    assert one["set_sha256"] == other["set_sha256"]


def test_folds_of_several_sets_are_each_sets_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put_plain(tmp_path / name)
    found = [find_sets(str(tmp_path), repeats={"one": 1, "two": 1}, folds=2, fold=fold) for fold in (1, 2)]
    for name in ("one", "two"):
        validated = [[case["name"] for case in cases["val"] if case["name"].startswith(name)] for cases in found]
        assert [len(part) for part in validated] == [4, 4]
        assert not set(validated[0]) & set(validated[1])


def test_a_taken_fold_leaves_the_lists_that_it_was_given() -> None:
    cases, shares = made(10)
    splits = {"train": cases[:7], "val": cases[7:], "test": [{"name": "t"}]}
    taken = take_fold(splits, folds=5, fold=3, seed=0, shares=shares)
    assert [len(taken[split]) for split in ("train", "val", "test")] == [8, 2, 1]
    assert [len(splits[split]) for split in ("train", "val", "test")] == [7, 3, 1]
