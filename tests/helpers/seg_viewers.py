"""Other programs that open DICOM Segmentations: dcmqi, and what OHIF opens them with, under Node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

_HERE = Path(__file__).parent / "viewers"
_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")
DCMQI = shutil.which("segimage2itkimage", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
needs_dcmqi = pytest.mark.skipif(DCMQI is None, reason="segimage2itkimage (dcmqi) is not installed")


def open_by_dcmqi(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """Return the voxels of each segment, (W, H, N), by its label; of a label map those of all by the first one's.

    Raises:
        CalledProcessError: dcmqi cannot open it.
    """
    folder.mkdir()
    command = [str(DCMQI), "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nii"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    segments = [segment for group in json.loads((folder / "meta.json").read_text())["segmentAttributes"]
                for segment in group]  # fmt: skip
    return {one["SegmentLabel"]: np.asarray(nibabel.load(folder / f"{one['labelID']}.nii.gz").dataobj)
            for one in segments if (folder / f"{one['labelID']}.nii.gz").is_file()}  # fmt: skip


def open_as_ohif(jobs: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Open segmentations, each of a job with `seg`, its file, and `sources`, those of the images.

    Returns:
        For each `frames`, `labels` and `pixels`, (layers, images, H, W); or `error`, by which it was refused.
    """
    place = _installed()
    jobs = [{**job, "out": str(folder / f"{n}.raw")} for n, job in enumerate(jobs)]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [str(shutil.which("node")), "open_seg.mjs", str(folder / "jobs.json")]
    run = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    told = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    for job, opened in zip(jobs, told, strict=True):
        if "error" not in opened:
            opened["pixels"] = np.fromfile(job["out"], np.uint8).reshape(opened["shape"])
    return told


def _installed() -> Path:
    """Return a folder with the pinned packages, which are fetched once; skip the test where that cannot be."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    lock = (_HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "icmoe_monai" / f"viewers-{hashlib.sha256(lock).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "open_seg.mjs"):
        shutil.copy(_HERE / name, place)
    if not (place / "installed").exists():
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        run = subprocess.run(command, cwd=place, check=False, capture_output=True, text=True)
        if any(word in run.stderr for word in _NO_NETWORK):
            pytest.skip("npm's registry is not reachable")
        assert run.returncode == 0, run.stderr
        (place / "installed").touch()
    return place
