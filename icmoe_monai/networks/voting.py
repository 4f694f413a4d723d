"""Pixel-probability adaptive voting: at every pixel the experts' probabilities are weighed and summed.

  confidence           a_e = 1 - H(p_e) / log max(K, 2)
  label consistency    c_e = mean over j != e of <p_e, p_j>
  disagreement         d   = 1 - mean over e of c_e
  votes                w   = softmax_e(g_e + alpha a_e + beta c_e - gamma_e d)
  fused                P   = sum_e w_e p_e

p_e are the probabilities of expert e, H(p) is the entropy, g are the gate's logits, alpha and beta are trained scalars,
gamma_e is how far expert e leaves to the others what they disagree about.
Only the abstract of IC-MoE (arXiv 2510.17684) was available, which names "pixel probability adaptive voting", label
consistency and load balancing; these equations are ours (docs/method.md).

Letters: B batch; E experts; K output channels (K = 1: probability of the foreground, else a distribution); H W image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.utils.distributed import batch_mean
from icmoe_monai.utils.precision import at_least_float32

STRATEGIES = ("adaptive", "mean", "majority", "confidence", "best")
# where the tensor that carries a vote comes from, for those who have given another inferer
VOTING_INFERERS = "it is made by icmoe_monai.inferers.SlidingWindowVotingInferer or VotingInferer, with_experts true"
GATE_WIDTH = 32  # channels between the gate's convolutions, as many as a decoder has at stride 4
GATE_GAIN = 10.0  # factor of the gate's logits, so that a few hundred steps at learning rate 0.001 can move a vote


class PixelVoting(nn.Module):
    """The vote: weigh the experts' probabilities at every pixel, and sum them.

    The strategies "mean", "majority", "confidence" and "best" (one expert alone) are baselines behind the same
    interface; alpha and beta then exist, so that checkpoints fit, but are not trained.

    Args:
        num_experts: E.
        strategy: One of `STRATEGIES`.
        best_expert: Index of the expert that "best" returns.
        deference: gamma, E numbers; None: zeros.

    Raises:
        InputError: If an argument is out of its range.

    Example:
        >>> voting = PixelVoting(num_experts=2, strategy="mean")
        >>> probabilities = torch.tensor([0.2, 0.6]).reshape(1, 2, 1, 1, 1)
        >>> logits, votes = voting(probabilities, torch.zeros(1, 2, 1, 1))
        >>> round(torch.sigmoid(logits).item(), 4), votes.flatten().tolist()
        (0.4, [0.5, 0.5])
    """

    def __init__(
        self,
        *,
        num_experts: int,
        strategy: str = "adaptive",
        best_expert: int = 0,
        deference: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if strategy not in STRATEGIES:
            raise InputError(f"voting must be one of {', '.join(STRATEGIES)}, got {strategy!r}.")
        if not 0 <= best_expert < num_experts:
            raise InputError(f"best_expert must be in 0..{num_experts - 1}, got {best_expert}.")
        self.num_experts = num_experts
        self.num_folds = 1  # those of an ensemble have a `folds.FoldVoting`
        self.strategy = strategy
        self.best_expert = best_expert
        learns = strategy == "adaptive" and num_experts > 1
        self.alpha = nn.Parameter(torch.tensor(5.0), requires_grad=learns)  # certain experts lead from the start
        # of two experts each agrees equally with the other, so that beta then changes no vote
        self.beta = nn.Parameter(torch.tensor(1.0), requires_grad=learns and num_experts > 2)
        gamma = torch.zeros(num_experts) if deference is None else torch.tensor(deference)
        self.gamma = nn.Buffer(gamma[:, None, None], persistent=False)

    def forward(self, probabilities: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Vote at every pixel.

        Args:
            probabilities: Experts' probabilities, (B, E, K, H, W).
            gate: Gate logits g, (B, E, H, W).

        Returns:
            Fused logits, (B, K, H, W), whose sigmoid (K = 1) or softmax (K > 1) is P, and votes, (B, E, H, W), which
            sum to 1 over E.
        """
        probabilities = at_least_float32(probabilities)
        if self.strategy == "adaptive":
            consistency = label_consistency(probabilities)
            score = self.alpha * confidence(probabilities) + self.beta * consistency
            score = score - self.gamma * (1 - consistency.mean(dim=1, keepdim=True))
            votes = torch.softmax(gate.to(score.dtype) + score, dim=1)
        elif self.strategy == "confidence":
            certain = confidence(probabilities) + 1e-6  # so that votes are equal where all experts are undecided
            votes = certain / certain.sum(dim=1, keepdim=True)
        elif self.strategy == "majority":
            votes = majority_votes(probabilities)
        else:
            votes = torch.zeros_like(probabilities[:, :, 0])
            if self.strategy == "best":
                votes[:, self.best_expert] = 1.0
            else:
                votes += 1.0 / votes.shape[1]
        fused = torch.einsum("behw,bekhw->bkhw", votes, probabilities)
        return to_logits(fused), votes


class VoteGate(nn.Module):
    """The vote's gate: two convolutions over all decoders' features, whose logits are zero at the start of training.

    Args:
        num_experts: E.
        channels: Channels of each decoder's features.
    """

    def __init__(self, *, num_experts: int, channels: int) -> None:
        super().__init__()
        self.gain = GATE_GAIN
        self.mix = nn.Conv2d(num_experts * channels, GATE_WIDTH, 3, padding=1)
        self.out = nn.Conv2d(GATE_WIDTH, num_experts, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor], size: list[int]) -> Tensor:
        """Return gate logits.

        Args:
            features: Each decoder's features, E maps (B, C, h, w).
            size: H and W of the result.

        Returns:
            Gate logits g, (B, E, H, W).
        """
        gate = self.gain * self.out(F.gelu(self.mix(torch.cat(features, dim=1))))
        return F.interpolate(gate, size=size, mode="bilinear", align_corners=False)


