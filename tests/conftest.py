from __future__ import annotations

import pytest
import torch

# The tensors of these tests are too small to share between threads, which wait for each other on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state, alone or among others."""
    torch.manual_seed(0)
