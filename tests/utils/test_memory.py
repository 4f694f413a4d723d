"""A process's peak memory."""

from __future__ import annotations

import pytest
import torch

from icmoe_monai.errors import InputError
from icmoe_monai.utils import memory as module
from icmoe_monai.utils.memory import peak_bytes

MB = 1e6


def test_the_peak_is_that_of_what_ran() -> None:
    small = peak_bytes(lambda: None, torch.device("cpu"))
    large = peak_bytes(lambda: torch.ones(50_000_000), torch.device("cpu"))
    assert large - small == pytest.approx(200 * MB, rel=0.1)


def test_memory_that_was_freed_before_does_not_hide_what_is_taken() -> None:
    freed = [torch.ones(1000, 1000) for _ in range(100)]
    small = torch.ones(1)  # stands above them
    del freed
    before = peak_bytes(lambda: None, torch.device("cpu"))
    taken = peak_bytes(lambda: [torch.ones(1000, 1000) for _ in range(50)], torch.device("cpu"))
    assert small.item() == 1
    assert taken - before == pytest.approx(200 * MB, rel=0.2)


def test_a_system_that_does_not_tell_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(module.Path, "write_text", refuse)
    with pytest.raises(InputError, match="is measured on Linux only"):
        peak_bytes(lambda: None, torch.device("cpu"))
