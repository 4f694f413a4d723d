"""What ends a training: a validation that does not improve, Ctrl-C, SIGTERM."""

from __future__ import annotations

import errno
import math
import os
import signal
import threading

import pytest
import torch
from engines import evaluator_of, trainer_of
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.handlers import TensorBoardStatsHandler, from_engine
from torch import nn

from icmoe_monai.errors import InputError, Terminated, take_sigterm
from icmoe_monai.training import stopping
from icmoe_monai.training.checkpoints import LastCheckpoint
from icmoe_monai.training.stopping import EarlyStop, Patience, run_training
from icmoe_monai.weights.tensor_files import read_checkpoint


@pytest.fixture(autouse=True)
def _handlers():
    """Have the signals' handlers of a command, and give them back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    take_sigterm()
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_early_stop_ends_a_training_that_does_not_improve():
    evaluator = evaluator_of([0.5, 0.4, 0.4, 0.4, 0.4])
    trainer = trainer_of([EarlyStop(evaluator=evaluator, metric="dice", patience=Patience(2))], max_epochs=5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0], max_epochs=1))
    trainer.run()
    assert trainer.state.epoch == 3


def stops_at(values, *, patience, loaded=None):
    """Return the epoch in which a training stops, and what has counted."""
    evaluator = evaluator_of(values)
    counter = Patience(patience)
    trainer = trainer_of([EarlyStop(evaluator=evaluator, metric="dice", patience=counter)], max_epochs=len(values))
    if loaded is not None:
        counter.load_state_dict(loaded)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0], max_epochs=1))
    trainer.run()
    return trainer.state.epoch, counter


def test_a_metric_that_is_no_number_is_no_improvement():
    assert stops_at([0.5, math.nan, math.nan, 0.6, 0.6], patience=2)[0] == 3
    assert stops_at([math.nan, 0.1, math.nan, 0.2, 0.1], patience=2)[0] == 5


def test_a_resumed_training_counts_on():
    values = [0.5, 0.4, 0.3, 0.6, 0.2, 0.1, 0.1]
    straight, _ = stops_at(values, patience=3)
    for done in range(1, straight):
        _, counter = stops_at(values[:done], patience=3)
        resumed, _ = stops_at(values[done:], patience=3, loaded=counter.state_dict())
        assert done + resumed == straight == 7


def test_a_training_that_has_stopped_early_is_not_gone_on_with_unless_there_is_more_patience():
    _, counter = stops_at([0.5, 0.4, 0.4], patience=2)
    with pytest.raises(InputError, match=r"stopped early.*raise --patience above 2"):
        stops_at([0.9, 0.9], patience=2, loaded=counter.state_dict())
    assert stops_at([0.3, 0.3], patience=3, loaded=counter.state_dict())[0] == 1


def send(engine, number, iteration):
    if engine.state.iteration == iteration:
        signal.raise_signal(number)


def run_with_signals(events, tmp_path, numbers):
    """Run a training that is sent a signal at each of the events, and iterations, and return it."""
    network = nn.Linear(1, 1)
    handler = LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt"))
    trainer = trainer_of([handler], network=network)
    for (event, iteration), number in zip(events, numbers, strict=True):
        trainer.add_event_handler(event, send, number, iteration)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        run_training(trainer, output_dir=str(tmp_path))
    finally:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    return trainer


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.parametrize(
    ("event", "iteration"),
    [(IterationEvents.FORWARD_COMPLETED, 2), (Events.ITERATION_COMPLETED, 4), (Events.EPOCH_COMPLETED, 3)],
    ids=["step", "between", "validation"],
)
def test_a_signal_ends_a_training_between_two_steps(number, kind, event, iteration, tmp_path, capfd):
    with pytest.raises(KeyboardInterrupt) as raised:
        run_with_signals([(event, iteration)], tmp_path, [number])
    assert type(raised.value) is kind
    assert read_checkpoint(tmp_path / "last.pt")["trainer"]["iteration"] == iteration
    assert capfd.readouterr().err.count("a second signal stops at once") == 1


def test_a_second_signal_ends_a_training_at_once(tmp_path):
    events = [(IterationEvents.FORWARD_COMPLETED, 5), (IterationEvents.LOSS_COMPLETED, 5)]
    with pytest.raises(Terminated):
        run_with_signals(events, tmp_path, [signal.SIGINT, signal.SIGTERM])
    assert read_checkpoint(tmp_path / "last.pt")["trainer"]["iteration"] == 3


def test_a_signal_before_the_first_step_ends_a_training_at_once(tmp_path):
    with pytest.raises(Terminated):
        run_with_signals([(Events.STARTED, 0)], tmp_path, [signal.SIGTERM])
    assert not list(tmp_path.iterdir())


def test_a_process_that_caught_no_signal_ends_with_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(stopping, "num_processes", lambda: 2)
    monkeypatch.setattr(stopping, "total", lambda caught: caught + torch.tensor([0.0, 1.0]))
    with pytest.raises(Terminated):
        run_with_signals([], tmp_path, [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_too_full_for_tensorboard_is_told_in_a_sentence(monkeypatch, tmp_path, capfd):
    """Its thread prints a traceback of its own otherwise."""

    loss = from_engine(["loss"], first=True)

    def write(writer, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = trainer_of([TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=loss)])
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", write)
    # pytest's own hook, which takes every thread's exception for a mistake, is asked by ours
    before = threading.excepthook
    with pytest.raises(InputError, match=r"Cannot write tensorboard in .*No space left on device\. Free some space"):
        run_training(trainer, output_dir=str(tmp_path))
    assert threading.excepthook is before
    assert "Traceback" not in capfd.readouterr().err


def test_a_data_loaders_process_lives_on(monkeypatch):
    """What a terminal or a job's end sends reaches all processes; a loader serves until its parent ends."""
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    with stopping.HeldSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)  # by the handler of a command
        signals.hold()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
