"""How much memory this process took at most, and how much while something ran."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

from icmoe_monai.errors import InputError


def peak_memory_mb() -> float | None:
    """Return the highest resident memory so far in MB (10^6 bytes), or None where the system does not tell (not Linux).

    Example:
        >>> peak = peak_memory_mb()
        >>> peak is None or peak > 10
        True
    """
    peak = _peak_of_process()
    return round(peak / 1e6, 1) if peak else None


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that was held while something ran, in bytes.

    Args:
        run: What runs.
        device: On a GPU what is allocated there counts, else all of the process.

    Raises:
        InputError: If the system does not tell a process's peak: only Linux does.
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
    """Give back what was freed, or new memory would come out of it and not be seen; where the C library can (glibc)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _peak_of_process() -> int:
    """Return a process's peak in bytes, or 0 where the system does not tell."""
    status = Path("/proc/self/status")  # unlike getrusage's, its peak has no part of the process that started this one
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0
