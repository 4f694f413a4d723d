"""The networks: IC-MoE (encoder, image pyramid, experts, decoders, vote) and the baselines it is compared with.

May import utils.
"""

from __future__ import annotations

from icmoe_monai.networks.baselines import Baseline, Ensemble, PyramidUNet, expert_names
from icmoe_monai.networks.blueprint import build_network
from icmoe_monai.networks.decoder import DetailStem, NoDetail
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.sam import SamImageEncoder, build_sam_encoder
from icmoe_monai.networks.voting import PixelVoting

__all__ = [
    "Baseline",
    "DetailStem",
    "Ensemble",
    "ICMoE",
    "ICMoEOutput",
    "ImagePyramid",
    "NoDetail",
    "PixelVoting",
    "PyramidUNet",
    "SamImageEncoder",
    "build_network",
    "build_sam_encoder",
    "expert_names",
]
