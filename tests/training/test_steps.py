"""Batches and random numbers that follow from the seed and the step alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset, Dataset
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import RandGaussianNoised
from monai.transforms.transform import Randomizable
from monai.transforms.utility.dictionary import ToTensord

from icmoe_monai.training import steps
from icmoe_monai.training.steps import SeedSteps, StepBatches, training_loader

NUM_IMAGES, BATCH_SIZE = 5, 2
# Python 3.12 warns of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def noise_of_global_states(item: dict) -> dict:
    noise = random.random() + np.random.uniform() + float(torch.rand(()))  # noqa: NPY002
    return item | {"image": item["image"] + noise}


class Choosing(Randomizable, Dataset):
    """A data set that is random itself."""

    def __getitem__(self, index):
        return {"image": self.data[index]["image"] + self.R.randint(1 << 16)}


def items() -> list[dict]:
    return [{"image": np.full((1, 4, 4), float(index), dtype=np.float32)} for index in range(NUM_IMAGES)]


def cached() -> CacheDataset:
    transforms = [ToTensord("image"), RandGaussianNoised("image", prob=1.0)]
    return CacheDataset(items(), Compose(transforms), progress=False)


DATASETS = {
    "transform": cached,
    "global states": lambda: Dataset(items(), noise_of_global_states),
    "dataset": lambda: Choosing(items()),
}


def loader_of(kind: str = "transform", *, num_workers: int = 0) -> DataLoader:
    return training_loader(dataset=DATASETS[kind](), batch_size=BATCH_SIZE, num_workers=num_workers)


def passes(loader: DataLoader, *, first: int, last: int) -> list[torch.Tensor]:
    """Return the batches of steps, as an engine with workers fetches them."""
    found = []
    engine = Engine(lambda engine, batch: found.append(torch.as_tensor(batch["image"])))
    SeedSteps(dataloader=loader, seed=0).attach(engine)
    engine.load_state_dict({"iteration": first, "epoch_length": last, "max_epochs": 1})
    engine.run(loader)
    return found


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", DATASETS)
def test_batches_follow_from_the_step_whatever_came_before_and_whoever_prepares_them(kind):
    whole = passes(loader_of(kind), first=0, last=8)  # two passes and two thirds, of three steps each
    for first in (1, 3, 5):
        torch.manual_seed(first)
        assert_equal(passes(loader_of(kind), first=first, last=8), whole[first:])
    assert_equal(passes(loader_of(kind, num_workers=2), first=0, last=8), whole)
    assert len({float(batch.double().sum()) for batch in whole}) == 8  # no step repeats another's


def test_every_pass_goes_through_all_images_in_an_order_of_its_own():
    batches = StepBatches(num_images=20, batch_size=3, seed=0)
    orders = []
    for number in range(3):
        batches.step = number * len(batches)
        orders.append([index for batch in batches for index, _ in batch])
        assert sorted(orders[-1]) == list(range(20))
    assert len({tuple(order) for order in orders}) == 3
    other = StepBatches(num_images=20, batch_size=3, seed=1)
    assert [index for batch in other for index, _ in batch] != orders[0]


@pytest.mark.parametrize(("num_images", "repeated"), [(12, 0), (13, 1)], ids=["even", "odd"])
def test_two_processes_have_the_batches_of_one(num_images, repeated, monkeypatch):
    one = StepBatches(num_images=num_images, batch_size=4, seed=0)
    one.step = 5
    expected = [set(batch) for batch in one]
    num_batches = len(one)
    monkeypatch.setattr(steps, "num_processes", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(steps, "process_index", lambda process=process: process)
        share = StepBatches(num_images=num_images, batch_size=2, seed=0)
        assert len(share) == num_batches
        share.step = 5
        shares.append(list(share))
    assert [len(batch) for batch in shares[0]] == [len(batch) for batch in shares[1]]
    found = [set(a) | set(b) for a, b in zip(*shares, strict=True)]
    assert [extra - wanted for extra, wanted in zip(found[:-1], expected[:-1], strict=True)] == [set()] * (
        len(expected) - 1
    )
    assert found[-1] >= expected[-1]
    assert len(found[-1] - expected[-1]) == repeated


def test_the_random_states_of_a_step_follow_from_its_number():
    def draws(first: int) -> list[tuple]:
        found = []
        engine = Engine(
            lambda engine, batch: found.append((random.random(), np.random.uniform(), float(torch.rand(()))))  # noqa: NPY002
        )
        SeedSteps(dataloader=DataLoader(cached(), batch_size=2), seed=3).attach(engine)
        engine.load_state_dict({"iteration": first, "epoch_length": 3, "max_epochs": 2})
        engine.run([0, 0, 0])
        return found

    whole = draws(0)
    assert len(set(whole)) == 6
    assert draws(3) == whole[3:]
    assert draws(4) == whole[4:]


def test_two_processes_draw_other_numbers_in_a_step(monkeypatch):
    def draw() -> float:
        engine = Engine(lambda engine, batch: None)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: found.append(float(torch.rand(()))))
        found: list[float] = []
        SeedSteps(dataloader=DataLoader(cached(), batch_size=2), seed=3).attach(engine)
        engine.run([0])
        return found[0]

    first = draw()
    monkeypatch.setattr(steps, "process_index", lambda: 1)
    assert draw() != first
