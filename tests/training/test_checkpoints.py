"""Files of a training's weights: what is kept, and when it is written."""

from __future__ import annotations

import logging

import pytest
import torch
from engines import evaluator_of, trainer_of
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.training.checkpoints import BestCheckpoint, LastCheckpoint
from icmoe_monai.utils import files
from icmoe_monai.weights.tensor_files import read_checkpoint


def test_only_a_better_validation_replaces_the_best_weights(tmp_path):
    network = nn.Linear(1, 1)
    engine = evaluator_of([0.5, 0.4, 0.6])
    handler = BestCheckpoint(network=network, path=str(tmp_path / "best.pt"), metric="dice")
    handler.attach(engine)
    kept = []
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(network.weight, value)
        engine.run([0], max_epochs=1)
        kept.append(read_checkpoint(tmp_path / "best.pt")["weight"].item())
    assert kept == [1.0, 1.0, 3.0]


def test_a_resumed_training_knows_the_best_value(tmp_path):
    network = nn.Linear(1, 1)
    engine = evaluator_of([0.4])
    handler = BestCheckpoint(network=network, path=str(tmp_path / "best.pt"), metric="dice")
    (tmp_path / "best.pt").write_bytes(b"better")
    handler.load_state_dict({"best": 0.5})
    handler.attach(engine)
    engine.run([0], max_epochs=1)
    assert (tmp_path / "best.pt").read_bytes() == b"better"
    assert handler.state_dict() == {"best": 0.5}


def test_of_several_processes_the_first_writes_and_all_know_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr("icmoe_monai.training.checkpoints.is_first", lambda: False)
    handler = BestCheckpoint(network=nn.Linear(1, 1), path=str(tmp_path / "best.pt"), metric="dice")
    engine = evaluator_of([0.4])
    handler.attach(engine)
    engine.run([0], max_epochs=1)
    assert handler.state_dict() == {"best": 0.4}
    assert not (tmp_path / "best.pt").exists()


def test_a_training_resumed_into_another_folder_writes_a_best_file_there(tmp_path):
    handler = BestCheckpoint(network=nn.Linear(1, 1), path=str(tmp_path / "best.pt"), metric="dice")
    handler.load_state_dict({"best": 0.5})
    engine = evaluator_of([0.4])
    handler.attach(engine)
    engine.run([0], max_epochs=1)
    assert (tmp_path / "best.pt").is_file()


def test_an_exception_is_saved_before_and_raised_once(tmp_path, caplog):
    network = nn.Linear(1, 1)
    handler = LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt"))
    trainer = trainer_of([handler], network=network)

    @trainer.on(Events.ITERATION_COMPLETED(once=5))
    def stop(engine):
        raise KeyboardInterrupt

    with caplog.at_level(logging.WARNING, logger="icmoe_monai"), pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert read_checkpoint(tmp_path / "last.pt")["trainer"]["iteration"] == 5
    assert caplog.text.count(f"Stopped in epoch 2 by KeyboardInterrupt; go on with --checkpoint {tmp_path}") == 1


def test_a_failure_before_the_first_step_leaves_the_old_file(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"old")
    trainer = trainer_of([LastCheckpoint(save_dict={"model": nn.Linear(1, 1)}, path=str(tmp_path / "last.pt"))])

    @trainer.on(Events.STARTED)
    def fail(engine):
        raise InputError("a bad checkpoint")

    with pytest.raises(InputError, match="a bad checkpoint"):
        trainer.run()
    assert (tmp_path / "last.pt").read_bytes() == b"old"


def test_a_metric_that_is_no_number_replaces_nothing_and_what_follows_is_compared_as_ever(tmp_path, caplog):
    network = nn.Linear(1, 1)
    engine = evaluator_of([float("nan"), 0.5, float("nan"), 0.4, 0.6])
    handler = BestCheckpoint(network=network, path=str(tmp_path / "best.pt"), metric="dice")
    handler.attach(engine)
    kept = []
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        nn.init.constant_(network.weight, value)
        engine.run([0], max_epochs=1)
        kept.append(read_checkpoint(tmp_path / "best.pt")["weight"].item() if handler.path.exists() else None)
    assert kept == [None, 2.0, 2.0, 2.0, 5.0]
    assert caplog.text.count("dice is no number") == 2
    handler.load_state_dict({"best": float("nan")})  # as a checkpoint of an older version may hold
    assert handler.best == 0.6


def test_a_best_file_that_cannot_be_written_is_not_counted_as_written(tmp_path, monkeypatch):
    handler = BestCheckpoint(network=nn.Linear(1, 1), path=str(tmp_path / "best.pt"), metric="dice")
    engine = evaluator_of([0.5])
    handler.attach(engine)
    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(InputError, match=r"Cannot write best\.pt.*Free some space"):
        engine.run([0], max_epochs=1)
    assert handler.state_dict() == {"best": float("-inf")}


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_once_and_leaves_the_last_whole_file(tmp_path, monkeypatch):
    network = nn.Linear(1, 1)
    trainer = trainer_of(
        [LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt"))], network=network
    )
    tries = []

    def fail_later(source, target):
        tries.append(target)
        if len(tries) > 1:
            full_disk()
        return rename(source, target)

    rename = files.os.replace
    monkeypatch.setattr(files.os, "replace", fail_later)
    with pytest.raises(InputError, match=r"Cannot write last\.pt") as raised:
        trainer.run()
    assert len(tries) == 2
    assert isinstance(raised.value.__cause__, OSError)
    assert read_checkpoint(tmp_path / "last.pt")["trainer"]["iteration"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("event", "iteration"),
    [(IterationEvents.FORWARD_COMPLETED, 5), (IterationEvents.MODEL_COMPLETED, 5), (Events.EPOCH_COMPLETED, 6)],
    ids=["before the step", "after the step", "validation"],
)
def test_what_is_half_done_is_not_saved(event, iteration, tmp_path):
    network = nn.Linear(1, 1)
    trainer = trainer_of([], network=network)

    @trainer.on(event)
    def stop(engine):  # before the file of the epoch is written, as a validation
        if engine.state.iteration == iteration:
            raise MemoryError

    LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt")).attach(trainer)
    with pytest.raises(MemoryError):
        trainer.run()
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["trainer"]["iteration"] == 3


def test_what_is_whole_is_saved(tmp_path):
    network = nn.Linear(1, 1)
    trainer = trainer_of(
        [LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt"))], network=network
    )

    @trainer.on(Events.GET_BATCH_STARTED(once=5))
    def stop(engine):
        raise RuntimeError("a data loader's process was killed")

    with pytest.raises(RuntimeError, match="data loader"):
        trainer.run()
    content = read_checkpoint(tmp_path / "last.pt")
    assert content["trainer"]["iteration"] == 5
    torch.testing.assert_close(content["model"], network.state_dict())
