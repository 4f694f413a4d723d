"""What the network is trained for: Dice and cross-entropy, vote, balance and contrast.

May import networks and utils.
"""

from __future__ import annotations

from icmoe_monai.losses.contrast import SemanticContrastiveLoss
from icmoe_monai.losses.icmoe import BalanceLoss, ICMoELoss, PixelWeights, VotingLoss, WeightedDiceCELoss

__all__ = [
    "BalanceLoss",
    "ICMoELoss",
    "PixelWeights",
    "SemanticContrastiveLoss",
    "VotingLoss",
    "WeightedDiceCELoss",
]
