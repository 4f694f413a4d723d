"""Measure the cost of inference and of its parts, and how it grows with pixels, images, overlap and experts.

    python -m benchmarks.cost.inference_workflow --output docs/results/inference_cost.json

Every size and every number of images runs in a process of its own, so that peak memory is not mixed; everything else is
timed in turns in one process. Weights are random, except the workflow's, which are the shipped ones: weights do not
change the cost. Unless stated otherwise, the network is that of `configs/backbones/vit_t.yaml` (windows of 256 pixels,
4 at a time). What the workflow adds to the network is measured by `benchmarks.cost.workflow`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.measure import (
    Stopwatch,
    fit_line,
    give,
    hardware,
    in_own_process,
    medians,
    now,
    peak_memory,
    time_in_turn,
)
from icmoe_monai.inference.packs import ExpertPacks
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, vote
from icmoe_monai.networks.icmoe import EXPERTS, ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.voting import to_probabilities

_OVERLAPS = (0.0, 0.25, 0.5, 0.75)
_PATIENCE = 20.0  # seconds after which a size is not repeated again


def build(backbone: str, device: str, experts: tuple[str, ...] = EXPERTS) -> ICMoE:
    """Build the network as the configs do, with random weights."""
    torch.manual_seed(0)
    return ICMoE(backbone=backbone, experts=experts, detail=ImagePyramid()).eval().to(device)


def draw(side: int, device: str, batch_size: int = 1) -> Tensor:
    """Draw normalised images of noise, (B, 3, side, side)."""
    return torch.randn(batch_size, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device)


def measure_size(side: int, window: int, repeats: int, device: str) -> dict[str, Any]:
    """Segment one image by sliding windows; return median seconds, number of windows and peak memory."""
    network, inferer = build("vit_t", device), SlidingWindowVotingInferer(roi_size=window)
    inferer(draw(window, device), network)
    counted = 0
    seconds: list[float] = []

    def expert_maps(windows: Tensor) -> Tensor:
        nonlocal counted
        counted += len(windows)
        return network.expert_maps(windows)

    def run() -> None:
        while len(seconds) < repeats and sum(seconds) < _PATIENCE:
            start = now(device)
            vote(inferer.stitch(image, expert_maps), network)
            seconds.append(round(now(device) - start, 4))

    image = draw(side, device)
    found: dict[str, Any] = peak_memory(run, device)
    return {
        "side": side, "windows": counted // len(seconds), "seconds": statistics.median(seconds),
        "all_seconds": seconds, **found,
    }  # fmt: skip


def fit_growth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit seconds and peak memory against megapixels and windows; `exponent` is p in seconds ~ pixels^p."""
    megapixels = [row["side"] ** 2 / 1e6 for row in rows]
    seconds, peaks = [row["seconds"] for row in rows], [row["peak_mb"] for row in rows]
    logs = fit_line([math.log(one) for one in megapixels], [math.log(one) for one in seconds])
    return {
        "seconds_per_megapixel": fit_line(megapixels, seconds),
        "seconds_per_window": fit_line([row["windows"] for row in rows], seconds),
        "exponent": logs["slope"],
        "peak_mb_per_megapixel": fit_line(megapixels, peaks),
    }


def compare_experts(window: int, repeats: int, device: str) -> dict[str, dict[str, Any]]:
    """Time one window with one, two and three experts."""
    image = draw(window, device)
    networks = {number: build("vit_t", device, EXPERTS[:number]) for number in range(1, 1 + len(EXPERTS))}
    return time_in_turn({str(n): _run(network.expert_maps, image) for n, network in networks.items()}, repeats, device)


def compare_batches(window: int, repeats: int, device: str) -> dict[str, dict[str, Any]]:
    """Time passes over batches of 1 to 8 windows."""
    network = build("vit_t", device)
    return time_in_turn(
        {str(size): _run(network.expert_maps, draw(window, device, size)) for size in (1, 2, 4, 8)}, repeats, device
    )


