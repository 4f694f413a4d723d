"""Transforms that compute figures of a vote: its confidence, the experts' agreement, the inputs of a calibration.

A calibration, which predicts a mask's quality, takes its inputs on the network's own grid (the resized image), so that
they do not depend on the original's size. P is the voted probability of any foreground, M the pixels that the vote
decides as foreground, R the pixels that the vote or an expert decides so (all pixels if there are none).

- `confidence`: mean over R of the voted class's probability;
- `disagreement`: mean over R and pairs of experts of 1 - <p_i, p_j>;
- `vote_entropy`: mean over R of -sum_e w_e log w_e / log E;
- `expert_agreement`: mean over pairs of experts of the Dice overlap of their foregrounds, 1 where both are empty;
- `soft_dice`: 2 sum_M P / (|M| + sum P), the Dice that P itself expects of M (the "soft Dice confidence" of Borges et
  al., arXiv 2402.10665); 0 where M is empty;
- `vote_agreement`: mean over the experts of the Dice overlap of M with the expert's foreground;
- `entropy`: mean over R of P's entropy, in bits;
- `boundary_entropy`: the same over a band of `_BAND` pixels on both sides of M's border; 1 where M has none;
- `num_components`: log(1 + the number of M's connected parts that hold at least a thousandth of the image);
- `largest_component`: share of M in its largest connected part, 0 where M is empty;
- `foreground_share`: square root of M's share of the image;
- `peak`: logit of the mean of P over the most probable thousandth of the image;
- `load_1`, ... `load_E`: mean vote of each expert over R.

Of an ensemble of folds each is the mean of the folds' own, since a calibration is fitted on masks of single folds.

Letters: E experts; F folds of an ensemble, else 1; K output channels; H W size of the maps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from math import log
from typing import Any

import numpy as np
import torch
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from icmoe_monai.networks.folds import merge_folds, split_folds
from icmoe_monai.networks.pooling import FEATURES
from icmoe_monai.networks.voting import VotedMaps, as_distribution, disagreement, pack, unpack
from icmoe_monai.transforms.parts import part_sizes
from icmoe_monai.transforms.votes import decide

NAMES = (  # of the figures, as a regular expression
    "^(confidence|disagreement|vote_entropy|expert_agreement|soft_dice|vote_agreement|entropy|boundary_entropy|"
    "num_components|largest_component|foreground_share|peak|load_[1-9])$"
)
_BAND = 3  # pixels
_SMALL = 1e-3  # share of the image
_EPS = 1e-6


class TakeVoteFeaturesd(MapTransform):
    """Transform: add `vote_features`, a dict of floats, and the experts' `disagreement` per pixel, (1, H, W) in 0..1.

    Where the tensor's metadata hold the network's pooled features, they are added too, float64 (windows, F), as
    `pooled_features`.

    Place it before `Invertd`, which takes both maps back to the image's size. The tensor itself stays as it is; that of
    an ensemble becomes one of E experts, each the mean of its folds', and `fold_agreement` is added: the mean over
    pairs of folds of the Dice overlap of their masks.

    Args:
        keys: Key of a voting inferer's tensor, (K + F E K + F E, H, W): voted probabilities, experts' probabilities,
            votes.
        out_channels: K.
        num_folds: F.

    Example:
        >>> pred = torch.tensor([0.9, 0.9, 0.7, 0.5, 0.5]).reshape(5, 1, 1)
        >>> item = TakeVoteFeaturesd()({"pred": pred})
        >>> round(item["vote_features"]["soft_dice"], 3), round(float(item["disagreement"]), 2)
        (0.947, 0.34)
    """

    def __init__(self, *, keys: str | Sequence[str] = "pred", out_channels: int = 1, num_folds: int = 1) -> None:
        super().__init__(keys)
        self.out_channels = out_channels
        self.num_folds = num_folds

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item.

        Raises:
            InputError: If the tensor has not K + F E K + F E channels.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            maps = unpack(convert_to_tensor(item[key], track_meta=False).float(), self.out_channels)
            folds = split_folds(maps, self.num_folds)
            apart = torch.cat([disagreement(fold.expert_probabilities[None]) for fold in folds])
            features = [vote_features(*fold, apart=own) for fold, own in zip(folds, apart, strict=True)]
            item["vote_features"] = {name: sum(one[name] for one in features) / len(folds) for name in features[0]}
            item["disagreement"] = convert_to_dst_type(apart.mean(0, keepdim=True), item[key])[0]
            seen = getattr(item[key], "meta", {}).get(FEATURES)
            if seen is not None:
                item[FEATURES] = seen.double().numpy()
            if self.num_folds > 1:
                item["fold_agreement"] = fold_agreement(folds)
                item[key] = convert_to_dst_type(pack(merge_folds(maps, self.num_folds)), item[key])[0]
        return item


def fold_agreement(folds: Sequence[VotedMaps]) -> float:
    """Return the mean over pairs of folds of the Dice overlap of their masks' foregrounds, of their maps."""
    masks = [_foregrounds(fold.probabilities) for fold in folds]
    pairs = [dice_overlap(first, second) for first, second in combinations(masks, 2)]
    return sum(pairs) / len(pairs)


