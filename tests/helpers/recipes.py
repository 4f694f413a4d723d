"""Values of every setting of a recipe: those of a small training, and others that contradict them."""

from __future__ import annotations

from typing import Any

TRAINED: dict[str, Any] = {
    "voting": "mean", "best_expert": 0, "experts": ["basic", "semantic"], "expert_depth": 1, "backbone": "vit_t",
    "own_from": None, "own_network": None, "decoder": "light", "deference": 0.0, "out_channels": 1, "image_size": 32,
    "longest_side": 48, "overlap": 0.25, "tta": "flips", "pixel_mean": [120.0, 120.0, 120.0],
    "pixel_std": [60.0, 60.0, 60.0], "amp": False,
}  # fmt: skip
OTHERS: dict[str, Any] = {  # the defaults, where they are others
    "voting": "adaptive", "best_expert": 1, "experts": ["basic", "semantic", "adaptive"], "expert_depth": 2,
    "backbone": "vit_b", "own_from": {"semantic": 8}, "own_network": {"adaptive": "lite1"}, "decoder": "full",
    "deference": 5.0, "out_channels": 2, "image_size": 256, "longest_side": 32, "overlap": 0.5, "tta": "none",
    "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375], "amp": True,
}  # fmt: skip
