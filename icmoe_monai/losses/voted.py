"""Losses that know no experts, such as MONAI's, in place of `ICMoELoss`.

Letters: B batch; K output channels; H W image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.baselines import as_output
from icmoe_monai.networks.icmoe import ICMoEOutput


class VotedLoss(nn.Module):
    """A loss of the voted logits alone, for a network whose output in training says more.

    Args:
        loss: Maps logits (B, K, H, W) and a class map (B, 1, H, W), float32, to a scalar.

    Example:
        >>> from monai.losses import DiceCELoss
        >>> loss = VotedLoss(DiceCELoss(sigmoid=True))
        >>> round(loss(torch.full((1, 1, 2, 2), 50.0), torch.ones(1, 1, 2, 2)).item(), 3)
        0.0
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: ICMoEOutput | Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar, of an output in training mode, or of logits, and a class map (B, 1, H, W)."""
        return self.loss(as_output(output).logits, label)


def loss_of_output(loss: Callable[[Tensor, Tensor], Tensor], device: str | torch.device) -> nn.Module:
    """Return a config's loss on a device: an `ICMoELoss` as it is, any other as a `VotedLoss`.

    Args:
        loss: The loss, a module or a function.
        device: Where to put it.
    """
    module = loss if isinstance(loss, ICMoELoss) else VotedLoss(loss)
    return cast(nn.Module, module.to(device))
