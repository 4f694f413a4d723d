"""Verification of a copy of the bundle as a new user meets it: from another folder, with only that copy importable.

The checks (`checks`) are those of the Model Zoo's own scripts, and the steps that a user takes next.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_CHECKS = Path(__file__).with_name("checks.py")


def verify(folder: Path, schema: Path | None = None, only: list[str] | None = None) -> int:
    """Run the checks in a process of their own and return its exit status: 0 if all hold.

    Args:
        folder: The copy.
        schema: File of MONAI's metadata schema; None: downloaded from the address in the metadata.
        only: Names of the checks to run; None: all.
    """
    command = [sys.executable, str(_CHECKS), str(folder.resolve())]
    command += ["--schema", str(schema.resolve())] if schema else []
    command += ["--only", *only] if only else []
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = dict(os.environ, PYTHONPATH=str(folder.resolve()), PYTHONDONTWRITEBYTECODE="1")
        return subprocess.run(command, cwd=elsewhere, env=environment).returncode
