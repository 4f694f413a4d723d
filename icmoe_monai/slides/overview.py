"""A small picture of a large image, gathered from the regions that are read anyway.

Letters: H W size of the image; f the factor, a power of two, by which the picture is smaller.
"""

from __future__ import annotations

import numpy as np

from icmoe_monai.slides.images import LargeImage


class Overview:
    """A `LargeImage` that notes what is read of another, whole rows at a time and from top to bottom.

    Args:
        image: The other image.
        longest_side: The picture's longest side is at most this.

    Attributes:
        level: log2 f, the level of a pyramid of halves that has the picture's size.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from icmoe_monai.slides.images import PlainImage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.linear_gradient("L").save(f"{folder}/a.png")
        ...     overview = Overview(PlainImage(f"{folder}/a.png"), longest_side=2)
        >>> _ = [overview.read(top, 0, 56, 256) for top in (0, 50, 100, 150, 200)]
        >>> overview.level, overview.picture()[:, 0, 0].tolist()
        (7, [64, 192])
    """

    def __init__(self, image: LargeImage, *, longest_side: int = 2048) -> None:
        self._image = image
        self.shape, self.spacing_um = image.shape, image.spacing_um
        self.level = 0
        while -(-max(self.shape) // 2**self.level) > longest_side:
            self.level += 1
        height, width = (-(-side // 2**self.level) for side in self.shape)
        self._sums = np.zeros((height, width, 3), dtype=np.uint32)
        self._num_rows = 0

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region, uint8 (height, width, 3), and note its new rows if it is as wide as the image."""
        region = self._image.read(top, left, height, width)
        if width == self.shape[1] and top <= self._num_rows < top + height:
            self._note(region[self._num_rows - top :])
        return region

    def close(self) -> None:
        """Close the image."""
        self._image.close()

    def picture(self) -> np.ndarray:
        """Return the means of squares of f x f pixels, uint8 (H / f, W / f, 3), rounded up at the edges."""
        f = 2**self.level
        tall, wide = (np.minimum(f, side - np.arange(0, side, f)) for side in self.shape)
        return np.rint(self._sums / (tall[:, None] * wide)[..., None]).astype(np.uint8)

    def _note(self, rows: np.ndarray) -> None:
        f = 2**self.level
        across = np.add.reduceat(rows, np.arange(0, self.shape[1], f), axis=1, dtype=np.uint32)
        first, end = self._num_rows, self._num_rows + len(rows)
        begins = np.maximum(np.arange(first // f * f, end, f), first)
        self._sums[first // f : -(-end // f)] += np.add.reduceat(across, begins - first, axis=0)
        self._num_rows = end
