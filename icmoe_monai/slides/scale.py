"""Show a large image at a wanted physical scale: a level of its pyramid, made smaller where none has that scale.

Letters: H W size of an image.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from PIL import Image

from icmoe_monai.slides.tiff import UnreadableImageError

_NEAR_ENOUGH = 0.05  # share by which a level's scale may differ from the wanted one


class Source(Protocol):
    """Interface of the image that is made smaller: `slides.images.LargeImage`."""

    shape: tuple[int, int]
    levels: tuple[tuple[int, int], ...]
    spacing_um: tuple[float, float] | None

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region as RGB, uint8 (height, width, 3)."""

    def close(self) -> None:
        """Close the file."""


def choose_level(path: str, full: Source, um_per_pixel: float) -> int:
    """Return the level of a pyramid whose scale is the wanted one, or the next finer one.

    Args:
        path: The file, for messages.
        full: The image at its full size.
        um_per_pixel: Wanted micrometres per pixel.

    Raises:
        UnreadableImageError: If the file does not tell its scale, or the full size is coarser than wanted.
    """
    if full.spacing_um is None:
        raise UnreadableImageError(
            f"{path} does not tell the size of its pixels, so um_per_pixel chooses no level of it: give level instead."
        )
    steps = [
        max(step * side / own for step, side, own in zip(full.spacing_um, full.shape, size, strict=True))
        for size in full.levels
    ]
    fine = [level for level, step in enumerate(steps) if step <= um_per_pixel * (1 + _NEAR_ENOUGH)]
    if not fine:
        raise UnreadableImageError(
            f"{path} has {steps[0]:.4g} micrometres per pixel at its full size, which is coarser than um_per_pixel "
            f"({um_per_pixel:g}): give {steps[0]:.4g} or more."
        )
    return max(fine, key=lambda level: steps[level])


def at_scale(image: Source, um_per_pixel: float) -> Source:
    """Return an image at a wanted scale; the image itself where it has it, but for 5 %.

    Args:
        image: The image, which tells its scale and is not coarser than wanted, but for 5 %.
        um_per_pixel: Wanted micrometres per pixel.
    """
    steps: Any = image.spacing_um
    if all(abs(step / um_per_pixel - 1) <= _NEAR_ENOUGH for step in steps):
        return image
    return SmallerImage(image, (um_per_pixel / steps[0], um_per_pixel / steps[1]))


class SmallerImage:
    """Make an image smaller region by region; how it is cut into regions changes no pixel.

    Args:
        image: The image.
        factors: By how much rows and columns are fewer, about.

    Attributes:
        shape: (H, W).
        levels: (H, W) of each level of the file.
        spacing_um: Micrometres between rows and between columns.
    """

    def __init__(self, image: Source, factors: tuple[float, float]) -> None:
        self._image = image
        height, width = (max(1, round(side / factor)) for side, factor in zip(image.shape, factors, strict=True))
        self.shape, self.levels = (height, width), image.levels
        self._factors = (image.shape[0] / height, image.shape[1] / width)
        step = image.spacing_um
        self.spacing_um = None if step is None else (step[0] * self._factors[0], step[1] * self._factors[1])

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region, means with a triangle of weights, as RGB, uint8 (height, width, 3)."""
        (y, y_end, first, rows), (x, x_end, begin, columns) = (
            self._span(axis, start, length) for axis, (start, length) in enumerate(((top, height), (left, width)))
        )
        pixels = Image.fromarray(self._image.read(first, begin, rows, columns))
        box = (x - begin, y - first, x_end - begin, y_end - first)
        return np.asarray(pixels.resize((width, height), Image.Resampling.BILINEAR, box=box))

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def _span(self, axis: int, start: int, length: int) -> tuple[float, float, int, int]:
        """Return where a region begins and ends on the source, and the first and the number of the pixels it needs."""
        factor, side = self._factors[axis], self._image.shape[axis]
        begin, end = start * factor, min((start + length) * factor, side)
        margin = max(factor, 1.0) + 1  # as wide as the triangle
        first, last = max(0, math.floor(begin - margin)), min(side, math.ceil(end + margin))
        return begin, end, first, last - first
