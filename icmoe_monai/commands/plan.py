"""Command `icmoe plan`: look at a training set, say what is wrong with it, and choose how to train on it."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from icmoe_monai.checks import check_values
from icmoe_monai.commands.workflow import build_workflow, find_config, images_path, load_configs, overrides_of
from icmoe_monai.errors import InputError
from icmoe_monai.names import check_overrides, plain
from icmoe_monai.planning.plan import Plan, make_plan, with_times
from icmoe_monai.planning.timing import bytes_of_cache, overrides_for_timing, time_training
from icmoe_monai.planning.words import told_plan
from icmoe_monai.planning.writing import write_plan
from icmoe_monai.utils.locks import hold_folder
from icmoe_monai.utils.schema import read_json

_PYRAMID = "efficientnet_{size}_imagenet.safetensors"
_NUM_PREDICTED = 3
_BEST, _REPORT = "best.pt", "report.json"


def plan(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Plan a training, and write plan.yaml, plan.json and plan.html.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings that stay as the user has set them, by name.

    Raises:
        InputError: If the set, a setting or the memory cannot be used, or the folder cannot be written.
    """
    output = Path(os.path.abspath(given.output))
    configs = [root / "configs" / "train.json", *(find_config(root, name) for name in given.config)]
    config = load_configs(configs)
    check_overrides(config, list(further))
    parser = ConfigParser(config)
    parser.update({name: plain(value) for name, value in {**further, **overrides_of(given)}.items()})
    check_values(parser)
    own = [item for path in configs[1:] for item in ConfigParser.load_config_file(path).items()]
    fixed = _plain_settings(dict(own)) | dict(further)
    hours = _hours(given.hours)
    held = hold_folder(str(output), task="plan")
    found = make_plan(
        images_path(given.data),
        pyramid=root / "models" / _PYRAMID,
        memory=given.memory,
        device=given.device,
        settings=fixed,
        demo_dir=str(output / "demo"),
    )
    if not given.no_timing and not _blocks_training(found):
        overrides = {**further, **found.settings, **overrides_of(given), "dataset_dir": images_path(given.data)}
        overrides["demo_dir"] = str(output / "demo")
        found = with_times(found, _measure(root, configs, overrides, found), hours=hours, given=fixed)
    paths = write_plan(found, given.output, configs=tuple(given.config))
    sys.stdout.write("".join(f"{line}\n" for line in [*told_plan(found), "", f"The page: {paths[2]}"]))
    next_command = "mend the faults first, then" if found.num_faults else "next"
    words = ["icmoe", "train", given.data, "OUT"]
    words += [word for name in (*given.config, str(paths[0])) for word in ("--config", name)]
    sys.stdout.write(f"{next_command}: {shlex.join(words)}\n")
    held.clear()


def _measure(root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], found: Plan) -> dict[str, Any]:
    """Run a few real steps, and a real prediction with the weights that they leave."""
    with tempfile.TemporaryDirectory(prefix="icmoe_plan_") as folder, _quiet():
        measured = time_training(
            lambda: build_workflow(root, configs, {**overrides, **overrides_for_timing(folder)}, workflow_type="train")
        )
        if measured["peak_bytes"] is not None:
            measured["peak_bytes"] += bytes_of_cache(found.looks, found.settings)
        measured["predicted_image"] = _time_prediction(root, Path(folder), overrides, found)
    return measured


def _time_prediction(root: Path, folder: Path, overrides: Mapping[str, Any], found: Plan) -> float | None:
    """Return the seconds that a prediction takes from file to files; None if the weights need a config of their own."""
    images = folder / "images"
    images.mkdir()
    for look in [look for look in found.looks if look.split == "val" and look.size[0]][:_NUM_PREDICTED]:
        shutil.copy(look.image, images)
    settings = {name: overrides[name] for name in ("device",) if name in overrides}
    settings |= {
        "checkpoint": str(folder / _BEST), "dataset_dir": str(images), "output_dir": str(folder / "predictions")
    }  # fmt: skip
    try:
        flow = build_workflow(root, [root / "configs" / "inference.json"], settings, workflow_type="infer")
        flow.run()
        flow.finalize()
    except InputError:
        return None
    cases = read_json((folder / "predictions" / _REPORT).read_bytes(), _REPORT)["cases"]
    seconds = [case["seconds"] for case in cases if case.get("seconds")]
    later = seconds[1:] or seconds
    return sum(later) / len(later) if later else None


def _plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain settings of the user's configs, which a plan keeps."""
    return {
        name: value
        for name, value in config.items()
        if isinstance(value, (bool, int, float)) or (isinstance(value, str) and not value.startswith(("$", "@", "%")))
    }


def _blocks_training(found: Plan) -> bool:
    """Return whether a training would refuse the set, so that nothing can be timed."""
    kinds = ("unreadable", "size", "values", "nothing_to_learn")
    return any(fault.kind in kinds for fault in found.faults)


def _hours(text: str | None) -> float | None:
    try:
        hours = None if text is None else float(text)
    except ValueError:
        hours = 0.0
    if hours is not None and not hours > 0:
        raise InputError(f"--hours must be a number above 0, got {text!r}.")
    return hours


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the timed workflows tell of their own runs; warnings and errors stay."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
