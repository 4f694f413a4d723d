"""Pixel-by-pixel comparison of the experts: their votes by region, where they differ, and where one alone is right.

Maps are reduced to at most 512 pixels on the longest side. The regions of a case follow from its label:

- `border`: pixels within 2 % of the longest side (at least 2 pixels) of a border between classes;
- `inside`: the rest of the foreground; `outside`: the rest of the background;
- `ambiguous`: pixels that the experts decide differently; this region overlaps the other three.

Experts are compared on the *compared pixels*, those that an expert or the label calls foreground (all pixels, if there
are none): over the whole picture, agreement on the background would hide every difference. Every case has equal weight.

Letters: E experts; K output channels; H W maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.utils.type_conversion import convert_to_tensor
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]
from skimage.segmentation import find_boundaries
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.transforms.votes import decide
from icmoe_monai.utils.statistics import rounded

REGIONS = ("inside", "border", "outside", "ambiguous")
_LONGEST_SIDE = 512
_BORDER_SHARE = 0.02
_PIXELS_DRAWN = 200  # of each region and case, for the distribution of votes
_GRID = 24  # rows and columns of the map of positions


class CasePixels(NamedTuple):
    """Hold what was measured on the pixels of one case; all shares are in 0..1.

    Attributes:
        drawn: Votes at some randomly drawn pixels, (n, E), by region.
        votes: Mean vote of each expert, (E,), by region.
        right: Share of the region's pixels at which each expert is right, (E,), by region.
        shares: Share of the picture that the region covers, by region.
        differ: Share of the compared pixels that two experts decide differently, (E, E).
        both_wrong: Share of the compared pixels at which two experts are both wrong, (E, E).
        alone_right: Share of the compared pixels at which only this expert is right, (E,).
        alone_wrong: Share of the compared pixels at which only this expert is wrong, (E,).
        positions: Share of the pixels at which only this expert is right, in each cell of a grid of g x g cells over
            the picture, (E, g, g).
    """

    drawn: dict[str, np.ndarray]
    votes: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    shares: dict[str, float]
    differ: np.ndarray
    both_wrong: np.ndarray
    alone_right: np.ndarray
    alone_wrong: np.ndarray
    positions: np.ndarray


def look_at_pixels(item: Mapping[str, Any], *, seed: int | Sequence[int] = 0) -> CasePixels:
    """Compare the experts on the pixels of one case.

    Args:
        item: A case after `SplitVotesd`, with its `label`.
        seed: Seed for drawing pixels.
    """
    decisions, votes, label = case_maps(item)
    regions = find_regions(label, decisions)
    rng = np.random.default_rng(seed)
    right = decisions == label
    compared = ((decisions > 0).any(0) | (label > 0)).ravel()
    compared = compared if compared.any() else np.ones_like(compared)
    num_right = right.sum(0)
    E = len(decisions)
    alone = right & (num_right == 1) if E > 1 else np.zeros_like(right)
    flat = {name: region.ravel() for name, region in regions.items()}
    votes, decided, is_right = (maps.reshape(E, -1) for maps in (votes, decisions, right))
    seen = {name: region for name, region in flat.items() if region.any()}
    decided, wrong = decided[:, compared], ~is_right[:, compared]
    lonely = {"right": alone.reshape(E, -1), "wrong": ~is_right & (num_right.ravel() == E - 1)}
    return CasePixels(
        drawn={name: votes[:, rng.permutation(np.flatnonzero(one))[:_PIXELS_DRAWN]].T for name, one in seen.items()},
        votes={name: votes[:, one].mean(1) for name, one in seen.items()},
        right={name: is_right[:, one].mean(1) for name, one in seen.items()},
        shares={name: float(one.mean()) for name, one in flat.items()},
        differ=(decided[:, None] != decided[None]).mean(-1),
        both_wrong=(wrong[:, None] & wrong[None]).mean(-1),
        alone_right=lonely["right"][:, compared].mean(1),
        alone_wrong=lonely["wrong"][:, compared].mean(1),
        positions=_to_grid(alone),
    )


def case_maps(item: Mapping[str, Any], longest_side: int = _LONGEST_SIDE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the experts' decisions, their votes and the label of a case, reduced to a largest size.

    Args:
        item: A case after `SplitVotesd`, with its `label`.
        longest_side: The maps' longest side in pixels, at most; smaller maps keep their size.

    Returns:
        Class numbers that the experts decide, (E, H, W), int64; votes, (E, H, W), float64; label, (H, W), int64.
    """
    keys = ("expert_probabilities", "votes", "label")
    experts, votes, label = (convert_to_tensor(item[key], track_meta=False, device="cpu").float() for key in keys)
    decisions = torch.cat([decide(one) for one in experts]).float()
    scale = min(1.0, longest_side / max(label.shape[1:]))
    size = [max(1, round(length * scale)) for length in label.shape[1:]]
    decisions, votes, label = (_fit(maps, size) for maps in (decisions, votes, label))
    return decisions.numpy().astype(np.int64), votes.double().numpy(), label[0].numpy().astype(np.int64)


