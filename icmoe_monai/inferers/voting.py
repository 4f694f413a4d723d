"""Inferers that vote: in one window, or once at full size over maps stitched from overlapping windows.

Votes made window by window and then averaged would mix decisions of different windows; here each expert's probabilities
and the gate are stitched, and every pixel votes once.

Letters: B batch; E experts; K output channels; H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import gcd
from typing import Any, cast

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.utils import convert_to_dst_type
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.runtimes import Runtime, Seen
from icmoe_monai.inferers.views import TTA, averaged
from icmoe_monai.networks.baselines import as_mixture
from icmoe_monai.networks.icmoe import ICMoE, unwrapped
from icmoe_monai.networks.pooling import FEATURES, Frame, PooledWindows
from icmoe_monai.networks.sam import PATCH_SIZE
from icmoe_monai.networks.voting import VotedMaps, pack, to_probabilities

_VOTED_AT_ONCE = 1 << 20  # pixels, at most
_ALIGNED = 32  # numbers that PyTorch computes as one vector; those left over at the end differ in the last bit


class AutocastInferer(SimpleInferer):
    """Run the network, in bfloat16 if `amp` is set, on CUDA and on CPU.

    MONAI's engines know mixed precision on CUDA only; `amp` there is silently ignored on a CPU.

    Args:
        amp: Use bfloat16; no loss scaling is needed.
    """

    def __init__(self, *, amp: bool = False) -> None:
        super().__init__()
        self.amp = amp

    def __call__(self, inputs: Tensor, network: Any, *args: object, **kwargs: object) -> Tensor:
        """Return the network's output for images (B, 3, H, W), or for tokens (B, h, w, C) and levels (`features`)."""
        with autocast(inputs.device, self.amp):
            return super().__call__(_plain(inputs), network.segment if args else network, *args, **kwargs)


class VotingInferer(Inferer):
    """Segment whole images in one window each.

    Args:
        amp: Use bfloat16 inside the network.
        with_experts: Return voted probabilities, the experts' probabilities and the votes, instead of voted logits.
    """

    def __init__(self, *, amp: bool = False, with_experts: bool = False) -> None:
        super().__init__()
        self.amp = amp
        self.with_experts = with_experts

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> Tensor:
        """Segment images.

        Args:
            inputs: Normalised RGB, (B, 3, H, W); padded to multiples of 16 with 0 at the bottom and right.
            network: An `ICMoE`, bare or wrapped for several devices; any other network is taken for one expert.
            args: Ignored; MONAI's engines may pass further arguments.
            kwargs: Ignored likewise.

        Returns:
            Voted logits, (B, K, H, W); with experts, K channels of voted probabilities, E K of the experts'
            probabilities and E of votes, (B, K + E K + E, H, W).
        """
        H, W = inputs.shape[-2:]
        padded = F.pad(_plain(inputs), (0, -W % PATCH_SIZE, 0, -H % PATCH_SIZE))
        mixture = as_mixture(unwrapped(network))
        with autocast(inputs.device, self.amp):
            maps = mixture.expert_maps(padded)
        return like(vote(maps[..., :H, :W], mixture, self.with_experts), inputs)


