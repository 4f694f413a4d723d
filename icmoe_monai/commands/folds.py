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

import torch
from monai.bundle import ConfigParser

from icmoe_monai.calibration.file import calibration_path
from icmoe_monai.commands.out_of_fold import ENSEMBLE, REPORT, find_set, make_ensemble
from icmoe_monai.commands.workflow import check_overlays, check_settings, find_config, images_path
from icmoe_monai.errors import InputError
from icmoe_monai.training.folder import BEST, LAST, replace_training
from icmoe_monai.utils.children import Children, run_side_by_side
from icmoe_monai.utils.files import digest_of, write_json
from icmoe_monai.utils.locks import hold_folder
from icmoe_monai.utils.logs import writes_json
from icmoe_monai.utils.schema import read_json, shown
from icmoe_monai.weights.schema import MOST_FOLDS

BEGUN = "begun.json"
# settings that each fold is given, or that an ensemble decides by itself
_OURS = ("fold", "val_interval", "patience", "output_dir", "dataset_dir", "demo_dir", "split", "tta")
# those of a config that nothing would override, and weights that may have been trained on a fold
_NOT_IN_CONFIGS = ("checkpoint", "fold", "split", "tta")


def train_folds(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Train the folds that are not trained yet, and make the ensemble, its scores and its calibration.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings to override, by name.

    Raises:
        InputError: If the options do not go together, a fold could not be trained, or the data cannot be used.
    """
    configs = [find_config(root, name) for name in given.config]
    _check(given, further, configs)
    base = root / "configs" / "train.json"
    check_overlays([base], configs)
    check_settings([base, *configs], further)  # the ensemble's evaluation knows more than a training
    output = Path(os.path.abspath(given.output))
    folders = [output / f"fold_{number}" for number in range(1, given.folds + 1)]
    devices = [device.strip() for device in (given.device or "").split(",") if device.strip()]
    overrides = {name: value for name, value in further.items() if name != "overwrite"}
    overrides |= {"dataset_dir": images_path(given.data), "folds": given.folds}
    overrides |= {"demo_dir": str(output / "demo"), "output_dir": str(output)}
    overrides |= {"device": devices[0]} if devices else {}
    held = hold_folder(str(output), task="cross-validation")
    plan = {
        "folds": given.folds,
        "data": images_path(given.data),
        "configs": [f"{path.name} {digest_of(path)}" for path in configs],
        "settings": sorted(word for word in given.further_words if not word.startswith("--overwrite=")),
    }
    begins_anew = further.get("overwrite", False)
    if not begins_anew:
        _check_begun(output, plan)
    # once for all folds: masks that are corrected between two of them might choose another
    decoder = find_set(root, configs, overrides, [] if begins_anew else folders).decoder
    if begins_anew:
        _remove_results(output)
    write_json(output / BEGUN, plan)
    of_fold = [*configs, root / "configs" / "folds.yaml"]
    untrained = [folder for folder in folders if not _is_trained(folder)]
    _train(given, of_fold, untrained, devices, decoder)
    make_ensemble(root, configs, overrides, output, folders)
    held.clear()


def fold_command(
    given: argparse.Namespace, configs: Sequence[Path], folder: Path, device: str | None, decoder: str
) -> list[str]:
    """Return the command that trains a fold, or goes on with it.

    Args:
        given: The options of the whole command.
        configs: Its configs, and last the overlay of a fold.
        folder: Folder of the fold, which ends in its number.
        device: Where to train it; None: where a training goes by itself.
        decoder: Size of the experts' decoders, as it was chosen for all folds.
    """
    number = folder.name.rpartition("_")[2]
    words = [sys.executable, "-m", "icmoe_monai", "train", images_path(given.data), str(folder)]
    words += [word for config in configs for word in ("--config", str(config))]
    words += [*given.further_words, f"--folds={given.folds}", f"--fold={number}"]
    words += [f"--demo_dir={folder.parent / 'demo'}", f"--decoder={decoder}"]  # one for all folds
    words += ["--device", device] if device else []
    words += ["--log", "json"] if writes_json() else []
    if not (folder / LAST).is_file():
        return [*words, "--overwrite=True"] if folder.is_dir() else words  # stopped before it could save anything
    return [*(word for word in words if not word.startswith("--overwrite=")), "--checkpoint", str(folder / LAST)]


def _check(given: argparse.Namespace, further: Mapping[str, Any], configs: Sequence[Path]) -> None:
    if not 2 <= given.folds <= MOST_FOLDS:
        raise InputError(f"--folds must be from 2 to {MOST_FOLDS}, got {given.folds}.")
    if given.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {given.jobs}.")
    if given.checkpoint:
        raise InputError(
            "--checkpoint belongs to one training: leave it out, and the same command goes on with folds that were "
            "stopped; or train one fold, --fold 1."
        )
    if not isinstance(further.get("overwrite", False), bool):  # "no" would be as good as True
        raise InputError(f"overwrite must be True or False, got {shown(further['overwrite'])}.")
    taken = [name for name in _OURS if name in further]
    if taken:
        raise InputError(f"--{taken[0]} is decided by --folds: leave it out.")
    for path in configs:
        content = ConfigParser.load_config_file(path)
        taken = [name for name in _NOT_IN_CONFIGS if content.get(name) is not None]
        if taken:
            raise InputError(f"{path} sets {taken[0]}, which is of one training and not of --folds: leave it out.")


def _check_begun(output: Path, plan: Mapping[str, Any]) -> None:
    """Check that what is trained already was begun with the same plan.

    Raises:
        InputError: If it was not.
    """
    if not any(output.glob("fold_*/*.pt")):
        return
    note = output / BEGUN
    read = read_json(note.read_bytes(), str(note)) if note.is_file() else None
    begun: dict[str, Any] = read if isinstance(read, dict) else {}
    for name, value in plan.items():
        if begun.get(name) != value:
            raise InputError(
                f"The folds in {output} were begun with {name} {begun.get(name)}, and here it is {value}: give the "
                "same command, another folder, or --overwrite True."
            )


def _remove_results(output: Path) -> None:
    """Remove the results of an earlier command, and first its note: what a stop leaves cannot be gone on with."""
    for path in (output / BEGUN, output / ENSEMBLE, Path(calibration_path(output / ENSEMBLE)), output / REPORT):
        path.unlink(missing_ok=True)
    for folder in output.glob("fold_*"):
        replace_training(output_dir=str(folder), overwrite=True)


def _train(
    given: argparse.Namespace, configs: Sequence[Path], folders: Sequence[Path], devices: Sequence[str], decoder: str
) -> None:
    """Train folds, as many at a time as jobs, or as devices.

    Raises:
        InputError: If one could not be trained; the others are.
    """
    jobs = max(given.jobs, len(devices))
    free: queue.Queue[str | None] = queue.Queue()
    for slot in range(jobs):
        free.put(devices[slot % len(devices)] if devices else None)
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // jobs)))
    children = Children()

    def train(folder: Path) -> None:
        device = free.get()
        try:
            log = folder / "train.log" if jobs > 1 else None
            command = fold_command(given, configs, folder, device, decoder)
            folder.mkdir(parents=True, exist_ok=True)
            if children.execute(command, log, environment) or not _is_trained(folder):
                where = f"see {log}" if log else "see above"
                raise InputError(f"{folder.name} could not be trained ({where})")
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
    """Return whether a training has reached its end: its one validation is there, which writes the weights."""
    return (folder / BEST).is_file()
