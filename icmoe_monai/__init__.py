"""IC-MoE for MONAI: three experts over pretrained networks, frozen and fine-tuned, and a vote at every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import monai.networks.nets
from monai.bundle.config_item import ComponentLocator
from monai.utils import ensure_tuple

from icmoe_monai.errors import InputError, show_input_errors
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, VotingInferer
from icmoe_monai.losses.contrast import SemanticContrastiveLoss
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.sam import SamImageEncoder, build_sam_encoder
from icmoe_monai.networks.voting import PixelVoting
from icmoe_monai.version import __version__
from icmoe_monai.weights.checkpoint import load_weights, save_weights
from icmoe_monai.weights.pyramid import load_pyramid_weights, save_pyramid_weights
from icmoe_monai.weights.sam import load_sam_weights, save_sam_weights, trunk_fingerprint

if TYPE_CHECKING:
    from icmoe_monai.predictor import Predictor

__all__ = [
    "ICMoE",
    "ICMoELoss",
    "ICMoEOutput",
    "ImagePyramid",
    "InputError",
    "PixelVoting",
    "Predictor",
    "SamImageEncoder",
    "SemanticContrastiveLoss",
    "SlidingWindowVotingInferer",
    "VotingInferer",
    "__version__",
    "build_sam_encoder",
    "load_pyramid_weights",
    "load_sam_weights",
    "load_weights",
    "register",
    "save_pyramid_weights",
    "save_sam_weights",
    "save_weights",
    "trunk_fingerprint",
]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is first asked for: it needs far more packages than the network does."""
    if name == "Predictor":
        from icmoe_monai.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Register this package with MONAI; importing it does so already, and calling this again changes nothing.

    MONAI's `ConfigParser` then resolves bare names (`_target_: ICMoE`), and `monai.networks.nets.ICMoE` is the network.
    In a `python -m monai.bundle` process, a mistake of the user's is then printed as one sentence.
    """
    known = ensure_tuple(ComponentLocator.MOD_START)
    if __name__ not in known:
        setattr(ComponentLocator, "MOD_START", (*known, __name__))  # noqa: B010 - typed str, used as str or tuple
    setattr(monai.networks.nets, "ICMoE", ICMoE)  # noqa: B010 - a name that MONAI's module does not declare
    show_input_errors()


register()
