"""Trace the outlines of what was found in a slide, row by row, so that only objects that may still grow are in memory.

An object is a set of pixels of one class that touch by a side or a corner (8-connected; so its holes, and what lies
around it, are 4-connected). Its outlines run halfway between the middles of pixels in it and beside it (marching
squares), the outer one first, then those of its holes. They are simplified by a third of a pixel at most (Douglas and
Peucker). As no unsimplified outline comes nearer to a pixel's middle than 0.35, and no two nearer to each other than
0.7, simplified ones hold the same middles and do not cross: drawn again on the same grid, they are the mask.

Letters: H W size of the mask; h rows that are added at once; N points of an outline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import approximate_polygon, find_contours, label

TOLERANCE = 1 / 3  # of a pixel of the mask
_AT_ONCE = 1 << 18  # pixels, of which marching squares may list hundreds of bytes each
_Point = tuple[int, float, float]  # of a class: where two classes meet, the outlines of both have one


@dataclass
class Found:
    """An object.

    Attributes:
        number: Of its class, from 1.
        num_pixels: Of the object, without its holes.
        probability: Mean of its pixels' probabilities.
        outlines: Closed ones, (N, 2) of row and column each, in pixels from the mask's corner, not from the middle of
            its first pixel: the outer one, then those of holes.
    """

    number: int
    num_pixels: int = 0
    probability: float = 0.0
    outlines: list[np.ndarray] = field(default_factory=list)

    def join(self, other: Found) -> None:
        """Take over what was found of another object, which turns out to be the same.

        Args:
            other: The other, of the same class.
        """
        num_pixels = self.num_pixels + other.num_pixels
        if num_pixels:
            mean = self.probability * self.num_pixels + other.probability * other.num_pixels
            self.probability = mean / num_pixels
        self.num_pixels = num_pixels
        self.outlines += other.outlines


class Tracer:
    """Find the objects of a mask whose rows are added from top to bottom.

    Args:
        width: W.

    Example:
        >>> mask = np.zeros((6, 8), np.uint8)
        >>> mask[1:5, 2:7], mask[2:4, 3:5] = 1, 0
        >>> tracer = Tracer(8)
        >>> found = [*tracer.add(mask[:3], mask[:3] * 0.5), *tracer.add(mask[3:], mask[3:] * 0.5), *tracer.finish()]
        >>> [(one.num_pixels, one.probability, len(one.outlines)) for one in found]
        [(16, 0.5, 2)]
    """

    def __init__(self, width: int) -> None:
        self._num_rows = 0
        self._last = np.zeros(width + 2, dtype=np.uint8)  # the last row, between two empty columns
        self._is_in = np.zeros(width + 2, dtype=np.int64)  # which of the growing objects its pixels are in, from 1
        self._growing: list[Found] = []
        self._begun: dict[_Point, list[np.ndarray]] = {}  # open outlines, by the points where they begin
        self._ended: dict[_Point, list[np.ndarray]] = {}  # and where they end so far

    def add(self, classes: np.ndarray, probabilities: np.ndarray) -> Iterator[Found]:
        """Add the next rows, and yield the objects that end above their last one.

        Args:
            classes: Class of each pixel, 0 for none, uint8 (h, W).
            probabilities: Probability of that class, (h, W), 0..1.
        """
        step = max(1, _AT_ONCE // classes.shape[1])
        for top in range(0, len(classes), step):
            yield from self._add(classes[top : top + step], probabilities[top : top + step])

    def finish(self) -> Iterator[Found]:
        """Yield the objects that reach the last row."""
        empty = np.zeros((1, len(self._last) - 2), dtype=np.uint8)
        yield from self._add(empty, empty)

    def _add(self, classes: np.ndarray, probabilities: np.ndarray) -> Iterator[Found]:
        rows = np.zeros((len(classes) + 1, len(self._last)), dtype=np.uint8)
        rows[0], rows[1:, 1:-1] = self._last, classes
        parts = label(rows, connectivity=2, background=0)
        objects, object_of = self._joined(rows, parts, probabilities)
        self._trace(rows, parts, objects, object_of)
        going_on, is_in = np.unique(object_of[parts[-1]], return_inverse=True)
        if going_on[0] == 0:
            going_on = going_on[1:]
        else:
            is_in = is_in + 1
        self._growing, self._is_in = [objects[index] for index in going_on], is_in.astype(np.int64)
        self._last = rows[-1]
        self._num_rows += len(classes)
        for index in np.setdiff1d(np.arange(1, len(objects)), going_on):
            yield _in_order(objects[index])

    def _joined(self, rows: np.ndarray, parts: np.ndarray, probabilities: np.ndarray) -> tuple[list[Found], np.ndarray]:
        """Return the objects, from 1, with their new pixels counted, and which of them each part is, 0 for part 0."""
        num_growing, num_parts = len(self._growing), int(parts.max())
        shared = np.unique(np.stack([self._is_in, parts[0]])[:, parts[0] > 0], axis=1) - 1
        nodes = num_growing + num_parts
        links = coo_array((np.ones(shared.shape[1], bool), (shared[0], shared[1] + num_growing)), shape=(nodes, nodes))
        num_objects, of_nodes = connected_components(links, directed=False)
        new = parts[1:, 1:-1].ravel()
        counts = np.bincount(new, minlength=num_parts + 1)
        sums = np.bincount(new, weights=probabilities.ravel(), minlength=num_parts + 1)
        numbers = np.zeros(num_parts + 1, dtype=np.uint8)
        numbers[parts] = rows
        objects = [Found(0) for _ in range(num_objects + 1)]
        for node, one in enumerate(self._growing):
            objects[of_nodes[node] + 1].number = one.number
            objects[of_nodes[node] + 1].join(one)
        for part in range(1, num_parts + 1):
            one = objects[of_nodes[num_growing + part - 1] + 1]
            one.number = int(numbers[part])
            num_pixels = int(counts[part])
            one.join(Found(one.number, num_pixels, float(sums[part]) / max(num_pixels, 1)))
        return objects, np.concatenate([[0], of_nodes[num_growing:] + 1])

    def _trace(self, rows: np.ndarray, parts: np.ndarray, objects: list[Found], object_of: np.ndarray) -> None:
        for number in np.unique(rows):
            if number == 0:
                continue
            is_class, shift = rows == number, np.array([self._num_rows - 0.5, -0.5])
            for curve in find_contours(is_class, 0.5, fully_connected="high"):
                (row, column), (next_row, next_column) = np.floor(curve[0]).astype(int), np.ceil(curve[0]).astype(int)
                place = (row, column) if is_class[row, column] else (next_row, next_column)
                closed = self._extended(int(number), curve + shift)
                if closed is not None:
                    objects[object_of[parts[place]]].outlines.append(_simplified(closed))

    def _extended(self, number: int, curve: np.ndarray) -> np.ndarray | None:
        """Join a curve with those that end where it begins, and begin where it ends; return what that closes."""
        begin, end = (_point(number, curve[place]) for place in (0, -1))
        if begin == end:
            return curve
        before, after = self._ended.pop(begin, None), self._begun.pop(end, None)
        whole = [curve] if before is None else before
        if before is not None:
            whole.append(curve[1:])
        if after is whole:
            return np.concatenate(whole)
        if before is None:
            self._begun[begin] = whole
        if after is not None:
            whole += [after[0][1:], *after[1:]]
            end = _point(number, whole[-1][-1])
        self._ended[end] = whole
        return None


def _point(number: int, place: np.ndarray) -> _Point:
    return number, float(place[0]), float(place[1])


def _simplified(outline: np.ndarray) -> np.ndarray:
    """Simplify a closed outline from its first point on, row by row, so that it does not matter where tracing began."""
    first = np.lexsort((outline[:-1, 1], outline[:-1, 0]))[0]
    rolled = np.roll(outline[:-1], -first, axis=0)
    simple: np.ndarray = approximate_polygon(np.concatenate([rolled, rolled[:1]]), TOLERANCE)
    return simple


def _in_order(found: Found) -> Found:
    """Put the outer outline first, which is the largest."""
    found.outlines.sort(key=lambda outline: -abs(signed_area(outline)))
    return found


def signed_area(outline: np.ndarray) -> float:
    """Return the area within a closed outline, above 0 if it goes round from the axis of columns to that of rows.

    Args:
        outline: (N, 2) of row and column.
    """
    rows, columns = (outline - outline[0]).T
    return float(columns[:-1] @ rows[1:] - columns[1:] @ rows[:-1]) / 2
