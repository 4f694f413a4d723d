"""Evaluation against labels: scores by case and method, statistics of the votes, challenge protocols, and pictures.

May import data, transforms and below.
"""

from __future__ import annotations

from icmoe_monai.evaluation.cases import CaseMetrics
from icmoe_monai.evaluation.pictures import PredictionPictures
from icmoe_monai.evaluation.protocols import ProtocolMetrics
from icmoe_monai.evaluation.votes import VoteStatistics, dice_metrics

__all__ = [
    "CaseMetrics",
    "PredictionPictures",
    "ProtocolMetrics",
    "VoteStatistics",
    "dice_metrics",
]
