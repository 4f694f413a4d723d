"""A few real steps of the planned training and a real validation of a few images, timed on this machine.

The workflow is the training's own, of few images and one short epoch, in a folder that is removed afterwards. From its
times follow those of the whole training, at most: it may stop early.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from icmoe_monai.errors import InputError
from icmoe_monai.planning.choices import CACHED, Window, pixels_of
from icmoe_monai.planning.looks import Look
from icmoe_monai.utils.memory import peak_bytes

NUM_IMAGES, NUM_VALIDATED = 12, 4
_STEPS, _IN_PASS, _WARM_UP, _LEAST_STEPS = 13, 12, 2, 3
_SECONDS = 60.0  # of steps; a slow network is timed by fewer


def overrides_for_timing(folder: str) -> dict[str, Any]:
    """Return the settings by which a training becomes one short epoch of few images.

    Args:
        folder: Where it may write.
    """
    return {
        "output_dir": folder,
        "max_epochs": 1,
        "epoch_length": _STEPS,
        "val_interval": 1,
        "overwrite": True,
        "is_first": False,  # nothing is logged, and nothing kept but the best weights
        "on_terminal": False,
        "cases#check": False,  # the plan has read all files
        "train#dataset#data": f"$(@cases['train'] * {NUM_IMAGES})[:{NUM_IMAGES}]",
        # a pass and the start of the next, or more where the training's are shorter: each begins with new processes
        "train#dataloader#dataset": "$torch.utils.data.Subset(@train#dataset, (list(range(len(@train#dataset))) * "
        f"{_IN_PASS} * @batch_size)[: min({_IN_PASS} * @batch_size, len(@cases['train']))])",
        "validate#dataset#data": f"$@cases['val'][:{NUM_VALIDATED}]",
    }


def time_training(build: Callable[[], ConfigWorkflow]) -> dict[str, Any]:
    """Run a short training and return its times.

    Args:
        build: Builds the workflow, with `overrides_for_timing`.

    Returns:
        Seconds by name: `step`; `pass_start`, by which the first step of a pass takes longer; `validated_image`;
        `prepared_image`, to fill the cache with one; and `peak_bytes`, of this process or the GPU, None where the
        system does not tell; with the number of steps.

    Raises:
        InputError: If the workflow cannot run.
    """
    flow = build()
    start = time.monotonic()
    num_cached = len(flow.parser.get_parsed_content("train#dataset"))
    prepared = (time.monotonic() - start) / max(num_cached, 1)
    trainer = flow.parser.get_parsed_content("train#trainer")
    evaluator = flow.parser.get_parsed_content("validate#evaluator")
    device = torch.device(flow.parser.get_parsed_content("device"))
    steps, images = _Clock(device, most_seconds=_SECONDS), _Clock(device, most_seconds=math.inf)
    steps.attach(trainer)
    images.attach(evaluator)
    peak: float | None
    try:
        peak = peak_bytes(flow.run, device)
    except InputError:
        if steps.times:  # it was the training that failed
            raise
        flow.run()
        peak = None
    flow.finalize()
    return {
        **times_of_steps(steps.times, len(flow.parser.get_parsed_content("train#dataloader"))),
        "validated_image": images.seconds(1),
        "prepared_image": prepared,
        "peak_bytes": peak,
        "num_steps": len(steps.times),
    }


def times_of_steps(times: Sequence[float], in_pass: int) -> dict[str, float]:
    """Return the seconds of a `step`, and those of `pass_start`, by which the first step of a pass takes longer.

    Args:
        times: Seconds of all steps, from the first of a pass on.
        in_pass: Number of steps in a pass.

    Example:
        >>> times_of_steps([9.0, 5.0, 1.0, 3.0, 1.0, 1.0], 3)
        {'step': 1.0, 'pass_start': 2.0}
    """
    firsts = times[in_pass::in_pass]
    others = [seconds for place, seconds in enumerate(times) if place >= _WARM_UP and place % in_pass]
    if not others:
        return {"step": _mean(times[_WARM_UP:] or times), "pass_start": 0.0}
    step = _mean(others)
    return {"step": step, "pass_start": max(_mean(firsts) - step, 0.0) if firsts else 0.0}


def times_of_plan(
    measured: Mapping[str, Any], *, num_images: int, num_val: int, settings: Mapping[str, Any], checked_image: float
) -> dict[str, Any]:
    """Return how long the planned training takes, in seconds.

    Args:
        measured: What `time_training` returned.
        num_images: Number of training images.
        num_val: Number of validation images.
        settings: The plan's settings by name.
        checked_image: Seconds in which an image and its mask are read once, as before every training.

    Returns:
        Seconds by name: `preparation`, `epoch` with its validation, `training` at most, besides those measured.
    """
    length = max(settings["min_steps"], math.ceil(num_images / settings["batch_size"]))
    passes = length / math.ceil(num_images / settings["batch_size"])
    epoch = length * measured["step"] + passes * measured["pass_start"]
    epoch += num_val * measured["validated_image"] / settings.get("val_interval", 1)
    cached = settings.get("cache_rate", 1.0) * num_images * measured["prepared_image"]
    preparation = cached + (num_images + num_val) * checked_image
    return {
        **measured,
        "steps_of_epoch": length,
        "preparation": preparation,
        "epoch": epoch,
        "training": preparation + settings["max_epochs"] * epoch,
    }


def bytes_of_cache(looks: Sequence[Look], settings: Mapping[str, Any]) -> float:
    """Return the memory that the images of a training take, besides those that were timed, in bytes.

    Args:
        looks: What was seen of the cases.
        settings: The plan's settings by name.
    """
    window = Window(settings["image_size"], settings["longest_side"])
    train = [CACHED * pixels_of(look, window) for look in looks if look.split == "train" and look.size[0]]
    return settings["cache_rate"] * sum(train) * max(1 - NUM_IMAGES / max(len(train), 1), 0)


class _Clock:
    """Note the seconds from each iteration's end to the next one's, and end an epoch that takes too long."""

    def __init__(self, device: torch.device, *, most_seconds: float) -> None:
        self.device = device
        self.most_seconds = most_seconds
        self.times: list[float] = []
        self._before = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)

    def begin(self, engine: Engine) -> None:
        self._before = time.monotonic()

    def note(self, engine: Engine) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        self.times.append(now - self._before)
        self._before = now
        if sum(self.times) > self.most_seconds and len(self.times) >= _WARM_UP + _LEAST_STEPS:
            engine.terminate_epoch()

    def seconds(self, num_first: int) -> float:
        """Return the mean, without the first ones, which also start processes and allocate memory."""
        return _mean(self.times[num_first:] or self.times)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
