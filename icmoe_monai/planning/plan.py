"""A plan for a training set: its facts, what is wrong with it, and what is chosen, as one value."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icmoe_monai.data import find_cases
from icmoe_monai.errors import InputError
from icmoe_monai.inferers.budget import read_budget
from icmoe_monai.planning.choices import Choice, Machine, choose, choose_folds, find_machine
from icmoe_monai.planning.classes import read_classes
from icmoe_monai.planning.duplicates import find_duplicates
from icmoe_monai.planning.facts import gather_facts, summary, target_diameters, thickness
from icmoe_monai.planning.faults import FAULT, Fault, Known, find_faults, sort_faults
from icmoe_monai.planning.guesses import find_doubtful, guess_masks
from icmoe_monai.planning.looks import Look, look_at_cases
from icmoe_monai.planning.timing import times_of_plan

_LEAST_EPOCHS = 5
_MOST_INTERVAL = 5
_PATIENCE = 20
# of this command, or of one training that a plan may not decide: where it begins, and whether it replaces another
_OF_ONE = {"dataset_dir", "output_dir", "demo_dir", "overwrite", "checkpoint", "fold", "folds"}


@dataclass(frozen=True, eq=False)
class Plan:
    """Hold a plan.

    Attributes:
        dataset_dir: The folder.
        looks: What was seen of its cases.
        facts: Facts of the set, plain values.
        faults: What is wrong, faults before notes.
        choices: What is chosen.
        folds: The recommended number of folds, 1 for none, and why.
        machine: What a training may use.
        seconds_of_image: Seconds in which an image and its mask were read.
        times: Seconds and bytes that were measured and what follows of them; None without a measurement.
    """

    dataset_dir: str
    looks: Sequence[Look]
    facts: Mapping[str, Any]
    faults: Sequence[Fault]
    choices: Sequence[Choice]
    folds: tuple[int, str]
    machine: Machine
    seconds_of_image: float
    times: Mapping[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen settings by name."""
        return {name: value for choice in self.choices for name, value in choice.settings.items()}

    @property
    def num_faults(self) -> int:
        """How many findings are faults, and not only notes."""
        return sum(len(fault.findings) for fault in self.faults if fault.level == FAULT)

    def num_of(self, split: str) -> int:
        """Return the number of images in a split."""
        return sum(look.split == split for look in self.looks)


def make_plan(
    dataset_dir: str,
    *,
    pyramid: str | Path | None = None,
    memory: str | None = None,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
    demo_dir: str | None = None,
    progress: bool | None = None,
) -> Plan:
    """Look at a training set once, and plan how to train on it; nothing is trained and nothing written.

    Args:
        dataset_dir: A dataset folder, as `icmoe_monai.data.find_cases` takes it.
        pyramid: File of the frozen image pyramid's weights, efficientnet_{size}_imagenet.safetensors in models of the
            bundle, with `{size}` as it stands. Without it masks are not looked at for being swapped or inverted.
        memory: What a training may take, such as 4GB; None: what is free, less a fifth.
        device: Device of the training; None: a GPU where there is one.
        settings: Settings of the training that are fixed already, by name; the plan keeps them.
        demo_dir: Where phantoms are, or will be, written, if `dataset_dir` is demo.
        progress: Show bars; None: on a terminal only.

    Returns:
        The plan, without times.

    Raises:
        InputError: If there is no such set, or the memory is too small for any training.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plan = make_plan("demo", demo_dir=folder + "/demo", memory="4GB", device="cpu", progress=False)
        >>> plan.settings["image_size"], plan.settings["out_channels"], plan.num_faults
        (256, 1, 0)
    """
    given = dict(settings or {})
    machine = find_machine(_bytes(memory), device)
    splits = find_cases(
        dataset_dir, demo_dir=demo_dir, check=False, needed=("train", "val"), seed=int(given.get("split_seed", 0))
    )
    start = time.monotonic()
    looks = look_at_cases(splits, progress=progress)
    seconds_of_image = (time.monotonic() - start) / max(len(looks), 1)
    classes = read_classes(looks, out_channels=given.get("out_channels"))
    choices = choose(looks, classes, machine, given)
    others = {name for choice in choices for name in choice.settings} | _OF_ONE
    kept = {name: value for name, value in given.items() if name not in others}
    choices += [Choice("given", kept, "You have set these, and they stay.")] if kept else []
    longest_side = next(choice.settings["longest_side"] for choice in choices if "longest_side" in choice.settings)
    faults = find_faults(Known(looks, find_duplicates(looks), classes, longest_side))
    guesses = guess_masks(looks, pyramid, progress=progress) if pyramid is not None else None
    faults += find_doubtful(looks, guesses) if guesses is not None else []
    thin = thickness(looks, longest_side=longest_side)
    facts = gather_facts(looks, classes) | {
        "target_diameter": summary(target_diameters(looks, longest_side=longest_side)),
        "target_thickness": None if thin is None else round(thin, 2),
    }
    return Plan(dataset_dir, looks, facts, sort_faults(faults), choices, choose_folds(looks), machine, seconds_of_image)