class SlidingWindowVotingInferer(SlidingWindowInferer):
    """Segment images of any size over overlapping windows, weighted by a Gaussian, with one vote at full size.

    Args:
        roi_size: Side of the square window, a multiple of 16.
        overlap: Share of a window that its neighbour covers too.
        tta: Views of each window, one of `icmoe_monai.inferers.views.TTA`.
        sw_batch_size: Windows in one forward pass; changes speed and memory, and the result by rounding only.
        amp: Use bfloat16 inside the network.
        with_experts: Return voted probabilities, the experts' probabilities and the votes, instead of voted logits.
        device: Where the full-size maps are kept; the input's device if None.
        runtime: What runs the windows; None: PyTorch.

    Raises:
        InputError: If an argument is out of its range.
    """

    def __init__(
        self,
        *,
        roi_size: int,
        overlap: float = 0.5,
        tta: str = "none",
        sw_batch_size: int = 4,
        amp: bool = False,
        with_experts: bool = False,
        device: torch.device | str | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        if roi_size < PATCH_SIZE or roi_size % PATCH_SIZE:
            raise InputError(f"image_size must be a positive multiple of {PATCH_SIZE}, got {roi_size}.")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be at least 0 and below 1, got {overlap}.")
        if sw_batch_size < 1:
            raise InputError(f"sw_batch_size must be at least 1, got {sw_batch_size}.")
        if tta not in TTA:
            raise InputError(f"tta must be one of {', '.join(TTA)}, got {tta!r}.")
        super().__init__(
            roi_size=(roi_size, roi_size),
            overlap=overlap,
            sw_batch_size=sw_batch_size,
            mode="gaussian",
            device=device,
            cache_roi_weight_map=True,  # or it is made anew for every image
        )
        self.tta = tta
        self.amp = amp
        self.with_experts = with_experts
        self.runtime = Runtime() if runtime is None else runtime

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> Tensor:
        """Segment images; arguments and result as in `VotingInferer`, without the padding to multiples of 16.

        The result carries the images' pooled features, where the network has some (`with_features`).
        """
        maps, features = self.segment(inputs, network)
        return with_features(like(maps, inputs), features)

    def segment(self, inputs: Tensor, network: Callable) -> tuple[Tensor, Tensor | None]:
        """Segment images, and return maps and pooled features apart.

        Args:
            inputs: Normalised RGB, (B, 3, H, W).
            network: As of a call.

        Returns:
            A call's result, and the features (`PooledWindows.features`) or None.
        """
        mixture = as_mixture(unwrapped(network))
        seen = self.runtime.seen(unwrapped(network))  # a plain one is wrapped anew for each image, and compiled once
        pooled = PooledWindows(mixture, self.frame(inputs.shape[-2:]), seen=seen)
        maps = cast(Tensor, self.stitch(inputs, mixture.expert_maps if seen is None else maps_of(seen), first=pooled))
        return vote(maps, mixture, self.with_experts), pooled.features(len(inputs))

    def look(self, inputs: Tensor, network: Callable) -> Tensor | None:
        """Return the pooled features of images alone, without running the experts; arguments as of `segment`."""
        pooled = PooledWindows(as_mixture(unwrapped(network)), self.frame(inputs.shape[-2:]))
        self.stitch(inputs, _blank, first=pooled.only)
        return pooled.features(len(inputs))

    def frame(self, size: Sequence[int]) -> Frame:
        """Return where an image of a size (H, W) lies in each of its windows, which are padded where it is smaller."""
        side = cast(Sequence[int], self.roi_size)[0]
        (top, left), (height, width) = ([max(0, side - one) // 2 for one in size], [min(side, one) for one in size])
        return Frame(top, left, height, width)

    def stitch(
        self, inputs: Tensor, expert_maps: Callable, *, first: Callable | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Run a network over the windows, and stitch its outputs to maps of full size.

        Args:
            inputs: Normalised RGB, (B, 3, H, W).
            expert_maps: Function from windows (b, 3, h, w) to maps (b, channels, h, w), or to a dict of such maps.
            first: What takes its place for each window as it is, beside its further views.

        Returns:
            Maps, (B, channels, H, W), or a dict of such maps by the same names.
        """
        image = _plain(inputs)
        with autocast(image.device, self.amp):
            return cast("Tensor | dict[str, Tensor]", super().__call__(image, averaged(expert_maps, self.tta, first)))


def maps_of(seen: Seen) -> Callable[[Tensor], Any]:
    """Return a function that leaves out the second of what a compiled network returns."""
    return lambda windows: seen(windows)[0]


def vote(maps: Tensor, network: ICMoE, with_experts: bool = False) -> Tensor:
    """Vote at every pixel of stitched maps, of a large image some rows at a time.

    Args:
        maps: Expert probabilities and gate logits as `ICMoE.expert_maps` returns them, (B, E K + E, H, W).
        network: The network whose voting is used.
        with_experts: Return voted probabilities, the experts' probabilities and the votes, instead of voted logits.

    Returns:
        Voted logits, (B, K, H, W), or (B, K + E K + E, H, W) with experts.
    """
    rows = rows_at_once(len(maps) * maps.shape[-1])
    if maps.requires_grad or maps.shape[-2] <= rows:
        return vote_at_once(maps, network, with_experts)
    parts = (vote_at_once(part, network, with_experts) for part in maps.split(rows, dim=-2))
    first = next(parts)
    voted = first.new_empty(*first.shape[:-2], *maps.shape[-2:])
    for number, part in enumerate(chain([first], parts)):
        voted[..., rows * number : rows * (number + 1), :] = part
    return voted


def rows_at_once(width: int) -> int:
    """Return how many rows of pixels, of a width, are voted at once: a vote needs some forty numbers for each pixel."""
    step = aligned_rows(width)
    return max(1, _VOTED_AT_ONCE // width // step) * step


def aligned_rows(width: int) -> int:
    """Return the least number of rows, of a width, whose pixels fill whole vectors of the CPU.

    Where parts of an image begin at multiples of it, they are rounded as the whole image would be.
    """
    return _ALIGNED // gcd(width, _ALIGNED)


def vote_at_once(maps: Tensor, network: ICMoE, with_experts: bool = False) -> Tensor:
    """Vote at every pixel in one operation, as a graph that is exported for any size must; as `vote` otherwise."""
    num_experts = network.voting.num_experts
    probabilities, gate = maps[:, :-num_experts].unflatten(1, (num_experts, -1)), maps[:, -num_experts:]
    logits, votes = network.voting(probabilities, gate)
    if not with_experts:
        return logits
    return pack(VotedMaps(to_probabilities(logits), probabilities, votes))


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Return a context in which PyTorch computes in bfloat16 if `enabled`, and which changes nothing otherwise.

    Raises:
        InputError: If the device cannot compute in bfloat16.
    """
    if enabled and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(f"amp needs bfloat16, which {torch.cuda.get_device_name(device)} lacks: set --amp False.")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _blank(windows: Tensor) -> Tensor:
    return torch.zeros_like(windows[:, :1])


def _plain(inputs: Tensor) -> Tensor:
    """Drop MONAI's metadata, which costs time in every operation, and convert integers and halves to float32.

    The network has float32 weights, and MONAI's sliding window accumulates in the input's type.
    """
    image = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
    return image if image.dtype in (torch.float32, torch.float64) else image.float()


def with_features(output: Tensor, features: Tensor | None) -> Tensor:
    """Note images' pooled features among the metadata of a voted tensor, which MONAI deals out to the images.

    Args:
        output: The tensor, (B, channels, H, W), or one image's, (channels, H, W); one without metadata stays as it is.
        features: (B, windows of each image, F), or one image's, (windows, F); or None.
    """
    if features is not None and isinstance(output, MetaTensor):
        output.meta[FEATURES] = features.cpu()
    return output


def like(output: Tensor, inputs: Tensor) -> Tensor:
    """Give an output the metadata of its input, which `Invertd` needs to undo the input's transforms."""
    return convert_to_dst_type(output, inputs, dtype=output.dtype)[0]
