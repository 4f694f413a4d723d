"""Folders to cases: layouts, splits, official releases, and the computer-made demo set.

May import imageio and utils.
"""

from __future__ import annotations

from icmoe_monai.data.cases import find_cases

__all__ = [
    "find_cases",
]
