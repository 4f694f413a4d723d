"""Counting of the arithmetic and of the bytes of what PyTorch runs, and of the time that they need at least.

Operations are those of matrix products and convolutions, forward and backward, a multiplication and an addition being
two; everything else counts none, and is limited by its bytes. Bytes are the sizes of every operation's tensor inputs
and outputs. That is an upper figure of the traffic with the memory: what is still in a cache need not be read from
there, and a view moves nothing and counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

T = TypeVar("T")
_OVERWRITES = ("aten.copy_", "aten.fill_", "aten.zero_")  # their first input is not read
_FREE = ("aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty_strided")


class Counting(TorchDispatchMode):
    """Count the operations and the bytes of everything that runs in a `with` block.

    Attributes:
        flops: Floating-point operations.
        num_bytes: Bytes.

    Example:
        >>> with Counting() as counting:
        ...     _ = torch.zeros(2, 3) @ torch.zeros(3, 4)
        >>> counting.flops, counting.num_bytes  # and the bytes of the two matrices, when they are filled
        (48, 176)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        given = kwargs or {}
        inputs = list(_tensors((*args, *given.values())))
        out = func(*args, **given)
        self.flops += _flops(func, args, given, out)
        outputs = list(_tensors((out,)))
        seen = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        name = str(func._overloadpacket)
        is_view = (
            outputs and not func._schema.is_mutable and all(one.untyped_storage().data_ptr() in seen for one in outputs)
        )
        if not is_view and name not in _FREE:
            read = inputs[1:] if name in _OVERWRITES else inputs
            self.num_bytes += sum(map(_size, read)) + sum(map(_size, outputs))
        return out


class Counter:
    """Count the parts of a task as `measure.Stopwatch` times them; several runs of a part are added up."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}

    def __call__(self, part: str, run: Callable[[], T]) -> T:
        """Run a part, count it, and return its result."""
        with Counting() as counting:
            result = run()
        found = self.counts.setdefault(part, {"flops": 0, "bytes": 0})
        found["flops"] += counting.flops
        found["bytes"] += counting.num_bytes
        return result


def beside_limit(
    count: Mapping[str, int], seconds: float, *, flops_per_second: float, bytes_per_second: float
) -> dict[str, float]:
    """Return what a part reaches, and the time that it needs at least.

    Args:
        count: Its `flops` and `bytes`.
        seconds: How long it takes.
        flops_per_second: What the machine reaches.
        bytes_per_second: What it moves, read and written together.

    Returns:
        `flops`, `bytes`, `seconds`, `gflops_per_second`, `gb_per_second`, `limit_seconds` = max(flops / what is
        reached, bytes / what is moved), and `of_limit`, the share of the time that the limit explains.

    Example:
        >>> found = beside_limit({"flops": 10**9, "bytes": 10**9}, 2.0, flops_per_second=1e9, bytes_per_second=4e9)
        >>> found["limit_seconds"], found["of_limit"]
        (1.0, 0.5)
    """
    limit = max(count["flops"] / flops_per_second, count["bytes"] / bytes_per_second)
    spent = max(seconds, 1e-9)
    return {
        **count,
        "seconds": seconds,
        "gflops_per_second": round(count["flops"] / spent / 1e9, 3),
        "gb_per_second": round(count["bytes"] / spent / 1e9, 3),
        "limit_seconds": round(limit, 7),
        "of_limit": round(limit / spent, 4),
    }


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    packet = func._overloadpacket
    if packet == torch.ops.aten.convolution_backward:
        return _backward_flops(*args, **kwargs)
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def _backward_flops(
    grad: Tensor, image: Tensor, weight: Tensor, *args: Any, output_mask: Iterable[bool] | None = None
) -> int:
    """Count a convolution's backward: the gradient of the image and that of the weights each cost the forward once.

    PyTorch's own formula takes no account of groups, and counts a depthwise convolution for as many times as it has
    channels.
    """
    transposed = bool(args[4])
    wanted = list(args[7] if output_mask is None else output_mask)[:2]
    forward = conv_flop_count(list(image.shape), list(weight.shape), list(grad.shape), transposed=transposed)
    return int(forward) * sum(map(bool, wanted))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _size(tensor: Tensor) -> int:
    """Return a tensor's bytes; of what is expanded those that there are."""
    return min(prod(tensor.shape) * tensor.element_size(), tensor.untyped_storage().nbytes())
