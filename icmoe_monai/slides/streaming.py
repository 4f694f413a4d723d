"""Run the network and the vote over an image of any size, with only one row of windows in memory.

The windows, their importance, the batches and the order of all sums are those of `SlidingWindowVotingInferer`, so that
the result is the same but for rounding. Windows are processed row by row. Once a row of windows begins, no window adds
to the pixel rows above it any more; these are then normalised, voted and yielded as a strip.

Letters: B windows in a batch; E experts; K output channels; H W image; h rows of a strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, cast

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from monai.transforms.intensity.array import NormalizeIntensity
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.views import averaged
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, aligned_rows, autocast, maps_of, rows_at_once, vote
from icmoe_monai.networks.icmoe import ICMoE, unwrapped
from icmoe_monai.networks.pooling import PooledWindows
from icmoe_monai.slides.background import is_background
from icmoe_monai.slides.images import LargeImage

_NORMALISED_AT_ONCE = 32  # rows


class Strip(NamedTuple):
    """Hold some consecutive rows of the result.

    Attributes:
        top: Index of the first row.
        prediction: Voted probabilities, experts' probabilities and votes, (K + E K + E, h, W).
    """

    top: int
    prediction: Tensor


class StreamingVotingInferer:
    """Segment large images in strips, from top to bottom.

    Args:
        windows: The sliding-window inferer that gives the windows' size, overlap, importance, batch and precision.
        pixel_mean: Mean of each colour, 0..255, for normalisation.
        pixel_std: Standard deviation of each colour, in the same unit.
        skip_background: Do not run the network on windows for which `is_background` is true: their probability of any
            foreground is 0, and their votes are equal.
        white_level: Least brightness of bare glass, the `white` of `is_background`.

    Raises:
        InputError: If `skip_background` is neither True nor False, or `white_level` is out of its range.

    Attributes:
        num_run: Number of windows of the last image that went through the network.
        num_skipped: Number of windows of the last image that were skipped as background.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from icmoe_monai.slides.images import open_large_image
        >>> windows = SlidingWindowVotingInferer(roi_size=32, overlap=0.25)
        >>> inferer = StreamingVotingInferer(windows=windows, pixel_mean=[127] * 3, pixel_std=[60] * 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 60), (200, 90, 150)).save(f"{folder}/a.png")
        ...     with open_large_image(f"{folder}/a.png") as image:
        ...         strips = list(inferer(image, ICMoE().eval()))
        >>> [(strip.top, tuple(strip.prediction.shape)) for strip in strips], inferer.num_run
        ([(0, (7, 24, 40)), (24, (7, 4, 40)), (28, (7, 32, 40))], 6)
    """

    def __init__(
        self,
        *,
        windows: SlidingWindowVotingInferer,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        skip_background: bool = True,
        white_level: int = 225,
    ) -> None:
        if not isinstance(skip_background, bool):
            raise InputError(f"skip_background must be True or False, got {skip_background!r}.")
        self.windows = windows
        self.normalise = NormalizeIntensity(subtrahend=pixel_mean, divisor=pixel_std, channel_wise=True)
        self.skip_background = skip_background
        self.white_level = white_level
        is_background(np.zeros((1, 1, 3), dtype=np.uint8), white=white_level)  # so that a wrong level raises here
        self.num_run = self.num_skipped = 0

    @torch.inference_mode()
    def __call__(
        self,
        image: LargeImage,
        network: ICMoE,
        device: torch.device | str = "cpu",
        *,
        watch: Callable[[Tensor], None] | None = None,
    ) -> Iterator[Strip]:
        """Segment an image.

        Args:
            image: The image.
            network: The network, in eval mode.
            device: Device of the network, on which the row of windows is kept too.
            watch: Is called with the pooled features of the windows of each batch, (B, F), if the network has some.

        Yields:
            Strips that cover all rows of the image, from the first row to the last.

        Raises:
            InputError: If the network is a plain one.
        """
        network = unwrapped(network)
        if not hasattr(network, "expert_maps"):
            raise InputError(
                f"Large images need a network that votes, got a {type(network).__name__}: give it as the network of an "
                "icmoe_monai.networks.Baseline, with its out_channels."
            )
        top, width = 0, image.shape[1]
        stitched = self._stitched(image, network, torch.device(device), watch)
        # strips begin where the whole image's vectors do
        for maps in _regrouped(stitched, aligned_rows(width), rows_at_once(width)):
            yield Strip(top, vote(maps[None], network, with_experts=True)[0])
            top += maps.shape[1]

    def _stitched(
        self, image: LargeImage, network: ICMoE, device: torch.device, watch: Callable[[Tensor], None] | None
    ) -> Iterator[Tensor]:
        """Yield the stitched maps of experts and gate for the whole image, some rows, (E K + E, h, W), at a time."""
        self.num_run = self.num_skipped = 0
        grid = _Grid(image.shape, self.windows)
        num_maps = network.voting.num_experts * (network.out_channels + 1)
        row = _RowOfWindows(grid, num_maps, cast(Tensor, self.windows.roi_weight_map).to(device))
        nothing = _nothing(network, num_maps).to(device)
        seen = self.windows.runtime.seen(network)
        pooled = None if watch is None else PooledWindows(network, self.windows.frame(image.shape), seen=seen)
        expert_maps = averaged(network.expert_maps if seen is None else maps_of(seen), self.windows.tta, pooled)
        for batch in self._batches(image, grid):
            pixels = [window for _, window in batch if window is not None]
            with autocast(device, self.windows.amp):
                maps = iter(cast(Tensor, expert_maps(torch.stack(pixels).to(device))) if pixels else ())
            features = pooled.take() if pooled is not None else None
            if watch is not None and features is not None:
                watch(features.cpu())
            for (top, left), window in batch:
                yield from row.advance(top)
                row.add(left, nothing if window is None else next(maps))
        yield from row.advance(grid.height)

    def _batches(self, image: LargeImage, grid: _Grid) -> Iterator[list[tuple[tuple[int, int], Tensor | None]]]:
        """Yield batches of windows in order: corner (top, left) and pixels, or None for a background window.

        A batch has up to `sw_batch_size` windows with pixels; the background windows between them do not count.
        """
        batch: list[tuple[tuple[int, int], Tensor | None]] = []
        waiting, band, band_top = 0, np.empty(0), -1
        for top, left in product(grid.tops, grid.lefts):
            if top != band_top:
                band, band_top = image.read(top, 0, min(grid.side, image.shape[0]), image.shape[1]), top
            pixels = band[:, left : left + grid.side]
            is_run = not (self.skip_background and is_background(pixels, white=self.white_level))
            batch.append(((top, left), self._window(pixels, grid) if is_run else None))
            waiting += is_run
            self.num_run, self.num_skipped = self.num_run + is_run, self.num_skipped + (not is_run)
            if waiting in (0, self.windows.sw_batch_size):
                yield batch
                batch, waiting = [], 0
        if batch:
            yield batch

    def _window(self, pixels: np.ndarray, grid: _Grid) -> Tensor:
        """Return a window as the network's input, (3, side, side); a smaller image is padded with zeros."""
        channels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
        normal = torch.as_tensor(self.normalise(channels))
        missing_rows, missing_columns = grid.side - normal.shape[1], grid.side - normal.shape[2]
        return F.pad(normal, (grid.left, missing_columns - grid.left, grid.top, missing_rows - grid.top))


