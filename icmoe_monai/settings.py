"""Functions that the configs call: check the settings, find the bundle's folder, list the trainable weights.

The settings that a user can override are checked before anything expensive starts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from icmoe_monai.errors import InputError
from icmoe_monai.networks.pyramid import ImagePyramid, OwnStages
from icmoe_monai.networks.sam import PATCH_SIZE, SamImageEncoder
from icmoe_monai.networks.voting import VOTING_INFERERS
from icmoe_monai.utils.files import write_atomically

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "bundle"  # setup.py puts it into a wheel


def find_bundle_root() -> str:
    """Return the folder that holds `configs/` and `models/`, from any working directory.

    In an installed package it lies inside the package; in a clone or a copy of the bundle, and in an editable
    installation, it is the package's parent. Where there is neither, the working directory is the bundle, as in all of
    MONAI.
    """
    for root in (_SHIPPED, _PACKAGE.parent):
        if (root / "configs" / "metadata.json").is_file():
            return str(root)
    return "."


def find_output_root(bundle_root: str) -> str:
    """Return the folder in which results are written by default: the bundle, or the working directory.

    Args:
        bundle_root: Folder of the bundle. Inside an installed package nothing is written.
    """
    return "." if Path(bundle_root).resolve().is_relative_to(_SHIPPED) else bundle_root


def check_settings(
    *,
    output_dir: str | None,
    image_size: int,
    longest_side: int,
    batch_size: int = 1,
    min_steps: int = 1,
    max_epochs: int = 1,
    val_interval: int = 1,
    patience: int = 1,
    num_workers: int = 0,
    learning_rate: float = 1.0,
    device: str | torch.device = "cpu",
    switches: Mapping[str, object] | None = None,
) -> None:
    """Check the numbers of a config, the device, and that results can be written.

    Args:
        output_dir: Folder of the results; made if it is missing. None: nothing is written.
        image_size: Side of the network's window in pixels.
        longest_side: Length to which an image's longest side is resized, in pixels.
        batch_size: Images in a training step.
        min_steps: Smallest number of steps in an epoch; a set with fewer is passed through more than once.
        max_epochs: Epochs of training.
        val_interval: Epochs between validations.
        patience: Validations without improvement before training stops.
        num_workers: Processes that prepare images.
        learning_rate: Peak learning rate.
        device: Device on which the network runs, such as cpu or cuda:0.
        switches: Settings that are True or False, by name; `amp` says whether the network runs in bfloat16.

    Raises:
        InputError: If a setting cannot work, or `output_dir` cannot be written.
    """
    least = {
        "batch_size": (batch_size, 1),
        "min_steps": (min_steps, 1),
        "max_epochs": (max_epochs, 1),
        "val_interval": (val_interval, 1),
        "patience": (patience, 1),
        "num_workers": (num_workers, 0),
        "longest_side": (longest_side, PATCH_SIZE),
        "image_size": (image_size, PATCH_SIZE),
    }
    for name, (value, least_value) in least.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least_value:
            raise InputError(f"{name} must be a whole number of at least {least_value}, got {value!r}.")
    if image_size % PATCH_SIZE:
        raise InputError(f"image_size must be a multiple of {PATCH_SIZE}, got {image_size}.")
    if not isinstance(learning_rate, (int, float)) or not learning_rate > 0:
        raise InputError(f"learning_rate must be above 0, got {learning_rate!r}.")
    if val_interval > max_epochs:
        raise InputError(f"val_interval must be at most max_epochs ({max_epochs}), got {val_interval}.")
    for name, switch in (switches or {}).items():
        if not isinstance(switch, bool):  # "false" on MONAI's command line is a text, which would count as true
            raise InputError(f"{name} must be True or False, got {switch!r}.")
    _check_device(device)
    if (switches or {}).get("amp") and torch.device(device).type == "cpu" and not _has_bfloat16():
        logging.getLogger(__name__).warning(
            "amp on this CPU, which has no units for bfloat16, is many times slower than without: set --amp False."
        )
    if output_dir is not None:
        _check_writable(output_dir)


def _check_writable(output_dir: str) -> None:
    if not isinstance(output_dir, str):
        raise InputError(f"output_dir must be a path, got {output_dir!r}: write ./{output_dir} for a folder.")
    probe = Path(output_dir) / ".writable"
    write_atomically(probe, lambda temporary: temporary.write_bytes(b"icmoe"))
    probe.unlink(missing_ok=True)  # another process may have removed it already


def check_parts(*, inferer: object, lr_scheduler: object) -> None:
    """Check the parts of a training that another part, put in their place, would only break after the first epoch.

    Args:
        inferer: The validation's inferer.
        lr_scheduler: The schedule of the learning rate.

    Raises:
        InputError: If the inferer does not return a vote with its experts, or the schedule waits for a metric.
    """
    # an inferer of somebody else's is tried; its result is checked where the vote is taken apart
    if not getattr(inferer, "with_experts", not type(inferer).__module__.startswith("monai.")):
        raise InputError(
            f"validate#inferer is a {type(inferer).__name__} that returns no votes: {VOTING_INFERERS}; its roi_size, "
            "overlap and sw_batch_size are those of MONAI's SlidingWindowInferer."
        )
    if not isinstance(lr_scheduler, LRScheduler) or isinstance(lr_scheduler, ReduceLROnPlateau):
        raise InputError(
            f"lr_scheduler must be a schedule of PyTorch's that steps without a metric, since it steps after every "
            f"batch, got {type(lr_scheduler).__name__}: ConstantLR with factor 1 keeps the rate as it is."
        )


def _check_device(device: str | torch.device) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"device must be a device of PyTorch's, such as cpu or cuda:0, got {device!r}.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device}, but PyTorch sees no CUDA device here: set --device cpu.")


def _has_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16; True where PyTorch does not say."""
    # the oldest PyTorch that is supported has no get_capabilities
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities or any(found for name, found in capabilities.items() if "bf16" in name)


def parameter_groups(
    network: nn.Module, *, learning_rate: float, pretrained_share: float, encoder_is_pretrained: bool
) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: new ones, and those that begin as a pretrained network's.

    Args:
        network: The network.
        learning_rate: Rate of the new ones.
        pretrained_share: Rate of the pretrained ones, as a share of `learning_rate`.
        encoder_is_pretrained: Whether the encoder begins with the weights of a file; an image pyramid always does, and
            the experts' own stages of it.

    Returns:
        Groups for an optimizer, without the second if all that is pretrained is frozen.

    Raises:
        InputError: If `pretrained_share` is not above 0.
    """
    if not isinstance(pretrained_share, (int, float)) or not pretrained_share > 0:
        raise InputError(f"pretrained_share must be above 0, got {pretrained_share!r}.")
    kinds = (ImagePyramid, OwnStages, *((SamImageEncoder,) if encoder_is_pretrained else ()))
    parts = [part for part in network.modules() if isinstance(part, kinds)]
    is_old = {id(parameter) for part in parts for parameter in part.parameters()}
    trained = trainable_parameters(network)
    new = [parameter for parameter in trained if id(parameter) not in is_old]
    old = [parameter for parameter in trained if id(parameter) in is_old]
    groups = [{"params": new, "lr": learning_rate}, {"params": old, "lr": pretrained_share * learning_rate}]
    return [group for group in groups if group["params"]]


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient: all but those of frozen parts."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
