"""Scores of objects against the definitions written out, pixel by pixel and object by object."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.draw import disk
from skimage.metrics import hausdorff_distance

import icmoe_monai.evaluation.objects
from icmoe_monai.errors import InputError
from icmoe_monai.evaluation.objects import ObjectScores, ObjectSums, compare_objects, label_objects, object_scores
from icmoe_monai.imageio.read import read_objects

SHAPE = (40, 52)


# The definitions of the challenge, literally --------------------------------------------------------------------------


def objects_of(labels: np.ndarray) -> dict[int, set[tuple[int, int]]]:
    objects: dict[int, set[tuple[int, int]]] = {}
    for i, j in np.ndindex(labels.shape):
        if labels[i, j]:
            objects.setdefault(int(labels[i, j]), set()).add((i, j))
    return objects


def hausdorff(first: set, second: set) -> float:
    def directed(a: set, b: set) -> float:
        return max(min(math.dist(x, y) for y in b) for x in a)

    return max(directed(first, second), directed(second, first))


def partner(one: set, others: dict[int, set]) -> set | None:
    """Return the object that overlaps most, of several the one with the lowest number."""
    best = max(sorted(others), key=lambda number: len(one & others[number]))
    return others[best] if one & others[best] else None


def reference_scores(predicted: np.ndarray, label: np.ndarray) -> tuple[float, float, float]:
    S, G = objects_of(predicted), objects_of(label)
    true_positives = sum(
        (found := partner(s, G)) is not None and len(s & found) / len(found) > 0.5 for s in S.values()
    )  # fmt: skip
    precision, recall = true_positives / len(S), true_positives / len(G)
    f1 = 2 * precision * recall / (precision + recall) if true_positives else 0.0
    dice, distance = 0.0, 0.0
    for one_side, other_side in ((G, S), (S, G)):
        total = sum(len(one) for one in one_side.values())
        for one in one_side.values():
            weight = len(one) / total
            found = partner(one, other_side)
            if found is None:
                distance += weight * min(hausdorff(one, other) for other in other_side.values()) / 2
            else:
                distance += weight * hausdorff(one, found) / 2
                dice += weight * 2 * len(one & found) / (len(one) + len(found)) / 2
    return f1, dice, distance


# Pictures of objects --------------------------------------------------------------------------------------------------


def blobs(seed: int, *, threshold: float = 0.25, shape: tuple[int, int] = SHAPE, smooth: float = 2.5) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return label_objects(noise / noise.std() > threshold)


def squares(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, int)
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right] = number
    return labels


def ring() -> np.ndarray:
    """A ring whose hole is farther from it inside than its border is."""
    labels = np.zeros(SHAPE, int)
    labels[disk((20, 26), 18)] = 1
    labels[disk((20, 26), 16)] = 0
    return labels


def hole() -> np.ndarray:
    labels = np.zeros(SHAPE, int)
    labels[disk((20, 26), 17)] = 3
    return labels


def touching() -> np.ndarray:
    return squares((5, 5, 12, 12), (5, 12, 12, 25), (12, 5, 19, 25))


PAIRS = {
    "blobs": (blobs(0), blobs(1)),
    "specks": (blobs(2, smooth=0.6, threshold=1.2), blobs(3)),
    "overlapping": (blobs(4), np.roll(blobs(4), 2, axis=1)),
    "merged": (label_objects(touching() > 0), touching()),
    "split": (touching(), label_objects(touching() > 0)),
    "ring and disc": (ring(), hole()),
    "disc and ring": (hole(), ring()),
    "full image": (np.ones((20, 26), int), blobs(5, shape=(20, 26))),
    "no overlap": (squares((0, 0, 6, 6), (30, 40, 34, 46)), squares((10, 10, 20, 16), (36, 1, 39, 4), (0, 30, 4, 50))),
    "numbers with gaps": (blobs(6) * 7, blobs(7) * 1000),
    "one pixel each": (squares((0, 0, 1, 1)), squares((39, 51, 40, 52))),
}


@cache
def expected_scores(name: str) -> tuple[float, float, float]:
    return reference_scores(*PAIRS[name])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("many_pairs", [0, 10**9], ids=["distance map", "search"])
def test_scores_are_those_of_the_definitions(name: str, many_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icmoe_monai.evaluation.objects, "_MANY_PAIRS", many_pairs)
    assert object_scores([compare_objects(*PAIRS[name])]) == pytest.approx(expected_scores(name))


def test_the_definitions_are_not_constant() -> None:
    scores = [expected_scores(name) for name in PAIRS]
    for column in zip(*scores, strict=True):
        assert len({round(score, 6) for score in column}) > 4


def test_a_distance_is_scikit_images() -> None:
    """In a picture as large as a real one, of one object each, for which all pixels can be compared at once."""
    predicted, label = np.zeros((300, 400), int), np.zeros((300, 400), int)
    predicted[disk((120, 150), 90)] = 1
    label[disk((150, 190), 70)] = 1
    label[140:160, 20:200] = 1
    expected = hausdorff_distance(predicted > 0, label > 0)
    assert object_scores([compare_objects(predicted, label)]).object_hausdorff == pytest.approx(expected)
    assert expected > 20


def test_perfect_objects() -> None:
    labels = blobs(8)
    assert labels.max() > 3
    assert object_scores([compare_objects(labels, labels)]) == pytest.approx((1, 1, 0))


def test_exactly_half_is_not_found_and_one_pixel_more_is() -> None:
    label = squares((10, 10, 20, 20))
    half, more = squares((10, 10, 15, 20)), squares((10, 10, 15, 20))
    more[15, 10] = 1
    assert object_scores([compare_objects(half, label)]).object_f1 == 0
    assert object_scores([compare_objects(more, label)]).object_f1 == 1


def test_an_annotated_object_in_two_halves_is_not_found_twice() -> None:
    sums = compare_objects(squares((10, 10, 15, 20), (15, 10, 20, 20)), squares((10, 10, 20, 20)))
    assert sums[:3] == (0, 2, 1)


@pytest.mark.parametrize(
    ("predicted", "label", "expected", "counts"),
    [
        (np.zeros(SHAPE, int), np.zeros(SHAPE, int), (1, 1, 0), (0, 0, 0)),
        (np.zeros(SHAPE, int), squares((2, 2, 5, 5), (9, 9, 12, 12)), (0, 0, math.hypot(*SHAPE)), (0, 0, 2)),
        (squares((2, 2, 5, 5)), np.zeros(SHAPE, int), (0, 0, math.hypot(*SHAPE)), (0, 1, 0)),
    ],
    ids=["both", "predicted", "label"],
)
def test_empty_sides(predicted: np.ndarray, label: np.ndarray, expected: tuple, counts: tuple) -> None:
    sums = compare_objects(predicted, label)
    assert sums[:3] == counts
    assert object_scores([sums]) == pytest.approx(expected)


def test_no_object_is_farther_than_the_diagonal() -> None:
    """So that to predict nothing is never better than to predict something, anywhere."""
    worst = object_scores([compare_objects(squares((0, 0, 1, 1)), squares((39, 51, 40, 52)))]).object_hausdorff
    assert worst < object_scores([compare_objects(np.zeros(SHAPE, int), squares((39, 51, 40, 52)))]).object_hausdorff


@pytest.mark.parametrize(
    "change",
    [
        np.fliplr,
        np.transpose,
        lambda labels: np.pad(labels, ((3, 1), (0, 7))),
        lambda labels: np.where(labels, labels + 300, 0).astype(np.uint16),
    ],
    ids=["mirror", "transpose", "move", "renumber"],
)
def test_invariances(change) -> None:
    predicted, label = blobs(0), blobs(1)
    before = object_scores([compare_objects(predicted, label)])
    assert object_scores([compare_objects(change(predicted), change(label))]) == pytest.approx(before)


def test_dice_and_distance_do_not_change_when_the_sides_are_exchanged() -> None:
    forward, backward = (
        object_scores([compare_objects(*pair)]) for pair in itertools.permutations((blobs(0), blobs(1)))
    )
    assert forward[1:] == pytest.approx(backward[1:])


def test_many_images_are_scored_as_one_that_holds_all_their_objects() -> None:
    """The challenge's weights are over all objects of a test part; far apart, objects of two images do not meet."""
    pairs = [(blobs(0), blobs(1)), (blobs(4), np.roll(blobs(4), 2, axis=1))]
    gap = np.zeros((SHAPE[0], 500), int)
    joined = [np.hstack([first, gap, np.where(second, second + 100, 0)]) for first, second in zip(*pairs, strict=True)]
    pooled = object_scores([compare_objects(*pair) for pair in pairs])
    assert pooled == pytest.approx(object_scores([compare_objects(*joined)]))
    each = [object_scores([compare_objects(*pair)]) for pair in pairs]
    assert pooled != pytest.approx(tuple(np.mean(each, axis=0)))


