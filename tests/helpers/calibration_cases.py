"""Cases that a calibration is fitted on, and what fits and finds one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.data.meta_tensor import MetaTensor

from icmoe_monai.calibration.file import Calibration, find_calibration
from icmoe_monai.calibration.fit import FitCalibration
from icmoe_monai.transforms.vote_features import TakeVoteFeaturesd
from icmoe_monai.transforms.votes import SplitVotesd

SETTINGS: dict[str, Any] = {
    "voting": "adaptive", "best_expert": 0, "experts": ("a", "b"), "expert_depth": 2, "backbone": "vit_t",
    "own_from": None, "own_network": None, "decoder": "light", "deference": 0.0,
    "out_channels": 1, "image_size": 64, "longest_side": 64, "overlap": 0.5, "tta": "none", "pixel_mean": [1.0],
    "pixel_std": [2.0], "amp": False,
}  # fmt: skip
EXPERTS = ("a", "b")


def cases(n: int, *, empty: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Return cases of two experts about a square each: the surer they are, the better they hit it."""
    rng = np.random.default_rng(seed)
    split, take = SplitVotesd(expert_names=EXPERTS), TakeVoteFeaturesd()
    items = []
    for i in range(n):
        label = torch.zeros(1, 32, 32)
        top, left = rng.integers(2, 14, 2)
        quality = rng.uniform()
        logits = torch.full((2, 32, 32), -2.0 - 2 * quality)
        for expert in logits:
            row, column = np.array([top, left]) + (rng.integers(-6, 7, 2) * (1 - quality)).astype(int)
            expert[max(row, 0) : row + 14, max(column, 0) : column + 14] = 0.5 + 3 * quality
        if i >= empty:
            label[:, top : top + 14, left : left + 14] = 1
        else:
            logits -= 6
        experts = torch.sigmoid(logits + 0.3 * torch.from_numpy(rng.normal(size=logits.shape)).float())
        votes = torch.full_like(experts, 0.5)
        pred = MetaTensor(torch.cat([experts.mean(0, keepdim=True), experts, votes]))
        items.append(split(take({"pred": pred, "label": label, "name": f"case {i}"})))
    return items


def fit(folder: Path, items: list[dict[str, Any]], **arguments: Any) -> FitCalibration:
    checkpoint = folder / "best.pt"
    if not checkpoint.exists():
        checkpoint.write_bytes(b"weights")
    given = {"path": folder / "best.calibration.json", "split": "val", "weights": {"checkpoint": checkpoint}}
    given |= {"settings": SETTINGS | {"further": 1}, "lesion_sensitivity": 0.9}  # for which few images are enough
    handler = FitCalibration(**{**given, **arguments})
    engine = Engine(lambda engine, batch: batch)
    handler.attach(engine)
    engine.run([[item] for item in items])
    return handler


def find(folder: Path, path: str | None = "auto", **changes: Any) -> Calibration:
    return find_calibration(path, checkpoint=folder / "best.pt", settings=SETTINGS | changes)
