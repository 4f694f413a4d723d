"""Time and peak memory, measured the same way for everything that is compared."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

MEGABYTE = 1e6


def time_in_turn(runs: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, dict[str, object]]:
    """Time several things in turns, so that a slow minute of the machine hits all of them.

    Args:
        runs: What is timed, by name; each is run once before, untimed.
        repeats: Rounds.
        device: Where it runs.

    Returns:
        Seconds of each: every round's, and their median.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            seconds[name].append(round(time.perf_counter() - start, 4))
    return {name: {"seconds": statistics.median(found), "all_seconds": found} for name, found in seconds.items()}


def peak_memory(run: Callable[[], object], device: str) -> dict[str, float]:
    """Measure the highest memory while something runs, in MB: as it is then, and above what was held before.

    On a CPU it is the process's resident memory, everything included (Linux only).
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

    Peaks of one thing must not hide in memory that another has left behind.
    """
    command = [sys.executable, "-m", module, *arguments]
    root = Path(__file__).parent.parent
    found = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def hardware(device: str) -> dict[str, object]:
    """Describe what the numbers were measured on."""
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


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _status(field: str) -> int:
    """Read a size from the process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: memory on a CPU is measured on Linux only.")