def test_an_image_without_objects_changes_no_pooled_score() -> None:
    sums = compare_objects(blobs(0), blobs(1))
    nothing = compare_objects(np.zeros(SHAPE, int), np.zeros(SHAPE, int))
    assert object_scores([sums, nothing]) == object_scores([sums])
    assert nothing == ObjectSums(0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
    assert isinstance(object_scores([nothing]), ObjectScores)


def test_components_touch_by_corners_and_small_ones_can_be_left_out() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[1, 1] = mask[3:5, 3:6] = mask[0, 7] = True
    assert np.unique(label_objects(mask)).tolist() == [0, 1, 2, 3]
    kept = label_objects(mask, min_pixels=2)
    assert (np.unique(kept).tolist(), kept[1, 1], kept[0, 7], kept[3, 3]) == ([0, 1, 2], 1, 0, 2)
    assert not label_objects(mask, min_pixels=100).any()


@pytest.mark.parametrize(
    ("predicted", "label", "message"),
    [
        (
            np.zeros((1, 4, 4), int),
            np.zeros((4, 4), int),
            r"must be \(H, W\) of integers from 0 on, got int64 \(1, 4, 4\)",
        ),
        (np.zeros((4, 4)), np.zeros((4, 4), int), "must be .* integers from 0 on, got float64"),
        (np.full((4, 4), -1), np.zeros((4, 4), int), "with the minimum -1"),
        (np.zeros((4, 5), int), np.zeros((4, 4), int), r"predicted must be \(4, 4\) .* got \(4, 5\)"),
    ],
    ids=["axes", "floats", "negative", "sizes"],
)
def test_what_is_no_map_of_objects(predicted: np.ndarray, label: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_objects(predicted, label)


def test_objects_in_files(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 1], [300, 0, 2]], np.uint16)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert read_objects(str(tmp_path / "a.png")).tolist() == labels.tolist()
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg does not number objects by 0, 1, 2"):
        read_objects(str(tmp_path / "a.jpg"))
    Image.fromarray(labels.astype(np.float32) / 2).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif does not number objects"):
        read_objects(str(tmp_path / "a.tif"))
