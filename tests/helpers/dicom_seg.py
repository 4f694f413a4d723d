"""DICOM Segmentations as a test writes and judges them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest

from icmoe_monai.imageio.dicom.seg import Segment, Series, plan_segmentations, references_of, write_segmentation

ABNORMAL = ["49755003", "SCT", "Morphologically Abnormal Structure"]
LESION = Segment("lesion", ABNORMAL, ["52988006", "SCT", "Lesion"], ["39937001", "SCT", "Skin"])
MASS = {"label": "mass", "category": ABNORMAL, "type": ["4147007", "SCT", "Mass"]}
ALGORITHM = {"name": "IC-MoE", "version": "0.3.0"}
SERIES = Series("model and settings", "IC-MoE: lesion, mass")


def class_map(height: int, width: int, *, shift: int = 0, num_classes: int = 3) -> np.ndarray:
    """Two blocks and a pixel, like neither their transposed nor their mirrored selves."""
    classes = np.zeros((height, width), dtype=np.uint8)
    classes[height // 8 + shift : height // 3 + shift, width // 4 : width // 2 + 1] = 1
    classes[height // 2 : height // 2 + height // 5, : width // 5 + shift] = num_classes - 1
    classes[0, -1] = 1
    return classes


def write_all(
    folder: Path, sources: Sequence[tuple[str, int]], *, num_classes: int = 3, **options: Any
) -> list[tuple[Any, list[str]]]:
    """Write an object for each part of the sources, and return them as highdicom reads them, with what is left out."""
    written = []
    for n, part in enumerate(plan_segmentations(sources)):
        size = (part.images[0].dataset.Rows, part.images[0].dataset.Columns)
        classes = [class_map(*size, shift=m, num_classes=num_classes) for m in part.members]
        options = {"segments": [LESION, MASS], "algorithm": ALGORITHM, "series": SERIES, **options}
        uid = options["series"].instance_uid(references_of(part))
        left_out = write_segmentation(folder / f"seg{n}.dcm", part, classes=classes, uid=uid, number=n + 1, **options)
        written.append((highdicom.seg.segread(folder / f"seg{n}.dcm"), left_out))
    return written


def write(path: Path, sources: Sequence[tuple[str, int]], classes: Sequence[np.ndarray] | None, **options: Any) -> Any:
    """Write one object of all sources."""
    options = {"segments": [LESION, MASS], "algorithm": ALGORITHM, "series": SERIES, **options}
    (part,) = plan_segmentations(sources)
    uid = options["series"].instance_uid(references_of(part))
    write_segmentation(path, part, classes=classes, uid=uid, **options)
    return highdicom.seg.segread(path)


def errors_of(path: str | Path) -> list[str]:
    """The errors that dciodvfy finds, with the attribute at fault."""
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    return [line for line in lines if line.startswith("Error")]


needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