def vote_features(voted: Tensor, experts: Tensor, votes: Tensor, *, apart: Tensor) -> dict[str, float]:
    """Compute the figures that the module's docstring lists, by name.

    Args:
        voted: Probabilities of the vote, (K, H, W).
        experts: Probabilities of the experts, (E, K, H, W).
        votes: Votes, (E, H, W), summing to 1 over E.
        apart: The experts' disagreement, (H, W).
    """
    P = foreground(voted).double().cpu().numpy()
    found, region = find(voted, experts)
    M = found[0]
    return {
        **figures_over(found, region, voted, votes, apart),
        "soft_dice": float(2 * P[M].sum() / (M.sum() + P.sum())) if M.any() else 0.0,
        "vote_agreement": sum(dice_overlap(found[0], mask) for mask in found[1:]) / len(experts),
        "entropy": float(_binary_entropy(P[region]).mean()),
        "boundary_entropy": _boundary_entropy(P, M),
        **_components(M),
        "foreground_share": float(np.sqrt(M.mean())),
        "peak": _peak(foreground(voted)),
        **{f"load_{e}": load for e, load in enumerate(_means_over(region, votes), start=1)},
    }


def foreground(voted: Tensor) -> Tensor:
    """Return the probability of any foreground, (H, W), of probabilities (K, H, W)."""
    return voted[0] if voted.shape[0] == 1 else 1 - voted[0]


def _binary_entropy(P: np.ndarray) -> np.ndarray:
    P = np.clip(P, _EPS, 1 - _EPS)
    return np.asarray(-(P * np.log2(P) + (1 - P) * np.log2(1 - P)))


def _boundary_entropy(P: np.ndarray, mask: np.ndarray) -> float:
    # Padded with the values at the image's edge, so that a lesion that the edge cuts has no border there.
    around = np.pad(mask.astype(np.uint8), _BAND, mode="edge")
    for _ in range(2):  # numbers of foreground pixels in a window, summed along one axis and then along the other
        shifted = [around[start : len(around) - 2 * _BAND + start] for start in range(2 * _BAND + 1)]
        around = sum(shifted[1:], start=shifted[0]).T
    band = (around > 0) & (around < (2 * _BAND + 1) ** 2)
    return float(_binary_entropy(P[band]).mean()) if band.any() else 1.0


def _components(mask: np.ndarray) -> dict[str, float]:
    sizes = part_sizes(mask)
    num_parts = int((sizes >= _SMALL * mask.size).sum())
    largest = float(sizes.max() / sizes.sum()) if sizes.size else 0.0
    return {"num_components": float(np.log1p(num_parts)), "largest_component": largest}


def _peak(P: Tensor) -> float:
    num_pixels = max(1, round(_SMALL * P.numel()))
    return float(torch.logit(P.flatten().topk(num_pixels).values.double().mean(), eps=_EPS))


