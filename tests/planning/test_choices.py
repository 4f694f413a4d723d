"""What is chosen for sets of several kinds, and that what the user has set stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from icmoe_monai.errors import InputError
from icmoe_monai.planning.choices import Machine, bytes_of_training, choose, choose_folds
from icmoe_monai.planning.classes import read_classes
from icmoe_monai.planning.looks import Look, MaskLook
from icmoe_monai.planning.plan import Plan, with_times
from icmoe_monai.schemas import SCHEMAS
from icmoe_monai.utils.schema import is_as

CPU = Machine(4e9, 2, is_gpu=False, is_given=True)


def look(
    n: int = 0, *, size: int = 512, split: str = "train", num_targets: int = 1, diameter: float = 100.0,
    thickness: float | None = None, values: tuple[float, ...] = (0, 255),
) -> Look:  # fmt: skip
    """Return a look at a square image with round targets; where they lie differs from image to image."""
    share = np.random.default_rng(n).random((64, 64)).astype(np.float16)
    areas = np.full(num_targets, np.pi / 4 * diameter**2)
    mask = MaskLook(
        "masks/a.png", (size, size), values, (1,) * len(values), areas,
        0.6 * diameter if thickness is None else thickness, str(n), share, 0.0, all(value % 1 == 0 for value in values),
    )  # fmt: skip
    picture = np.zeros((64, 64, 3), np.uint8)
    return Look(f"case_{n}", split, "", "images/a.png", size=(size, size), mask=mask, picture=picture)


def looks(num_images: int = 100, **kind) -> list[Look]:
    return [look(n, split="val" if n % 5 == 4 else "train", **kind) for n in range(num_images)]


def settings_of(found: list[Look], machine: Machine = CPU, **given) -> dict:
    choices = choose(found, read_classes(found, out_channels=given.get("out_channels")), machine, given)
    assert all(choice.reason.endswith(".") for choice in choices)
    settings = {name: value for choice in choices for name, value in choice.settings.items()}
    assert all(is_as(SCHEMAS[name], value) for name, value in settings.items() if name in SCHEMAS)
    return settings


def test_a_few_large_targets_are_seen_whole_with_the_defaults():
    settings = settings_of(looks())
    defaults = {"image_size": 256, "longest_side": 256, "batch_size": 4, "max_epochs": 60, "min_steps": 100}
    assert settings | defaults == settings
    assert settings["augmentation#affine#prob"] == 0.9


def test_thin_targets_are_seen_larger_and_not_shrunk_further():
    settings = settings_of(looks(40, thickness=6.0, num_targets=30, diameter=10))
    assert (settings["image_size"], settings["longest_side"]) == (256, 512)
    assert not [name for name in settings if name.startswith("augmentation")]


@pytest.mark.parametrize(
    ("thickness", "machine", "given", "decoder"),
    [
        (6.0, CPU, {}, "full"),  # at 512 pixels, as planned
        (3.9, CPU, {}, "full"),
        (100.0, CPU, {}, "light"),
        (6.0, CPU, {"decoder": "light"}, "light"),
        (100.0, CPU, {"decoder": "full"}, "full"),
        (6.0, Machine(2.1e9, 2, is_gpu=False, is_given=True), {}, "light"),  # full ones take 3.5 GB
    ],
)
def test_decoders_are_full_where_targets_are_thin_and_the_memory_takes_them(thickness, machine, given, decoder):
    found = looks(40, thickness=thickness, num_targets=30, diameter=10)
    assert settings_of(found, machine, **given)["decoder"] == decoder


def test_a_user_who_wants_full_decoders_gets_windows_that_fit_the_memory():
    machine = Machine(3e9, 2, is_gpu=False, is_given=True)
    kept, full = settings_of(looks(), machine), settings_of(looks(), machine, decoder="full")
    assert (kept["image_size"], kept["batch_size"]) == (256, 4)
    assert bytes_of_training(4, 256, decoder="full") > 3e9
    assert bytes_of_training(full["batch_size"], full["image_size"], decoder="full") <= 3e9


def test_many_targets_are_seen_in_windows():
    assert settings_of(looks(num_targets=9, diameter=70))["longest_side"] == 512
    assert settings_of(looks(num_targets=2, diameter=70))["longest_side"] == 256


def test_nothing_is_seen_larger_than_it_is():
    assert settings_of(looks(size=400, thickness=3.0))["longest_side"] == 400
    assert settings_of(looks(size=200, thickness=3.0))["longest_side"] == 256


def test_the_thinnest_targets_of_huge_images_are_seen_four_times_as_large_and_images_leave_memory():
    found = looks(12, size=6000, thickness=20.0)
    settings = settings_of(found, Machine(3e9, 2, is_gpu=False, is_given=True))
    assert settings["longest_side"] == 1024
    assert settings["val_cache_rate"] == 1.0
    many = looks(2000, size=6000, thickness=20.0)
    settings = settings_of(many, Machine(3e9, 2, is_gpu=False, is_given=True))
    assert settings["cache_rate"] < 0.2
    assert settings["val_cache_rate"] == 0.0


@pytest.mark.parametrize(
    ("memory", "window", "batch"), [(8e9, 256, 4), (1.6e9, 256, 2), (1.2e9, 256, 1), (1e9, 128, 1)]
)
def test_window_and_batch_fit_the_memory(memory, window, batch):
    settings = settings_of(looks(), Machine(memory, 2, is_gpu=False, is_given=True))
    assert (settings["image_size"], settings["batch_size"]) == (window, batch)
    assert bytes_of_training(batch, window) <= memory


def test_too_little_memory_is_told_in_a_sentence():
    with pytest.raises(InputError, match=r"The memory of 0\.5 GB is too small: .*--memory 4GB"):
        settings_of(looks(), Machine(0.5e9, 2, is_gpu=False, is_given=True))


def test_many_images_need_fewer_epochs_and_no_more_varied_copies():
    settings = settings_of(looks(6000))
    assert settings["max_epochs"] == 10
    assert not [name for name in settings if name.startswith("augmentation")]


def test_masks_at_one_place_keep_the_images_upright():
    upright = looks(20)
    share = np.zeros((64, 64), np.float16)
    share[10:50, 8:24] = share[10:50, 40:56] = 1
    upright = [dataclasses.replace(one, mask=dataclasses.replace(one.mask, share=share)) for one in upright]
    assert not [name for name in settings_of(upright) if name.startswith("augmentation")]


def test_all_empty_masks_leave_the_defaults():
    empty = [dataclasses.replace(look(n, values=(0,)).mask, areas=np.zeros(0), thickness=0.0) for n in range(10)]
    settings = settings_of([dataclasses.replace(look(n), mask=mask) for n, mask in enumerate(empty)])
    assert (settings["longest_side"], settings["out_channels"]) == (256, 1)


@pytest.mark.parametrize(
    ("values", "out_channels"),
    [
        ([(0, 255)], 1), ([(0, 1), (0, 255)], 1), ([(0,), (0, 3)], 1), ([(0, 1, 2)], 3), ([(0, 1), (0, 2)], 3),
        ([(0, 1), (0, 1, 2, 3)], 4), ([(0, 0.5, 1)], 1), ([tuple(range(60))], 1),
    ],
)  # fmt: skip
def test_classes_are_read_from_the_values(values, out_channels):
    found = [look(n, values=tuple(map(float, listed))) for n, listed in enumerate(values)]
    assert read_classes(found).out_channels == out_channels


def test_a_mask_with_several_values_among_masks_of_one_is_a_misfit():
    found = [look(0), look(1, values=(0, 7, 255)), look(2)]
    assert read_classes(found).misfits == [1]


def test_what_the_user_has_set_stays():
    given = {
        "image_size": 128,
        "longest_side": 384,
        "batch_size": 2,
        "max_epochs": 7,
        "num_workers": 0,
        "cache_rate": 0.5,
    }
    settings = settings_of(looks(), **given)
    assert settings | given == settings


@pytest.mark.parametrize(("num_images", "folds"), [(2, 1), (4, 4), (60, 5), (2000, 3), (4000, 1)])
def test_folds_by_the_number_of_images(num_images, folds):
    assert choose_folds(looks(num_images))[0] == folds


def test_there_are_no_more_folds_than_groups():
    grouped = [dataclasses.replace(one, group=f"patient_{n % 3}") for n, one in enumerate(looks(60))]
    assert choose_folds(grouped)[0] == 3


def plan_of(found: list[Look]) -> Plan:
    choices = choose(found, read_classes(found), CPU, {})
    return Plan("set", found, {}, [], choices, choose_folds(found), CPU, 0.1)


MEASURED = {
    "step": 1.0, "pass_start": 0.0, "validated_image": 0.5, "prepared_image": 0.1, "peak_bytes": 1e9, "num_steps": 12,
    "predicted_image": 0.6,
}  # fmt: skip


def test_the_time_of_a_training_is_that_of_its_parts():
    times = with_times(plan_of(looks()), MEASURED, hours=None, given={}).times
    assert times["epoch"] == pytest.approx(100 * 1.0 + 20 * 0.5)
    assert times["preparation"] == pytest.approx(100 * 0.1 + 80 * 0.1)
    assert times["training"] == pytest.approx(times["preparation"] + 60 * times["epoch"])


def test_a_wish_for_the_longest_training_is_kept_but_for_the_least_that_teaches():
    plan = with_times(plan_of(looks()), MEASURED, hours=1, given={})
    assert plan.times["training"] <= 3600
    assert plan.settings["max_epochs"] == 32
    assert with_times(plan_of(looks()), MEASURED, hours=0.01, given={}).settings["max_epochs"] == 5
    assert with_times(plan_of(looks()), MEASURED, hours=1, given={"max_epochs": 60}).settings["max_epochs"] == 60


def test_validations_take_no_longer_than_the_steps_between_them():
    plan = with_times(plan_of(looks()), MEASURED | {"validated_image": 15.0}, hours=None, given={})
    assert (plan.settings["val_interval"], plan.settings["patience"]) == (3, 6)
    assert plan.times["epoch"] == pytest.approx(100 + 20 * 15 / 3)


def test_strong_augmentation_is_that_of_the_shipped_overlay():
    overlay = yaml.safe_load((Path(__file__).parents[2] / "configs/ablations/strong_augmentation.yaml").read_text())
    settings = settings_of(looks())
    assert {name: value for name, value in settings.items() if name.startswith("augmentation")} == overlay
