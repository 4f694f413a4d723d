"""The experts' decoders from features to pixel logits, and the modules that give them context and image detail.

Each expert has one small decoder, which also takes levels of the image (feature maps at strides 2 to 16). All decoders
take the same levels, since no vote can help an expert that cannot draw borders, and are of one of two sizes: "light"
ones draw from features at every second pixel of the image, "full" ones are wider and draw at every pixel. The experts
differ in their features, the semantic expert's context, and the pixels that the loss emphasises for each
(docs/method.md). Only the abstract of IC-MoE was available: this is our construction.

Letters: B batch; C channels; H W image; h w = H/16, W/16; K output channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import recorded

STEM_CHANNELS = (16, 32)  # of the trained stem at strides 2 and 4
CONTEXT_CELLS = (1, 2, 4)  # cells per side that a map is averaged over: the whole map, halves and quarters


class DecoderSize(NamedTuple):
    """Hold the size of a decoder.

    Attributes:
        width: Channels at stride 4; twice and four times as many at strides 8 and 16, half as many at stride 2, a
            quarter at stride 1.
        num_convolutions: Convolutions at each of the strides from 8 on.
        finest_stride: Stride of the last features, 1 or 2.
    """

    width: int
    num_convolutions: int
    finest_stride: int


DECODERS = {
    "light": DecoderSize(width=32, num_convolutions=1, finest_stride=2),
    "full": DecoderSize(width=64, num_convolutions=2, finest_stride=1),
}


def decoder_size(name: str) -> DecoderSize:
    """Return the size of a kind of decoder.

    Args:
        name: One of `DECODERS`.

    Raises:
        InputError: If there is no such decoder.
    """
    if name not in DECODERS:
        raise InputError(f"decoder must be one of {', '.join(DECODERS)}, got {name!r}.")
    return DECODERS[name]


class ExpertDecoder(nn.Module):
    """A U-shaped decoder that joins an expert's features with the image's levels at strides 16, 8, 4 and 2.

    Args:
        in_channels: Channels of the expert's feature map.
        out_channels: K.
        size: Channels, convolutions and last stride.
        level_channels: Channels of the image's levels at strides 2, 4, 8 and 16; 0 where the decoder takes none.
        context: Module that adds context to a feature map and keeps its shape, or None: to the expert's, or where that
            has no channels to what the decoder makes of the level at stride 16, of 4 `width` channels.

    Example:
        >>> decoder = ExpertDecoder(in_channels=8, out_channels=1, size=DECODERS["light"]._replace(width=16))
        >>> at4, logits = decoder(torch.zeros(1, 8, 4, 6), [])
        >>> at4.shape, logits.shape
        (torch.Size([1, 16, 16, 24]), torch.Size([1, 1, 64, 96]))
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: DecoderSize = DECODERS["light"],
        level_channels: tuple[int, int, int, int] = (0, 0, 0, 0),
        context: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width, num = size.width, size.num_convolutions
        see2, see4, see8, see16 = level_channels
        self.draws_every_pixel = size.finest_stride == 1
        self.seen = [channels > 0 for channels in level_channels]
        self.has_features = in_channels > 0
        self.context = nn.Identity() if context is None else context
        self.fuse16 = nn.Sequential(
            nn.Conv2d(in_channels + see16, 4 * width, 1),
            nn.GELU(),  # no norm before it, which would remove what communication adds to all places alike
            _convolve(4 * width, 4 * width),
        )
        self.up8 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.fuse8 = _convolve(2 * width + see8, 2 * width, num)
        self.up4 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.fuse4 = _convolve(width + see4, width, num)
        self.up2 = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.fuse2 = _convolve(width // 2 + see2, width // 2, num)
        if self.draws_every_pixel:
            self.up1: nn.Module = nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)
            self.fuse1: nn.Module = _convolve(width // 4, width // 4, num)
        else:
            self.up1, self.fuse1 = nn.Identity(), nn.Identity()
        self.head = nn.Conv2d(width // 4 if self.draws_every_pixel else width // 2, out_channels, 1)

    def forward(self, features: Tensor, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Decode one expert's features.

        Args:
            features: Feature map, (B, C, h, w); C may be 0 if the decoder takes a level at stride 16.
            levels: Levels of the image at strides 2, 4, 8 and 16; may be empty if the decoder takes none.

        Returns:
            Decoder features at stride 4, (B, width, H/4, W/4), and logits, (B, K, H, W).
        """
        if self.has_features:
            features = self.context(features)
        at16 = self.fuse16(self._join(features, levels, 3))
        if not self.has_features:
            at16 = self.context(at16)
        at8 = self.fuse8(self._join(self.up8(at16), levels, 2))
        at4 = self.fuse4(self._join(self.up4(at8), levels, 1))
        at2 = self.fuse2(self._join(self.up2(at4), levels, 0))
        if self.draws_every_pixel:
            return at4, self.head(self.fuse1(self.up1(at2)))
        return at4, F.interpolate(self.head(at2), scale_factor=2.0, mode="bilinear", align_corners=False)

    def _join(self, x: Tensor, levels: list[Tensor], i: int) -> Tensor:
        return torch.cat([x, levels[i]], dim=1) if self.seen[i] else x


class PyramidContext(nn.Module):
    """Add a feature map's averages over the whole map, its halves and quarters (PSPNet, Zhao et al., arXiv 1612.01105).

    Args:
        channels: Channels C of the map.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.cells = CONTEXT_CELLS
        reduced = channels // len(self.cells)
        self.project = nn.ModuleList(nn.Conv2d(channels, reduced, 1) for _ in self.cells)
        self.merge = nn.Conv2d(channels + len(self.cells) * reduced, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        h, w = features.shape[-2], features.shape[-1]
        levels = [features]
        for i, project in enumerate(self.project):
            pooled = project(F.adaptive_avg_pool2d(features, (self.cells[i], self.cells[i])))
            levels.append(F.interpolate(pooled, size=(h, w), mode="bilinear", align_corners=False))
        return features + self.merge(torch.cat(levels, dim=1))


@recorded
class DetailStem(nn.Module):
    """Trained convolutions that give decoders the image's fine structure, which patches of 16 pixels blur."""

    channels: tuple[int, int, int, int] = (*STEM_CHANNELS, 0, 0)  # at strides 2, 4, 8 and 16

    def __init__(self) -> None:
        super().__init__()
        at2, at4 = STEM_CHANNELS
        self.to2 = nn.Sequential(_convolve(3, at2, stride=2), _convolve(at2, at2))
        self.to4 = nn.Sequential(_convolve(at2, at4, stride=2), _convolve(at4, at4))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, 3, H, W) to its levels at stride 2 and 4, (B, c2, H/2, W/2) and (B, c4, H/4, W/4)."""
        at2 = self.to2(image)
        return [at2, self.to4(at2)]


@recorded
class NoDetail(nn.Module):
    """Detail module that gives decoders no levels of the image, so that they rely on the encoder's features alone."""

    channels: tuple[int, int, int, int] = (0, 0, 0, 0)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return no levels, an empty list, for an image (B, 3, H, W)."""
        levels: list[Tensor] = []
        return levels


def _convolve(in_channels: int, out_channels: int, num: int = 1, *, stride: int = 1) -> nn.Sequential:
    """Return as many convolutions of 3 x 3 pixels, the first with a stride."""
    layers: list[nn.Module] = []
    for i in range(num):
        seen, step = (in_channels, stride) if i == 0 else (out_channels, 1)
        convolution = nn.Conv2d(seen, out_channels, 3, stride=step, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(out_channels), nn.GELU()]
    return nn.Sequential(*layers)
