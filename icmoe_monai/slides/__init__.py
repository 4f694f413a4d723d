"""Segmentation of whole slides: they are read by regions, segmented in strips and written as pyramidal TIFF files.

May import imageio, inferers, transforms, visualize and below.
"""

from __future__ import annotations

from icmoe_monai.slides.segmenter import LargeSegmenter
from icmoe_monai.slides.streaming import StreamingVotingInferer

__all__ = [
    "LargeSegmenter",
    "StreamingVotingInferer",
]
