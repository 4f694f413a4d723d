"""Handlers of a training's steps: clip gradients, stop what is not finite, and write metrics.

Each class is a handler for MONAI's engines: it has `attach(engine)` and is named in a config's list of handlers.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import read_csv, write_csv
from icmoe_monai.utils.memory import peak_memory_mb


class NotFiniteError(InputError):
    """Signal a loss or gradient that is not finite."""


class GradientClipping:
    """Handler: clip the gradient before every step, and stop the training if a loss or gradient is not finite.

    It stops before the step, and `LastCheckpoint` keeps the file of the last epoch: the weights may still be good, but
    the statistics that a forward pass updates no longer are.

    Args:
        network: The network.
        max_norm: Largest norm of the gradient of all weights.
    """

    def __init__(self, *, network: nn.Module, max_norm: float = 1.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer that does not scale the loss (bfloat16 needs no scaling)."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.clip)

    def check(self, engine: Engine) -> None:
        """Raise `NotFiniteError` if the loss is not finite."""
        loss = loss_of(engine)
        if not math.isfinite(loss):
            self._stop(engine, f"the loss is {loss}")

    def clip(self, engine: Engine) -> None:
        """Clip the gradient; raise `NotFiniteError` if its norm is not finite."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not bool(torch.isfinite(norm)):
            self._stop(engine, f"the gradient's norm is {norm.item()}")

    def _stop(self, engine: Engine, what: str) -> None:
        raise NotFiniteError(
            f"Training stopped in epoch {engine.state.epoch}, iteration {engine.state.iteration}: {what}. The "
            "checkpoints of the last epoch are kept; lower --learning_rate, and go on from one of them."
        )


class MetricsCsv:
    """Handler: write a CSV file with a row per epoch: loss, learning rate, seconds, and every validation metric.

    `seconds` is the time of the epoch, with the reading of images and the validation; `step_seconds` the median time of
    its steps, from the batch being read to the weights being changed; `peak_mb` the largest memory that the process has
    held so far (on Linux), and `peak_gpu_mb` the largest that was allocated on the GPU, if one is used.

    A resumed training keeps the rows of earlier epochs.

    Args:
        path: The CSV file.
        evaluator: The validation's engine.
        optimizer: Optimizer whose learning rate is written.
    """

    def __init__(self, *, path: str, evaluator: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.rows: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.steps: list[float] = []
        self.start = self.step_start = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, after the handler that validates."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_STARTED, self.iteration_started)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.loss_completed)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def started(self, engine: Engine) -> None:
        """Read the rows that a resumed training has already written."""
        self.rows = []
        if engine.state.iteration > 0 and self.path.is_file():
            self.rows = [row for row in read_csv(self.path) if int(row["epoch"]) <= engine.state.epoch]

    def epoch_started(self, engine: Engine) -> None:
        """Start the measurements of an epoch."""
        self.losses, self.steps, self.start = [], [], time.perf_counter()

    def iteration_started(self, engine: Engine) -> None:
        """Start the timing of a step."""
        self.step_start = time.perf_counter()

    def loss_completed(self, engine: Engine) -> None:
        """Note the loss of an iteration."""
        self.losses.append(loss_of(engine))

    def iteration_completed(self, engine: Engine) -> None:
        """Note the time of a step; a GPU may still be busy with the optimizer's part, since nothing waits for it."""
        self.steps.append(time.perf_counter() - self.step_start)

    def epoch_completed(self, engine: Engine) -> None:
        """Add the row of the epoch, and write the file."""
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "train_loss": f"{sum(self.losses) / max(len(self.losses), 1):.6g}",
            "learning_rate": f"{self.optimizer.param_groups[0]['lr']:.6g}",
            "seconds": f"{time.perf_counter() - self.start:.2f}",
            "step_seconds": f"{statistics.median(self.steps or [0]):.5f}",
            **_peak_memory(),
        }
        if self.evaluator.state.epoch == engine.state.epoch:  # else this epoch was not validated
            row |= {name: f"{float(value):.6g}" for name, value in self.evaluator.state.metrics.items()}
        self.rows.append(row)
        write_csv(self.path, self.rows)


def loss_of(engine: Engine) -> float:
    """Return the loss of the running iteration.

    Args:
        engine: A MONAI trainer, after its loss is computed.
    """
    return float(cast(dict, engine.state.output)["loss"].detach())


def _peak_memory() -> dict[str, str]:
    """Return the peak memory of the process and of the GPU so far, in MB."""
    process = peak_memory_mb()
    peak = {} if process is None else {"peak_mb": f"{process:.1f}"}
    if torch.cuda.is_initialized():
        peak["peak_gpu_mb"] = f"{torch.cuda.max_memory_allocated() / 1e6:.1f}"
    return peak
