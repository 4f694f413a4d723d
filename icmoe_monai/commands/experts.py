"""Commands on a dataset folder: `icmoe train`, `evaluate`, `calibrate` and `analyze`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmoe_monai.calibration.file import calibration_path
from icmoe_monai.commands.workflow import build_workflow, find_config, overrides_of

# by command: its configs, and the file of its results to name at the end
_CONFIGS = {
    "train": ("train.json",),
    "evaluate": ("train.json", "evaluate.json"),
    "calibrate": ("train.json", "evaluate.json", "calibrate.yaml"),
    "analyze": ("train.json", "evaluate.json", "analyze.yaml"),
}
_RESULTS = {
    "train": ("weights", "best.pt"),
    "evaluate": ("scores", "summary.json"),
    "analyze": ("page", "analysis.html"),
}


def run_on_data(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> list[str]:
    """Run a command on a dataset folder.

    Args:
        root: Folder of the bundle.
        given: The command, as `command`, and its options.
        further: Settings to override, by name.

    Returns:
        A line that names what was written.

    Raises:
        InputError: If the data or a setting cannot be used.
    """
    overrides = {**further, **overrides_of(given), "dataset_dir": os.path.abspath(given.data)}
    if given.command != "calibrate":
        overrides["output_dir"] = os.path.abspath(given.output)
    configs = [root / "configs" / name for name in _CONFIGS[given.command]]
    configs += [find_config(root, name) for name in given.config]
    flow = build_workflow(root, configs, overrides, workflow_type="train")
    flow.run()
    flow.finalize()
    if given.command == "calibrate":
        return [f"The calibration: {calibration_path(overrides['checkpoint'])}"]
    what, name = _RESULTS[given.command]
    found = Path(overrides["output_dir"]) / name
    return [f"The {what}: {found}"] if found.is_file() else []
