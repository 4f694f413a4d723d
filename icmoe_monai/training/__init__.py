"""Parts of a training beside MONAI's engine: handlers, the feature cache, pretraining, a filter for federated clients.

May import data, weights, inferers and below.
"""

from __future__ import annotations

from icmoe_monai.training.batch_norm import share_batch_norms
from icmoe_monai.training.checkpoints import BestCheckpoint, LastCheckpoint
from icmoe_monai.training.decoders import choose_decoder
from icmoe_monai.training.feature_cache import CacheFeatures, FrozenFeatures, PrepareFeatures, training_set
from icmoe_monai.training.federated import TrainedWeights
from icmoe_monai.training.folder import begin_training, replace_training
from icmoe_monai.training.handlers import GradientClipping, MetricsCsv
from icmoe_monai.training.pretraining import export_trunk, find_sets
from icmoe_monai.training.progress import EpochLog, Progress, evaluation_command
from icmoe_monai.training.steps import SeedSteps, training_loader
from icmoe_monai.training.stopping import EarlyStop, Patience, run_training

__all__ = [
    "BestCheckpoint",
    "CacheFeatures",
    "EarlyStop",
    "EpochLog",
    "FrozenFeatures",
    "GradientClipping",
    "LastCheckpoint",
    "MetricsCsv",
    "Patience",
    "PrepareFeatures",
    "Progress",
    "SeedSteps",
    "TrainedWeights",
    "begin_training",
    "choose_decoder",
    "evaluation_command",
    "export_trunk",
    "find_sets",
    "replace_training",
    "run_training",
    "share_batch_norms",
    "training_loader",
    "training_set",
]
