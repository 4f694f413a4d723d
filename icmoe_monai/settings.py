"""Functions that the configs call: find the bundle's folder, check its parts, list the trainable weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from icmoe_monai.errors import InputError
from icmoe_monai.networks.pyramid import ImagePyramid, OwnStages
from icmoe_monai.networks.sam import SamImageEncoder
from icmoe_monai.networks.voting import VOTING_INFERERS

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


@cache
def load_configs(folder: Path) -> tuple[dict[str, Any], ...]:
    """Return the configs of workflows in a bundle's folder of configs, overlays included.

    Args:
        folder: The folder.
    """
    paths = sorted([*folder.rglob("*.json"), *folder.rglob("*.yaml")])
    return tuple(
        ConfigParser.load_config_file(str(path))
        for path in paths
        if path.stem != "metadata" and path.parent.name != "studies"
    )


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
