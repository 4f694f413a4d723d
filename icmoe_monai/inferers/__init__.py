"""How a network runs over an image: one window or many, one vote per pixel, within a budget of memory.

May import networks and utils.
"""

from __future__ import annotations

from icmoe_monai.inferers.budget import choose_window_batch
from icmoe_monai.inferers.voting import AutocastInferer, SlidingWindowVotingInferer, VotingInferer, vote

__all__ = [
    "AutocastInferer",
    "SlidingWindowVotingInferer",
    "VotingInferer",
    "choose_window_batch",
    "vote",
]
