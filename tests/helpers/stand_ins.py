"""Stand-ins for large images and for networks that see them by windows."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import NormalizeIntensity
from torch import Tensor, nn

from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.voting import PixelVoting, to_probabilities

COLOURS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
SIDE = 32


class InMemory:
    """A large image that is none; it notes how many rows were read at once."""

    spacing_um = None

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape = pixels, pixels.shape[:2]
        self.levels = (self.shape,)
        self.most_rows = 0

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        assert 0 <= top < top + height <= self.shape[0]
        assert 0 <= left < left + width <= self.shape[1]
        self.most_rows = max(self.most_rows, height)
        return self.pixels[top : top + height, left : left + width]

    def close(self) -> None:
        pass


class Windowed(nn.Module):
    """Stand in for a network: maps that depend on all pixels of a window, so that windows and batches matter."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.expert_names = ["basic", "semantic", "adaptive"]
        self.voting = PixelVoting(num_experts=3)
        self.maps = nn.Conv2d(3, 3 * out_channels + 3, 5, padding=2)
        self.num_windows = 0

    def expert_maps(self, image: Tensor) -> Tensor:
        self.num_windows += len(image)
        maps = self.maps(image) * image.mean(dim=(1, 2, 3), keepdim=True).cos() * 3
        probabilities = to_probabilities(maps[:, :-3].unflatten(1, (3, self.out_channels)))
        return torch.cat([probabilities.flatten(1, 2), maps[:, -3:]], dim=1)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(pixels: np.ndarray, network: nn.Module, windows: SlidingWindowVotingInferer) -> Tensor:
    normalise = NormalizeIntensity(subtrahend=COLOURS["pixel_mean"], divisor=COLOURS["pixel_std"], channel_wise=True)
    image = normalise(torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float())
    with torch.no_grad():
        return windows(torch.as_tensor(image)[None], network)[0]
