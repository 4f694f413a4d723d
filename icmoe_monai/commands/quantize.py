"""Command `icmoe quantize`: make a graph of 8 bits of a model, and keep it where masks stay as good.

The validation images show the ranges of what flows through the network, and are evaluated before and after.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor, nn

from icmoe_monai.commands.out_of_fold import read_dice
from icmoe_monai.commands.workflow import build_workflow, check_overlays, find_config, images_path, overrides_of
from icmoe_monai.errors import InputError
from icmoe_monai.inferers.runtimes import INT8, Runtime
from icmoe_monai.utils.engines import versions
from icmoe_monai.utils.files import write_json
from icmoe_monai.utils.statistics import bootstrap_interval, rounded

MOST_LOST = 0.002  # of Dice, on average
_MOST_RANGES = 32  # passes of windows that show the ranges
_CONFIGS = ("train.json", "evaluate.json")
_EVALUATION = {"split": "val", "device": "cpu", "calibration": "none", "num_pictures": 0}
_logger = logging.getLogger(__name__)


def quantize(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Write a graph of 8 bits beside a checkpoint, and tell how good its masks of the validation images are.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings to override, by name.

    Raises:
        InputError: If the data, the checkpoint or a setting cannot be used, or Dice is lower by more than
            `MOST_LOST`: then there is no such graph.
    """
    overrides = {**_EVALUATION, **further, **overrides_of(given), "dataset_dir": images_path(given.data)}
    bases = [root / "configs" / name for name in _CONFIGS]
    overlays = [find_config(root, name) for name in given.config]
    check_overlays(bases, overlays)
    configs = [*bases, *overlays]
    shown: list[tuple[nn.Module, Tensor]] = []

    def dice_by(runtime: str, folder: str) -> tuple[dict[str, float], Runtime]:
        flow = build_workflow(
            root, configs, {**overrides, "runtime": runtime, "output_dir": folder}, workflow_type="train"
        )
        used: Runtime = flow.parser.get_parsed_content("validate#inferer").runtime
        used.watch = lambda module, windows: shown.append((module, windows))
        flow.run()
        flow.finalize()
        return read_dice(Path(folder)), used

    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        before, runtime = dice_by("onnx", first)
        places = np.unique(np.linspace(0, len(shown) - 1, min(_MOST_RANGES, len(shown))).astype(int))
        path = runtime.write_int8(shown[0][0], [shown[place][1] for place in places])
        try:
            after, _ = dice_by(INT8, second)
            found = _compare(np.array(list(before.values())), np.array([after[name] for name in before]))
            write_json(path.with_suffix(".json"), found | {"versions": versions()})
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    _logger.info("%s: %s. It is used with --runtime int8.", path, _sentence(found))


def _compare(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return what 8 bits change, of the Dice of images.

    Raises:
        InputError: If they lose too much.
    """
    change = after - before
    found = {
        "images": len(change),
        "dice_of_32_bits": rounded(before.mean()),
        "dice_of_8_bits": rounded(after.mean()),
        "difference": rounded(change.mean()),
        "interval": bootstrap_interval(np.mean, change),
        "largest_change": rounded(abs(change).max()),
    }
    if change.mean() < -MOST_LOST:
        raise InputError(
            f"8 bits lose too much for this model, and are not kept: {_sentence(found)}. Use --runtime onnx."
        )
    return found


def _sentence(found: Mapping[str, Any]) -> str:
    interval = "" if found["interval"] is None else " ({:+.4f} to {:+.4f})".format(*found["interval"])
    return (
        f"Dice of {found['images']} images is {found['dice_of_8_bits']:.4f} in 8 bits and "
        f"{found['dice_of_32_bits']:.4f} in 32, {found['difference']:+.4f}{interval}"
    )
