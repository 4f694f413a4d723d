"""MONAI transforms that load and resize a case's images, split and decide votes, and compute figures of votes.

May import imageio, networks and utils.
"""

from __future__ import annotations

from icmoe_monai.transforms.load import LoadImage2Dd
from icmoe_monai.transforms.resize import ResizeLongestd
from icmoe_monai.transforms.vote_features import TakeReliabilityd, TakeVoteFeaturesd
from icmoe_monai.transforms.votes import DecideMaskd, SplitVotesd, TakeVotedd

__all__ = [
    "DecideMaskd",
    "LoadImage2Dd",
    "ResizeLongestd",
    "SplitVotesd",
    "TakeReliabilityd",
    "TakeVoteFeaturesd",
    "TakeVotedd",
]
