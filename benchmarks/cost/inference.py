"""Measure what reading, writing and reporting add to the network's time, and whether memory grows with the images.

    python -m benchmarks.cost.inference --num_images 500 --output docs/results/inference.json

The images are phantoms at 512 pixels; `--longest_side 512` lets the network see them whole, in windows. `end_to_end` is
the inference workflow with everything that it writes by default; `network` is its inferer alone over the same images,
held in memory, in the same process afterwards. Memory is measured in separate processes, one for each number in
`--memory_images`; the memory of the workers that read images is not counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from benchmarks.cost.measure import hardware, in_own_process
from benchmarks.cost.rows import settings_of
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.utils.files import write_json
from icmoe_monai.utils.memory import peak_memory_mb

ROOT = Path(__file__).parents[2]
_NUM_DIFFERENT = 20


def main() -> None:
    """Measure, write the file, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--memory_images", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--side", type=int, default=512, help="of the images")
    parser.add_argument("--longest_side", type=int, default=256, help="to which the network's images are resized")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output")
    parser.add_argument("--one", action="store_true", help="run once, print the peak memory")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder, "in"), arguments.num_images, arguments.side)
        flow = build_workflow(
            Path(folder),
            device=arguments.device,
            num_workers=arguments.num_workers,
            longest_side=arguments.longest_side,
        )
        start = time.perf_counter()
        flow.run()
        seconds = time.perf_counter() - start
        if arguments.one:
            sys.stdout.write(json.dumps({"peak_mb": peak_memory_mb(), "seconds": round(seconds, 2)}) + "\n")
            return
        network = _time_network(flow)
    found = {
        "num_images": arguments.num_images,
        "side": arguments.side,
        "longest_side": arguments.longest_side,
        "num_workers": arguments.num_workers,
        "end_to_end_seconds": round(seconds, 2),
        "network_seconds": round(network, 2),
        "ratio": round(seconds / network, 3),
        "memory": {number: _in_own_process(number, arguments) for number in arguments.memory_images},
        "hardware": hardware(arguments.device),
    }
    if arguments.output:
        write_json(arguments.output, found)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def make_images(folder: Path, number: int, side: int) -> None:
    """Write phantoms, at most 20 different ones, as PNG files into a folder that does not exist yet."""
    folder.mkdir()
    for index in range(min(number, _NUM_DIFFERENT)):
        picture, _ = draw_dermoscopy(np.random.default_rng(index), (side, side))
        Image.fromarray(picture).save(folder / f"{index:05d}.png")
    for index in range(_NUM_DIFFERENT, number):
        shutil.copy(folder / f"{index % _NUM_DIFFERENT:05d}.png", folder / f"{index:05d}.png")


def build_workflow(folder: Path, *, device: str, num_workers: int, longest_side: int) -> ConfigWorkflow:
    """Return the shipped model's workflow that reads images from `folder`/in and writes to `folder`/out."""
    flow = ConfigWorkflow(
        config_file=str(ROOT / "configs" / "inference.json"), workflow_type="infer", logging_file=False,
        dataset_dir=str(folder / "in"), output_dir=str(folder / "out"), device=device,
        num_workers=num_workers, longest_side=longest_side, recipe="none", **settings_of(ROOT / "models" / "model.pt"),
    )  # fmt: skip
    flow.initialize()
    flow.parser.get_parsed_content("evaluator")
    return flow


def _time_network(flow: ConfigWorkflow) -> float:
    """Return the seconds that the inferer alone takes for the run's images, read beforehand."""
    read, cases = flow.parser.get_parsed_content("preprocessing"), flow.parser.get_parsed_content("datalist")
    network, inferer = flow.parser.get_parsed_content("network").eval(), flow.parser.get_parsed_content("inferer")
    device = torch.device(flow.parser.get_parsed_content("device"))
    images = [read(case)["image"][None].to(device) for case in cases[:_NUM_DIFFERENT]]
    with torch.no_grad():
        start = time.perf_counter()
        for index in range(len(cases)):
            inferer(images[index % len(images)], network)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _in_own_process(number: int, arguments: argparse.Namespace) -> dict[str, float]:
    words = ["--one", "--num_images", str(number), "--device", arguments.device]
    for name in ("side", "longest_side", "num_workers"):
        words += [f"--{name}", str(getattr(arguments, name))]
    return in_own_process("benchmarks.cost.inference", words)


if __name__ == "__main__":
    main()
