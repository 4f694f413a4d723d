"""Inferers that run a network over an image in one window or many, with one vote per pixel, and a memory budget.

May import networks and utils.
"""

from __future__ import annotations

from icmoe_monai.inferers.budget import choose_window_batch
from icmoe_monai.inferers.folds import OutOfFoldInferer, PrepareFold
from icmoe_monai.inferers.runtimes import Runtime
from icmoe_monai.inferers.voting import AutocastInferer, SlidingWindowVotingInferer, VotingInferer, vote

__all__ = [
    "AutocastInferer",
    "OutOfFoldInferer",
    "PrepareFold",
    "Runtime",
    "SlidingWindowVotingInferer",
    "VotingInferer",
    "choose_window_batch",
    "vote",
]
