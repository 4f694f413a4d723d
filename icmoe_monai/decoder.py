"""From features to pixels: one small decoder per expert, over different features and with different sights.

Three like decoders over three like paths learn one function, and a vote among them is decoration (docs/method.md). So
the basic expert's decoder sees the pretrained features, the semantic expert's also the whole image's context, and the
adaptive expert's also the image's finest detail; borders at stride 4 all of them see, for an expert that cannot draw
them has nothing to vote for. Only the abstract of IC-MoE was available: this is our construction.

Letters: B batch; C channels; H W image; h w = H/16, W/16; K output channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DETAIL_CHANNELS = (32, 16)  # of the detail maps at stride 4 and 2


class ExpertDecoder(nn.Module):
    """Stride 16 -> 4 -> 2 by transposed convolutions, then bilinear to the image's size.

    Args:
        in_channels: Channels of the expert's feature map.
        out_channels: K.
        width: Channels at stride 4; half of it at stride 2.
        detail_channels: Channels of the detail maps at stride 4 and 2 that it sees; (c, 0) for the first alone, (0, 0)
            for none.
        context: Module that keeps the feature map's shape and adds context to it, or None.

    Example:
        >>> decoder = ExpertDecoder(in_channels=8, out_channels=1, width=16)
        >>> at4, logits = decoder(torch.zeros(1, 8, 4, 6), [])
        >>> at4.shape, logits.shape
        (torch.Size([1, 16, 16, 24]), torch.Size([1, 1, 64, 96]))
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        detail_channels: tuple[int, int] = (0, 0),
        context: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_details = sum(channels > 0 for channels in detail_channels)
        self.context = nn.Identity() if context is None else context
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(in_channels, 2 * width, 2, stride=2, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.GELU(),
            nn.ConvTranspose2d(2 * width, width, 2, stride=2),
        )
        self.fuse4 = _fuse(width + detail_channels[0], width)
        self.up2 = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.fuse2 = _fuse(width // 2 + detail_channels[1], width // 2)
        self.head = nn.Conv2d(width // 2, out_channels, 1)

    def forward(self, features: Tensor, details: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Decode one expert's features.

        Args:
            features: Feature map, (B, C, h, w).
            details: Detail maps at stride 4 and 2 as `DetailStem` returns them, of which it takes what it sees; may be
                empty if that is none.

        Returns:
            Decoder features at stride 4, (B, width, H/4, W/4), and logits, (B, K, H, W).
        """
        seen = details[: self.num_details]
        at4 = self.fuse4(torch.cat([self.up4(self.context(features))] + seen[:1], dim=1))
        at2 = self.fuse2(torch.cat([self.up2(at4)] + seen[1:], dim=1))
        return at4, F.interpolate(self.head(at2), scale_factor=2.0, mode="bilinear", align_corners=False)


class PyramidContext(nn.Module):
    """Add averages over the whole map and over its halves and quarters (PSPNet, Zhao et al., arXiv 1612.01105).

    Args:
        channels: Channels C of the map.
        bins: Cells a side of each average.
    """

    def __init__(self, *, channels: int, bins: tuple[int, ...] = (1, 2, 4)) -> None:
        super().__init__()
        self.bins = bins
        self.project = nn.ModuleList(nn.Conv2d(channels, channels // len(bins), 1) for _ in bins)
        self.merge = nn.Conv2d(channels + len(bins) * (channels // len(bins)), channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        h, w = features.shape[-2], features.shape[-1]
        levels = [features]
        for i, project in enumerate(self.project):
            pooled = project(F.adaptive_avg_pool2d(features, (self.bins[i], self.bins[i])))
            levels.append(F.interpolate(pooled, size=(h, w), mode="bilinear", align_corners=False))
        return features + self.merge(torch.cat(levels, dim=1))


class DetailStem(nn.Module):
    """The image's fine structure, which a patch embedding of stride 16 blurs: convolutions at stride 2 and 4.

    Args:
        channels: Channels at stride 4 and at stride 2.
    """

    def __init__(self, *, channels: tuple[int, int] = DETAIL_CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        at4, at2 = channels
        self.to2 = nn.Sequential(_convolve(3, at2, stride=2), _convolve(at2, at2, stride=1))
        self.to4 = nn.Sequential(_convolve(at2, at4, stride=2), _convolve(at4, at4, stride=1))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, 3, H, W) to detail maps at stride 4 and 2, (B, c4, H/4, W/4) and (B, c2, H/2, W/2)."""
        at2 = self.to2(image)
        return [self.to4(at2), at2]


def _convolve(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.GELU(),
    )


def _fuse(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.GELU(), *_convolve(in_channels, out_channels, stride=1))
