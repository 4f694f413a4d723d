"""Low-rank updates of a block's frozen matrices: W x becomes W x + U (g * (V x)).

After LoRA (Hu et al., arXiv 2106.09685), with a weight g of every rank at every token. `ExpertUpdates` holds the
parameters of one expert; each block receives its part of them as a `BlockUpdate`.

Annotations are not postponed here: TorchScript reads the fields of a NamedTuple only if their types are not strings.

Letters: B batch; h w token grid; C width; T adapted blocks; r rank.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MatrixUpdate(NamedTuple):
    """The update of one frozen matrix.

    Attributes:
        down: V, (r, in_features).
        up: U, (out_features, r).
    """

    down: Tensor
    up: Tensor


class BlockUpdate(NamedTuple):
    """The updates of one block's matrices.

    Attributes:
        gain: Weight g of every rank at every token, (B, h, w, r), or (B, h, w, 1) for all ranks alike.
        qkv: Update of queries, keys and values, C to 3C.
        lin1: Update of the MLP's first layer, C to 4C.
        lin2: Update of the MLP's second layer, 4C to C.
    """

    gain: Tensor
    qkv: MatrixUpdate
    lin1: MatrixUpdate
    lin2: MatrixUpdate


class LowRank(nn.Module):
    """Low-rank updates of one kind of frozen matrix in each of T blocks.

    U starts at zero, so that an untrained expert computes what the frozen encoder computes.

    Args:
        num_blocks: T.
        in_features: Columns of the frozen matrix.
        out_features: Rows of the frozen matrix.
        rank: Rank r of the update.
    """

    def __init__(self, *, num_blocks: int, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(num_blocks, rank, in_features))
        self.up = nn.Parameter(torch.zeros(num_blocks, out_features, rank))
        nn.init.normal_(self.down, std=1 / math.sqrt(in_features))

    def forward(self, block: int) -> MatrixUpdate:
        """Return the update for one of the T blocks."""
        return MatrixUpdate(self.down[block], self.up[block])


class ExpertUpdates(nn.Module):
    """The updates of one expert: of queries, keys and values, and of both layers of the MLP, in each of T blocks.

    Args:
        num_blocks: T.
        width: Token channels C.
        rank: Rank r of every update.
    """

    def __init__(self, *, num_blocks: int, width: int, rank: int) -> None:
        super().__init__()
        self.num_blocks = num_blocks
        self.qkv = LowRank(num_blocks=num_blocks, in_features=width, out_features=3 * width, rank=rank)
        self.lin1 = LowRank(num_blocks=num_blocks, in_features=width, out_features=4 * width, rank=rank)
        self.lin2 = LowRank(num_blocks=num_blocks, in_features=4 * width, out_features=width, rank=rank)

    def forward(self, gain: Tensor) -> list[BlockUpdate]:
        """Return the T blocks' updates.

        Args:
            gain: Weight g of every rank at every token, (B, h, w, r) or (B, h, w, 1).
        """
        return [BlockUpdate(gain, self.qkv(j), self.lin1(j), self.lin2(j)) for j in range(self.num_blocks)]


def add_update(product: Tensor, x: Tensor, update: MatrixUpdate, gain: Tensor) -> Tensor:
    """Add a low-rank update to a matrix's product: return W x + U (g * (V x)).

    Args:
        product: W x, perhaps with a residual added, (..., out_features).
        x: Tokens, (..., in_features).
        update: V and U.
        gain: g, broadcastable to (..., r).
    """
    return product + F.linear(gain * F.linear(x, update.down), update.up)
