"""Datasets: list a folder's cases, split them, prepare official releases, and draw a computer-made demo set.

May import imageio and utils.
"""

from __future__ import annotations

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.folds import deal_folds
from icmoe_monai.data.splits import describe_training

__all__ = [
    "deal_folds",
    "describe_training",
    "find_cases",
]
