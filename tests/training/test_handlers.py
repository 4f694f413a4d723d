import csv
import logging
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.training.handlers import (
    BestCheckpoint,
    EarlyStop,
    GradientClipping,
    LastCheckpoint,
    MetricsCsv,
)
from icmoe_monai.weights.tensor_files import read_checkpoint


def evaluator_of(values):
    """Return an evaluator whose metric "dice" takes the values, one a run."""
    remaining = iter(values)
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(dice=next(remaining)))
    return engine


def trainer_of(handlers, loss=nn.functional.mse_loss, network=None, max_epochs=2, scale=1.0):
    network = nn.Linear(1, 1) if network is None else network
    data = [{"image": torch.full((2, 1), scale), "label": torch.zeros(2, 1)}] * 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for handler in handlers:
        if isinstance(handler, MetricsCsv):
            handler.optimizer = optimizer
    return SupervisedTrainer(
        device="cpu", max_epochs=max_epochs, train_data_loader=data, network=network, optimizer=optimizer,
        loss_function=loss, train_handlers=handlers,
    )  # fmt: skip


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
    monkeypatch.setattr("icmoe_monai.training.handlers.is_first", lambda: False)
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


def test_gradients_are_clipped():
    network = nn.Linear(1, 1)
    norms = []
    trainer = trainer_of([GradientClipping(network=network, max_norm=0.5)], network=network, scale=100.0)

    @trainer.on(Events.ITERATION_COMPLETED)
    def measure(engine):
        norms.append(torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item())

    trainer.run()
    assert max(norms) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda pred, label: pred.mean() * float("nan"), "the loss is nan"),
        (lambda pred, label: torch.sqrt((pred * 0).abs()).sum(), "the gradient's norm is nan"),
    ],
    ids=["loss", "gradient"],
)
def test_what_is_not_finite_stops_before_the_step(loss, what):
    network = nn.Linear(1, 1)
    before = network.weight.item()
    with pytest.raises(InputError, match=f"epoch 1, iteration 1: {what}.*lower --learning_rate"):
        trainer_of([GradientClipping(network=network)], loss=loss, network=network).run()
    assert network.weight.item() == before


def test_early_stop_ends_a_training_that_does_not_improve():
    evaluator = evaluator_of([0.5, 0.4, 0.4, 0.4, 0.4])
    trainer = trainer_of([EarlyStop(evaluator=evaluator, metric="dice", patience=2)], max_epochs=5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0], max_epochs=1))
    trainer.run()
    assert trainer.state.epoch == 3


def test_metrics_have_a_row_an_epoch_and_empty_cells_where_none_was_validated(tmp_path):
    evaluator = evaluator_of([0.4, 0.5])
    path = tmp_path / "metrics.csv"
    handler = MetricsCsv(path=str(path), evaluator=evaluator, optimizer=None)
    trainer = trainer_of([handler], max_epochs=3)

    def validate(engine):
        if engine.state.epoch == 2:
            evaluator.run([0], max_epochs=2)  # as ValidationHandler does, to the trainer's epoch

    trainer._event_handlers[Events.EPOCH_COMPLETED].insert(0, (validate, (trainer,), {}))
    trainer.run()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["dice"] for row in rows] == ["", "0.5", ""]
    assert all(float(row["train_loss"]) >= 0 and float(row["learning_rate"]) == 0.1 for row in rows)


def test_a_steps_seconds_are_those_of_the_median_step_without_what_is_done_between_steps(tmp_path):
    handler = MetricsCsv(path=str(tmp_path / "metrics.csv"), evaluator=evaluator_of([]), optimizer=None)
    waits = iter([0.3, 0.02, 0.02])
    trainer = trainer_of([handler], loss=lambda pred, label: (time.sleep(next(waits)), pred.mean())[1], max_epochs=1)
    trainer.add_event_handler(Events.GET_BATCH_STARTED, lambda: time.sleep(0.2))
    trainer.run()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0.02 <= float(row["step_seconds"]) < 0.2
    assert ("peak_mb" in row) == Path("/proc/self/status").is_file()
    assert float(row.get("peak_mb", 100)) > 50
    assert float(row["seconds"]) > 0.3 + 3 * 0.2
