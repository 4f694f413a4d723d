"""Suggestion of images to label next: how they are chosen, and the list, the page and the drafts of them.

May import inference, calibration, data and below.
"""

from __future__ import annotations

from icmoe_monai.suggestion.looking import FrozenLook, find_labelled, leave_out_labelled
from icmoe_monai.suggestion.monai_label import label_strategy
from icmoe_monai.suggestion.ranking import rank_images
from icmoe_monai.suggestion.suggestion import Suggestion, run_and_suggest

__all__ = [
    "FrozenLook",
    "Suggestion",
    "find_labelled",
    "label_strategy",
    "leave_out_labelled",
    "rank_images",
    "run_and_suggest",
]
