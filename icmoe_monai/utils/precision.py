"""Conversion to float32 for votes, losses and normalisation, when the rest is in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, and any other tensor unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
