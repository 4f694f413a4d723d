"""The facts of a set: numbers of images, sizes, kinds of file, targets, classes and intensities, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from icmoe_monai.planning.classes import Classes
from icmoe_monai.planning.looks import Look

_HIGHEST = 254.5  # a value that is white once it is rounded


def gather_facts(looks: Sequence[Look], classes: Classes) -> dict[str, Any]:
    """Gather the facts of a set, without those that depend on the planned size.

    Args:
        looks: What was seen of the cases.
        classes: How the masks are read.
    """
    seen = [look for look in looks if look.size[0]]
    masks = [look.mask for look in looks if look.mask is not None]
    groups = {look.group for look in looks if look.group}
    spacings = [look.header.spacing for look in seen if look.header.spacing is not None]
    return {
        "num_images": len(looks),
        "splits": dict(Counter(look.split for look in looks)),
        "num_groups": len(groups),
        "height": summary(look.size[0] for look in seen),
        "width": summary(look.size[1] for look in seen),
        "files": dict(Counter(look.header.kind for look in seen).most_common()),
        "modes": dict(Counter(f"{look.header.mode}, {look.header.bits} bits" for look in seen).most_common()),
        "num_grey": sum(look.is_grey for look in seen),
        "spacing_mm": summary(spacings) if spacings else None,
        "num_with_spacing": len(spacings),
        "low": summary(look.low for look in seen),
        "high": summary(look.high for look in seen),
        "mean": summary(look.mean for look in seen),
        "num_cut_white": sum(look.high >= _HIGHEST for look in seen),
        "num_masks": len(masks),
        "num_empty_masks": sum(mask.foreground == 0 for mask in masks),
        "class_shares": _class_shares(looks, classes),
        "targets_of_image": summary(len(mask.areas) for mask in masks if len(mask.areas)),
    }


def target_diameters(looks: Sequence[Look], *, longest_side: int) -> np.ndarray:
    """Return the diameters of all targets, as of discs of their areas, once the images' longest sides are one value.

    Args:
        looks: What was seen of the cases.
        longest_side: The longest side in pixels.
    """
    found = [_diameters(look, longest_side) for look in looks if look.fits]
    return np.concatenate(found) if found else np.zeros(0)


def shown_scale(look: Look, *, longest_side: int) -> float:
    """Return by what an image is reduced, 1 where it is enlarged: nothing is seen better than the file has it.

    Args:
        look: What was seen of the case.
        longest_side: Longest side of the image as the network sees it, in pixels.
    """
    return min(longest_side / max(look.longest, 1), 1.0)


def thickness(looks: Sequence[Look], *, longest_side: int, percentile: float = 25) -> float | None:
    """Return how thick targets are in the images where they are thin, in pixels.

    Args:
        looks: What was seen of the cases.
        longest_side: Longest side of the images as the network sees them, in pixels.
        percentile: Percentile over the images; 50 for the typical image.

    Returns:
        The thickness, or None if there is no target.
    """
    found = [longest_side * look.mask.thickness / look.longest for look in looks if look.mask and look.mask.thickness]
    return float(np.percentile(found, percentile)) if found else None


def summary(values: Iterable[float]) -> dict[str, float] | None:
    """Return minimum, median and maximum; None of no values.

    Args:
        values: Numbers.

    Example:
        >>> summary([3, 1, 2])
        {'min': 1.0, 'median': 2.0, 'max': 3.0}
    """
    listed = list(values)
    if not listed:
        return None
    ends: dict[str, Callable[..., Any]] = {"min": np.min, "median": np.median, "max": np.max}
    return {name: round(float(of(listed)), 4) for name, of in ends.items()}


def _diameters(look: Look, longest_side: int) -> np.ndarray:
    areas = look.mask.areas if look.mask is not None else np.zeros(0)
    return np.asarray(np.sqrt(4 * areas / np.pi) * longest_side / max(look.longest, 1))


def _class_shares(looks: Sequence[Look], classes: Classes) -> dict[str, float]:
    """Return the mean share of every class over the images with a mask."""
    totals: Counter[str] = Counter()
    masks = [look.mask for n, look in enumerate(looks) if look.mask is not None and n not in set(classes.misfits)]
    for mask in masks:
        for value, pixels in zip(mask.values, mask.pixels, strict=True):
            name = str(int(value)) if classes.out_channels > 1 else ("1" if value else "0")
            totals[name] += pixels / (mask.size[0] * mask.size[1])  # type: ignore[assignment]
    return {name: round(float(total) / len(masks), 6) for name, total in sorted(totals.items())}
