"""Pooled features: what a network's frozen parts see of a window, as one vector, to tell whether it is like others.

The features are those that the forward pass has at hand. Of a network with an image pyramid they are the means and
standard deviations over space of its features at stride 32, of which sharpness and compression change least; of one
without, those of the encoder's tokens. Padding around an image is left out as far as a grid's cells lie in it.

Letters: B windows; c channels; H W side of a window; h w size of a grid; F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE, NoEncoder
from icmoe_monai.networks.pyramid import ImagePyramid

FEATURES = "pooled_features"  # key of an item, and among the metadata of its voted tensor


class Frame(NamedTuple):
    """Hold where the image lies in a padded window, in pixels.

    Attributes:
        top: Its first row.
        left: Its first column.
        height: Its rows.
        width: Its columns.
    """

    top: int
    left: int
    height: int
    width: int


class PooledWindows:
    """Run a network over windows as its `expert_maps` does, and keep the pooled features of each window.

    Args:
        network: An `ICMoE`, or an ensemble of folds that share its frozen parts; of any other nothing is kept.
        frame: Where the image lies in each window; None: everywhere.
        maps_of: What makes maps of tokens and levels; None: the network.
        seen: What returns maps and the grid to pool, or None, in the place of the network and `maps_of`: a compiled
            `SeenMaps`.

    Example:
        >>> network = ICMoE(backbone=None, detail=ImagePyramid(), own_network={"semantic": "lite0"}).eval()
        >>> pooled, windows = PooledWindows(network), torch.zeros(2, 3, 64, 64)
        >>> torch.equal(pooled(windows), network.expert_maps(windows)), pooled.features(num_images=1).shape
        (True, torch.Size([1, 2, 640]))
    """

    def __init__(
        self,
        network: Any,
        frame: Frame | None = None,
        maps_of: Callable[..., Any] | None = None,
        seen: Callable[[Tensor], tuple[Any, Tensor | None]] | None = None,
    ) -> None:
        self.network = network
        self._seen = seen
        self.frame = frame
        self._maps_of = maps_of
        self._frozen = _frozen_network(network)
        self._kept: list[Tensor] = []

    def __call__(self, windows: Tensor) -> Any:
        """Return the network's expert maps of windows (B, 3, H, W), and keep the windows' features."""
        if self._seen is not None:
            maps, grid = self._seen(windows)
            if grid is not None:
                self._keep(grid, windows)
            return maps
        if self._frozen is None and self._maps_of is None:
            return self.network.expert_maps(windows)
        tokens, levels = self._look(windows)
        return (self._maps_of or self.network.maps_of)(tokens, levels)

    def only(self, windows: Tensor) -> Tensor:
        """Keep the features of windows (B, 3, H, W), run no experts, and return zeros (B, 1, H, W) for their maps."""
        if self._frozen is not None:
            self._look(windows)
        return torch.zeros_like(windows[:, :1])

    def _look(self, windows: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens, levels = self.network.trunk(windows), self.network.levels(windows)
        if self._frozen is not None:
            self._keep(_grid_of(self._frozen, tokens, levels), windows)
        return tokens, levels

    def _keep(self, grid: Tensor, windows: Tensor) -> None:
        self._kept.append(pool(grid, windows.shape[-2:], self.frame))

    def take(self) -> Tensor | None:
        """Return the features of the windows that were run since the last call, (B, F), or None if there are none."""
        kept, self._kept = self._kept, []
        return torch.cat(kept) if kept else None

    def features(self, num_images: int) -> Tensor | None:
        """Return what `take` returns, image by image.

        Args:
            num_images: Number of images, of which each had as many windows, one image's after another's.

        Returns:
            The features, float32 (images, windows of each, F).
        """
        kept = self.take()
        return None if kept is None else kept.unflatten(0, (num_images, -1))


class SeenMaps(nn.Module):
    """A network as a graph: from windows to its expert maps and, where there is something to pool, the grid of it.

    Args:
        network: An `ICMoE`, an ensemble of folds, or any other network with `expert_maps`.
        packs: Further networks by name, which share the network's frozen parts and make the maps in its place.
    """

    def __init__(self, network: Any, packs: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.network = network
        self.packs = None if packs is None else nn.ModuleDict(packs)
        self.has_grid = _frozen_network(network) is not None

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of windows (B, 3, H, W), of each pack in their order, and last the grid if there is one."""
        frozen = _frozen_network(self.network)
        if frozen is None and self.packs is None:
            return (self.network.expert_maps(windows),)
        tokens, levels = self.network.trunk(windows), self.network.levels(windows)
        networks = [self.network] if self.packs is None else list(self.packs.values())
        maps = tuple(cast(ICMoE, network).maps_of(tokens, levels) for network in networks)
        return maps if frozen is None else (*maps, _grid_of(frozen, tokens, levels))

    def told(self, outputs: Sequence[Tensor]) -> tuple[Any, Tensor | None]:
        """Return what `forward` returned as maps, or a dict of maps by pack, and the grid or None."""
        maps, grid = (outputs[:-1], outputs[-1]) if self.has_grid else (outputs, None)
        return (maps[0] if self.packs is None else dict(zip(self.packs, maps, strict=True))), grid


def _grid_of(frozen: ICMoE, tokens: Tensor, levels: list[Tensor]) -> Tensor:
    """Return the features that are pooled, (B, c, h, w): the pyramid's at stride 32, or else the encoder's tokens."""
    pyramid = frozen.detail
    return levels[3][:, pyramid.at16_channels :] if isinstance(pyramid, ImagePyramid) else tokens.movedim(-1, 1)


def pool(grid: Tensor, side: Sequence[int], frame: Frame | None = None) -> Tensor:
    """Return the means and standard deviations of features over space.

    Args:
        grid: Features of windows, (B, c, h, w).
        side: (H, W) of the windows.
        frame: Where the image lies in each window; None: everywhere.

    Returns:
        Means, then standard deviations, float32 (B, F), F = 2 c.

    Example:
        >>> grid = torch.tensor([[[[0.0, 1.0, 3.0, 9.0]]]])
        >>> pool(grid, (1, 4), Frame(top=0, left=1, height=1, width=2)).tolist()
        [[2.0, 1.0]]
    """
    if frame is not None:
        rows = _cells(frame.top, frame.height, side[0], grid.shape[2])
        columns = _cells(frame.left, frame.width, side[1], grid.shape[3])
        grid = grid[:, :, rows, columns]
    flat = grid.float().flatten(2)
    return torch.cat([flat.mean(2), flat.std(2, correction=0)], dim=1)


def _cells(start: int, length: int, side: int, num_cells: int) -> slice:
    """Return the cells of a grid that lie inside a stretch of pixels, or the one in its middle."""
    first, end = ceil(start * num_cells / side), (start + length) * num_cells // side
    if first < end:
        return slice(first, end)
    middle = min(num_cells - 1, (2 * start + length) * num_cells // (2 * side))
    return slice(middle, middle + 1)


def _frozen_network(network: Any) -> ICMoE | None:
    """Return the network whose encoder and pyramid see the windows, or None where there is nothing to pool."""
    if isinstance(network, FoldEnsemble):
        network = network.folds[0] if network.shares else None
    if not isinstance(network, ICMoE):
        return None
    has_tokens = not isinstance(network.encoder, NoEncoder)
    return network if has_tokens or isinstance(network.detail, ImagePyramid) else None
