"""Handlers that tell how far a run is: a bar on a terminal, and lines in a log that is a file or a pipe.

A line is written whole, so that no carriage return reaches a file.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines.utils import IterationEvents

from icmoe_monai.training.checkpoints import BestCheckpoint
from icmoe_monai.training.handlers import loss_of
from icmoe_monai.utils.logs import writes_json

_SECONDS_BETWEEN_LINES = 30.0
_logger = logging.getLogger(__name__)


class Progress:
    """Handler: show ignite's progress bar over the iterations of every epoch; in a file, a line about every 30 seconds.

    Args:
        description: Text before the bar or in the line.
        lines: Whether to write lines where standard error is no terminal.
    """

    def __init__(self, *, description: str, lines: bool = True) -> None:
        self.description = description
        self.lines = lines
        self._start = self._last_line = 0.0

    def attach(self, engine: Engine) -> None:
        """Show the bar on standard error, with the loss if the engine has one, or register to write lines."""
        if sys.stderr.isatty() and not writes_json():
            ProgressBar(desc=self.description, persist=False).attach(engine, output_transform=_told_of)
        elif self.lines:
            engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Start the time."""
        self._start = self._last_line = time.monotonic()

    def iteration_completed(self, engine: Engine) -> None:
        """Write a line, if the last one was some time ago."""
        now, total = time.monotonic(), engine.state.epoch_length
        if total and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            done = (engine.state.iteration - 1) % total + 1
            left = (now - self._start) / done * (total - done)
            _logger.info("%s: %d of %d, %s left", self.description, done, total, duration(left))
            self._last_line = now


class EpochLog:
    """Handler: write a line an epoch, and at the end which weights are the best and what comes next.

    A line tells the mean loss, the validation's Dice if the epoch was validated, the seconds that the epoch took, and
    the time that the rest of the training will take at most, by the mean of the epochs so far.

    Args:
        evaluator: The validation's engine.
        best: Handler that keeps the best weights.
        next_command: Command to name at the end; None names none.
    """

    def __init__(self, *, evaluator: Engine, best: BestCheckpoint, next_command: str | None = None) -> None:
        self.evaluator = evaluator
        self.best = best
        self.next_command = next_command
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._start = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, after the handlers that validate and that show a bar."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.loss_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        """Forget the epochs of an earlier run."""
        self._seconds = []

    def epoch_started(self, engine: Engine) -> None:
        """Start the measurements of an epoch."""
        self._losses, self._start = [], time.monotonic()

    def loss_completed(self, engine: Engine) -> None:
        """Note the loss of an iteration."""
        self._losses.append(loss_of(engine))

    def epoch_completed(self, engine: Engine) -> None:
        """Write the line."""
        seconds = time.monotonic() - self._start
        self._seconds.append(seconds)
        epoch, max_epochs = engine.state.epoch, engine.state.max_epochs or engine.state.epoch
        told = [f"loss {sum(self._losses) / max(len(self._losses), 1):.4f}"]
        if self.evaluator.state.epoch == epoch:  # else this epoch was not validated
            dice = float(self.evaluator.state.metrics[self.best.metric])
            told.append(f"validation Dice {dice:.4f}{' (the best so far)' if dice == self.best.best else ''}")
        told.append(f"{seconds:.0f} s")
        if epoch < max_epochs:
            mean_seconds = sum(self._seconds) / len(self._seconds)
            told.append(f"{duration(mean_seconds * (max_epochs - epoch))} left")
        _logger.info("epoch %d of %d: %s", epoch, max_epochs, ", ".join(told))

    def completed(self, engine: Engine) -> None:
        """Name the best weights, their validation's Dice, and the next command."""
        if engine.state.max_epochs is not None and engine.state.epoch < engine.state.max_epochs:
            _logger.info("Stopped early, in epoch %d: the validation no longer improves.", engine.state.epoch)
        if self.best.path.is_file():
            _logger.info("The best weights, of validation Dice %.4f: %s", self.best.best, self.best.path)
            if self.next_command is not None:
                _logger.info("Next: %s", self.next_command)


def evaluation_command(*, dataset_dir: str | None, output_dir: str) -> str:
    """Return the command that evaluates a training's best weights.

    Args:
        dataset_dir: The dataset folder that was trained on.
        output_dir: Folder of the training.

    Example:
        >>> evaluation_command(dataset_dir="my data", output_dir="runs/mine").partition(" evaluate ")[2]
        "'my data' runs/mine/evaluation --checkpoint runs/mine/best.pt"
    """
    folder = Path(output_dir)
    program = ["icmoe"] if shutil.which("icmoe") else ["python", "-m", "icmoe_monai"]
    words = ["evaluate", str(dataset_dir), str(folder / "evaluation"), "--checkpoint", str(folder / "best.pt")]
    return shlex.join([*program, *words])


def duration(seconds: float) -> str:
    """Return a time as a person says it.

    Args:
        seconds: The time.

    Example:
        >>> duration(41.7), duration(200), duration(9000)
        ('42 s', '3 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _told_of(output: Any) -> dict[str, float]:
    """Return the loss of a MONAI trainer's output, and nothing of an evaluator's."""
    if isinstance(output, list) and output and "loss" in output[0]:
        return {"loss": float(output[0]["loss"])}
    return {}
