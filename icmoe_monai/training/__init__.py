"""Parts of a training beside MONAI's engine: handlers, the feature cache, pretraining, a filter for federated clients.

May import data, weights, inferers and below.
"""

from __future__ import annotations

from icmoe_monai.training.batch_norm import share_batch_norms
from icmoe_monai.training.feature_cache import CacheFeatures, FrozenFeatures, PrepareFeatures, training_set
from icmoe_monai.training.federated import TrainedWeights
from icmoe_monai.training.handlers import (
    BestCheckpoint,
    EarlyStop,
    GradientClipping,
    LastCheckpoint,
    MetricsCsv,
)
from icmoe_monai.training.pretraining import export_trunk, find_sets
from icmoe_monai.training.progress import EpochLog, Progress, evaluation_command

__all__ = [
    "BestCheckpoint",
    "CacheFeatures",
    "EarlyStop",
    "EpochLog",
    "FrozenFeatures",
    "GradientClipping",
    "LastCheckpoint",
    "MetricsCsv",
    "PrepareFeatures",
    "Progress",
    "TrainedWeights",
    "evaluation_command",
    "export_trunk",
    "find_sets",
    "share_batch_norms",
    "training_set",
]
