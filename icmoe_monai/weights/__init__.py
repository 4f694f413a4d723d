"""Weights in files: read, write, download and fingerprint them, and handlers that load them into a network.

May import networks and utils.
"""

from __future__ import annotations

from icmoe_monai.weights.checkpoint import load_weights, read_recipe, save_weights
from icmoe_monai.weights.formats import find_file
from icmoe_monai.weights.frozen import describe_model
from icmoe_monai.weights.handlers import CheckpointLoader, LoadFrozen, UntouchedTrunk
from icmoe_monai.weights.pyramid import load_pyramid_weights, save_pyramid_weights
from icmoe_monai.weights.recipe import Recipe, find_recipe, make_recipe
from icmoe_monai.weights.recipe_checks import check_recipe, check_split
from icmoe_monai.weights.sam import load_sam_weights, save_sam_weights, trunk_fingerprint

__all__ = [
    "CheckpointLoader",
    "LoadFrozen",
    "Recipe",
    "UntouchedTrunk",
    "check_recipe",
    "check_split",
    "describe_model",
    "find_file",
    "find_recipe",
    "load_pyramid_weights",
    "load_sam_weights",
    "load_weights",
    "make_recipe",
    "read_recipe",
    "save_pyramid_weights",
    "save_sam_weights",
    "save_weights",
    "trunk_fingerprint",
]
