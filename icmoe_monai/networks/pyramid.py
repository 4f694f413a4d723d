"""A small convolutional network whose features, at strides 2 to 16, show what patches of 16 pixels blur.

The trunk's features have one stride, 16. A small convolutional network that was trained on ImageNet has features at
strides 2 to 32, and costs little to run. It is EfficientNet (Tan and Le, arXiv 1905.11946) in its authors' "Lite0"
form: ReLU6, no squeeze-and-excitation, stem and head of fixed width; without its head. There are no normalisation
layers: those of the trained network are folded into the convolutions when its weights are read (`weights.pyramid`).

Letters: B batch; H W image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.networks.blueprint import recorded

LEVEL_CHANNELS = (16, 24, 40, 432)  # at strides 2, 4, 8 and 16
STAGES = (  # blocks, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_MEAN, _STD = 127.0, 128.0  # normalisation of the pixels (0..255) when EfficientNet-Lite0 was trained


@recorded
class ImagePyramid(nn.Module):
    """EfficientNet-Lite0's features of an image at strides 2, 4, 8 and 16; frozen, as IC-MoE needs it, by default.

    Args:
        pixel_mean: Means by which the channels (0..255) of the input image were normalised.
        pixel_std: Standard deviations by which they were normalised.
        train: Train its weights too, as a rival does that keeps nothing frozen.

    Example:
        >>> [tuple(level.shape) for level in ImagePyramid()(torch.zeros(1, 3, 64, 32))]
        [(1, 16, 32, 16), (1, 24, 16, 8), (1, 40, 8, 4), (1, 432, 4, 2)]
    """

    channels: tuple[int, int, int, int] = LEVEL_CHANNELS

    def __init__(
        self,
        *,
        pixel_mean: tuple[float, ...] | list[float] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, ...] | list[float] = (58.395, 57.12, 57.375),
        train: bool = False,
    ) -> None:
        super().__init__()
        scale = torch.tensor(pixel_std) / _STD
        shift = (torch.tensor(pixel_mean) - _MEAN) / _STD
        self.scale = nn.Buffer(scale[:, None, None], persistent=False)
        self.shift = nn.Buffer(shift[:, None, None], persistent=False)
        stages: list[nn.Module] = []
        in_channels = _STEM_CHANNELS
        for num_blocks, kernel, stride, expansion, channels in STAGES:
            blocks = [InvertedResidual(in_channels, channels, kernel, stride, expansion)]
            blocks += [InvertedResidual(channels, channels, kernel, 1, expansion) for _ in range(1, num_blocks)]
            stages.append(nn.Sequential(*blocks))
            in_channels = channels
        self.to2 = nn.Sequential(_convolve(3, _STEM_CHANNELS, kernel=3, stride=2), stages[0])
        self.to4 = stages[1]
        self.to8 = stages[2]
        self.to16 = nn.Sequential(*stages[3:5])
        self.to32 = nn.Sequential(*stages[5:])
        self.requires_grad_(train)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the image's levels, its features at four strides.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Features at strides 2, 4, 8 and 16, (B, c, H/s, W/s); the last also holds those of stride 32, enlarged.
        """
        at2 = self.to2(image * self.scale + self.shift)
        at4 = self.to4(at2)
        at8 = self.to8(at4)
        at16 = self.to16(at8)
        h, w = at16.shape[-2], at16.shape[-1]
        at32 = self.to32(F.pad(at16, [0, w % 2, 0, h % 2]))
        enlarged = F.interpolate(at32, scale_factor=2.0, mode="bilinear", align_corners=False)
        return [at2, at4, at8, torch.cat([at16, enlarged[..., :h, :w]], dim=1)]


class InvertedResidual(nn.Module):
    """A block that widens, filters each channel separately and narrows (MobileNetV2, Sandler et al., arXiv 1801.04381).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the filter.
        stride: Stride of the filter, 1 or 2.
        expansion: How many times wider the filtered features are than the input.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        self.widen = nn.Identity() if expansion == 1 else _convolve(in_channels, width, kernel=1)
        self.filter = _convolve(width, width, kernel=kernel, stride=stride, groups=width)
        self.narrow = nn.Conv2d(width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, h, w) to (B, c', h/stride, w/stride)."""
        narrowed: Tensor = self.narrow(self.filter(self.widen(x)))
        return x + narrowed if self.is_residual else narrowed


def _convolve(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with ReLU6.

    At stride 2 the network was trained with TensorFlow's padding, one pixel more at the end than at the start. An even
    kernel whose first row and column are zero sees the same pixels under equal padding, without a padded copy.
    """
    side = kernel + stride - 1
    convolution = nn.Conv2d(in_channels, out_channels, side, stride, padding=kernel // 2, groups=groups)
    return nn.Sequential(convolution, nn.ReLU6(inplace=True))
