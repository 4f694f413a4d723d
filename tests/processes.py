"""Two processes that work together over gloo, forked from a test or started by torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).parent.parent


def in_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what each of two forked processes makes of its index; tensors and plain values."""
    context = get_context("fork")  # a fresh Python would import torch for seconds
    processes = [context.Process(target=_work, args=(work, index, folder)) for index in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{index}.pt", weights_only=True) for index in range(2)]


def _work(work: Callable[[int], Any], index: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=2)
    torch.save(work(index), folder / f"{index}.pt")
    dist.destroy_process_group()


def bundle_run(*arguments: str, folder: Path, num_processes: int = 1) -> subprocess.CompletedProcess:
    """Run `python -m monai.bundle run` in one process, or in several by torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes), "-m"]
    command = [sys.executable, "-m", *(torchrun if num_processes > 1 else []), "monai.bundle", "run", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
