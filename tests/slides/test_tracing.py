"""Outlines of masks: as many as there are objects, and drawn again the mask, however its rows are cut into strips."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon
from skimage.measure import label

from icmoe_monai.slides import tracing
from icmoe_monai.slides.tracing import TOLERANCE, Found, Tracer


def traced(mask: np.ndarray, *, step: int = 7, probabilities: np.ndarray | None = None) -> list[Found]:
    tracer = Tracer(mask.shape[1])
    found: list[Found] = []
    probabilities = mask * 0.5 if probabilities is None else probabilities
    for top in range(0, len(mask), step):
        found += tracer.add(mask[top : top + step], probabilities[top : top + step])
    return [*found, *tracer.finish()]


def drawn(found: list[Found], shape: tuple[int, ...]) -> np.ndarray:
    """The pixels whose middles lie within the outer outlines and not within those of holes."""
    mask = np.zeros(shape, dtype=np.uint8)
    for one in found:
        part = np.zeros(shape, dtype=bool)
        for number, outline in enumerate(one.outlines):
            part[polygon(*(outline.T - 0.5), shape)] = number == 0
        assert part.sum() == one.num_pixels
        assert not mask[part].any()
        mask[part] = one.number
    return mask


def blobs(seed: int, shape: tuple[int, int], *, num_classes: int = 1, smooth: float = 1.5) -> np.ndarray:
    random, mask = np.random.default_rng(seed), np.zeros(shape, dtype=np.uint8)
    for number in range(1, num_classes + 1):
        heights = ndimage.gaussian_filter(random.random(shape), smooth)
        mask[heights > np.quantile(heights, 0.6)] = number
    return mask


CASES = {
    "blobs with holes": blobs(0, (61, 47)),
    "three classes that touch": blobs(1, (61, 47), num_classes=3),
    "noise": blobs(2, (40, 33), smooth=0),
    "stripes that touch the seams": np.repeat(np.uint8([1, 0] * 20), 7)[:, None] * np.ones((1, 9), np.uint8),
    "one pixel": np.pad(np.ones((1, 1), np.uint8), 20),
    "single pixels": (np.indices((30, 30)) % 3 == 0).all(axis=0).astype(np.uint8),
    "checkers, which touch by their corners": (np.indices((30, 30)).sum(axis=0) % 2).astype(np.uint8),
    "everything": np.ones((50, 30), np.uint8),
    "a ring at the border": np.pad(np.zeros((48, 28), np.uint8), 1, constant_values=1),
    "a ring in a ring": np.pad(np.pad(np.pad(np.ones((9, 9), np.uint8), 6), 2, constant_values=1), 3),
    "nothing": np.zeros((50, 30), np.uint8),
    "one column": blobs(3, (50, 1), smooth=0),
    "one row": blobs(4, (1, 50), smooth=0),
}


@pytest.mark.parametrize("step", [1, 7, 64])
@pytest.mark.parametrize("mask", CASES.values(), ids=CASES)
def test_outlines_drawn_again_are_the_mask(mask: np.ndarray, step: int) -> None:
    found = traced(mask, step=step)
    np.testing.assert_array_equal(drawn(found, mask.shape), mask)
    assert len(found) == label(mask, connectivity=2, background=0).max()  # objects cut by seams are one


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = blobs(5, (90, 70), num_classes=2)

    def told(found: list[Found]) -> list[tuple]:
        return sorted((one.number, one.num_pixels, sorted(map(np.ndarray.tolist, one.outlines))) for one in found)

    whole = told(traced(mask, step=90))
    assert told(traced(mask, step=1)) == whole
    monkeypatch.setattr(tracing, "_AT_ONCE", 70 * 3)  # parts of three rows
    assert told(traced(mask, step=90)) == whole


@pytest.mark.parametrize("seed", range(4))
def test_a_simplified_outline_stays_within_the_tolerance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = blobs(seed, (80, 80), smooth=2)
    simple = traced(mask)
    monkeypatch.setattr(tracing, "TOLERANCE", 0)
    exact = traced(mask)
    saved = 0
    for one, other in zip(simple, exact, strict=True):
        for line, true in zip(one.outlines, other.outlines, strict=True):
            assert max(_distance(line, true), _distance(true, line)) <= TOLERANCE + 1e-9  # Hausdorff's
            saved += len(true) - len(line)
    assert saved > 200


def _distance(points: np.ndarray, line: np.ndarray) -> float:
    """The largest distance of any place along an outline from another."""
    along = np.concatenate([begin + (end - begin) * np.linspace(0, 1, 9)[:, None] for begin, end in pairwise(points)])
    begins, steps = line[:-1], np.diff(line, axis=0)
    share = ((along[:, None] - begins) * steps).sum(-1) / np.maximum((steps**2).sum(-1), 1e-12)
    nearest = begins + steps * share.clip(0, 1)[..., None]
    return float(np.linalg.norm(along[:, None] - nearest, axis=-1).min(axis=1).max())


@pytest.mark.parametrize("seed", range(3))
def test_outlines_neither_cross_nor_touch(seed: int) -> None:
    found = traced(blobs(seed, (40, 40), smooth=0.7))
    sides = [pair for one in found for line in one.outlines for pair in pairwise(line)]
    begin, end = (np.array([side[k] for side in sides]) for k in (0, 1))

    def turns(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        (ab, ac) = b - a, c - a
        return np.sign((ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]).round(9))

    p, q, r, s = begin[:, None], end[:, None], begin[None], end[None]
    shares = (np.abs(p - r).max(-1) < 1e-9) | (np.abs(p - s).max(-1) < 1e-9)
    shares |= (np.abs(q - r).max(-1) < 1e-9) | (np.abs(q - s).max(-1) < 1e-9)
    meets = (turns(p, q, r) * turns(p, q, s) <= 0) & (turns(r, s, p) * turns(r, s, q) <= 0)
    collinear = (turns(p, q, r) == 0) & (turns(p, q, s) == 0)
    apart = (np.maximum(p, q) < np.minimum(r, s)).any(-1) | (np.maximum(r, s) < np.minimum(p, q)).any(-1)
    assert not (meets & ~shares & ~(collinear & apart)).any()
    corners = [tuple(point) for one in found for line in one.outlines for point in line[:-1]]
    assert len(corners) == len(set(corners))


def test_pixels_and_probabilities_are_those_of_the_object() -> None:
    mask, random = blobs(6, (60, 50), num_classes=2), np.random.default_rng(0)
    probabilities = random.random(mask.shape)
    parts = label(mask, connectivity=2, background=0)
    expected = sorted(
        (int(mask[parts == n][0]), int((parts == n).sum()), probabilities[parts == n].mean())
        for n in range(1, parts.max() + 1)
    )
    found = sorted((one.number, one.num_pixels, one.probability) for one in traced(mask, probabilities=probabilities))
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    np.testing.assert_allclose([one[2] for one in found], [one[2] for one in expected])


def test_what_has_ended_is_let_go() -> None:
    """A mask of any height has only the objects in memory that reach its last row."""
    tracer, mask = Tracer(40), np.zeros((6, 40), np.uint8)
    mask[1:4, ::4] = mask[1:4, 1::4] = 1
    for _ in range(50):
        assert len(list(tracer.add(mask, mask))) == 10
        assert not tracer._growing
        assert not tracer._begun
        assert not tracer._ended
