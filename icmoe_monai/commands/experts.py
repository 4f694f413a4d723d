"""Commands on a dataset folder: `icmoe train`, `evaluate`, `calibrate` and `analyze`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmoe_monai.commands.folds import train_folds
from icmoe_monai.commands.workflow import build_workflow, check_overlays, find_config, images_path, overrides_of
from icmoe_monai.errors import InputError

_CONFIGS = {
    "train": ("train.json",),
    "evaluate": ("train.json", "evaluate.json"),
    "calibrate": ("train.json", "evaluate.json", "calibrate.yaml"),
    "analyze": ("train.json", "evaluate.json", "analyze.yaml"),
}


def run_on_data(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Run a command on a dataset folder.

    Args:
        root: Folder of the bundle.
        given: The command, as `command`, and its options.
        further: Settings to override, by name.

    Raises:
        InputError: If the data or a setting cannot be used.
    """
    folds = getattr(given, "folds", None)
    if folds is not None and "fold" not in further:
        train_folds(root, given, further)
        return
    if getattr(given, "jobs", 1) != 1:
        raise InputError("--jobs is the number of folds that are trained at a time: leave it out, or give --folds.")
    overrides = {**further, **overrides_of(given), "dataset_dir": images_path(given.data)}
    if folds is not None:
        overrides["folds"] = folds
    if given.command != "calibrate":
        overrides["output_dir"] = os.path.abspath(given.output)
    bases = [root / "configs" / name for name in _CONFIGS[given.command]]
    overlays = [find_config(root, name) for name in given.config]
    check_overlays(bases, overlays)
    flow = build_workflow(root, [*bases, *overlays], overrides, workflow_type="train")
    flow.run()
    flow.finalize()
