import csv
import time
from pathlib import Path

import pytest
import torch
from engines import evaluator_of, trainer_of
from ignite.engine import Events
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.training.handlers import GradientClipping, MetricsCsv


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
