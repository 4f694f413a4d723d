"""A small convolutional network whose features, at strides 2 to 32, show what patches of 16 pixels blur.

A vision transformer's features have one stride, 16. A small convolutional network that was trained on ImageNet has
features at strides 2 to 32, and costs little to run. It is EfficientNet (Tan and Le, arXiv 1905.11946) in its authors'
"Lite" form: ReLU6, no squeeze-and-excitation, stem and last stage of fixed depth; without its head. There are no
normalisation layers: those of the trained network are folded into the convolutions when its weights are read
(`weights.pyramid`).

Letters: B batch; H W image.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import recorded

SIZES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # how many times as wide and as deep as lite0
STRIDES = (2, 4, 8, 16, 32)  # of the network's stages
_LITE0 = (  # blocks, kernel, stride of the first block, expansion, channels
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


def stages_of(size: str) -> list[tuple[int, int, int, int, int]]:
    """Return a network's stages: blocks, kernel, stride of the first block, expansion and channels of each.

    Channels are rounded to the nearest multiple of 8, and blocks up; the first and the last stage keep their depth, as
    in the authors' "Lite" form.

    Args:
        size: One of `SIZES`.

    Raises:
        InputError: If there is no such size.
    """
    if size not in SIZES:
        raise InputError(f"The image pyramid's size must be one of {', '.join(SIZES)}, got {size!r}.")
    width, depth = SIZES[size]
    ends = (0, len(_LITE0) - 1)
    return [
        (num if i in ends else math.ceil(num * depth), kernel, stride, expansion, 8 * int(channels * width / 8 + 0.5))
        for i, (num, kernel, stride, expansion, channels) in enumerate(_LITE0)
    ]


@recorded
class ImagePyramid(nn.Module):
    """EfficientNet-Lite's features of an image at strides 2, 4, 8 and 16; frozen, as IC-MoE needs it, by default.

    Args:
        size: One of `SIZES`.
        pixel_mean: Means by which the channels (0..255) of the input image were normalised.
        pixel_std: Standard deviations by which they were normalised.
        train: Train its weights too, as an expert with a network of its own does, and a rival that freezes nothing.

    Raises:
        InputError: If there is no such size.

    Example:
        >>> [tuple(level.shape) for level in ImagePyramid()(torch.zeros(1, 3, 64, 32))]
        [(1, 16, 32, 16), (1, 24, 16, 8), (1, 40, 8, 4), (1, 432, 4, 2)]
    """

    def __init__(
        self,
        *,
        size: str = "lite0",
        pixel_mean: tuple[float, ...] | list[float] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, ...] | list[float] = (58.395, 57.12, 57.375),
        train: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        scale = torch.tensor(pixel_std) / _STD
        shift = (torch.tensor(pixel_mean) - _MEAN) / _STD
        self.scale = nn.Buffer(scale[:, None, None], persistent=False)
        self.shift = nn.Buffer(shift[:, None, None], persistent=False)
        stages: list[nn.Module] = []
        in_channels = _STEM_CHANNELS
        widths: list[int] = []
        for num_blocks, kernel, stride, expansion, channels in stages_of(size):
            blocks = [InvertedResidual(in_channels, channels, kernel, stride, expansion)]
            blocks += [InvertedResidual(channels, channels, kernel, 1, expansion) for _ in range(1, num_blocks)]
            stages.append(nn.Sequential(*blocks))
            widths.append(channels)
            in_channels = channels
        self.to2 = nn.Sequential(_convolve(3, _STEM_CHANNELS, kernel=3, stride=2), stages[0])
        self.to4 = stages[1]
        self.to8 = stages[2]
        self.to16 = nn.Sequential(*stages[3:5])
        self.to32 = nn.Sequential(*stages[5:])
        self.at16_channels = widths[4]
        self.channels = (widths[0], widths[1], widths[2], widths[4] + widths[6])  # at strides 2, 4, 8 and 16
        self.requires_grad_(train)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the image's levels, its features at four strides.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Features at strides 2, 4, 8 and 16, (B, c, H/s, W/s); the last also holds those of stride 32, enlarged.
        """
        image = image.contiguous(memory_format=torch.channels_last)  # in which these convolutions are faster
        at2 = self.to2(image * self.scale + self.shift)
        at4 = self.to4(at2)
        at8 = self.to8(at4)
        at16 = self.to16(at8)
        return [at2, at4, at8, _join(at16, self.to32(_pad(at16)))]


