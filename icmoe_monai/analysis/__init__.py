"""Analysis of a trained network: what each expert contributes to the vote, and how degraded images change the masks.

May import calibration, evaluation and below.
"""

from __future__ import annotations

from icmoe_monai.analysis.ambiguity import AmbiguityTest
from icmoe_monai.analysis.experts import ExpertAnalysis
from icmoe_monai.analysis.features import FeatureComparison
from icmoe_monai.analysis.shift_metrics import ShiftMetrics
from icmoe_monai.analysis.shifts import LoadShifted2Dd, shifted_cases

__all__ = [
    "AmbiguityTest",
    "ExpertAnalysis",
    "FeatureComparison",
    "LoadShifted2Dd",
    "ShiftMetrics",
    "shifted_cases",
]
