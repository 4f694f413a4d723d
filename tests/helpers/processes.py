"""Two processes that work together over gloo: forked from a test, which is quick, or as a user starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from monai.bundle import ConfigWorkflow

from icmoe_monai.errors import find_input_error

ROOT = Path(__file__).parents[2]


def in_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what each of two processes makes of its index; tensors and plain values."""

    def meet_and_work(index: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=2)
        torch.save(work(index), folder / f"{index}.pt")
        dist.destroy_process_group()

    assert _fork(meet_and_work, num_processes=2, seconds=60) == [0, 0]
    return [torch.load(folder / f"{index}.pt", weights_only=True) for index in range(2)]


def run_workflow(files: list[str], run_id: str, num_processes: int, **overrides: object) -> list[int]:
    """Run a bundle's workflow in one process or several, with what torchrun tells each, and return their exit codes.

    An `InputError` ends a process with 3.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def run(index: int) -> None:
        told = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": num_processes, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="localhost")
        flow = ConfigWorkflow(config_file=files, workflow_type="train", run_id=run_id, logging_file=False, **overrides)
        flow.initialize()
        try:
            flow.run()
        except Exception as error:
            if find_input_error(error) is None:
                raise
            sys.exit(3)
        flow.finalize()

    return _fork(run, num_processes=num_processes, seconds=300)


def torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run `torchrun -m monai.bundle run` with two processes."""
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def _fork(work: Callable[[int], None], *, num_processes: int, seconds: float) -> list[int | None]:
    context = get_context("fork")  # a fresh Python would import torch and MONAI for seconds
    processes = [context.Process(target=work, args=(index,)) for index in range(num_processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]
