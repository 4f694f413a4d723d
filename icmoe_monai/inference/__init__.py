"""Inference over new images: inputs, journal, written files, measures and report, for one set of experts or several.

May import data, weights, inferers, transforms, visualize and below.
"""

from __future__ import annotations

from icmoe_monai.inference.anonymity import read_anonymous
from icmoe_monai.inference.inputs import find_inputs
from icmoe_monai.inference.journal import Journal
from icmoe_monai.inference.report import InferenceReport
from icmoe_monai.inference.run import InferenceRun, run_missing
from icmoe_monai.inference.volumes import VolumeWriter, labels_of
from icmoe_monai.inference.writing import SaveImage2Dd

__all__ = [
    "InferenceReport",
    "InferenceRun",
    "Journal",
    "SaveImage2Dd",
    "VolumeWriter",
    "find_inputs",
    "labels_of",
    "read_anonymous",
    "run_missing",
]
