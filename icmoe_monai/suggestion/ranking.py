"""Which images to label next: those whose like are many among the images, and few among the labelled ones.

The pooled features x of an image, of the frozen parts, are brought to unit length. How alike two images are is
k(x, y) = exp(-|x - y|^2 / (2 h^2)), with h 0.8 times the root mean square distance of the pool's images. The score of
image i is

  sum_j w_j k(x_i, x_j) / sum_j w_j  -  sum_s k(x_i, x_s) / (n + 1)

where j are all images, and s the n that are labelled or chosen already. The first term is the share of its like among
all images, in which w_j = 1/2 + r_j makes doubtful images count more: r_j is the share of the pool that is less
doubtful, and the labelled images have the mean weight. The second term is the share of its like among the labelled
images. The image of the largest score is chosen, counts as labelled from then on, and so the next one. An image that is
nearer than h / 3 to a labelled or chosen one, a near-duplicate, is only chosen once nothing else is left.

This is kernel herding (Chen, Welling and Smola, 2010): each choice is the one that brings the labelled images nearest
to all images, as the maximum mean discrepancy has it. What is rare is not chosen for being rare alone, as few images
would profit from its label.

Letters: N images of the pool; K labelled images, or prototypes of these; F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from icmoe_monai.data.splits import take_evenly

_MOST_WITNESSES = 4000  # images that stand for all of the pool, taken at even steps: N x 4000 likenesses in memory
_WIDTH = 0.8
_NEAR = 1 / 3  # of h
_BEHIND = 10.0  # what a near-duplicate's score is lowered by: more than scores differ


class Ranking(NamedTuple):
    """Hold the images that were chosen, the best first.

    Attributes:
        places: Their places in the pool.
        scores: Their scores as they were chosen.
        among_all: Share of the like of each among all images, by doubt, 0..1.
        among_labelled: The same among the labelled images and those chosen before it, as the score takes it.
        distances: Distance of every image of the pool from the nearest labelled one, (N,); infinite without any.
    """

    places: list[int]
    scores: list[float]
    among_all: list[float]
    among_labelled: list[float]
    distances: np.ndarray


def rank_images(
    features: np.ndarray, known: np.ndarray | None, doubts: Sequence[float] | np.ndarray, *, number: int
) -> Ranking:
    """Choose the images to label next.

    Args:
        features: Pooled features of the pool's images, (N, F).
        known: The same of what is labelled already, (K, F); None or empty: nothing is.
        doubts: How doubtful the mask of each image of the pool is, (N,), in any unit: only their order counts.
        number: How many images to choose; of a smaller pool all are.

    Returns:
        The choice.

    Raises:
        ValueError: If the shapes do not fit, or a number is not finite.

    Example:
        >>> pool = np.array([[1.0, 0.01], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])  # one like the known, three of a kind
        >>> rank_images(pool, np.array([[1.0, 0.0]]), np.zeros(4), number=1).places
        [2]
    """
    doubts = np.asarray(doubts, dtype=float)
    if features.ndim != 2 or doubts.shape != features.shape[:1]:
        raise ValueError(f"features must be (N, F) and doubts (N,), got {features.shape} and {doubts.shape}.")
    if not (np.isfinite(features).all() and np.isfinite(doubts).all()):
        raise ValueError("features and doubts must be finite.")
    x = _unit(features)
    labelled = _unit(known) if known is not None and len(known) else x[:0]
    witnesses = np.array(take_evenly(range(len(x)), min(len(x), _MOST_WITNESSES))[0], dtype=int)
    apart, from_labelled = _distances(x, x[witnesses]), _distances(x, labelled)
    h = max(_WIDTH * float(np.sqrt(np.mean(np.square(apart)))), 1e-6)
    weights = (0.5 + (rankdata(doubts) - 1) / max(1, len(x) - 1))[witnesses]
    to_labelled = _likeness(from_labelled, h).sum(1)
    total = weights.sum() + weights.mean() * len(labelled)
    among_all = (_likeness(apart, h) @ weights + weights.mean() * to_labelled) / total
    distances = from_labelled.min(1, initial=np.inf)
    is_near, n = distances < _NEAR * h, len(labelled)
    found = Ranking([], [], [], [], distances)
    is_chosen = np.zeros(len(x), dtype=bool)
    for _ in range(min(number, len(x))):
        among_labelled = to_labelled / (n + 1)
        score = among_all - among_labelled
        place = int(np.where(is_chosen, -np.inf, score - _BEHIND * is_near).argmax())
        found.places.append(place)
        found.scores.append(float(score[place]))
        found.among_all.append(float(among_all[place]))
        found.among_labelled.append(float(among_labelled[place]))
        to_chosen = _distances(x, x[place : place + 1])[:, 0]
        to_labelled = to_labelled + _likeness(to_chosen, h)
        is_near, is_chosen[place], n = is_near | (to_chosen < _NEAR * h), True, n + 1
    return found


def _unit(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), dtype=float)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distances of vectors of unit length, float32 (N, M)."""
    return np.sqrt(np.maximum(2 - 2 * (x @ y.T), 0)).astype(np.float32)


def _likeness(distances: np.ndarray, h: float) -> np.ndarray:
    return np.asarray(np.exp(-np.square(distances / h) / 2))