def with_times(plan: Plan, measured: Mapping[str, Any], *, hours: float | None, given: Mapping[str, Any]) -> Plan:
    """Return a plan with its times; what depends on them is chosen now.

    Args:
        plan: The plan.
        measured: What `time_training` returned.
        hours: How long a training should take at most; None for no wish.
        given: Settings that the user has set, by name; they stay.
    """
    num_images, num_val = plan.num_of("train"), plan.num_of("val")
    known: dict[str, Any] = {"num_images": num_images, "num_val": num_val, "checked_image": plan.seconds_of_image}
    choices = list(plan.choices)
    times = times_of_plan(measured, settings=plan.settings, **known)
    interval = _interval(times, num_val)
    if interval > 1 and not given.keys() & {"val_interval", "patience"}:
        reason = (
            f"A validation after every {interval} epochs: one takes {num_val * times['validated_image']:.0f} s, and an "
            f"epoch's steps {times['steps_of_epoch'] * times['step']:.0f} s."
        )
        patience = max(_LEAST_EPOCHS, _PATIENCE // interval)
        choices.append(Choice("validation", {"val_interval": interval, "patience": patience}, reason))
        times = times_of_plan(measured, settings=replace(plan, choices=choices).settings, **known)
    if hours is not None and times["training"] > 3600 * hours and "max_epochs" not in given:
        epochs = math.floor((3600 * hours - times["preparation"]) / max(times["epoch"], 1e-9))
        reason = f"At most {max(epochs, _LEAST_EPOCHS)} epochs, so that a training takes at most {hours:g} hours."
        if epochs < _LEAST_EPOCHS:
            reason = f"{_LEAST_EPOCHS} epochs, the least that teach something: they take longer than {hours:g} hours."
        settings = {**next(choice.settings for choice in choices if choice.title == "steps")}
        settings["max_epochs"] = max(epochs, _LEAST_EPOCHS)
        choices = [choice if choice.title != "steps" else Choice("steps", settings, reason) for choice in choices]
        times = times_of_plan(measured, settings=replace(plan, choices=choices).settings, **known)
    return replace(plan, choices=choices, times=times)


def _bytes(memory: str | None) -> float | None:
    """Return the memory in bytes that a text names."""
    try:
        return None if memory is None else read_budget(memory)
    except InputError:
        raise InputError(f"memory must be a number with MB or GB, such as 4GB, got {memory!r}.") from None


def _interval(times: Mapping[str, Any], num_val: int) -> int:
    """Return after how many epochs to validate, so that it takes no longer than the steps."""
    ratio = num_val * times["validated_image"] / max(times["steps_of_epoch"] * times["step"], 1e-9)
    return max(1, min(_MOST_INTERVAL, math.ceil(ratio)))
