"""The experts' low-rank updates of the frozen encoder, and the attention by which experts communicate.

Each of the three experts is the last T blocks of the frozen encoder with the expert's own low-rank updates of the
frozen matrices. The basic expert has no updates: it is the pretrained representation. Only the abstract of IC-MoE
(arXiv 2510.17684) was available, so this construction is ours; see docs/method.md.

Letters: B batch; h w token grid; C width; E experts; T adapted blocks; r rank; R low-rank updates of one matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from icmoe_monai.networks.low_rank import BlockUpdate, ExpertUpdates

NUM_HEADS = 4  # attention heads of the experts' communication; each has a quarter of the features' channels


class SemanticExpert(nn.Module):
    """Expert with the same low-rank update at every token, for what is common to the medical task.

    Args:
        num_blocks: T.
        width: Token channels C.
        rank: Rank r of every update.
    """

    def __init__(self, *, num_blocks: int, width: int, rank: int) -> None:
        super().__init__()
        self.updates = ExpertUpdates(num_blocks=num_blocks, width=width, rank=rank)

    def forward(self, tokens: Tensor) -> list[BlockUpdate]:
        """Return the expert's low-rank updates of each of the T blocks.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
        """
        return self.updates(self.gain(tokens))

    def gain(self, tokens: Tensor) -> Tensor:
        """Return the weight of all ranks at every token, 1, (B, h, w, 1).

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
        """
        return torch.ones_like(tokens[..., :1])


class AdaptiveExpert(nn.Module):
    """Expert with a soft mixture of R low-rank updates per token, for what differs between images and places.

    A router softmax(W LN(t)) weighs the updates. The weighted sum of R updates of rank r is computed as one update of
    rank R r whose ranks are weighted in groups of r.

    Args:
        num_blocks: T.
        width: Token channels C.
        rank: Rank r of every update.
        num_updates: R.
    """

    def __init__(self, *, num_blocks: int, width: int, rank: int, num_updates: int) -> None:
        super().__init__()
        self.rank = rank
        self.num_updates = num_updates
        self.updates = ExpertUpdates(num_blocks=num_blocks, width=width, rank=rank * num_updates)
        self.router = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_updates))

    def forward(self, tokens: Tensor) -> list[BlockUpdate]:
        """Return the expert's low-rank updates of each of the T blocks.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
        """
        return self.updates(self.gain(tokens))

    def gain(self, tokens: Tensor) -> Tensor:
        """Return the routed weight of every rank, (B, h, w, R r), R times softmax, so 1 on average.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
        """
        routing = self.num_updates * torch.softmax(self.router(tokens), dim=-1)
        return routing.repeat_interleave(self.rank, dim=-1)


class ExpertCommunication(nn.Module):
    """One attention layer in which experts attend to all experts' features at the same place; residual, zero at first.

    The basic expert is attended to but attends to none, so that its features stay the pretrained ones.

    Args:
        channels: Feature channels C.
        num_silent: Number of experts, counted from the first, that attend to none.
    """

    def __init__(self, *, channels: int, num_silent: int = 1) -> None:
        super().__init__()
        self.num_heads = NUM_HEADS
        self.num_silent = num_silent
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Exchange features between experts.

        Args:
            features: Experts' feature maps, (B, E, C, h, w).

        Returns:
            Feature maps of the same shape.
        """
        x = features.permute(0, 3, 4, 1, 2)  # (B, h, w, E, C)
        listening = x[..., self.num_silent :, :]
        q = self.query(listening).unflatten(-1, (self.num_heads, -1))
        k, v = self.key_value(x).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        scores = torch.einsum("bhwemd,bhwfmd->bhwmef", q, k) / math.sqrt(k.shape[-1])
        heard = torch.einsum("bhwmef,bhwfmd->bhwemd", torch.softmax(scores, dim=-1), v).flatten(-2)
        x = torch.cat([x[..., : self.num_silent, :], listening + self.out(heard)], dim=-2)
        return x.permute(0, 3, 4, 1, 2)