FIGURES = ("confidence", "disagreement", "vote_entropy", "expert_agreement")


class TakeReliabilityd(MapTransform):
    """Transform: keep the voted probabilities (K, H, W) of a voting inferer's tensor, and add the dict `reliability`.

    It holds the four `FIGURES` as floats, taken from `vote_features` where `TakeVoteFeaturesd` has added them already,
    and of an ensemble its `fold_agreement`.

    Args:
        keys: Key of the tensor, (K + E K + E, H, W): voted probabilities, experts' probabilities, votes.
        out_channels: K.

    Example:
        >>> pred = torch.tensor([0.9, 0.9, 0.7, 0.5, 0.5]).reshape(5, 1, 1)
        >>> item = TakeReliabilityd()({"pred": pred})
        >>> tuple(item["pred"].shape), item["reliability"]["vote_entropy"], item["reliability"]["expert_agreement"]
        ((1, 1, 1), 1.0, 1.0)
    """

    def __init__(self, *, keys: str | Sequence[str] = "pred", out_channels: int = 1) -> None:
        super().__init__(keys)
        self.out_channels = out_channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item.

        Raises:
            InputError: If the tensor has not K + E K + E channels.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            voted, experts, votes = unpack(convert_to_tensor(item[key], track_meta=False), self.out_channels)
            item[key] = item[key][: self.out_channels]
            known = item.get("vote_features")
            if known is None:
                known = reliability(voted, experts, votes)
            item["reliability"] = {name: known[name] for name in FIGURES}
            if "fold_agreement" in item:
                item["reliability"]["fold_agreement"] = item["fold_agreement"]
        return item


def find(voted: Tensor, experts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the foregrounds of the vote and of each expert, bool (1 + E, H, W), and the region R, bool (H, W).

    Args:
        voted: Probabilities of the vote, (K, H, W).
        experts: Probabilities of the experts, (E, K, H, W).
    """
    found = _foregrounds(torch.cat([voted[None], experts]))
    region = np.logical_or.reduce(found)
    return found, region if region.any() else np.ones_like(region)


def _foregrounds(probabilities: Tensor) -> np.ndarray:
    """Return the foregrounds of probabilities (..., K, H, W), bool (..., H, W)."""
    return decide(probabilities).squeeze(-3).cpu().numpy() > 0


def reliability(voted: Tensor, experts: Tensor, votes: Tensor) -> dict[str, float]:
    """Compute the four `FIGURES` by name.

    Args:
        voted: Probabilities of the vote, (K, H, W).
        experts: Probabilities of the experts, (E, K, H, W).
        votes: Votes, (E, H, W), summing to 1 over E.
    """
    return figures_over(*find(voted, experts), voted, votes, disagreement(experts[None])[0])


def figures_over(
    found: np.ndarray, region: np.ndarray, voted: Tensor, votes: Tensor, apart: Tensor
) -> dict[str, float]:
    """Compute the four `FIGURES` from the foregrounds and region of `find`; other arguments as in `vote_features`."""
    E = len(votes)
    entropy = torch.special.entr(votes).sum(0).abs() / log(max(E, 2))  # one expert's is 0, not -0
    certain = as_distribution(voted[None, None])[0, 0].amax(0)
    means = _means_over(region, torch.stack([certain, apart, entropy]))
    pairs = [dice_overlap(first, second) for first, second in combinations(found[1:], 2)]
    agreement = sum(pairs) / len(pairs) if pairs else 1.0
    return dict(zip(FIGURES, (*means, agreement), strict=True))


def _means_over(region: np.ndarray, maps: Tensor) -> list[float]:
    """Return the mean of each map (n, H, W) over a region, bool (H, W), of which no values are copied."""
    inside = torch.from_numpy(region).to(maps)
    return [float(total) for total in (maps * inside).sum((1, 2), dtype=torch.float32) / np.count_nonzero(region)]


def dice_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice overlap of two masks (H, W), 1 if both are empty."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else 1.0
