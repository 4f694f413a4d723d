"""Measure a training step and a window of the default network beside single networks of the same weights, and of three.

    python -m benchmarks.cost.rivals --output docs/results/rivals_cost.json

Everything runs in turns in one process, round by round; a ratio is the median over rounds of that round's ratio. A step
is forward, loss, backward, clipping and update of a batch held in memory, by the loss and the optimizer of each
network's config; a window is one image to the logits of its mask. The step of three networks is that of one, three
times, as they are trained one by one; their window is the mean of three. On a GPU the peak memory of each is told too.

The U-Net of segmentation_models_pytorch is measured where that library is installed (setup.cfg's `rivals`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import tell
from benchmarks.cost.measure import give, hardware, peak_memory, time_in_turn
from benchmarks.cost.rows import (
    DEFAULT,
    FULL_DECODERS,
    LITE2,
    ROWS,
    SMP,
    THREE,
    Row,
    build,
    draw_batch,
    missing,
    step_of,
    three_of,
    window_of,
)

BEST = (SMP, LITE2)  # the first that is measured is the best of the single rivals, by study *mixture*


def compare(runs: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, Any]:
    """Time runs in turns, and tell how many times as long as each the default takes, with light and full decoders.

    Args:
        runs: What is timed, by the name of its network.
        repeats: Number of rounds.
        device: Where they run.
    """
    rows = time_in_turn(runs, repeats, device)
    if torch.device(device).type == "cuda":
        for name, run in runs.items():
            rows[name] |= peak_memory(run, device)
    takes = {one: times_of(rows, one) for one in (DEFAULT, FULL_DECODERS) if one in rows}
    return {"rows": rows, "takes_times": takes}


def times_of(rows: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return how many times as long as each network one takes, the median over rounds.

    Args:
        rows: For each network `all_seconds`, of the same rounds.
        name: The one.

    Example:
        >>> times_of({"a": {"all_seconds": [2, 4, 9]}, "b": {"all_seconds": [1, 2, 3]}}, "a")
        {'a': 1.0, 'b': 2.0}
    """
    own = rows[name]["all_seconds"]
    return {
        other: round(statistics.median(one / its for one, its in zip(own, row["all_seconds"], strict=True)), 3)
        for other, row in rows.items()
    }


def measure(sides: Sequence[int], batch_size: int, window: int, repeats: int, device: str) -> dict[str, Any]:
    """Measure steps of several sides and a window.

    Args:
        sides: Sides of the images of a step in pixels.
        batch_size: Images in a step.
        window: Side of the window in pixels.
        repeats: Number of rounds.
        device: Where they run.
    """
    left_out = {name: said for name in ROWS if (said := missing(name))}
    for name, said in left_out.items():
        tell(f"{name} is left out: {said}")
    singles = {name: build(name, device, side=window) for name in ROWS if name not in left_out}
    best = next(name for name in BEST if name in singles)
    three, ensemble = three_of(best, device, side=window)
    results = {}
    for side in sides:
        image, label = draw_batch(side, batch_size, device)
        steps: dict[str, Callable[[], object]] = {name: step_of(row, image, label) for name, row in singles.items()}
        steps[THREE + best] = partial(_one_by_one, three, image, label)
        results[f"training step, {side} pixels, batch {batch_size}"] = compare(steps, repeats, device)
        tell(f"steps of {side} pixels are measured")
    image, _ = draw_batch(window, 1, device)
    windows: dict[str, Callable[[], object]] = {name: window_of(row.network, image) for name, row in singles.items()}
    windows[THREE + best] = window_of(ensemble, image)
    results[f"one window, {window} pixels"] = compare(windows, repeats, device)
    trained = {name: row.trained_parameters for name, row in singles.items()}
    return {"left_out": left_out, "best": best, "trained_parameters": trained, "results": results}


def _one_by_one(rows: Sequence[Row], image: torch.Tensor, label: torch.Tensor) -> None:
    for row in rows:
        step_of(row, image, label)()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[128, 256], help="of the images of a step")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--window", type=int, default=256, help="side of the window")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    content = {
        "repeats": options.repeats, "hardware": hardware(options.device),
        **measure(options.sides, options.batch_size, options.window, options.repeats, options.device),
    }  # fmt: skip
    give(content, options.output)


if __name__ == "__main__":
    main()