class _Grid:
    """Hold the positions of windows that MONAI's `sliding_window_inference` uses.

    They refer to the image padded to at least one window.
    """

    def __init__(self, shape: tuple[int, int], windows: SlidingWindowVotingInferer) -> None:
        self.shape = shape
        self.side = int(cast(Sequence[int], windows.roi_size)[0])
        self.height, self.width = max(shape[0], self.side), max(shape[1], self.side)
        self.top, self.left = (self.height - shape[0]) // 2, (self.width - shape[1]) // 2  # of the image in the padding
        step = max(1, int(self.side * (1 - cast(float, windows.overlap))))
        self.tops, self.lefts = (self._places(length, step) for length in (self.height, self.width))

    def _places(self, length: int, step: int) -> list[int]:
        """Return the first pixels of the windows along an axis."""
        step = self.side if length == self.side else step
        return [one.start for (one,) in dense_patch_slices((length,), (self.side,), (step,))]


class _RowOfWindows:
    """Hold the sums of weighted maps, and of the weights, over the pixel rows that one row of windows covers."""

    def __init__(self, grid: _Grid, num_maps: int, weights: Tensor) -> None:
        self.grid, self.top = grid, 0
        self.weights = weights.reshape(1, grid.side, grid.side)
        self.sums = weights.new_zeros(num_maps, grid.side, grid.width)
        self.counts = weights.new_zeros(1, grid.side, grid.width)

    def add(self, left: int, maps: Tensor) -> None:
        """Add a window's maps, (E K + E, side, side)."""
        columns = slice(left, left + self.grid.side)
        self.sums[..., columns] += maps * self.weights
        self.counts[..., columns] += self.weights

    def advance(self, top: int) -> Iterator[Tensor]:
        """Yield the finished maps above a row of windows, (E K + E, h, W), and move on to this row; `top` is its top.

        If it is the current row, there is nothing to yield.
        """
        done, grid = top - self.top, self.grid
        if not done:
            return
        begin, end = max(0, grid.top - self.top), min(done, grid.top + grid.shape[0] - self.top)  # without the padding
        columns = slice(grid.left, grid.left + grid.shape[1])
        for row in range(begin, end, _NORMALISED_AT_ONCE):  # in parts: all at once would need a second copy
            rows = slice(row, min(row + _NORMALISED_AT_ONCE, end))
            yield self.sums[:, rows, columns] / self.counts[:, rows, columns]
        for kept in (self.sums, self.counts):
            kept[:, : grid.side - done] = kept[:, done:].clone()
            kept[:, grid.side - done :] = 0
        self.top = top


def _nothing(network: ICMoE, num_maps: int) -> Tensor:
    """Return the maps of a background window, (E K + E, 1, 1): no foreground, and gate logits 0 for all experts."""
    maps = torch.zeros(num_maps, 1, 1)
    if network.out_channels > 1:
        maps[: -network.voting.num_experts : network.out_channels] = 1
    return maps


def _regrouped(parts: Iterator[Tensor], step: int, most: int) -> Iterator[Tensor]:
    """Regroup maps (C, h, W) into parts of at most `most` rows, each but the last a multiple of `step` rows."""
    rest: Tensor | None = None
    for part in parts:
        rows = part if rest is None else torch.cat([rest, part], dim=1)
        whole = rows.shape[1] // step * step
        for first in range(0, whole, most):
            yield rows[:, first : min(first + most, whole)]
        rest = rows[:, whole:].clone()
    if rest is not None and rest.shape[1]:
        yield rest
