"""Measure what several cards add to a training step of the default network: the sum of gradients, and the whole step.

    python -m benchmarks.cost.cards --output cards.json

A process for each card, over NCCL; with `--device cpu` two processes over gloo. Each first takes its steps alone, then
with the others, by `DistributedDataParallel` and batch norms over all. `bus_gb_per_second` is what NCCL's tests call
bus bandwidth, 2 (n - 1) / n of the bytes in a second. One card has nothing to share: then NCCL runs with itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.cost.measure import give, hardware
from benchmarks.cost.rows import DEFAULT, Row, build, draw_batch, step_of
from icmoe_monai.settings import trainable_parameters
from icmoe_monai.training.batch_norm import share_batch_norms

_PATIENCE = datetime.timedelta(minutes=2)


def run_process(rank: int, num_processes: int, kind: str, side: int, batch_size: int, repeats: int, place: str) -> None:
    """Measure in one of several processes; the first writes `found.json`.

    Args:
        rank: Number of the process.
        num_processes: Number of all.
        kind: "cuda" or "cpu".
        side: Side of the images in pixels.
        batch_size: Images in a step of each.
        repeats: Number of times that each is timed, after one that is not.
        place: Folder of the file, which all share.
    """
    torch.set_num_threads(1)
    device = f"cuda:{rank}" if kind == "cuda" else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(rank)
    image, label = draw_batch(side, batch_size, device)
    row = build(DEFAULT, device, side=side)
    alone = _seconds(step_of(row, image, label), repeats, device)
    backend = "nccl" if kind == "cuda" else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{place}/store", rank=rank, world_size=num_processes, timeout=_PATIENCE
    )
    try:
        found = _sum_gradients(row, num_processes, repeats, device)
        network = DistributedDataParallel(share_batch_norms(row.network, device))
        optimizer = torch.optim.AdamW(trainable_parameters(network), lr=1e-4)
        shared = _seconds(step_of(Row(network, row.loss, optimizer), image, label), repeats, device)
    finally:
        distributed.destroy_process_group()
    if rank == 0:
        steps = {"step_seconds_alone": alone, "step_seconds_shared": shared, "shared_takes": round(shared / alone, 3)}
        setting = {"backend": backend, "processes": num_processes, "side": side, "batch_size_of_each": batch_size}
        Path(place, "found.json").write_text(json.dumps({**setting, **found, **steps}))


def _sum_gradients(row: Row, num_processes: int, repeats: int, device: str) -> dict[str, Any]:
    """Time the sum of as many numbers as there are gradients, and check it."""
    numbers = torch.zeros(row.trained_parameters, device=device)

    def run() -> None:
        numbers.fill_(distributed.get_rank() + 1)
        distributed.all_reduce(numbers)

    seconds = _seconds(run, repeats, device)
    size = numbers.numel() * numbers.element_size()
    expected = num_processes * (num_processes + 1) / 2
    return {
        "trained_parameters": row.trained_parameters, "sum_megabytes": round(size / 1e6, 1), "sum_seconds": seconds,
        "bus_gb_per_second": round(2 * (num_processes - 1) / num_processes * size / seconds / 1e9, 3),
        "sum_is_right": bool((numbers == expected).all()),
    }  # fmt: skip


def _seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Return the median seconds of the wall clock, which runs on while a process waits for another."""
    found = []
    for _ in range(1 + repeats):
        start = _clock(device)
        run()
        found.append(_clock(device) - start)
    return round(statistics.median(found[1:]), 5)


def _clock(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    kind = torch.device(options.device).type
    number = torch.cuda.device_count() if kind == "cuda" else 2
    with tempfile.TemporaryDirectory() as place:
        setting = (number, kind, options.side, options.batch_size, options.repeats, place)
        torch.multiprocessing.spawn(run_process, args=setting, nprocs=number)
        content = {**json.loads(Path(place, "found.json").read_text()), "hardware": hardware(options.device)}
    give(content, options.output)


if __name__ == "__main__":
    main()
