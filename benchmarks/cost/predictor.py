"""Measure what a predictor adds to the network's time, at one image at a time.

    python -m benchmarks.cost.predictor --output docs/results/predictor.json

The images are phantoms held in memory. In turns, each is given to the predictor, and, read beforehand, to the inferer
alone, in the same process; on one core it is processor time, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cost.measure import hardware, time_in_turn
from benchmarks.cost.rows import ROOT, settings_of
from icmoe_monai import Predictor
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.utils.files import write_json

_FILES = {"skin": ROOT / "models" / "model.pt", "breast": ROOT / "models" / "experts_busi.safetensors"}


def measure(model: str, side: int, repeats: int, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of a predictor and of its network for images of a size, and their ratio.

    Args:
        model: The model.
        side: Height and width of the images in pixels.
        repeats: Images, each another; every one is a round.
        device: Device of the network.
        settings: Further settings of the predictor.
    """
    predictor = Predictor(model, device=device, settings=settings)
    images = [draw_dermoscopy(np.random.default_rng(index), (side, side))[0] for index in range(repeats + 1)]
    ready = [predictor.prepare(image)["image"][None] for image in images]
    left = {name: iter(given) for name, given in (("predictor", images), ("network", ready))}
    rows = time_in_turn(
        {
            "predictor": lambda: predictor(next(left["predictor"])),
            "network": lambda: predictor.inferer(next(left["network"]), predictor.network),
        },
        repeats,
        device,
    )
    pairs = zip(rows["predictor"]["all_seconds"], rows["network"]["all_seconds"], strict=True)
    ratios = [round(whole / alone, 4) for whole, alone in pairs]
    return {
        "model": model, "side": side, "repeats": repeats, "settings": settings, **rows,
        "ratio": statistics.median(ratios), "all_ratios": ratios, "hardware": hardware(device),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="skin")
    parser.add_argument("--side", type=int, default=512, help="of the images")
    parser.add_argument("--longest_side", type=int, help="to which they are resized (default: the model's own)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    settings: dict[str, Any] = {}
    if options.longest_side is not None:
        file = Path(_FILES.get(options.model, options.model))
        settings = {
            **settings_of(file), "longest_side": options.longest_side, "recipe": "none", "calibration": "none",
        }  # fmt: skip
    found = measure(options.model, options.side, options.repeats, options.device, settings)
    if options.output:
        write_json(options.output, found)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
