"""Command `icmoe train --folds`: train a network on each part of a set, and make one ensemble of them.

Every fold is a training of its own, by the command that a user would give, in a process of its own. `out_of_fold` then
joins the networks and judges them.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icmoe_monai.commands.out_of_fold import make_ensemble
from icmoe_monai.commands.workflow import find_config, images_path
from icmoe_monai.errors import InputError
from icmoe_monai.utils.children import Children, run_side_by_side
from icmoe_monai.utils.files import digest_of, write_json
from icmoe_monai.utils.locks import hold_folder
from icmoe_monai.utils.schema import read_json
from icmoe_monai.weights.checkpoint import TRAINER
from icmoe_monai.weights.schema import MOST_FOLDS
from icmoe_monai.weights.tensor_files import read_checkpoint

BEGUN, TRAINED = "begun.json", "trained.json"
# settings that each fold is given, or that an ensemble decides by itself
_OURS = ("fold", "val_interval", "patience", "output_dir", "dataset_dir", "split", "tta")


def train_folds(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Train the folds that are not trained yet, and make the ensemble, its scores and its calibration.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings to override, by name.

    Raises:
        InputError: If the options do not go together, a fold could not be trained, or the data cannot be used.
    """
    _check(given, further)
    output = Path(os.path.abspath(given.output))
    configs = [find_config(root, name) for name in given.config]
    held = hold_folder(str(output), task="cross-validation")
    _begin(output, given, configs, further)
    folders = [output / f"fold_{number}" for number in range(1, given.folds + 1)]
    _train(given, configs, [folder for folder in folders if not (folder / TRAINED).is_file()])
    overrides = {name: value for name, value in further.items() if name != "overwrite"}
    overrides |= {"dataset_dir": images_path(given.data)} | ({"device": given.device} if given.device else {})
    make_ensemble(root, configs, overrides, output, folders)
    held.clear()


def fold_command(given: argparse.Namespace, configs: Sequence[Path], folder: Path, device: str | None) -> list[str]:
    """Return the command that trains a fold, or goes on with it.

    Args:
        given: The options of the whole command.
        configs: Its configs.
        folder: Folder of the fold, which ends in its number.
        device: Where to train it; None: where a training goes by itself.
    """
    number = folder.name.rpartition("_")[2]
    words = [sys.executable, "-m", "icmoe_monai", "train", images_path(given.data), str(folder)]
    words += [word for config in (*map(str, configs), "folds") for word in ("--config", config)]
    words += [*given.further_words, f"--folds={given.folds}", f"--fold={number}"]
    words += [f"--demo_dir={folder.parent / 'demo'}"]  # one for all folds
    words += ["--device", device] if device else []
    if not (folder / "last.pt").is_file():
        return [*words, "--overwrite=True"] if folder.is_dir() else words  # stopped before it could save anything
    return [*(word for word in words if not word.startswith("--overwrite=")), "--checkpoint", str(folder / "last.pt")]


def _check(given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    if not 2 <= given.folds <= MOST_FOLDS:
        raise InputError(f"--folds must be from 2 to {MOST_FOLDS}, got {given.folds}.")
    if given.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {given.jobs}.")
    if given.checkpoint:
        raise InputError(
            "--checkpoint belongs to one training: leave it out, and the same command goes on with folds that were "
            "stopped; or train one fold, --fold 1."
        )
    taken = [name for name in _OURS if name in further]
    if taken:
        raise InputError(f"--{taken[0]} is decided by --folds: leave it out.")


def _begin(output: Path, given: argparse.Namespace, configs: Sequence[Path], further: Mapping[str, Any]) -> None:
    """Note what the folds are trained with, or check that it is what they were begun with.

    Raises:
        InputError: If it is not.
    """
    note = output / BEGUN
    now = {
        "folds": given.folds,
        "data": images_path(given.data),
        "configs": {path.name: digest_of(path) for path in configs},
        "settings": sorted(word for word in given.further_words if not word.startswith("--overwrite=")),
    }
    if note.is_file() and not further.get("overwrite"):
        begun = read_json(note.read_bytes(), str(note))
        changed = [name for name in now if not isinstance(begun, dict) or begun.get(name) != now[name]]
        if changed:
            was = begun.get(changed[0]) if isinstance(begun, dict) else begun
            raise InputError(
                f"The folds in {output} were begun with {changed[0]} {was}, and here it is {now[changed[0]]}: give the "
                "same command, another folder, or --overwrite True."
            )
        return
    for path in output.glob(f"fold_*/{TRAINED}"):
        path.unlink()
    write_json(note, now)


def _train(given: argparse.Namespace, configs: Sequence[Path], folders: Sequence[Path]) -> None:
    """Train folds, as many at a time as jobs, or as devices.

    Raises:
        InputError: If one could not be trained; the others are.
    """
    devices: list[str | None] = [*(given.device or "").split(",")] if given.device else [None]
    jobs = max(given.jobs, len(devices))
    free: queue.Queue[str | None] = queue.Queue()
    for slot in range(jobs):
        free.put(devices[slot % len(devices)])
    environment = dict(os.environ)
    if jobs > 1 and devices == [None]:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // jobs)))
    children = Children()

    def train(folder: Path) -> None:
        device = free.get()
        try:
            if not _is_trained(folder):
                log = folder / "train.log" if jobs > 1 else None
                command = fold_command(given, configs, folder, device)
                folder.mkdir(parents=True, exist_ok=True)
                status = children.execute(command, log, environment)
                if status:
                    where = f"see {log}" if log else "see above"
                    raise InputError(f"{folder.name} could not be trained ({where})")
            write_json(folder / TRAINED, {"command": "train"})
        finally:
            free.put(device)

    def told(folder: Path, error: BaseException | None) -> None:
        sys.stderr.write(f"{folder.name}: {error or 'trained'}\n")

    failed = run_side_by_side(folders, train, jobs=jobs, told=told, stop=children.stop)
    if failed:
        first = next(iter(failed.values()))
        if not isinstance(first, InputError):
            raise first
        names = ", ".join(folder.name for folder in failed)
        raise InputError(
            f"{names} could not be trained, and the other folds are: {first}. The same command tries again."
        )


def _is_trained(folder: Path) -> bool:
    """Return whether a training has reached its end, but was stopped before that was noted."""
    if not (folder / "best.pt").is_file() or not (folder / "last.pt").is_file():
        return False
    state = read_checkpoint(folder / "last.pt", mapped=True).get(TRAINER, {})
    return state.get("iteration", 0) >= state.get("max_epochs", 0) * state.get("epoch_length", 0) > 0
