"""The loss functions: Dice and cross-entropy, vote, load balance and semantic contrast.

May import networks and utils.
"""

from __future__ import annotations

from icmoe_monai.losses.contrast import SemanticContrastiveLoss
from icmoe_monai.losses.icmoe import BalanceLoss, ICMoELoss, PixelWeights, VotingLoss, WeightedDiceCELoss
from icmoe_monai.losses.voted import loss_of_output

__all__ = [
    "BalanceLoss",
    "ICMoELoss",
    "PixelWeights",
    "SemanticContrastiveLoss",
    "VotingLoss",
    "WeightedDiceCELoss",
    "loss_of_output",
]
