"""Measure what an ensemble of folds costs, beside its networks run one by one.

    python -m benchmarks.cost.folds --output docs/results/folds_cost.json

One window at a time, in turns in one process, with random weights, which do not change the cost. "From files" is `icmoe
predict` over drawn images of 512 pixels, each run a process of its own: once with an ensemble of copies of the shipped
skin model, and with that model, whose time counts as often as there are folds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.cost.inference_workflow import build, draw
from benchmarks.cost.measure import give, hardware, time_in_turn
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.folds import join_folds

ROOT = Path(__file__).parents[2]
_OWN = {"semantic": "lite1", "adaptive": "lite2"}


def make(backbone: str | None, device: str) -> ICMoE:
    """Build the default network for None, and otherwise the one over that encoder."""
    if backbone is not None:
        return build(backbone, device)
    return ICMoE(backbone=None, detail=ImagePyramid(), own_network=_OWN, deference=5.0).eval().to(device)


def compare(backbone: str | None, side: int, num_folds: int, repeats: int, device: str) -> dict[str, Any]:
    """Time an ensemble, its networks one by one, and one network.

    Args:
        backbone: Size of the encoder; None for the default network.
        side: Side of the window in pixels.
        num_folds: Number of folds.
        repeats: Number of times that each is timed.
        device: Where they run.
    """
    image = draw(side, device)
    networks = [make(backbone, device) for _ in range(num_folds)]
    ensemble = FoldEnsemble([make(backbone, device) for _ in range(num_folds)]).eval()
    runs = {
        "ensemble": lambda: ensemble.expert_maps(image),
        "one by one": lambda: [network.expert_maps(image) for network in networks],
        "one network": lambda: networks[0].expert_maps(image),
    }
    rows = time_in_turn(runs, repeats, device)
    share = rows["ensemble"]["seconds"] / rows["one by one"]["seconds"]
    return {"backbone": backbone or "default", "side": side, "folds": num_folds, "rows": rows, "share": round(share, 3)}


def compare_commands(num_images: int, num_folds: int, repeats: int, device: str) -> dict[str, Any]:
    """Time whole runs of the command, with an ensemble and with one network, and compare it with as many runs as folds.

    Args:
        num_images: Number of drawn images.
        num_folds: Number of folds.
        repeats: Number of times that each is timed; the shortest counts.
        device: Where they run.
    """
    model = ROOT / "models" / "model.pt"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ensemble = folder / "ensemble.pt"
        join_folds([model] * num_folds, ensemble)
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for number in range(num_images):
            picture = draw_dermoscopy(rng, (384, 512))[0]
            Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        seconds = {
            "ensemble": min(_run(folder, ensemble, device) for _ in range(repeats)),
            "one network": min(_run(folder, model, device) for _ in range(repeats)),
        }
    share = seconds["ensemble"] / (num_folds * seconds["one network"])
    return {"images": num_images, "folds": num_folds, "seconds": seconds, "share": round(share, 3)}


def _run(folder: Path, checkpoint: Path, device: str) -> float:
    """Return the seconds of one run of `icmoe predict`."""
    words = ["predict", folder / "images", folder / "out", "--checkpoint", checkpoint, "--overwrite"]
    words += ["--calibration", "none", "--num_workers", "0", "--device", device]
    start = time.perf_counter()
    command = [sys.executable, "-m", "icmoe_monai", *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return round(time.perf_counter() - start, 3)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["default:256", "vit_b:512"], help="NETWORK:SIDE")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--images", type=int, default=40, help="images of the command's runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    content: dict[str, Any] = {"hardware": hardware(options.device), "networks": []}
    with torch.no_grad():
        for one in options.networks:
            name, side = one.split(":")
            backbone = None if name == "default" else name
            content["networks"].append(compare(backbone, int(side), options.folds, options.repeats, options.device))
    content["from_files"] = compare_commands(options.images, options.folds, options.repeats, options.device)
    give(content, options.output)


if __name__ == "__main__":
    main()
