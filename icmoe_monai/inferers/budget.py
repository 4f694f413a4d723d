"""The choice of how many windows are segmented at a time within a budget of memory.

Memory is measured on the network itself, before anything is segmented. It grows by the same amount with every further
window, so that two measurements predict the memory of any number. On a CPU it is the memory of the whole process,
without the processes that read images; on a GPU it is the memory that PyTorch allocates there.

Letters: B windows at a time; E experts; K output channels; H W image.
"""

from __future__ import annotations

import logging
import re
from functools import partial

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import autocast
from icmoe_monai.networks.baselines import as_mixture
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.utils.memory import peak_bytes

MOST_WINDOWS = 64  # more at a time save no more time
_UNITS = {"MB": 1e6, "GB": 1e9}
_FOR_IMAGES = 0.15  # share of the budget left to the images at their own size, which are read and written meanwhile
_MAPS_HELD = 4  # full-size maps at a time: stitched, their weights, voted, and inverted from the voted
_logger = logging.getLogger(__name__)


def choose_window_batch(
    network: nn.Module,
    *,
    budget: str | None,
    sw_batch_size: int,
    image_size: int,
    longest_side: int,
    device: torch.device | str,
    amp: bool = False,
) -> int:
    """Choose how many windows are segmented at a time.

    Args:
        network: The network, on `device`; its weights do not matter.
        budget: Memory that may be used, such as "4GB" or "800MB"; None for no budget and no measurement.
        sw_batch_size: The number to return if there is no budget.
        image_size: Side of a window in pixels.
        longest_side: Longest side of the images as the network sees them, in pixels.
        device: Where the network is.
        amp: Whether the network runs in bfloat16.

    Returns:
        The largest number that fits, at most `MOST_WINDOWS`.

    Raises:
        InputError: If the budget cannot be read, or is too small for one window.

    Example:
        >>> from icmoe_monai.networks import ICMoE
        >>> settings = {"sw_batch_size": 4, "image_size": 64, "longest_side": 64, "device": "cpu"}
        >>> choose_window_batch(ICMoE(), budget=None, **settings)
        4
    """
    if budget is None:
        return sw_batch_size
    allowed = read_budget(budget) * (1 - _FOR_IMAGES)
    was_training = network.training
    network.eval()
    device = torch.device(device)

    mixture = as_mixture(unwrapped(network))

    def segment(num_windows: int) -> Tensor:
        windows = torch.zeros(num_windows, 3, image_size, image_size, device=device)
        with torch.no_grad(), autocast(device, amp):
            return mixture.expert_maps(windows)

    num_maps = segment(1).shape[1]  # the first use also loads what later ones share, which is not a window's
    few, several = (peak_bytes(partial(segment, n), device) for n in (1, 3))
    of_window = max((several - few) / 2, 1.0)
    network.train(was_training)
    maps = _MAPS_HELD * 4 * num_maps * max(longest_side, image_size) ** 2
    fixed = few - of_window + maps
    fitting = min(int((allowed - fixed) // of_window), MOST_WINDOWS)
    if fitting < 1:
        raise InputError(
            f"budget {budget} is too small: with one window of {image_size} pixels at a time "
            f"{_told((fixed + of_window) / (1 - _FOR_IMAGES))} would fit, a part for the images themselves included. "
            "Give that much, or, with weights that were trained so, a smaller image_size or longest_side."
        )
    _logger.info(
        f"The budget of {budget} takes {fitting} windows at a time: about {_told(fixed + fitting * of_window)}, "
        f"{_told(of_window)} for each, and the rest is for the images themselves."
    )
    return fitting


def read_budget(budget: str) -> float:
    """Convert a budget to bytes.

    Args:
        budget: A number with MB (1e6 bytes) or GB (1e9 bytes), such as "4GB".

    Raises:
        InputError: If the budget is anything else.

    Example:
        >>> read_budget("1.5 GB")
        1500000000.0
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(MB|GB)\s*", str(budget), flags=re.IGNORECASE)
    if found is None:
        raise InputError(f"budget must be a number with MB or GB, such as 4GB, got {budget!r}.")
    return float(found[1]) * _UNITS[found[2].upper()]


def _told(size: float) -> str:
    return f"{size / _UNITS['GB']:.2f} GB"