def compare_overlaps(window: int, repeats: int, device: str) -> dict[str, dict[str, Any]]:
    """Time one image, three windows wide and high, for several overlaps of the windows."""
    network, image = build("vit_t", device), draw(3 * window, device)
    inferers = {overlap: SlidingWindowVotingInferer(roi_size=window, overlap=overlap) for overlap in _OVERLAPS}
    return time_in_turn({str(o): _run(inferer, image, network) for o, inferer in inferers.items()}, repeats, device)


def compare_packs(backbone: str, side: int, repeats: int, device: str) -> dict[str, Any]:
    """Time two sets of experts that share one pass of the trunk, two whole networks, and one."""
    first, second, image = build(backbone, device), build(backbone, device), draw(side, device)
    packs = ExpertPacks({"first": first, "second": second})
    rows = time_in_turn(
        {
            "two packs": _run(packs.expert_maps, image),
            "two networks": lambda: (first.expert_maps(image), second.expert_maps(image)),
            "one network": _run(first.expert_maps, image),
        },
        repeats,
        device,
    )
    return {"backbone": backbone, "side": side, "rows": rows}


def measure_parts(window: int, repeats: int, device: str) -> dict[str, float]:
    """Return the median seconds of the network's parts for an image two windows wide and high, windows overlapping."""
    network, inferer = build("vit_t", device), SlidingWindowVotingInferer(roi_size=window)
    image, watch, rounds = draw(2 * window, device), Stopwatch(device), []
    for _ in range(1 + repeats):
        watch(
            "all", lambda: vote(inferer.stitch(image, lambda windows: maps_by_part(network, windows, watch)), network)
        )
        found = watch.take_round()
        total = found.pop("all")
        rounds.append(found | {"windows and vote": total - sum(found.values())})
    return medians(rounds[1:])


def maps_by_part(network: ICMoE, image: Tensor, time: Stopwatch) -> Tensor:
    """Return the result of `ICMoE.expert_maps`, with each part timed."""
    tokens = time("trunk", lambda: network.trunk(image))
    levels = time("pyramid", lambda: network.levels(image))
    features = time("experts", lambda: network.expert_features(tokens))
    decoded, expert_logits = time("decoders", lambda: network.decode(features, levels))
    gate = time("gate", lambda: network.gate(decoded, expert_logits.shape[-2:]))
    return torch.cat([to_probabilities(expert_logits).flatten(1, 2), gate], dim=1)


def _run(call: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: call(*arguments)


def _grow(options: argparse.Namespace) -> dict[str, Any]:
    shared = ["--window", str(options.window), "--repeats", str(options.repeats), "--device", options.device]
    rows = [
        in_own_process("benchmarks.cost.inference_workflow", ["--one", str(side), *shared]) for side in options.sides
    ]
    return {"rows": rows, "fit": fit_growth(rows)}


def _run_workflows(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        in_own_process(
            "benchmarks.cost.workflow",
            ["--num_images", number, "--longest_side", longest_side, "--device", options.device],
        )
        for number, longest_side in (one.split(":") for one in options.workflows)
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--workflows", nargs="*", default=["10:256", "20:256", "40:256", "6:512"], help="NUMBER:SIDE")
    parser.add_argument("--packs", nargs="*", default=["vit_t:256", "vit_b:512"], help="BACKBONE:SIDE")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", type=int, help="measure one size, and nothing else")
    options = parser.parse_args(arguments)
    with torch.no_grad():
        if options.one:
            found = measure_size(options.one, options.window, options.repeats, options.device)
            print(json.dumps(found))  # noqa: T201
            return
        setting = (options.window, options.repeats, options.device)
        content = {
            "window": options.window, "repeats": options.repeats, "hardware": hardware(options.device),
            "parts": measure_parts(*setting), "experts": compare_experts(*setting),
            "batches": compare_batches(*setting), "workflows": _run_workflows(options),
            "packs": [
                compare_packs(one.split(":")[0], int(one.split(":")[1]), options.repeats, options.device)
                for one in options.packs
            ],
            "overlaps": compare_overlaps(*setting), "growth": _grow(options),
        }  # fmt: skip
    give(content, options.output)


if __name__ == "__main__":
    main()
