"""How much the experts agree on an image, from one forward pass; figures to compare cases by, not yet calibrated.

Over R, the pixels where at least one expert or the vote finds something (all pixels if none does):

- `confidence`: mean probability of the voted class;
- `disagreement`: mean over pairs of experts of 1 - <p_i, p_j>;
- `vote_entropy`: mean of -sum_e w_e log w_e / log E.

`expert_agreement` is the mean over pairs of the Dice overlap of what the two find, 1 where both find nothing. Ours.

Letters: E experts; K output channels; H W size of the maps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from math import log
from typing import Any

import numpy as np
import torch
from einops import rearrange
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from scipy.stats import spearmanr
from torch import Tensor

from icmoe_monai.metrics import decide
from icmoe_monai.voting import as_distribution, disagreement

FIGURES = ("confidence", "disagreement", "vote_entropy", "expert_agreement")


class TakeReliabilityd(MapTransform):
    """Keep the vote's probabilities (K, H, W) of a voting inferer's tensor, and add `reliability`, a dict of floats.

    The figures are taken from `vote_features` where `TakeVoteFeaturesd` has them already.

    Args:
        keys: Key of the tensor, (K + E K + E, H, W): voted probabilities, the experts', votes.
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
            ValueError: If the tensor has not K + E K + E channels.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            voted, experts, votes = split_voted(convert_to_tensor(item[key], track_meta=False), self.out_channels)
            item[key] = convert_to_dst_type(voted, item[key])[0]
            known = item.get("vote_features")
            if known is None:
                known = reliability(voted, experts, votes)
            item["reliability"] = {name: known[name] for name in FIGURES}
        return item


def split_voted(pred: Tensor, out_channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vote's probabilities (K, H, W), the experts' (E, K, H, W) and the votes (E, H, W).

    Args:
        pred: A voting inferer's tensor, (K + E K + E, H, W).
        out_channels: K.

    Raises:
        ValueError: If the tensor has not K + E K + E channels.
    """
    K = out_channels
    E = (pred.shape[0] - K) // (K + 1)
    if pred.ndim != 3 or E < 1 or pred.shape[0] != K + E * K + E:
        shape = tuple(pred.shape)
        raise ValueError(f"The voted prediction must be (K + E K + E, H, W) for K={K}, got {shape}.")
    voted, experts, votes = pred.split([K, E * K, E])
    return voted, rearrange(experts, "(e k) h w -> e k h w", e=E), votes


def find(voted: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the vote and each expert find, bool (1 + E, H, W), and R, bool (H, W).

    Args:
        voted: Probabilities of the vote, (K, H, W).
        experts: Probabilities of the experts, (E, K, H, W).
    """
    found = torch.stack([decide(voted)[0], *(decide(expert)[0] for expert in experts)]) > 0
    region = found.any(0)
    return found, region if bool(region.any()) else torch.ones_like(region)


def reliability(voted: Tensor, experts: Tensor, votes: Tensor) -> dict[str, float]:
    """Return the four figures.

    Args:
        voted: Probabilities of the vote, (K, H, W).
        experts: Probabilities of the experts, (E, K, H, W).
        votes: (E, H, W), summing to 1 over E.
    """
    return figures_over(*find(voted, experts), voted, experts, votes)


def figures_over(found: Tensor, region: Tensor, voted: Tensor, experts: Tensor, votes: Tensor) -> dict[str, float]:
    """Return the four figures, given what `find` returns; other arguments as in `reliability`."""
    voted, experts, votes = voted[:, region], experts[:, :, region], votes[:, region]  # a few pixels of an image
    E = len(experts)
    entropy = torch.special.entr(votes).sum(0).mean() / log(E) if E > 1 else torch.zeros(())
    pairs = [dice_overlap(found[1 + i], found[1 + j]) for i, j in combinations(range(E), 2)]
    return {
        "confidence": float(as_distribution(voted[None, None]).amax(2).mean()),
        "disagreement": float(disagreement(experts[None]).mean()),
        "vote_entropy": float(entropy),
        "expert_agreement": sum(pairs) / len(pairs) if pairs else 1.0,
    }


def rank_correlation(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float | None:
    """Return Spearman's correlation of two columns (n,), or None where one does not vary."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def dice_overlap(first: Tensor, second: Tensor) -> float:
    """Return the Dice overlap of two masks (H, W), 1 if both are empty."""
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0
