"""Every step's batch and random numbers, as functions of the training's seed and the number of the step.

So a training that was killed and resumed draws what it would have drawn without, and images are prepared alike by any
number of worker processes. Nothing random is kept in a checkpoint: the number of the step is enough.

A pass goes through all images once, in an order that the seed and the number of the pass decide. Each draw of an image
has a seed, which its random transforms start from. Several processes deal out the batch that one would have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.dataloader import DataLoader
from monai.transforms.transform import Randomizable
from torch.utils.data import Dataset, Sampler

from icmoe_monai.utils.distributed import num_processes, process_index

Draw = tuple[int, int]  # index of an image, and seed of its augmentation
_ORDER, _DRAW, _STEP = range(3)  # what a seed is for


def training_loader(*, dataset: Dataset, batch_size: int, seed: int = 0, num_workers: int = 0) -> DataLoader:
    """Return the loader of a training's images, whose batches `SeedSteps` keeps in step with the trainer.

    Args:
        dataset: The images. What is random in it is the dataset itself, or else its `transform`, or draws from the
            global states of Python, NumPy or PyTorch.
        batch_size: Images in a batch of each process.
        seed: Seed of the order and of the augmentation.
        num_workers: Processes that prepare images.
    """
    draws = SeededDraws(dataset)
    batches = StepBatches(num_images=len(draws), batch_size=batch_size, seed=seed)
    return DataLoader(draws, batch_sampler=batches, num_workers=num_workers)


class SeedSteps:
    """Handler: seed all random states before every step, and keep the loader's batches in step with the trainer.

    Attach it to the trainer. The states are those of Python, NumPy and PyTorch, on the CPU and on GPUs. Each process
    has random numbers of its own.

    Args:
        dataloader: The training's loader; the batches of one that `training_loader` did not make are left alone.
        seed: Seed of the training.
    """

    def __init__(self, *, dataloader: DataLoader, seed: int) -> None:
        self.batches = dataloader.batch_sampler
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.set_step)  # once a checkpoint is loaded
        engine.add_event_handler(Events.DATALOADER_STOP_ITERATION, self.set_step)
        engine.add_event_handler(Events.ITERATION_STARTED, self.seed_step)

    def set_step(self, engine: Engine) -> None:
        """Tell the loader which step comes next, before a pass begins or is gone on with."""
        if isinstance(self.batches, StepBatches):
            self.batches.step = engine.state.iteration
        seed_all(seed_of(self.seed, _STEP, engine.state.iteration, process_index()))  # workers' seeds come from it

    def seed_step(self, engine: Engine) -> None:
        """Seed what the step itself draws at random."""
        seed_all(seed_of(self.seed, _STEP, engine.state.iteration, process_index()))


class StepBatches(Sampler[list[Draw]]):
    """List the draws of every batch of a pass, from the one of step `step` on.

    Of several processes each has the same number of draws, for which the first are repeated at the end of a pass.

    Args:
        num_images: Number of images.
        batch_size: Draws in a batch of each process; the last batch of a pass may have fewer.
        seed: Seed of the order and of the draws.

    Example:
        >>> batches = StepBatches(num_images=5, batch_size=2, seed=0)
        >>> [[index for index, _ in batch] for batch in batches]
        [[2, 4], [3, 0], [1]]
        >>> batches.step = 2
        >>> [[index for index, _ in batch] for batch in batches]
        [[1]]
    """

    def __init__(self, *, num_images: int, batch_size: int, seed: int) -> None:
        self.num_images, self.batch_size = num_images, batch_size
        self.seed = seed
        self.step = 0

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        own = -(-self.num_images // num_processes())
        return -(-own // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the rest of the pass that holds step `step`."""
        number, start = divmod(self.step, len(self))
        size = self.batch_size * num_processes()
        draws = self._draws(number)
        for first in range(start * size, len(draws), size):
            yield draws[first : first + size][process_index() :: num_processes()]

    def _draws(self, number: int) -> list[Draw]:
        """Return the draws of all processes in a pass."""
        order = np.random.default_rng((self.seed, _ORDER, number)).permutation(self.num_images)
        padded = np.resize(order, -(-self.num_images // num_processes()) * num_processes())
        seeds = np.random.SeedSequence((self.seed, _DRAW, number)).generate_state(len(padded))
        return list(zip(padded.tolist(), seeds.tolist(), strict=True))


class SeededDraws(Dataset[Any]):
    """Hold a data set whose items are drawn with a seed each.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw) -> Any:
        """Return the item of an index, all of whose random numbers follow from a seed."""
        index, seed = draw
        seed_all(seed)
        # as MONAI has it, what is random itself seeds its own parts
        source = self.dataset if isinstance(self.dataset, Randomizable) else getattr(self.dataset, "transform", None)
        if isinstance(source, Randomizable):
            source.set_random_state(seed=seed)
        return self.dataset[index]


def seed_of(*numbers: int) -> int:
    """Return a seed that follows from numbers, 0 to 2^32 - 1.

    Args:
        numbers: Whole numbers of at least 0.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed the global random states of Python, NumPy and PyTorch.

    Args:
        seed: 0 to 2^32 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the state that MONAI's and others' transforms may draw from
    torch.manual_seed(seed)
