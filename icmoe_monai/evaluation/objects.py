"""Scores of segmented objects, as the GlaS challenge defines them: object F1, object Dice, object Hausdorff distance.

Source: Sirinukunwattana et al., "Gland segmentation in colon histology images: The GlaS challenge contest", Medical
Image Analysis 35 (2017), doi 10.1016/j.media.2016.08.008; the definitions are on
https://glas.grand-challenge.org/Evaluation.

There are two *sides*, the annotation and the prediction. The *partner* of an object is the object of the other side
that shares most pixels with it (if several share equally many, the one with the lowest number).

- F1: a segmented object is a true positive if it covers more than half of its partner, else a false positive; the
  number of false negatives is that of the annotated objects less that of the true positives. The paper says "at least
  50%", but the organisers' code asks for more than half, and only this prevents an annotated object from being found
  twice; this module follows the code.
- Object Dice: the Dice of every object with its partner (0 without a partner), weighted by the object's share of the
  area of its side, averaged over the two sides.
- Object Hausdorff, in pixels: the Hausdorff distance between all pixels of an object and all pixels of its partner,
  weighted and averaged in the same way; an object that shares no pixel with any other is compared with the object of
  the other side at the smallest Hausdorff distance.

The challenge takes weights and counts over all images of a test part at once; therefore each image gives sums, and the
scores follow from the added sums of one or many images. Both sides empty: F1 = Dice = 1, distance 0. One side empty:
F1 = Dice = 0, and the distance is the image's diagonal (infinity in the challenge).

Letters: H W image size; N objects of one side; M objects of the other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]
from scipy.spatial import KDTree
from skimage.measure import label as label_components
from skimage.measure import regionprops
from skimage.metrics import contingency_table
from skimage.segmentation import find_boundaries, relabel_sequential

_MANY_PAIRS = 300_000  # pairs of pixels from which a distance transform of the whole image is faster than a search


class ObjectSums(NamedTuple):
    """Hold what one image adds to the scores: counts of objects and, for each side, area-weighted sums.

    `*_area` is the number of the objects' pixels; `*_dice` is the sum of area x Dice over the objects, and `*_distance`
    that of area x Hausdorff distance (pixels).
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    label_area: int
    predicted_area: int
    label_dice: float
    predicted_dice: float
    label_distance: float
    predicted_distance: float


class ObjectScores(NamedTuple):
    """Hold the three scores: object F1 and object Dice in 0..1, and object Hausdorff distance in pixels."""

    object_f1: float
    object_dice: float
    object_hausdorff: float


def object_scores(sums: Iterable[ObjectSums]) -> ObjectScores:
    """Compute the three scores of one image, or of many images together.

    Args:
        sums: The result of `compare_objects` for each image.

    Example:
        >>> predicted, label = np.array([[1, 1, 1, 0, 2]]), np.array([[1, 1, 0, 0, 0]])
        >>> [round(score, 3) for score in object_scores([compare_objects(predicted, label)])]
        [0.667, 0.7, 1.375]
    """
    total = ObjectSums(*(sum(column) for column in zip(*sums, strict=True)))
    num_objects = 2 * total.true_positives + total.false_positives + total.false_negatives
    sides = [
        (total.label_area, total.label_dice, total.label_distance),
        (total.predicted_area, total.predicted_dice, total.predicted_distance),
    ]
    if not num_objects:
        return ObjectScores(1.0, 1.0, 0.0)
    dice = sum(dice / area for area, dice, _ in sides if area) / 2
    distances = [distance / area for area, _, distance in sides if area]
    return ObjectScores(2 * total.true_positives / num_objects, dice, sum(distances) / len(distances))


def compare_objects(predicted: np.ndarray, label: np.ndarray) -> ObjectSums:
    """Compare the objects of a predicted map with those of the annotation.

    Args:
        predicted: Map of the predicted objects, (H, W), integers: 0 is the background, every other number an object.
        label: Map of the annotated objects, in the same form.

    Raises:
        ValueError: If one of the two is not such a map, or they differ in size.
    """
    sides = _Objects(_checked(label)), _Objects(_checked(predicted))
    if label.shape != predicted.shape:
        raise ValueError(f"predicted must be {label.shape} (H, W) like label, got {predicted.shape}.")
    overlaps = contingency_table(sides[0].map, sides[1].map).toarray()  # (1 + N, 1 + M), the background first
    areas = overlaps.sum(1)[1:], overlaps.sum(0)[1:]
    overlaps = overlaps[1:, 1:]
    if not overlaps.size:
        diagonal = math.hypot(*label.shape)
        label_area, predicted_area = (int(side.sum()) for side in areas)
        distances = label_area * diagonal, predicted_area * diagonal
        return ObjectSums(0, len(areas[1]), len(areas[0]), label_area, predicted_area, 0.0, 0.0, *distances)
    partners = overlaps.argmax(0)
    num_found = int((2 * overlaps.max(0) > areas[0][partners]).sum())
    distance = lru_cache(maxsize=None)(lambda i, j: _hausdorff(sides[0], i, sides[1], j))
    bounds = _lower_bounds(*sides)
    label_dice, label_distance = _weighted_sums(overlaps, *areas, distance, bounds)
    predicted_dice, predicted_distance = _weighted_sums(overlaps.T, *areas[::-1], lambda j, i: distance(i, j), bounds.T)
    return ObjectSums(
        true_positives=num_found,
        false_positives=len(areas[1]) - num_found,
        false_negatives=len(areas[0]) - num_found,
        label_area=int(areas[0].sum()),
        predicted_area=int(areas[1].sum()),
        label_dice=label_dice,
        predicted_dice=predicted_dice,
        label_distance=label_distance,
        predicted_distance=predicted_distance,
    )


