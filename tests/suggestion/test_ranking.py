"""What is chosen: images unlike what is known, doubtful ones, those that many are like, and of near-duplicates one."""

from __future__ import annotations

import numpy as np
import pytest

from icmoe_monai.suggestion import ranking
from icmoe_monai.suggestion.ranking import rank_images

AXES = np.eye(6)


def near(axis: int, num: int, spread: float = 0.02, seed: int = 0) -> np.ndarray:
    """Return features of images of one kind, each a little apart from the others."""
    return AXES[axis] + spread * np.random.default_rng(seed).random((num, 6))


def test_of_near_duplicates_one_is_chosen_before_any_image_of_another_kind_is_missing():
    pool = np.concatenate([near(0, 12), near(1, 2), near(2, 2), near(3, 2)])  # twelve of a kind, as frames of a video
    found = rank_images(pool, near(4, 3), np.ones(18), number=5)
    kinds = np.searchsorted([12, 14, 16], found.places, side="right").tolist()
    assert sorted(kinds[:4]) == [0, 1, 2, 3]
    assert kinds[0] == 0  # the kind that most are of


def test_an_image_unlike_the_labelled_ones_comes_before_copies_of_them():
    known = np.concatenate([near(0, 2), near(1, 2)])
    found = rank_images(np.concatenate([known, near(3, 1)]), known, [1, 1, 1, 1, 0], number=5)
    assert found.places[0] == 4
    assert found.distances[:4].max() < 1e-3 < 1 < found.distances[4]
    assert sorted(found.places) == [0, 1, 2, 3, 4]


def test_where_all_else_is_alike_the_kind_with_doubtful_images_comes_first():
    pool = np.concatenate([near(0, 3), near(1, 3)])
    for doubtful in (0, 1):
        doubts = np.where(np.arange(6) // 3 == doubtful, 0.9, 0.1)
        assert rank_images(pool, near(4, 1), doubts, number=1).places[0] // 3 == doubtful


def test_where_all_else_is_alike_the_kind_with_many_images_comes_first():
    assert rank_images(np.concatenate([near(0, 2), near(1, 6)]), near(4, 1), np.ones(8), number=1).places[0] >= 2


def test_a_kind_that_is_labelled_already_waits():
    pool = np.concatenate([AXES[[0]] + 0.5 * AXES[[5]], near(1, 1)])  # the first is like the labelled
    found = rank_images(pool, near(0, 3), np.ones(2), number=1)
    assert found.places == [1]
    assert found.among_labelled[0] < found.among_all[0]


def test_scores_are_what_the_formula_says():
    rng = np.random.default_rng(3)
    pool, known, doubts = rng.random((7, 6)), rng.random((3, 6)), np.arange(7.0)
    found = rank_images(pool, known, doubts, number=3)
    x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (pool, known))
    h = 0.8 * np.sqrt(np.mean([np.sum((a - b) ** 2) for a in x for b in x]))
    k = lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * h**2))  # noqa: E731
    w = 0.5 + doubts / 6
    for order, place in enumerate(found.places):
        all_ = sum(w[j] * k(x[place], x[j]) for j in range(7)) + w.mean() * sum(k(x[place], s) for s in y)
        labelled = [*y, *(x[other] for other in found.places[:order])]
        p, q = all_ / (w.sum() + 3 * w.mean()), sum(k(x[place], s) for s in labelled) / (len(labelled) + 1)
        assert (found.among_all[order], found.among_labelled[order]) == pytest.approx((p, q), abs=1e-5)
        assert found.scores[order] == pytest.approx(p - q, abs=1e-5)


def test_the_order_of_the_pool_and_the_length_of_features_change_nothing():
    rng = np.random.default_rng(1)
    pool, doubts, turned = rng.random((9, 6)), rng.random(9), rng.permutation(9)
    first = rank_images(pool, pool[:2] * 3, doubts, number=4)
    second = rank_images(pool[turned] * rng.uniform(0.5, 2, (9, 1)), pool[:2], doubts[turned], number=4)
    assert [int(turned[place]) for place in second.places] == first.places
    assert second.scores == pytest.approx(first.scores, abs=1e-5)


@pytest.mark.parametrize("known", [None, np.empty((0, 6))])
def test_where_nothing_is_known_the_pools_own_kinds_are_shown_one_after_another(known):
    found = rank_images(np.concatenate([near(0, 6), near(1, 3), near(2, 2)]), known, np.ones(11), number=3)
    assert np.searchsorted([6, 9], found.places, side="right").tolist() == [0, 1, 2]
    assert np.isinf(found.distances).all()


def test_of_a_large_pool_a_part_bears_witness_and_any_image_may_be_chosen(monkeypatch):
    monkeypatch.setattr(ranking, "_MOST_WITNESSES", 6)
    pool = np.concatenate([near(0, 12), near(1, 6), near(2, 6)])
    found = rank_images(pool, near(4, 1), np.ones(24), number=3)
    assert sorted(np.searchsorted([12, 18], found.places, side="right").tolist()) == [0, 1, 2]


@pytest.mark.parametrize("number", [1, 3, 9])
def test_a_pool_of_copies_of_one_image_is_no_hindrance(number):
    found = rank_images(np.ones((3, 6)), np.ones((2, 6)), np.zeros(3), number=number)
    assert sorted(found.places) == list(range(min(3, number))) or len(set(found.places)) == number
    assert np.isfinite(found.scores).all()


@pytest.mark.parametrize(
    ("features", "doubts", "message"),
    [
        (np.ones((3, 2)), np.ones(2), r"features must be \(N, F\) and doubts \(N,\), got \(3, 2\) and \(2,\)"),
        (np.ones(3), np.ones(3), r"got \(3,\) and \(3,\)"),
        (np.full((3, 2), np.nan), np.ones(3), "must be finite"),
        (np.ones((3, 2)), np.array([1, np.inf, 1]), "must be finite"),
    ],
)
def test_what_is_no_pool_is_refused(features, doubts, message):
    with pytest.raises(ValueError, match=message):
        rank_images(features, None, doubts, number=1)
