"""What ends a training before its last epoch: that it no longer improves, and that it is asked to."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from ignite.engine import Engine, Events

from icmoe_monai.errors import InputError, Terminated
from icmoe_monai.utils.distributed import num_processes, total
from icmoe_monai.utils.files import refusal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOLD = b"\nstopping after the step or validation that runs; a second signal stops at once, and loses this epoch\n"


class Patience:
    """Count the validations since the last improvement; the count is part of the training's state.

    A metric that is no number is no improvement.

    Args:
        patience: Number of validations without improvement before the training stops.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = -math.inf
        self.count = 0
        self.is_resumed = False

    @property
    def is_over(self) -> bool:
        """Whether the training is to stop."""
        return self.count >= self.patience

    def compare(self, value: float) -> None:
        """Count a validation.

        Args:
            value: Its metric; larger is better.
        """
        self.count = 0 if value > self.best else self.count + 1
        self.best = self.best if math.isnan(value) else max(self.best, value)

    def state_dict(self) -> dict[str, float]:
        """Return the best value and the count so far, for a checkpoint."""
        return {"best": self.best, "count": self.count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the best value and the count from a checkpoint."""
        self.best, self.count = float(state["best"]), int(state["count"])
        self.is_resumed = True


class EarlyStop:
    """Handler: stop the training when the validation has not improved for some time.

    Attach it to the trainer, after the handler that loads checkpoints. MONAI's EarlyStopHandler needs both engines as
    arguments, which a config cannot give, since the trainer's and the evaluator's parts would refer to each other; and
    it takes a metric that is no number for an improvement.

    Args:
        evaluator: The validation's engine.
        metric: Name of the metric; larger is better.
        patience: What counts, and is saved with the training.
    """

    def __init__(self, *, evaluator: Engine, metric: str, patience: Patience) -> None:
        self.evaluator = evaluator
        self.metric = metric
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator, to compare every validation and stop this trainer."""
        engine.add_event_handler(Events.STARTED, self.started)
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.compare, engine)

    def started(self, engine: Engine) -> None:
        """Refuse to go on with a training that has stopped early.

        Raises:
            InputError: If it has.
        """
        if self.patience.is_resumed and self.patience.is_over:
            count = self.patience.count
            raise InputError(
                f"The training of this checkpoint has stopped early, in epoch {engine.state.epoch}, after {count} "
                f"validations without improvement: raise --patience above {count} to go on."
            )
        self.patience.is_resumed = False

    def compare(self, evaluator: Engine, trainer: Engine) -> None:
        """Count a validation, and stop the trainer after too many without improvement."""
        self.patience.compare(float(evaluator.state.metrics[self.metric]))
        if self.patience.is_over:
            trainer.terminate()


def run_training(trainer: Engine, *, output_dir: str) -> None:
    """Run a training, which Ctrl-C and SIGTERM end between two steps, and a full disk in one sentence.

    From the first step on, a signal waits for the end of the step or of the validation that runs; a second signal ends
    the training at once. Several processes end after the same step, though a signal reaches them at
    different times. A signal that ends this process without an exception, or is ignored, is left alone, and all are
    outside the main thread.

    The processes of data loaders ignore these signals, which a terminal or a job's end sends to them too: they end with
    this process.

    Args:
        trainer: The trainer.
        output_dir: Folder in which handlers, such as TensorBoard's, write files.

    Raises:
        KeyboardInterrupt: If a signal has ended the training.
        InputError: If the disk is full, or the training does not work.
    """
    try:
        with _quiet_threads():
            _run_with_signals(trainer)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise refusal(Path(error.filename or Path(output_dir) / "tensorboard"), error) from error


def _run_with_signals(trainer: Engine) -> None:
    with (
        HeldSignals() as signals,
        trainer.add_event_handler(Events.ITERATION_STARTED, signals.hold),
        trainer.add_event_handler(Events.GET_BATCH_STARTED, signals.raise_caught),
    ):
        trainer.run()


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Print no traceback of a thread that could not write: TensorBoard raises it again in the main thread."""
    before = threading.excepthook

    def hook(told: threading.ExceptHookArgs) -> None:
        if not isinstance(told.exc_value, OSError):
            before(told)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class HeldSignals:
    """Hold Ctrl-C and SIGTERM back, until `raise_caught` is called; after its `with` block nothing is held."""

    def __init__(self) -> None:
        self._caught = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> HeldSignals:
        """Return this object."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals their own handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def hold(self) -> None:
        """Begin to hold signals back, unless that has begun."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in self._before:
            signal.signal(number, self._catch)

    def raise_caught(self, engine: Engine) -> None:
        """Raise what the signal would have raised that one of the processes has caught."""
        number = self._caught
        if num_processes() > 1:
            caught = torch.tensor([float(number == one) for one in _SIGNALS], device=cast(Any, engine.state).device)
            number = next((one for one, count in zip(_SIGNALS, total(caught), strict=True) if count), 0)
        if number:
            self.__exit__()  # what is saved now can be stopped as ever
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if multiprocessing.parent_process() is not None:
            return
        if self._caught:
            self._before[number](number, frame)
            return
        self._caught = number
        # not by a logger or a stream, which the signal may have interrupted
        os.write(2, _TOLD)
