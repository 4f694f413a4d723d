"""What is told of a running workflow: a bar on a terminal, whole lines elsewhere."""

from __future__ import annotations

import logging
import re
import sys

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from icmoe_monai.training import progress
from icmoe_monai.training.checkpoints import BestCheckpoint
from icmoe_monai.training.progress import EpochLog, Progress, duration, evaluation_command


def trainer_of(handlers, max_epochs=3):
    network = nn.Linear(1, 1)
    return SupervisedTrainer(
        device="cpu", max_epochs=max_epochs, network=network, train_handlers=handlers,
        train_data_loader=[{"image": torch.ones(2, 1), "label": torch.zeros(2, 1)}] * 4,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), loss_function=nn.functional.mse_loss,
    )  # fmt: skip


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="icmoe_monai")
    return lambda: [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def test_a_terminal_shows_a_bar_with_the_loss(monkeypatch, capsys, lines):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer_of([Progress(description="training")]).run()
    told = capsys.readouterr().err
    assert "training" in told
    assert "loss=" in told
    assert lines() == []


def test_a_file_gets_a_line_now_and_then_and_no_carriage_return(monkeypatch, capsys, lines):
    clock = iter(range(0, 1000, 20))  # 20 s a step
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    trainer_of([Progress(description="segmenting")], max_epochs=1).run()
    assert lines() == ["segmenting: 2 of 4, 40 s left", "segmenting: 4 of 4, 0 s left"]
    assert capsys.readouterr().err == ""


def test_no_lines_where_none_are_wanted(monkeypatch, lines):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    trainer_of([Progress(description="validating", lines=False)]).run()
    assert lines() == []


def run_training(tmp_path, dice: list[float], **arguments) -> None:
    """Run a training of three epochs, the first of which are validated with the given Dice."""
    remaining = iter(dice)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(dice=next(remaining)))
    best = BestCheckpoint(network=nn.Linear(1, 1), path=str(tmp_path / "best.pt"), metric="dice")
    best.attach(evaluator)
    trainer = trainer_of([])

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        if engine.state.epoch <= len(dice):
            evaluator.run([0], max_epochs=engine.state.epoch)

    @trainer.on(Events.EPOCH_COMPLETED)
    def stop(engine):
        if engine.state.epoch == arguments.get("stop_at"):
            engine.terminate()

    EpochLog(evaluator=evaluator, best=best, next_command=arguments.get("next_command")).attach(trainer)
    trainer.run()


def test_an_epoch_is_one_line_and_the_last_lines_say_what_is_best_and_what_comes_next(tmp_path, lines):
    run_training(tmp_path, [0.5, 0.4], next_command="icmoe evaluate")
    first, second, third, best, following = lines()
    assert re.fullmatch(
        r"epoch 1 of 3: loss \d+\.\d{4}, validation Dice 0\.5000 \(the best so far\), 0 s, 0 s left", first
    )
    assert re.fullmatch(r"epoch 2 of 3: loss \d+\.\d{4}, validation Dice 0\.4000, 0 s, 0 s left", second)
    assert re.fullmatch(r"epoch 3 of 3: loss \d+\.\d{4}, 0 s", third)  # not validated
    assert best == f"The best weights, of validation Dice 0.5000: {tmp_path / 'best.pt'}"
    assert following == "Next: icmoe evaluate"


def test_a_training_that_stops_early_says_so(tmp_path, lines):
    run_training(tmp_path, [0.5, 0.4], stop_at=2)
    assert lines()[2:] == [
        "Stopped early, in epoch 2: the validation no longer improves.",
        f"The best weights, of validation Dice 0.5000: {tmp_path / 'best.pt'}",
    ]


def test_the_time_left_is_by_the_mean_of_the_epochs_so_far(tmp_path, monkeypatch, lines):
    clock = iter([0, 60, 100, 220, 300, 300])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    run_training(tmp_path, [0.5])
    assert [line.split(", ")[-2:] for line in lines()[:2]] == [["60 s", "2 min left"], ["120 s", "90 s left"]]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5999, "1 h 40 min"), (90_000, "25 h 0 min")]
)
def test_a_time_is_told_as_a_person_says_it(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize(("installed", "program"), [(None, "python -m icmoe_monai"), ("/bin/icmoe", "icmoe")])
def test_the_next_command_is_one_that_is_there(installed, program, monkeypatch):
    monkeypatch.setattr(progress.shutil, "which", lambda name: installed)
    told = evaluation_command(dataset_dir="my data", output_dir="out")
    assert told == f"{program} evaluate 'my data' out/evaluation --checkpoint out/best.pt"
