"""Connected parts of a mask."""

from __future__ import annotations

import numpy as np
from skimage.measure import label


def part_sizes(mask: np.ndarray) -> np.ndarray:
    """Return the number of pixels of each connected part, whose pixels touch by a side or corner, as (parts,).

    Args:
        mask: The mask, bool (H, W).

    Example:
        >>> part_sizes(np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)).tolist()
        [3, 1]
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return np.zeros(0, dtype=int)
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # labels cost more than all else
    return np.bincount(label(box, connectivity=2).ravel())[1:]
