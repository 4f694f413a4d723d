"""What IC-MoE is compared with, behind its interface, so that one config trains and scores all.

`Baseline` wraps any 2-D segmentation network, one of MONAI's or the `PyramidUNet`.

Letters: B batch; H W image; K output channels; E = 1 expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icmoe_monai.networks.decoder import ExpertDecoder
from icmoe_monai.networks.icmoe import DECODER_WIDTH, ICMoEOutput
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.voting import PixelVoting, to_probabilities
from icmoe_monai.utils.precision import at_least_float32


class Baseline(nn.Module):
    """A segmentation network, such as one of MONAI's, as a mixture of one expert that has every vote.

    With one expert the vote and balance losses are constant, and there are no embeddings to contrast; with
    `expert_weight: 0` the loss is then the network's Dice and cross-entropy alone.

    Args:
        network: Maps an image (B, 3, H, W) to logits (B, K, H, W), or to a list of logits, the finest last.
        out_channels: K, which the network must have been built with.

    Example:
        >>> network = Baseline(network=nn.Conv2d(3, 1, 1), out_channels=1)
        >>> network.train()(torch.zeros(1, 3, 32, 32)).votes.unique().tolist()
        [1.0]
        >>> network.eval()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """

    def __init__(self, *, network: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.network = network
        self.out_channels = out_channels
        self.voting = PixelVoting(num_experts=1)

    def forward(self, image: Tensor) -> Tensor | ICMoEOutput:
        """Segment an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W divisible by the network's largest stride.

        Returns:
            Logits, (B, K, H, W), in eval mode; an `ICMoEOutput` in training mode, with embeddings (B, 1, 0, 0).
        """
        logits = self._logits(image)
        if not self.training:
            return logits
        votes = torch.ones_like(logits[:, :1])
        return ICMoEOutput(logits, logits[:, None], votes, logits.new_zeros(len(logits), 1, 0, 0))

    def expert_maps(self, image: Tensor) -> Tensor:
        """Return probabilities, then one channel of zero gate logits, (B, K + 1, H, W), of an image (B, 3, H, W)."""
        probabilities = to_probabilities(at_least_float32(self._logits(image)))
        return torch.cat([probabilities, torch.zeros_like(probabilities[:, :1])], dim=1)

    def _logits(self, image: Tensor) -> Tensor:
        """Return the network's finest logits.

        Raises:
            ValueError: If the logits are not (B, K, H, W).
        """
        output = self.network(image)
        logits: Tensor = output[-1] if isinstance(output, (list, tuple)) else output
        expected = (len(image), self.out_channels, *image.shape[-2:])
        if logits.shape != expected:
            raise ValueError(f"The network's logits must be (B, K, H, W) {expected}, got {tuple(logits.shape)}.")
        return logits


class PyramidUNet(nn.Module):
    """The image pyramid under one of IC-MoE's decoders, without a foundation encoder, experts or a vote.

    With a pyramid that is trained it is what a user of any U-Net library does with the same ImageNet weights.

    Args:
        detail: The pyramid.
        out_channels: K.

    Example:
        >>> PyramidUNet(detail=ImagePyramid(), out_channels=1)(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 1, 32, 48])
    """

    def __init__(self, *, detail: ImagePyramid, out_channels: int) -> None:
        super().__init__()
        self.detail = detail
        self.decoder = ExpertDecoder(
            in_channels=0, out_channels=out_channels, width=DECODER_WIDTH, level_channels=detail.channels
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (B, 3, H, W), H and W multiples of 16, to logits (B, K, H, W)."""
        levels = self.detail(image)
        no_features = levels[-1][:, :0]
        logits: Tensor = self.decoder(no_features, levels)[1]
        return logits