def label_objects(mask: np.ndarray, *, min_pixels: int = 1) -> np.ndarray:
    """Number the connected components of a mask; pixels that touch by a corner are connected.

    Args:
        mask: (H, W), bool.
        min_pixels: Components with fewer pixels are left out. By default none is: a speck counts as an object, as in
            the challenge, where removing specks belongs to the method and not to the score.

    Returns:
        Map of the components, (H, W), int32: 0 is the background, the components are numbered from 1.

    Example:
        >>> label_objects(np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool))
        array([[1, 0, 0, 2],
               [0, 1, 0, 0]], dtype=int32)
    """
    components = label_components(mask)
    num_pixels = np.bincount(components.ravel())
    return relabel_sequential(np.where(num_pixels[components] < min_pixels, 0, components))[0]


class _Objects:
    """Hold the objects of one side, numbered from 0, with their pixels, borders and bounding boxes for distances."""

    def __init__(self, labels: np.ndarray) -> None:
        self.map = relabel_sequential(labels)[0]  # object i has the number i + 1

    @cached_property
    def pixels(self) -> list[np.ndarray]:
        return [region.coords for region in regionprops(self.map)]

    @cached_property
    def borders(self) -> list[KDTree]:
        is_border = find_boundaries(self.map, connectivity=1, mode="inner")
        # an object without a border fills the image, so that no pixel outside it is ever queried
        return [KDTree(pixels[is_border[tuple(pixels.T)]]) for pixels in self.pixels]

    @cached_property
    def boxes(self) -> np.ndarray:
        return np.array([[*pixels.min(0), *pixels.max(0)] for pixels in self.pixels])  # (N, 4)


def _checked(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        found = f"{labels.dtype} {labels.shape} with the minimum {labels.min(initial=0)}"
        raise ValueError(f"A map of objects must be (H, W) of integers from 0 on, got {found}.")
    return labels


def _weighted_sums(
    overlaps: np.ndarray,
    areas: np.ndarray,
    other_areas: np.ndarray,
    distance: Callable[[int, int], float],
    bounds: np.ndarray,
) -> tuple[float, float]:
    """Return the sums of area x Dice and of area x Hausdorff distance over the N objects of one side."""
    partners, shared = overlaps.argmax(1), overlaps.max(1)
    dice = 2 * shared / (areas + other_areas[partners])
    distances = [
        distance(i, int(partners[i])) if shared[i] else _smallest_distance(i, distance, bounds[i])
        for i in range(len(areas))
    ]
    return float(areas @ dice), float(areas @ distances)


def _smallest_distance(i: int, distance: Callable[[int, int], float], bounds: np.ndarray) -> float:
    """Return the distance from object i to the closest of the M objects of the other side.

    `bounds`, (M,), are lower bounds of the distances, which make most comparisons unnecessary.
    """
    smallest = math.inf
    for j in np.argsort(bounds, kind="stable"):
        if bounds[j] >= smallest:
            break
        smallest = min(smallest, distance(i, int(j)))
    return smallest


def _lower_bounds(first: _Objects, second: _Objects) -> np.ndarray:
    """Return lower bounds of the Hausdorff distances, (N, M): the largest offset of bounding-box edges."""
    return np.abs(first.boxes[:, None] - second.boxes[None]).max(-1)


def _hausdorff(first: _Objects, i: int, second: _Objects, j: int) -> float:
    return max(_directed(first, i, second, j), _directed(second, j, first, i))


def _directed(first: _Objects, i: int, second: _Objects, j: int) -> float:
    """Return the directed Hausdorff distance from object i of one side to object j of the other.

    It is the distance of that pixel of object i that is farthest from object j. Only the border of object j is
    searched, since the pixel of object j nearest to a pixel outside it lies on its border. The result is that of
    `skimage.metrics.hausdorff_distance` in one direction, which searches all pixels.
    """
    pixels = first.pixels[i]
    outside = pixels[second.map[tuple(pixels.T)] != j + 1]
    if not len(outside):
        return 0.0
    if len(outside) * second.borders[j].n > _MANY_PAIRS:
        return float(distance_transform_edt(second.map != j + 1)[tuple(outside.T)].max())
    return float(second.borders[j].query(outside)[0].max())
