"""Measurement of time and peak memory, the same for everything that is compared."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from icmoe_monai.utils.files import write_json

MEGABYTE = 1e6
T = TypeVar("T")


def give(content: Mapping[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file if one is asked for."""
    if output is not None:
        write_json(output, content)
    print(json.dumps(content))  # noqa: T201


def now(device: str) -> float:
    """Wait until the device has done its work, and return the time in seconds.

    A process that computes on a CPU in one thread is timed by its processor time: on an idle machine this equals the
    time of the wall clock, and other work on the machine hardly lengthens it. Everything else is timed by the wall
    clock.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def time_in_turn(runs: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, dict[str, object]]:
    """Time several functions in turns, so that a slow minute of the machine affects all of them.

    Args:
        runs: The functions by name; each is run once before, untimed.
        repeats: Number of rounds.
        device: Device on which they run.

    Returns:
        For each function `all_seconds`, the seconds of every round, and `seconds`, their median.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = now(device)
            run()
            seconds[name].append(round(now(device) - start, 4))
    return {name: {"seconds": statistics.median(found), "all_seconds": found} for name, found in seconds.items()}


class Stopwatch:
    """Time the parts of a task that is done again and again.

    Args:
        device: Device on which the parts run.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.all_seconds: dict[str, list[float]] = {}

    def __call__(self, part: str, run: Callable[[], T]) -> T:
        """Run a part, note its time, and return its result."""
        start = now(self.device)
        result = run()
        self.all_seconds.setdefault(part, []).append(now(self.device) - start)
        return result

    def take_round(self) -> dict[str, float]:
        """Return the seconds of each part since the last call; several runs of a part are added up."""
        found = {part: sum(seconds) for part, seconds in self.all_seconds.items()}
        self.all_seconds.clear()
        return found


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median seconds of each part over rounds."""
    return {part: round(statistics.median(one[part] for one in rounds), 5) for part in rounds[0]}


def fit_line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Fit y = slope x + intercept by least squares; `r2` is the share of y's variance that the line explains."""
    slope, intercept = statistics.linear_regression(x, y)
    return {"slope": slope, "intercept": intercept, "r2": statistics.correlation(x, y) ** 2}


def peak_memory(run: Callable[[], object], device: str) -> dict[str, float]:
    """Run a function and return the peak memory meanwhile, in MB: the whole, and above what was held before.

    On a CPU the peak is the process's whole resident memory (Linux only).
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        before = _status("VmRSS")
        run()
        peak = _status("VmHWM")
    return {"peak_mb": round(peak / MEGABYTE, 1), "peak_above_start_mb": round((peak - before) / MEGABYTE, 1)}


def in_own_process(module: str, arguments: list[str]) -> dict[str, float]:
    """Run a module of this package as a process of its own, and return the JSON of its last line.

    A process of its own is needed for peak memory: a new peak could hide in memory that an earlier run left behind.
    """
    command = [sys.executable, "-m", module, *arguments]
    root = Path(__file__).parents[2]
    found = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def hardware(device: str) -> dict[str, object]:
    """Describe the machine and the versions with which the numbers were measured."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    is_cuda = torch.device(device).type == "cuda"
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "clock": "processor" if not is_cuda and torch.get_num_threads() == 1 else "wall",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)()),
        "gpu": torch.cuda.get_device_name(device) if is_cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference of two tensors."""
    return float((found.float() - expected.float()).abs().max())


def _status(field: str) -> int:
    """Read a size from the process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: memory on a CPU is measured on Linux only.")