def find_regions(label: np.ndarray, decisions: np.ndarray) -> dict[str, np.ndarray]:
    """Find the regions of a case.

    Args:
        label: Class numbers, (H, W).
        decisions: The experts' class numbers, (E, H, W).

    Returns:
        The regions by name (`REGIONS`), bool (H, W) each.
    """
    borders = find_boundaries(label, mode="thick")
    width = max(2.0, _BORDER_SHARE * max(label.shape))
    near = distance_transform_edt(~borders) < width if borders.any() else borders
    differ = (decisions != decisions[:1]).any(0)
    return {"inside": (label > 0) & ~near, "border": near, "outside": (label == 0) & ~near, "ambiguous": differ}


def summarise(cases: Sequence[CasePixels], expert_names: Sequence[str]) -> dict[str, Any]:
    """Average what was measured over the cases.

    Args:
        cases: At least one.
        expert_names: The E names.

    Returns:
        `regions`, by region: number of `cases` that have the region, its `share` of the picture, `mean_vote` and
        `right` by expert (for a single expert without the region `ambiguous`); and for E > 1 `pairs`, by "a, b":
        `differ` and `both_wrong`; `wins`, by expert: `alone_right` and `alone_wrong`.
    """
    regions = {}
    for region in REGIONS:
        having = [case for case in cases if region in case.votes]
        entry: dict[str, Any] = {
            "cases": len(having),
            "share": rounded(np.mean([case.shares[region] for case in cases])),
        }
        for key, column in (("mean_vote", "votes"), ("right", "right")):
            means = np.mean([getattr(case, column)[region] for case in having], axis=0) if having else []
            entry[key] = dict(zip(expert_names, map(rounded, means), strict=False))
        regions[region] = entry
    if len(expert_names) == 1:
        return {"regions": {name: entry for name, entry in regions.items() if name != "ambiguous"}}
    differ, both_wrong = (np.mean([getattr(case, key) for case in cases], axis=0) for key in ("differ", "both_wrong"))
    pairs = {
        f"{first}, {second}": {"differ": rounded(differ[i, j]), "both_wrong": rounded(both_wrong[i, j])}
        for i, first in enumerate(expert_names)
        for j, second in enumerate(expert_names)
        if i < j
    }
    wins = {
        name: {
            key: rounded(np.mean([getattr(case, key)[i] for case in cases])) for key in ("alone_right", "alone_wrong")
        }
        for i, name in enumerate(expert_names)
    }
    return {"regions": regions, "pairs": pairs, "wins": wins}


def _fit(maps: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="nearest-exact")[0]


def _to_grid(maps: np.ndarray) -> np.ndarray:
    return F.adaptive_avg_pool2d(torch.from_numpy(maps).float(), (_GRID, _GRID)).numpy()
