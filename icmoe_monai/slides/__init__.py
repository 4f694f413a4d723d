"""Whole slides: read by regions, voted in strips, written as pyramids.

May import imageio, inferers, transforms, visualize and below.
"""

from __future__ import annotations

from icmoe_monai.slides.segmenter import LargeSegmenter
from icmoe_monai.slides.streaming import StreamingVotingInferer

__all__ = [
    "LargeSegmenter",
    "StreamingVotingInferer",
]
