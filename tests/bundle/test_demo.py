"""`make demo`: its commands, as they stand in the Makefile, on smaller images and for one step."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["--image_size", "32", "--longest_side", "32", "--num_workers", "0", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_trains_evaluates_and_segments(tmp_path):
    told = subprocess.run(["make", "-n", "demo"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lines = told.replace("\\\n", " ").replace("runs/demo", str(tmp_path)).splitlines()
    commands = [shlex.split(line) for line in lines if "monai.bundle run" in line]
    assert len(commands) == 3
    for command, further in zip(commands, (["--min_steps", "1", "--max_epochs", "1"], [], []), strict=True):
        words = [sys.executable, *command[1:], *QUICK, *further]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    for name in ("best.pt", "evaluation/predictions.png", "evaluation/summary.json", "predictions/report.html"):
        assert (tmp_path / name).is_file(), name
