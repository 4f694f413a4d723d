"""Measure a window of the default network in PyTorch, onnxruntime, in 8 bits too, and OpenVINO.

    python -m benchmarks.cost.runtimes --output docs/results/runtimes_cost.json

In turns in one process; on one core it is processor time. The masks' pixels that differ are counted with the shipped
skin model over drawn images. The other runtimes compute on the CPU: with another device, PyTorch is measured alone.
`benchmarks.cost.rivals` measures the default network beside others.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cost.measure import hardware, time_in_turn
from benchmarks.cost.rows import DEFAULT, ROOT, build
from icmoe_monai import Predictor
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.inferers.runtimes import INT8, Runtime
from icmoe_monai.utils.files import write_json

RUNTIMES = {"torch": ("torch", False), "onnx": ("onnx", False), "openvino": ("openvino", False),
            "openvino, bfloat16": ("openvino", True), INT8: (INT8, False)}  # fmt: skip


def runtimes_on(device: str) -> dict[str, tuple[str, bool]]:
    """Return those of `RUNTIMES` that compute on a device."""
    return {name: kind for name, kind in RUNTIMES.items() if kind[0] == "torch" or torch.device(device).type == "cpu"}


def compare(network: nn.Module, folder: Path, batch: int, side: int, repeats: int, device: str) -> dict[str, Any]:
    """Time a batch of windows by each runtime, and tell how many times as fast as PyTorch each is.

    Args:
        network: The network.
        folder: Where its exports are kept.
        batch: Windows in a batch.
        side: Side of a window in pixels.
        repeats: Number of times that each is timed.
        device: Where PyTorch computes.
    """
    windows = torch.randn(batch, 3, side, side, device=device)
    runs = {}
    if torch.device(device).type == "cpu":
        plain = Runtime("onnx", checkpoint=folder / "network.pt")
        write_int8(plain, partial(plain.seen(network), windows))
    for runtime, (kind, amp) in runtimes_on(device).items():
        seen = Runtime(kind, checkpoint=folder / "network.pt", amp=amp).seen(network)
        runs[f"icmoe by {runtime}"] = partial(network.expert_maps if seen is None else seen, windows)
    rows = time_in_turn(runs, repeats, device)
    faster = {name: round(rows["icmoe by torch"]["seconds"] / row["seconds"], 2) for name, row in rows.items()}
    return {"batch": batch, "side": side, "rows": rows, "times_as_fast_as_torch": faster}


def write_int8(plain: Runtime, run: Callable[[], Any]) -> None:
    """Write the graph of 8 bits of what is run, with its windows for ranges.

    Args:
        plain: Runtime onnx.
        run: Runs a network's windows there.
    """
    shown: list[tuple[nn.Module, torch.Tensor]] = []
    plain.watch = lambda module, windows: shown.append((module, windows))
    run()
    plain.write_int8(shown[0][0], [windows for _, windows in shown])


def differing(folder: Path, num_images: int, side: int, device: str) -> dict[str, Any]:
    """Count the pixels of the shipped skin model's masks that are others than PyTorch's.

    Args:
        folder: Where a copy of the model and its export are kept.
        num_images: Number of drawn images.
        side: Their height and width in pixels.
        device: Where PyTorch computes.
    """
    pictures = [draw_dermoscopy(np.random.default_rng(seed), (side, side))[0] for seed in range(num_images)]
    model = shutil.copy(ROOT / "models" / "model.pt", folder)
    masks = {}
    if torch.device(device).type == "cpu":
        plain = Predictor(model, device=device, settings={"runtime": "onnx", "calibration": "none"})
        write_int8(plain.inferer.runtime, partial(plain, pictures))
    for runtime, (kind, amp) in runtimes_on(device).items():
        predictor = Predictor(model, device=device, settings={"runtime": kind, "amp": amp, "calibration": "none"})
        masks[runtime] = [predictor(picture).mask for picture in pictures]
    count = {name: sum(int((a != b).sum()) for a, b in zip(found, masks["torch"], strict=True))
             for name, found in masks.items()}  # fmt: skip
    return {"images": num_images, "pixels": num_images * side**2, "differing": count}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as name:
        network = build(DEFAULT, options.device, side=options.side).network.eval()
        setting = (options.side, options.repeats, options.device)
        windows = [compare(network, Path(name), batch, *setting) for batch in (1, 4)]
        masks = differing(Path(name), options.images, 2 * options.side, options.device)
    found = {"windows": windows, "masks": masks, "threads": options.threads, "hardware": hardware(options.device)}
    if options.output:
        write_json(options.output, found)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
