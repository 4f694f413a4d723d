"""Memory: what is free, and the peak of this process, in total and while a function runs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

from icmoe_monai.errors import InputError


def peak_memory_mb() -> float | None:
    """Return the highest resident memory so far in MB (10^6 bytes), or None where it is not reported (not Linux).

    Example:
        >>> peak = peak_memory_mb()
        >>> peak is None or peak > 10
        True
    """
    peak = _peak_of_process()
    return round(peak / 1e6, 1) if peak else None


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Run a function and return the peak memory meanwhile, in bytes.

    Args:
        run: The function.
        device: Device whose memory is measured: on a GPU what is allocated there, else all memory of the process.

    Raises:
        InputError: If the system cannot reset a process's peak memory: only Linux can.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    _return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    except OSError as error:
        raise InputError(
            "budget on a CPU is measured on Linux only, where a process may set back its peak memory: set "
            "--sw_batch_size instead."
        ) from error
    run()
    return _peak_of_process()


def _return_freed_memory() -> None:
    """Return freed memory to the system where the C library can (glibc), since reusing it would not raise the peak."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _peak_of_process() -> int:
    """Return the peak memory of this process in bytes, or 0 where the system does not report it."""
    status = Path("/proc/self/status")  # unlike getrusage's, this peak leaves out the parent process
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def free_bytes() -> float | None:
    """Return the memory that a new process could take, in bytes, or None where the system does not tell (not Linux).

    Within a container, no more than its limit leaves.

    Example:
        >>> free = free_bytes()
        >>> free is None or free > 1e6
        True
    """
    told = Path("/proc/meminfo")
    if not told.is_file():
        return None
    entries = dict(line.split(":", 1) for line in told.read_text().splitlines() if ":" in line)
    free = 1024.0 * int(entries["MemAvailable"].split()[0])
    limit, used = (_number_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _number_in(path: str) -> float | None:
    """Return the number that a file of the system holds, or None without one."""
    file = Path(path)
    text = file.read_text().strip() if file.is_file() else ""
    return float(text) if text.isdigit() else None
