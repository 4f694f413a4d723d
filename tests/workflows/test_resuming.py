"""A training that is killed and resumed ends with the weights, to the last bit, of one that was not.

Each attempt is a process of its own, which is killed outright (SIGKILL), so that nothing of it can be tidied up.
"""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import put_demo
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from processes import ROOT

from icmoe_monai.utils import files
from icmoe_monai.utils.locks import LOCK
from icmoe_monai.weights.tensor_files import read_checkpoint

# Python 3.12 warns of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
EPOCHS, STEPS = 5, 2
_OF_TIME = ("seconds", "step_seconds", "peak_mb", "peak_gpu_mb")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return put_demo(tmp_path_factory.mktemp("data") / "set", train=3, val=2, test=1)


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory) -> tuple[Path, float]:
    """Return the folder of a training that nothing has disturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("straight")
    start = time.monotonic()
    assert wait(begin(dataset, folder)) == 0
    return folder, time.monotonic() - start


def begin(
    dataset: Path, folder: Path, disturb: Callable[[Engine, Engine], None] | None = None, num_workers: int = 0
) -> ForkProcess:
    """Begin a training in another process, or go on with it if it has saved its state."""
    last = folder / "last.pt"

    def train() -> None:
        flow = ConfigWorkflow(
            config_file=str(ROOT / "configs" / "train.json"), workflow_type="train", logging_file=False,
            dataset_dir=str(dataset), output_dir=str(folder), image_size=48, longest_side=64, batch_size=2, min_steps=1,
            max_epochs=EPOCHS, num_workers=num_workers, device="cpu", patience=EPOCHS, learning_rate=0.003,
            **({"checkpoint": str(last)} if last.is_file() else {"overwrite": True}),
        )  # fmt: skip
        flow.initialize()
        if disturb is not None:
            disturb(*(flow.parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator")))
        flow.run()

    process = get_context("fork").Process(target=train)  # a fresh Python would import torch and MONAI for seconds
    process.start()
    return process


def wait(process: ForkProcess) -> int | None:
    process.join(300)
    return process.exitcode


def kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_a_step(trainer: Engine, evaluator: Engine) -> None:
    """Die in the second step of the second epoch, once the statistics of that step are noted."""
    trainer.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED, lambda engine: kill() if engine.state.iteration == STEPS + 2 else None
    )


def kill_after_a_validation(trainer: Engine, evaluator: Engine) -> None:
    """Die in the third epoch, between best.pt and last.pt."""
    # after the handler that writes best.pt
    evaluator.add_event_handler(Events.COMPLETED, lambda _: kill() if trainer.state.epoch == 3 else None)


def kill_while_writing(trainer: Engine, evaluator: Engine) -> None:
    """Die in the fourth epoch, before the complete last.pt has its name."""

    def die(source: Path, target: Path) -> None:
        if Path(target).name == "last.pt" and trainer.state.epoch == 4:
            kill()
        rename(source, target)

    rename = files.os.replace
    files.os.replace = die  # of this process, which ends by it


def assert_same(folder: Path, expected: Path) -> None:
    """Assert that two trainings have left the same, but for times."""
    for name in ("best.pt", "last.pt"):
        assert differing(read_checkpoint(folder / name), read_checkpoint(expected / name), name) == []
    tables = [(one / "metrics.csv").read_text().splitlines() for one in (folder, expected)]
    found, wanted = ([untimed(row) for row in csv.DictReader(table)] for table in tables)
    assert found == wanted
    assert [row["epoch"] for row in found] == [str(epoch + 1) for epoch in range(EPOCHS)]
    left = {path.name for path in folder.iterdir()} - {LOCK}  # freed, but there, where it was killed at its end
    assert left == {"best.pt", "last.pt", "metrics.csv", "tensorboard"}


def differing(found: Any, expected: Any, name: str) -> list[str]:
    """Return the names of what differs, in tensors by a bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        return [path for key in expected for path in differing(found[key], expected[key], f"{name} {key}")]
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(found, expected) else [name]
    return [] if found == expected else [name]


def untimed(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in _OF_TIME}


def test_a_training_that_is_killed_three_times_ends_as_one_that_is_not(dataset, straight, tmp_path):
    for disturb in (kill_in_a_step, kill_after_a_validation, kill_while_writing):
        assert wait(begin(dataset, tmp_path, disturb)) == -signal.SIGKILL
    assert list(tmp_path.glob(".*.pt"))  # what the last one left half written
    assert wait(begin(dataset, tmp_path, num_workers=2)) == 0
    assert_same(tmp_path, straight[0])


@pytest.mark.slow
def test_a_training_that_is_killed_at_thirty_random_moments_ends_as_one_that_is_not(dataset, straight, tmp_path):
    rng = np.random.default_rng(0)
    num_kills = num_trainings = 0
    while num_kills < 30:
        folder = tmp_path / str(num_trainings)
        folder.mkdir(exist_ok=True)
        process = begin(dataset, folder, num_workers=2 * (num_kills % 2))
        process.join(rng.uniform(0, straight[1]))
        process.kill()
        if wait(process) == -signal.SIGKILL:
            num_kills += 1
        else:  # it had ended before
            num_trainings += finished(process, folder, straight[0])
    if folder.name == str(num_trainings):  # the last one is not at its end
        process = begin(dataset, folder)
        wait(process)
        finished(process, folder, straight[0])


def finished(process: ForkProcess, folder: Path, expected: Path) -> int:
    """Assert that a training has ended as expected, now or before it was killed at its end; return 1."""
    epoch = read_checkpoint(folder / "last.pt")["lr_scheduler"]["last_epoch"]
    assert process.exitcode == 0 or epoch == EPOCHS * STEPS
    assert_same(folder, expected)
    return 1
