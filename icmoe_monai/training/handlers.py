"""Handlers of a training: keep the best and the last weights, clip gradients, stop early, and write metrics.

Each class is a handler for MONAI's engines: it has `attach(engine)` and is named in a config's list of handlers. Two of
them replace MONAI's CheckpointSaver, which removes the old file before it writes the new one, so that a process killed
between the two loses both.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.handlers import EarlyStopHandler
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.utils.distributed import is_first
from icmoe_monai.utils.files import read_csv, write_csv
from icmoe_monai.utils.memory import peak_memory_mb
from icmoe_monai.weights.checkpoint import (
    MODEL,
    TRAINER,
    TRUNK,
    notes_on_trunk,
    save_weights,
    trained_state,
    with_trunk,
)
from icmoe_monai.weights.handlers import TrunkChangedError
from icmoe_monai.weights.tensor_files import save_checkpoint


class BestCheckpoint:
    """Handler: keep the network's weights of the best validation so far, as `save_weights` writes them.

    Attach it to the evaluator. The best value is part of the training's state, so that a resumed training does not
    replace better weights in the same folder. With several processes, all know the value and the first one writes.

    Args:
        network: The network.
        path: The file.
        metric: Name of the metric; larger is better.
        recipe: The training's recipe, which is written beside the weights.
    """

    def __init__(self, *, network: nn.Module, path: str, metric: str, recipe: Mapping[str, Any] | None = None) -> None:
        self.network = network
        self.path = Path(path)
        self.metric = metric
        self.recipe = recipe
        self.best = -math.inf
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator; the metric is compared after every validation."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the weights if the metric has risen."""
        value = float(engine.state.metrics[self.metric])
        if value <= self.best:
            return
        self.best = value
        if is_first():
            save_weights(unwrapped(self.network), self.path, recipe=self.recipe)
            self.logger.debug(f"{self.metric} {value:.4f} is the best so far: wrote {self.path}.")

    def state_dict(self) -> dict[str, float]:
        """Return the best value so far, for a checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the best value from a checkpoint, if its weights are in the folder."""
        if self.path.is_file():  # else the folder is a new one, which needs a best.pt of its own
            self.best = state["best"]


class NotFiniteError(InputError):
    """Signal a loss or gradient that is not finite."""


class LastCheckpoint:
    """Handler: save the whole state of the training after every epoch, and when it is stopped.

    Attach it to the trainer, before handlers that raise a caught exception again (such as MONAI's StatsHandler): ignite
    calls no handler after them.

    A training stopped by `NotFiniteError` keeps the file of its last epoch: the weights may still be good, but the
    statistics that a forward pass updates no longer are. One stopped by `TrunkChangedError` keeps that file too.

    Args:
        save_dict: Objects to save besides the engine, by name; the network is "model".
        path: The file.
        recipe: The training's recipe, which is written too.
    """

    def __init__(self, *, save_dict: dict[str, Any], path: str, recipe: Mapping[str, Any] | None = None) -> None:
        self.save_dict = save_dict
        self.path = Path(path)
        self.recipe = recipe
        self.error: BaseException | None = None
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer: save after every epoch and on every exception, Ctrl-C included."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.save_and_raise)

    def save(self, engine: Engine) -> None:
        """Save the trained weights, the other objects, and the trainer's state."""
        network = unwrapped(self.save_dict[MODEL])
        states = {name: part.state_dict() for name, part in self.save_dict.items() if name != MODEL}
        trunk = notes_on_trunk(network, (self.recipe or {}).get("pretrained"))
        notes = ({TRUNK: trunk} if trunk else {}) | with_trunk(self.recipe, trunk)
        content = {MODEL: trained_state(network)} | notes | states | {TRAINER: engine.state_dict()}
        save_checkpoint(content, self.path)

    def save_and_raise(self, engine: Engine, error: BaseException) -> None:
        """Save, unless nothing was trained yet, and raise the exception again; ignite calls this twice for each."""
        is_sound = not isinstance(error, (NotFiniteError, TrunkChangedError))
        is_past_start = engine.state.output is not None  # before that a checkpoint may still be loading
        if is_sound and is_past_start and error is not self.error:
            self.error = error
            self.save(engine)
            self.logger.warning(
                f"Stopped in epoch {engine.state.epoch} by {type(error).__name__}; go on with --checkpoint {self.path}"
            )
        raise error


class GradientClipping:
    """Handler: clip the gradient before every step, and stop the training if a loss or gradient is not finite.

    It stops before the step, so that the weights are still those of the step before. `LastCheckpoint` keeps the file of
    the last epoch.

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


class EarlyStop:
    """Handler: stop the training when the validation has not improved for some time.

    Attach it to the trainer. MONAI's EarlyStopHandler needs both engines as arguments, which a config cannot give,
    since the trainer's and the evaluator's parts would refer to each other.

    Args:
        evaluator: The validation's engine.
        metric: Name of the metric; larger is better.
        patience: Number of validations without improvement before the training stops.
    """

    def __init__(self, *, evaluator: Engine, metric: str, patience: int) -> None:
        self.evaluator = evaluator
        self.metric = metric
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Attach MONAI's EarlyStopHandler to the evaluator, with this engine as the trainer to stop."""
        EarlyStopHandler(patience=self.patience, score_function=self._score, trainer=engine, epoch_level=True).attach(
            self.evaluator
        )

    def _score(self, engine: Engine) -> float:
        return float(engine.state.metrics[self.metric])


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