class OwnStages(nn.Module):
    """An expert's trained copies of a pyramid's last stages, over the levels before them, which all experts share.

    Args:
        pyramid: The pyramid; it stays as it is.
        stride: Stride of the first stage that is the expert's own: 4, 8, 16 or 32.

    Raises:
        InputError: If there is no such stage.

    Example:
        >>> pyramid = ImagePyramid()
        >>> levels, own = pyramid(torch.zeros(1, 3, 32, 32)), OwnStages(pyramid, stride=16)
        >>> [torch.equal(a, b) for a, b in zip(own(levels), levels)]
        [True, True, True, True]
    """

    def __init__(self, pyramid: ImagePyramid, *, stride: int) -> None:
        super().__init__()
        if stride not in STRIDES[1:]:
            raise InputError(f"own_from must be one of the strides {', '.join(map(str, STRIDES[1:]))}, got {stride}.")
        self.num_shared = STRIDES.index(stride)
        self.at16_channels = pyramid.at16_channels
        self.channels = pyramid.channels
        own = STRIDES[self.num_shared :]
        self.to4 = copy.deepcopy(pyramid.to4) if 4 in own else nn.Identity()
        self.to8 = copy.deepcopy(pyramid.to8) if 8 in own else nn.Identity()
        self.to16 = copy.deepcopy(pyramid.to16) if 16 in own else nn.Identity()
        self.to32 = copy.deepcopy(pyramid.to32)
        self.requires_grad_(True)

    @torch.no_grad()
    def start_from(self, pyramid: ImagePyramid) -> None:
        """Set the copies to the pyramid's weights."""
        for name, stage in self.named_children():
            if not isinstance(stage, nn.Identity):
                stage.load_state_dict(pyramid.get_submodule(name).state_dict())

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return an expert's levels of an image.

        Args:
            levels: The pyramid's levels at strides 2, 4, 8 and 16, (B, c, H/s, W/s).

        Returns:
            As many levels, those of the own stages the expert's.
        """
        at4 = self.to4(levels[0]) if self.num_shared <= 1 else levels[1]
        at8 = self.to8(at4) if self.num_shared <= 2 else levels[2]
        at16 = self.to16(at8) if self.num_shared <= 3 else levels[3][:, : self.at16_channels]
        return [levels[0], at4, at8, _join(at16, self.to32(_pad(at16)))]


class OwnNetwork(nn.Module):
    """An expert's trained pyramid of the image, a whole network of its own.

    Args:
        pyramid: The network.
        normalised_as: Module whose image is normalised as the expert's, if that is a pyramid.
    """

    def __init__(self, pyramid: ImagePyramid, *, normalised_as: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid
        if isinstance(normalised_as, ImagePyramid):
            pyramid.scale.copy_(normalised_as.scale)
            pyramid.shift.copy_(normalised_as.shift)
        self.channels = pyramid.channels

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return the network's levels of the image, which is the last of the levels given."""
        own: list[Tensor] = self.pyramid(levels[-1])
        return own


class SharedLevels(nn.Module):
    """The levels that all experts share, as they are.

    Args:
        channels: Channels of the levels at strides 2, 4, 8 and 16.
    """

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return the levels."""
        return levels


def _pad(at16: Tensor) -> Tensor:
    """Add a row or a column of zeros to a grid of odd height or width."""
    return F.pad(at16, [0, at16.shape[-1] % 2, 0, at16.shape[-2] % 2])


def _join(at16: Tensor, at32: Tensor) -> Tensor:
    """Join features of stride 16 with those of stride 32, enlarged."""
    enlarged = F.interpolate(at32, scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.cat([at16, enlarged[..., : at16.shape[-2], : at16.shape[-1]]], dim=1)


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
