"""Command `icmoe quantize`: make a graph of 8 bits of a model, and keep it where masks stay as good.

The validation images show the ranges of what flows through the network, and are evaluated before and after.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow
from torch import Tensor, nn

from icmoe_monai.commands.out_of_fold import read_dice
from icmoe_monai.commands.workflow import build_workflow, check_overlays, find_config, images_path, overrides_of
from icmoe_monai.errors import InputError
from icmoe_monai.inferers.runtimes import INT8, Runtime
from icmoe_monai.utils.engines import versions
from icmoe_monai.utils.files import write_atomically, write_json
from icmoe_monai.utils.statistics import bootstrap_interval, rounded

MOST_LOST = 0.002  # of Dice, on average
_MOST_RANGES = 32  # passes of windows that show the ranges
_CONFIGS = ("train.json", "evaluate.json")
_EVALUATION = {"split": "val", "device": "cpu", "calibration": "none", "num_pictures": 0}
_OURS = ("runtime", "output_dir")
_logger = logging.getLogger(__name__)


def quantize(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Write a graph of 8 bits beside a checkpoint, and tell how good its masks of the validation images are.

    It is judged in a folder of its own, so that nobody finds one that is not known to be good.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings to override, by name.

    Raises:
        InputError: If the data, the checkpoint or a setting cannot be used, or Dice is lower by more than
            `MOST_LOST`: then there is no such graph, nor an earlier one.
    """
    taken = [name for name in _OURS if name in further]
    if taken:
        raise InputError(f"--{taken[0]} is decided by icmoe quantize: leave it out.")
    overrides = {**_EVALUATION, **further, **overrides_of(given), "dataset_dir": images_path(given.data)}
    bases = [root / "configs" / name for name in _CONFIGS]
    overlays = [find_config(root, name) for name in given.config]
    check_overlays(bases, overlays)
    configs = [*bases, *overlays]
    checkpoint = Path(overrides["checkpoint"])
    modules: list[nn.Module] = []
    spread = SpreadWindows(_MOST_RANGES)

    def watch(module: nn.Module, windows: Tensor) -> None:
        modules[:] = [module]
        spread.take(windows)

    with TemporaryDirectory() as first, TemporaryDirectory() as second, TemporaryDirectory() as trial:
        flow = build_workflow(
            root, configs, overrides | {"runtime": "onnx", "output_dir": first}, workflow_type="train"
        )
        runtime: Runtime = flow.parser.get_parsed_content("validate#inferer").runtime
        runtime.watch = watch
        before = _dice_by(flow, first)
        places = np.unique(np.linspace(0, len(spread.kept) - 1, min(_MOST_RANGES, len(spread.kept))).astype(int))
        tried = runtime.write_int8(modules[0], [spread.kept[place] for place in places], folder=Path(trial))
        path = checkpoint.with_name(tried.name)
        of_trial = {"validate#inferer#runtime#checkpoint": str(Path(trial, checkpoint.name))}
        of_trial |= {"runtime": INT8, "output_dir": second}
        after = _dice_by(build_workflow(root, configs, overrides | of_trial, workflow_type="train"), second)
        try:
            found = _compare(np.array(list(before.values())), np.array([after[name] for name in before]))
        except InputError:
            for earlier in (path, path.with_suffix(".json")):
                earlier.unlink(missing_ok=True)
            raise
        write_atomically(path, lambda temporary: shutil.copyfile(tried, temporary))
        write_json(path.with_suffix(".json"), found | {"versions": versions()})
    _logger.info("%s: %s. It is used with --runtime int8.", path, _sentence(found))


class SpreadWindows:
    """Hold some of any number of windows, evenly spread, since a set's may not fit into memory.

    Attributes:
        kept: The windows, fewer than twice `most`.

    Args:
        most: Of more than twice as many, each second one is let go.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: list[Tensor] = []
        self._step, self._count = 1, 0

    def take(self, windows: Tensor) -> None:
        """Hold the next windows, or let them go.

        Args:
            windows: (B, 3, H, W).
        """
        if self._count % self._step == 0:
            self.kept.append(windows)
        self._count += 1
        if len(self.kept) == 2 * self.most:
            self.kept = self.kept[::2]
            self._step *= 2


def _dice_by(flow: ConfigWorkflow, folder: str) -> dict[str, float]:
    """Run an evaluation into a folder, and return the Dice of its images."""
    flow.run()
    flow.finalize()
    return read_dice(Path(folder))


def _compare(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return what 8 bits change, of the Dice of images.

    Raises:
        InputError: If they lose too much.
    """
    change = after - before
    ends = bootstrap_interval(np.mean, change)
    found = {
        "images": len(change),
        "dice_of_32_bits": rounded(before.mean()),
        "dice_of_8_bits": rounded(after.mean()),
        "difference": rounded(change.mean()),
        "interval": None if ends is None else [rounded(end) for end in ends],
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