class VotedMaps(NamedTuple):
    """Maps of a vote over an image; `pack` joins them into one tensor, which MONAI's transforms can carry.

    Attributes:
        probabilities: Fused probabilities P, (..., K, H, W).
        expert_probabilities: Experts' probabilities p_e, (..., E, K, H, W).
        votes: Votes w, (..., E, H, W), summing to 1 over E.
    """

    probabilities: Tensor
    expert_probabilities: Tensor
    votes: Tensor


def pack(maps: VotedMaps) -> Tensor:
    """Concatenate a vote's maps, (..., K + E K + E, H, W), with the experts' probabilities expert by expert."""
    return torch.cat([maps.probabilities, maps.expert_probabilities.flatten(-4, -3), maps.votes], dim=-3)


def unpack(packed: Tensor, out_channels: int) -> VotedMaps:
    """Split a tensor that `pack` returned into the vote's maps.

    Args:
        packed: The tensor, (..., K + E K + E, H, W).
        out_channels: K.

    Raises:
        InputError: If no number of experts fits the channels.

    Example:
        >>> maps = unpack(torch.zeros(7, 5, 4), out_channels=1)
        >>> [tuple(part.shape) for part in maps]
        [(1, 5, 4), (3, 1, 5, 4), (3, 5, 4)]
    """
    K = out_channels
    E = (packed.shape[-3] - K) // (K + 1)
    if E < 1 or packed.shape[-3] != K + E * K + E:
        shape = tuple(packed.shape)
        raise InputError(f"The voted prediction must be (K + E K + E, H, W) for K={K}, got {shape}: {VOTING_INFERERS}.")
    voted, experts, votes = packed.split([K, E * K, E], dim=-3)
    return VotedMaps(voted, experts.unflatten(-3, (E, K)), votes)


def confidence(probabilities: Tensor, eps: float = 1e-6) -> Tensor:
    """Return each expert's confidence a_e = 1 - H(p_e) / log max(K, 2), from 0 (undecided) to 1 (certain).

    Args:
        probabilities: Experts' probabilities, (B, E, K, H, W).
        eps: Lowest argument of the logarithm.

    Returns:
        Confidence, (B, E, H, W).
    """
    p = as_distribution(probabilities)
    entropy = -(p * p.clamp_min(eps).log()).sum(dim=2)
    return 1 - entropy / math.log(p.shape[2])


def label_consistency(probabilities: Tensor) -> Tensor:
    """Return how far the other experts j agree with each expert e: c_e = mean over j of <p_e, p_j>.

    Args:
        probabilities: Experts' probabilities, (B, E, K, H, W).

    Returns:
        Consistency, (B, E, H, W); 1 for a single expert, which has no peers.
    """
    p = as_distribution(probabilities)
    num_peers = p.shape[1] - 1
    if num_peers == 0:
        return torch.ones_like(p[:, :, 0])
    peers = p.sum(dim=1, keepdim=True) - p
    return (p * peers).sum(dim=2) / num_peers


def disagreement(probabilities: Tensor) -> Tensor:
    """Return 1 - mean pairwise agreement of the experts, from 0 to 1, (B, H, W), of probabilities (B, E, K, H, W)."""
    return 1 - label_consistency(probabilities).mean(dim=1)


def majority_votes(probabilities: Tensor) -> Tensor:
    """Share the vote equally among the experts that decide for the most frequent class.

    Of classes that are equally frequent, the one with the larger mean probability counts.

    Args:
        probabilities: Experts' probabilities, (B, E, K, H, W).

    Returns:
        Votes, (B, E, H, W).
    """
    p = as_distribution(probabilities)
    decided = F.one_hot(p.argmax(dim=2), p.shape[2]).permute(0, 1, 4, 2, 3).to(p.dtype)  # (B, E, K', H, W)
    winner = (decided.sum(dim=1) + p.mean(dim=1) / 2).argmax(dim=1)  # a mean below 1 only breaks ties
    with_winner = decided.gather(2, winner[:, None, None].expand(-1, p.shape[1], 1, -1, -1)).squeeze(2)
    return with_winner / with_winner.sum(dim=1, keepdim=True)


def expert_load(votes: Tensor) -> Tensor:
    """Return f_e, the share of pixels at which expert e has the largest vote, (E,), of votes (B, E, H, W)."""
    leading = votes.max(dim=1).indices  # as argmax, which takes ten times as long on a CPU
    return batch_mean(F.one_hot(leading, votes.shape[1]).to(votes.dtype), (0, 1, 2))


def as_distribution(probabilities: Tensor) -> Tensor:
    """Return distributions over classes, (B, E, max(K, 2), H, W): [1 - p, p] for K = 1, else the argument itself."""
    if probabilities.shape[2] > 1:
        return probabilities
    return torch.cat([1 - probabilities, probabilities], dim=2)


def to_probabilities(logits: Tensor) -> Tensor:
    """Return the sigmoid (K = 1) or softmax over K of logits (..., K, H, W)."""
    if logits.shape[-3] == 1:
        return torch.sigmoid(logits)
    return torch.softmax(logits, dim=-3)


def to_logits(fused: Tensor, eps: float = 1e-6) -> Tensor:
    """Return logit P (K = 1) or log P (K > 1) of probabilities P (B, K, H, W), kept `eps` away from 0 and 1."""
    if fused.shape[1] == 1:
        return torch.logit(fused, eps=eps)
    return fused.clamp_min(eps).log()
