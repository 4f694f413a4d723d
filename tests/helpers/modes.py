"""Networks that a test needs: one in a certain mode, one whose answer is known."""

import copy

import torch
from torch import Tensor, nn

from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.voting import PixelVoting


def randomise(module: nn.Module, std: float = 0.5) -> None:
    """Draw all weights wide, so that no term is too small to be seen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)


def in_training(network: ICMoE) -> ICMoE:
    """Return a copy in training mode whose batch norms use their running statistics, as in evaluation."""
    copied = copy.deepcopy(network).train()
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return copied


class Brightness(nn.Module):
    """What the inferers ask of a network, with one expert that finds what is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 1
        self.voting = PixelVoting(num_experts=1)

    def expert_maps(self, image: Tensor) -> Tensor:
        bright = torch.sigmoid(8 * image.mean(dim=1, keepdim=True))  # normalised: 0 is near the middle
        return torch.cat([bright, torch.zeros_like(bright)], dim=1)
