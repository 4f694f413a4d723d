"""Small picture of a large image, computed from the regions that are read for the segmentation anyway.

Letters: H W size of the image; f the factor, a power of two, by which the picture is smaller.
"""

from __future__ import annotations

import numpy as np

from icmoe_monai.slides.images import LargeImage


class Overview:
    """Wrap a `LargeImage`, and sum up a small picture of it from the regions that are read.

    The picture is complete once regions as wide as the image have been read from top to bottom; they may overlap, but
    must leave no row out.

    Args:
        image: The image to wrap.
        longest_side: The picture's longest side in pixels, at most.

    Attributes:
        shape: (H, W) of the image.
        levels: (H, W) of each level of the file.
        spacing_um: Micrometres between rows and between columns of the image, or None.
        level: log2 f, which is the level of the picture's size in a pyramid whose levels halve the size.

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
        self.shape, self.levels, self.spacing_um = image.shape, image.levels, image.spacing_um
        self.level = 0
        while -(-max(self.shape) // 2**self.level) > longest_side:
            self.level += 1
        height, width = (-(-side // 2**self.level) for side in self.shape)
        self._sums = np.zeros((height, width, 3), dtype=np.uint32)
        self._num_rows = 0

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return a region, uint8 (height, width, 3); if it is as wide as the image, add its new rows to the picture."""
        region = self._image.read(top, left, height, width)
        if width == self.shape[1] and top <= self._num_rows < top + height:
            self._note(region[self._num_rows - top :])
        return region

    def close(self) -> None:
        """Close the wrapped image."""
        self._image.close()

    def picture(self) -> np.ndarray:
        """Return the small picture, the means of squares of f x f pixels, uint8 (H / f, W / f, 3), sizes rounded up."""
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
