"""Calibration of how far a mask can be trusted: fitted on validation images, used in inference, judged on test images.

May import transforms, weights and below.
"""

from __future__ import annotations

from icmoe_monai.calibration.file import (
    ApplyCalibrationd,
    calibration_path,
    find_calibration,
    find_window_calibration,
)
from icmoe_monai.calibration.fit import FitCalibration, check_images
from icmoe_monai.calibration.references import ReferenceImages
from icmoe_monai.calibration.reliability import ReliabilityMetrics

__all__ = [
    "ApplyCalibrationd",
    "FitCalibration",
    "ReferenceImages",
    "ReliabilityMetrics",
    "calibration_path",
    "check_images",
    "find_calibration",
    "find_window_calibration",
]
