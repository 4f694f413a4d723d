"""The few steps that a plan times are those of the training, and their times add up to the training's."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from icmoe_monai.planning.timing import overrides_for_timing, times_of_plan, times_of_steps


@pytest.mark.parametrize(("num_images", "expected"), [(500, 48), (30, 30), (5, 5)])
def test_steps_are_timed_in_passes_as_long_as_those_of_the_training(num_images: int, expected: int) -> None:
    """Each pass begins with new processes, so that in short ones a step would seem to take twice its time."""
    cached = list(range(12))
    parser = ConfigParser({
        "batch_size": 4,
        "cases": {"train": list(range(num_images))},
        "train": {"dataset": cached, "dataloader": {"dataset": None}},
    })  # fmt: skip
    parser.update({"train#dataloader#dataset": overrides_for_timing("out")["train#dataloader#dataset"]})
    images = parser.get_parsed_content("train#dataloader#dataset")
    assert isinstance(images, torch.utils.data.Subset)
    assert [images[place] for place in range(len(images))] == (cached * 4)[:expected]


@pytest.mark.parametrize(
    ("seconds", "in_pass", "step", "start"),
    [
        ([9, 5, 1, 1, 4, 1, 1, 1], 4, 1, 3),
        ([9, 5, 1, 3], 10, 2, 0),  # no second pass was timed
        ([9, 5, 3, 1], 1, 2, 0),  # each step is a pass
        ([2], 1, 2, 0),
        ([9, 5, 3, 3, 2, 3, 3, 3], 4, 3, 0),
    ],
)
def test_what_begins_with_a_pass_is_told_apart_from_a_step(seconds, in_pass, step, start) -> None:
    assert times_of_steps(seconds, in_pass) == {"step": step, "pass_start": start}


def test_a_training_takes_its_preparation_its_steps_and_its_validations() -> None:
    measured = {
        "step": 0.5,
        "pass_start": 2.0,
        "validated_image": 0.1,
        "prepared_image": 0.02,
        "peak_bytes": None,
        "num_steps": 12,
    }
    settings = {"min_steps": 100, "batch_size": 8, "max_epochs": 3, "val_interval": 2, "cache_rate": 0.5}
    times = times_of_plan(measured, num_images=1000, num_val=40, settings=settings, checked_image=0.01)
    assert times["steps_of_epoch"] == 125
    assert times["epoch"] == pytest.approx(125 * 0.5 + 2.0 + 40 * 0.1 / 2)
    assert times["preparation"] == pytest.approx(0.5 * 1000 * 0.02 + 1040 * 0.01)
    few = times_of_plan(measured, num_images=80, num_val=0, settings=settings, checked_image=0.0)
    assert few["epoch"] == pytest.approx(100 * 0.5 + 10 * 2.0)  # ten passes
    assert times["training"] == pytest.approx(times["preparation"] + 3 * times["epoch"])
