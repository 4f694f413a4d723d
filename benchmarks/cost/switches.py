"""Measure whether channels-last memory, bfloat16 and `torch.compile` make the network faster on this machine.

    python -m benchmarks.cost.switches --output docs/results/switches.json

Inference and a training step are timed in turns in one process, of the network over SAM's small encoder with random
weights, or with `--network default` of the default one. The first call, with its compilation, is timed separately. A
switch that fails here is reported with the error that it raised.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.inference_workflow import build, draw
from benchmarks.cost.measure import hardware, largest_difference, time_in_turn
from benchmarks.cost.rows import DEFAULT, Row
from benchmarks.cost.rows import build as build_row
from icmoe_monai.inferers.voting import autocast
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.settings import trainable_parameters
from icmoe_monai.utils.files import write_json

SWITCHES = ("float32", "channels last", "bfloat16", "compiled")
NETWORKS = ("vit_t", DEFAULT)


def build_inference(switch: str, image: Tensor, network_name: str = "vit_t") -> Callable[[], Tensor]:
    """Return a function that segments an image with a switch on and returns the logits."""
    network, image = _switch_on(switch, _build(network_name, str(image.device)).network.eval(), image)

    def infer() -> Tensor:
        with torch.no_grad(), autocast(image.device, switch == "bfloat16"):
            return network(image)

    return infer


def build_training(switch: str, image: Tensor, network_name: str = "vit_t") -> Callable[[], Tensor]:
    """Return a function that takes a training step with a switch on and returns the loss."""
    network, loss_function, optimizer = _build(network_name, str(image.device))
    network.train()
    label = torch.zeros_like(image[:, :1])
    label[..., : image.shape[-1] // 2, :] = 1
    called, image = _switch_on(switch, network, image)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(image.device, switch == "bfloat16"):
            output = called(image)
        loss = loss_function(output, label)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _build(network_name: str, device: str) -> Row:
    if network_name == DEFAULT:
        return build_row(DEFAULT, device)
    network = build(network_name, device)
    network.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(trainable_parameters(network), lr=1e-4)
    return Row(network, ICMoELoss(out_channels=1).to(device), optimizer)


def compare(
    build_run: Callable[[str, Tensor], Callable[[], Tensor]], image: Tensor, switches: list[str], repeats: int
) -> dict[str, Any]:
    """Time the switches in turns: seconds, the share of float32's, the first call, and how far the result differs."""
    runs = {switch: build_run(switch, image) for switch in dict.fromkeys(["float32", *switches])}
    rows = {switch: _call_first(run) for switch, run in runs.items()}
    expected = rows["float32"]["result"]
    runs = {switch: run for switch, run in runs.items() if "error" not in rows[switch]}
    for switch, found in time_in_turn(runs, repeats, str(image.device)).items():
        rows[switch] |= found | {"largest_difference": largest_difference(rows[switch].pop("result"), expected)}
        rows[switch]["of_float32"] = round(found["seconds"] / rows["float32"]["seconds"], 3)  # float32 is the first
    return rows


def _call_first(run: Callable[[], Tensor]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        result = run()
        if result.is_cuda:
            torch.cuda.synchronize()
    except Exception as error:  # any error of the compiler is a result
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    return {"first_call_wall_seconds": round(time.perf_counter() - start, 2), "result": result}


def _switch_on(switch: str, network: torch.nn.Module, image: Tensor) -> tuple[Callable, Tensor]:
    if switch == "channels last":
        return network.to(memory_format=torch.channels_last), image.contiguous(memory_format=torch.channels_last)
    return (torch.compile(network) if switch == "compiled" else network), image


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    parser.add_argument("--network", choices=NETWORKS, default="vit_t")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    image = draw(options.size, options.device, options.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # so that nothing compiled by an earlier run is used
        inference, training = (
            compare(partial(build_run, network_name=options.network), image, options.switches, options.repeats)
            for build_run in (build_inference, build_training)
        )
    content = {
        "network": options.network, "image_size": options.size, "batch_size": options.batch_size,
        "repeats": options.repeats, "hardware": hardware(options.device),
        "inference": inference, "training": training,
    }  # fmt: skip
    for kind in ("inference", "training"):
        for switch, row in content[kind].items():
            print(kind, switch, row.get("of_float32", row.get("error")))  # noqa: T201
    if options.output:
        write_json(options.output, content)


if __name__ == "__main__":
    main()
