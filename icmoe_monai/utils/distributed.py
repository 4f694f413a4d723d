"""Sums, means and records over several processes, beyond what PyTorch's DistributedDataParallel does.

DistributedDataParallel gives all processes the mean of their gradients. A loss that is no mean over images, such as a
Dice over the batch, also needs the other processes' sums: with `total` every process has the loss of the whole batch,
and the mean of the gradients is that loss's gradient. Cases are dealt out in turn (`share_cases`), so that records come
back in one process's order (`gathered`).

All processes must call the functions of this file alike and in the same order. In a single process a sum, a share or a
list of records is just that process's own.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import chain, zip_longest
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.utils.precision import at_least_float32

P = ParamSpec("P")
T = TypeVar("T")
_NOTHING = object()
_TOLD_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def check_torchrun() -> None:
    """Check that torchrun has set the variables by which this process finds the others.

    Raises:
        InputError: If a variable is not set, as in a process that torchrun did not start.
    """
    missing = [name for name in _TOLD_BY_TORCHRUN if name not in os.environ]
    if missing:
        raise InputError(
            f"A workflow of several processes was not started by torchrun ({', '.join(missing)} are not set): start it "
            "by torchrun, as docs/multi_gpu.md says, or leave out the multi_gpu overlay."
        )


def leave_at_exit() -> None:
    """Let this process leave the others before Python ends, also where an error has ended its work.

    gloo's threads would else meet the end of the interpreter, which may abort the process. NCCL is left alone: leaving
    would wait for processes that are still at work.
    """
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
        dist.destroy_process_group()


def check_one_process(task: str) -> None:
    """Check that this process works alone, where a task would take its share of the cases for all of them.

    Args:
        task: What is to be done, as the first word of the sentence.

    Raises:
        InputError: If several processes work together.
    """
    if num_processes() > 1:
        raise InputError(
            f"{task} needs one process, got {num_processes()}: leave out torchrun and the multi_gpu overlay."
        )


def num_processes() -> int:
    """Return how many processes work together: 1 where `torch.distributed` is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Return the index of this process among those that work together, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def is_first() -> bool:
    """Return whether this is process 0, the one that writes the results of all."""
    return process_index() == 0


def total(part: Tensor) -> Tensor:
    """Return the sum of every process's tensor, with a gradient to each.

    Args:
        part: Tensor of the same shape in every process, and of a dtype that can be summed (not bool).

    Example:
        >>> total(torch.tensor([1.0, 2.0])).tolist()  # of a single process
        [1.0, 2.0]
    """
    return _Total.apply(part) if num_processes() > 1 else part


def batch_mean(values: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """Return the mean over the whole batch, whatever the processes' shares of it are.

    Args:
        values: This process's share, (B, ...); B may be 0 in some processes, but not in all.
        dim: Axes to average over, the first one among them; None: all.

    Example:
        >>> batch_mean(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), (0,)).tolist()
        [2.0, 4.0]
    """
    if num_processes() == 1:
        return values.mean(dim)
    sums = at_least_float32(values).sum(dim)
    count = values.numel() // sums.numel()
    both = total(torch.cat([sums.flatten(), sums.new_tensor([count])]))
    return (both[:-1] / both[-1]).view_as(sums).to(values.dtype)


def by_first(make: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that only the first process calls it; all return its result or raise its `InputError`.

    Args:
        make: Function whose result can be pickled.
    """

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        if num_processes() == 1:
            return make(*args, **kwargs)
        outcome: list[Any] = [None, None]
        if is_first():
            try:
                outcome = [make(*args, **kwargs), None]
            except InputError as error:
                outcome = [None, error]
        dist.broadcast_object_list(outcome)
        result, raised = outcome
        if raised is not None:
            raise raised
        return result

    return made


def collect(record: T) -> list[T]:
    """Return every process's record, in the processes' order; the processes wait for each other.

    Args:
        record: Object that can be pickled.
    """
    if num_processes() == 1:
        return [record]
    records: list[Any] = [None] * num_processes()
    dist.all_gather_object(records, record)
    return records


def gathered(records: Sequence[T]) -> list[T]:
    """Return the records of all processes' cases, in the order that a single process would have.

    Args:
        records: Records of the cases that `share_cases` gave this process, in their order.
    """
    dealt = chain.from_iterable(zip_longest(*collect(list(records)), fillvalue=_NOTHING))
    return [record for record in dealt if record is not _NOTHING]  # type: ignore[misc]


def share_cases(cases: Sequence[T]) -> list[T]:
    """Return this process's share of the cases; every case goes to exactly one process.

    Args:
        cases: All cases.

    Raises:
        InputError: If there are fewer cases than processes, as metrics need a case in each.
    """
    if len(cases) < num_processes():
        raise InputError(
            f"There are {num_processes()} processes for {len(cases)} cases: start at most {len(cases)} "
            "(torchrun --nproc_per_node)."
        )
    return list(cases[process_index() :: num_processes()])


def share_volumes(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return this process's share of an inference's cases; those of one volume go to one process, in their order.

    Args:
        cases: Cases with a `name` and a `group`, which the cases of a volume have in common ("" for a single image).
            There may be fewer cases than processes.

    Example:
        >>> [case["name"] for case in share_volumes([{"name": "b.png", "group": ""}])]
        ['b.png']
    """
    volumes: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        volumes.setdefault(case["group"] or case["name"], []).append(case)
    shares: list[list[Mapping[str, Any]]] = [[] for _ in range(num_processes())]
    for volume in volumes.values():
        min(shares, key=len).extend(volume)
    return shares[process_index()]


class _Total(torch.autograd.Function):
    """Sum a tensor over the processes; its gradient is summed too, since each process has a loss of its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        summed = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)
