"""The shipped network's settings, for uses of its weights that pass over the recipe (smaller images are quicker)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from modes import randomise

from icmoe_monai.networks import build_network
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.checkpoint import read_recipe, save_weights
from icmoe_monai.weights.pyramid import load_pyramid_weights

_MODELS = Path(__file__).parents[2] / "models"
_RECIPE = read_recipe(_MODELS / "model.pt")[0] or {}
NETWORK: dict[str, Any] = {name: _RECIPE["settings"][name] for name in ("backbone", "own_network", "deference")}
NETWORK_WORDS = [word for name, value in NETWORK.items() for word in (f"--{name}", str(value))]


def over_the_pyramids(recipe: Mapping[str, Any]) -> ICMoE:
    """Return the network of a recipe with the pyramids' weights, before its own are loaded."""
    network: ICMoE = build_network(recipe["network"]).eval()
    for pyramid in (part for part in network.modules() if isinstance(part, ImagePyramid)):
        load_pyramid_weights(_MODELS / "efficientnet_{size}_imagenet.safetensors", pyramid)
    return network


def write_restless(path: Path) -> Path:
    """Write a network of the shipped one's kind whose decoders are random: its masks have borders everywhere."""
    network = over_the_pyramids(_RECIPE)
    torch.manual_seed(0)
    randomise(network.decoders, 0.2)
    save_weights(network, path, whole=True)
    return path
