"""Which numbers stay in float32 when the rest is computed in half precision: votes, losses, normalisation."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision numbers as float32, and others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
