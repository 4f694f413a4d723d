"""Several views of each window at test time: flipped, or at other scales, and the mean of what the experts say of them.

Every view's maps are brought back to the window before the mean is taken, and the vote comes after it: each pixel still
votes once.

Letters: B windows; H W side of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.networks.sam import PATCH_SIZE

Maps: TypeAlias = "Tensor | dict[str, Tensor]"
_FLIPS = ((-1,), (-2,), (-2, -1))
_SCALES = (0.75, 1.25)
TTA = ("none", "flips", "scales", "flips_scales")


def averaged(
    expert_maps: Callable[[Tensor], Maps], tta: str, first: Callable[[Tensor], Maps] | None = None
) -> Callable[[Tensor], Maps]:
    """Return a function that gives the mean maps over the views of its windows.

    Args:
        expert_maps: Function from windows (B, 3, H, W) to maps (B, channels, H, W), or to a dict of such maps.
        tta: One of `TTA`: "none": the windows alone, for which `expert_maps` itself is returned; "flips": 4 views, also
            flipped along each axis and both; "scales": 3 views, also at 0.75 and 1.25 of their size, rounded to whole
            patches; "flips_scales": 6 views, all of these.
        first: What takes the place of `expert_maps` for the windows as they are.

    Example:
        >>> ramp = torch.arange(4.0).reshape(1, 1, 1, 4)
        >>> averaged(lambda windows: windows + ramp, "flips")(torch.zeros(1, 1, 1, 4)).flatten().tolist()
        [1.5, 1.5, 1.5, 1.5]
    """
    if tta == "none":
        return first or expert_maps

    def mean(windows: Tensor) -> Maps:
        return _mean([(first or expert_maps)(windows), *_further_views(expert_maps, windows, tta)])

    return mean


def _further_views(expert_maps: Callable[[Tensor], Maps], windows: Tensor, tta: str) -> Iterator[Maps]:
    """Yield the maps of every view but the windows as they are, as they lie on the windows."""
    for axes in _FLIPS if "flips" in tta else ():
        yield _each(expert_maps(windows.flip(axes)), partial(torch.flip, dims=axes))
    size = windows.shape[-2:]
    for scale in _SCALES if "scales" in tta else ():
        scaled = [max(PATCH_SIZE, round(scale * side / PATCH_SIZE) * PATCH_SIZE) for side in size]
        yield _each(expert_maps(_resized(windows, scaled)), partial(_resized, size=list(size)))


def _resized(maps: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


def _each(maps: Maps, function: Callable[[Tensor], Tensor]) -> Maps:
    return {name: function(one) for name, one in maps.items()} if isinstance(maps, dict) else function(maps)


def _mean(views: list[Maps]) -> Maps:
    first = views[0]
    if isinstance(first, dict):
        return {name: torch.stack([view[name] for view in views]).mean(0) for name in first}  # type: ignore[index]
    return torch.stack(views).mean(0)  # type: ignore[arg-type]
