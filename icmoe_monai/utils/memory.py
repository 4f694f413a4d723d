"""Peak memory of this process, in total and while a function runs."""

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
