"""Measure a window in PyTorch, onnxruntime and OpenVINO, of the default network and of the networks that it is beside.

    python -m benchmarks.cost.runtimes --output docs/results/runtimes_cost.json

In turns in one process, with random weights, which do not change the cost. On one core it is processor time. The masks'
pixels that differ are counted with the shipped skin model over drawn images. The U-Net of segmentation_models_pytorch
is measured where that library is installed (setup.cfg's `rivals`).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from benchmarks.cost.measure import hardware, time_in_turn
from icmoe_monai import Predictor
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.inferers.runtimes import Runtime
from icmoe_monai.utils.files import write_json

ROOT = Path(__file__).parents[2]
NETWORKS: dict[str, str | None] = {
    "icmoe": None,
    "pyramid_unet": "configs/baselines/pyramid_unet.yaml",
    "pyramid_unet_lite2": "configs/baselines/pyramid_unet_lite2.yaml",
    "lite2_of_three": "benchmarks/study/rivals/lite2_of_three.yaml",
}
if find_spec("segmentation_models_pytorch") is not None:
    NETWORKS["smp_unet"] = "benchmarks/study/rivals/smp_unet.yaml"
RUNTIMES = {"torch": ("torch", False), "onnx": ("onnx", False), "openvino": ("openvino", False),
            "openvino, bfloat16": ("openvino", True)}  # fmt: skip


def compare(networks: Mapping[str, nn.Module], folder: Path, batch: int, side: int, repeats: int) -> dict[str, Any]:
    """Time a batch of windows of each network by each runtime, and tell each as a share of the network in PyTorch.

    Args:
        networks: The networks by name.
        folder: Where their exports are kept.
        batch: Windows in a batch.
        side: Side of a window in pixels.
        repeats: Number of times that each is timed.
    """
    windows = torch.randn(batch, 3, side, side)
    runs = {}
    for name, network in networks.items():
        for runtime, (kind, amp) in RUNTIMES.items():
            seen = Runtime(kind, checkpoint=folder / f"{name}.pt", amp=amp).seen(network)
            runs[f"{name} by {runtime}"] = partial(network.expert_maps if seen is None else seen, windows)
    rows = time_in_turn(runs, repeats, "cpu")
    seconds = {run: row["seconds"] for run, row in rows.items()}
    faster = {run: round(seconds[f"{run.partition(' by ')[0]} by torch"] / time, 2) for run, time in seconds.items()}
    beside = {name: round(seconds["icmoe by torch"] / seconds[f"{name} by torch"], 2) for name in NETWORKS}
    return {"batch": batch, "side": side, "rows": rows, "times_as_fast_as_torch": faster, "icmoe_takes_times": beside}


def differing(folder: Path, num_images: int, side: int) -> dict[str, Any]:
    """Count the pixels of the shipped skin model's masks that are others than PyTorch's.

    Args:
        folder: Where a copy of the model and its export are kept.
        num_images: Number of drawn images.
        side: Their height and width in pixels.
    """
    pictures = [draw_dermoscopy(np.random.default_rng(seed), (side, side))[0] for seed in range(num_images)]
    model = shutil.copy(ROOT / "models" / "model.pt", folder)
    masks = {}
    for runtime, (kind, amp) in RUNTIMES.items():
        predictor = Predictor(model, device="cpu", settings={"runtime": kind, "amp": amp, "calibration": "none"})
        masks[runtime] = [predictor(picture).mask for picture in pictures]
    count = {name: sum(int((a != b).sum()) for a, b in zip(found, masks["torch"], strict=True))
             for name, found in masks.items()}  # fmt: skip
    return {"images": num_images, "pixels": num_images * side**2, "differing": count}


def _network(overlay: str | None) -> nn.Module:
    files = [ROOT / "configs" / "train.json", *([ROOT / overlay] if overlay else [])]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser["bundle_root"] = str(ROOT)
    return parser.get_parsed_content("network_def").eval()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as name:
        networks = {name: _network(overlay) for name, overlay in NETWORKS.items()}
        windows = [compare(networks, Path(name), batch, options.side, options.repeats) for batch in (1, 4)]
        masks = differing(Path(name), options.images, 512)
    found = {"windows": windows, "masks": masks, "threads": options.threads, "hardware": hardware("cpu")}
    if options.output:
        write_json(options.output, found)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
