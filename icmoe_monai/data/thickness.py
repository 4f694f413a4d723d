"""How thick targets are, which decides how finely they must be drawn.

Letters: H, W size of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]

from icmoe_monai.data.splits import Case
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_label

_OF_MEDIAN = 4  # a band's thickness as a multiple of the median distance to its edge
_MOST_MASKS = 64  # that are read; more change the median little
_NUM_THREADS = 4


def thickness_of(label: np.ndarray) -> float:
    """Return how thick a mask's thinnest class is: of a band its width to 2 pixels, of a disc some 0.6 of its diameter.

    Args:
        label: Class numbers, or True in the foreground, (H, W); 0 is the background.

    Returns:
        The thickness in pixels; 0 of an empty mask.

    Example:
        >>> layers = np.zeros((20, 40), int)
        >>> layers[3:6], layers[6:15] = 1, 2
        >>> thickness_of(layers), thickness_of(layers != 0), thickness_of(layers == 3)
        (3.0, 13.0, 0.0)
    """
    return min((_thickness_of_one(label == value) for value in np.unique(label) if value != 0), default=0.0)


def median_thickness(cases: Sequence[Case], *, longest_side: int, out_channels: int = 1) -> float | None:
    """Return how thick the targets of a set are as a network sees them, the median over its masks.

    Of many cases, 64 at equal distances in the list are read.

    Args:
        cases: The cases; those without a label, or with one that cannot be read, are left out.
        longest_side: Longest side of the images as the network sees them, in pixels.
        out_channels: Output channels of the network, which decide which values a mask may hold.

    Returns:
        The thickness in pixels, or None if no mask has a target.
    """
    labelled = [case for case in cases if "label" in case]
    chosen = [labelled[n] for n in np.unique(np.linspace(0, len(labelled) - 1, _MOST_MASKS).astype(int)) if labelled]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(partial(_seen_thickness, longest_side=longest_side, out_channels=out_channels), chosen)
        targets = [thickness for thickness in found if thickness]
    return float(np.median(targets)) if targets else None


def _seen_thickness(case: Case, *, longest_side: int, out_channels: int) -> float:
    try:
        label = read_label(case["label"], out_channels=out_channels, instances=case.get("label_kind") == "instances")
    except InputError:  # which `find_cases` tells of, with all others
        return 0.0
    return longest_side * thickness_of(label) / max(label.shape)


def _thickness_of_one(region: np.ndarray) -> float:
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    # with what is beside it, where the image has any
    seen = region[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]
    return float(_OF_MEDIAN * (np.median(distance_transform_edt(seen)[seen]) - 0.5)) + 1.0
