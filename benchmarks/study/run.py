"""Make one run of a study: a user's plain commands, each in a process of its own, and then `run.json`.

A run's folder holds what the commands write (`best.pt`, `last.pt`, `metrics.csv`, `evaluation/`), and

- `settings.yaml`, the overlay that the commands are given: the study's and the data set's settings;
- `started.json`, the row, data set, seed and settings; a folder of other settings is moved to `seed_K.replaced`;
- `train.log`, `evaluate.log`, the output of the commands;
- `trained.json`, written when the training has ended;
- `run.json`, written last: its presence means that the run is finished.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.cost.measure import hardware
from benchmarks.study.file import ROOT, Run, Study, settings_of
from benchmarks.study.plan import (
    Place,
    commands_of,
    configs_of,
    environment_of,
    identity_of,
    is_of,
    portable,
    state_of,
    write_settings,
)
from icmoe_monai.utils.engines import versions
from icmoe_monai.utils.files import read_csv, write_json
from icmoe_monai.weights.tensor_files import read_checkpoint

# function that runs a command: the command, the file for its output, its environment -> exit status
Execute = Callable[[list[str], Path, Mapping[str, str]], int]


class RunFailedError(RuntimeError):
    """Signal that a command of a run has failed; the message is the last line of its log."""


def make_run(study: Study, run: Run, place: Place, learning_rate: float | None, execute: Execute) -> None:
    """Train and evaluate one run, from where an earlier attempt stopped.

    Raises:
        RunFailedError: If one of the commands fails.
    """
    folder = place.folder(study, run)
    identity = identity_of(study, run, place, learning_rate)
    is_half = state_of(study, run, place, learning_rate) == "half"
    if not is_of(folder, identity):
        _move_aside(folder)
    write_json(folder / "started.json", identity)
    write_settings(study, run, place)
    commands = commands_of(study, run, place, learning_rate)
    environment = environment_of(study, place)
    commit = place.commit or commit_of_code()
    if not (folder / "trained.json").is_file():
        if not (is_half and _is_trained(folder, study, run)):
            goes_on = is_half and _can_go_on(folder)
            begin = ["--checkpoint", str(folder / "last.pt")] if goes_on else ["--overwrite", "True"]
            _do([*commands["training"], *begin], folder / "train.log", environment, execute)
        write_json(folder / "trained.json", {"commit": commit})
    if "evaluating" in commands:
        _do(commands["evaluating"], folder / "evaluate.log", environment, execute)
    content = identity | json.loads((folder / "trained.json").read_text())
    content |= _of_training(folder / "metrics.csv") | _of_network(study, run, place)
    if learning_rate is not None:
        content["learning_rate"] = learning_rate
    content["commands"] = {name: portable(command, place) for name, command in commands.items()}
    content["inference_seconds"] = _inference_seconds(folder / "evaluation" / "timing.json")
    content["hardware"] = machine(study, place)
    content["versions"] = versions() | {"python": platform.python_version()}
    write_json(folder / "run.json", content)


def machine(study: Study, place: Place) -> dict[str, Any]:
    """Describe the machine on which the runs are made."""
    device = str(study.settings.get("device", "cuda" if torch.cuda.is_available() else "cpu"))
    found = hardware(device)
    cores = len(os.sched_getaffinity(0))
    return {"cpu": found["cpu"], "gpu": found["gpu"], "cores": cores, "threads": place.threads, "jobs": place.jobs}


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank; of a progress bar, its last state."""
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines() if log.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else ""


def _move_aside(folder: Path) -> None:
    """Move the folder of a run with other settings aside; of several such folders only the last is kept."""
    if folder.is_dir():
        replaced = folder.with_name(folder.name + ".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)


def _do(command: list[str], log: Path, environment: Mapping[str, str], execute: Execute) -> None:
    status = execute(command, log, environment)
    if status:
        raise RunFailedError(last_line(log) or f"exit status {status} of {command[4]}, and nothing in its log")


def _is_trained(folder: Path, study: Study, run: Run) -> bool:
    """Return whether a training has ended and its last epoch has been validated."""
    settings = settings_of(study, run)
    max_epochs = {"max_epochs": None, **settings["study"], **settings["row"]}["max_epochs"]
    return max_epochs is not None and _epochs_in(folder / "metrics.csv") == max_epochs


def _can_go_on(folder: Path) -> bool:
    """Return whether a training can be resumed: not if it stopped between its last step and that step's validation."""
    trainer = read_checkpoint(folder / "last.pt")["trainer"]
    return trainer["iteration"] < trainer["max_epochs"] * trainer["epoch_length"]


def _epochs_in(metrics: Path) -> int:
    return int(read_csv(metrics)[-1]["epoch"]) if metrics.is_file() else 0


def _of_training(metrics: Path) -> dict[str, Any]:
    rows = read_csv(metrics)
    columns = {
        name: [float(row[name]) for row in rows if row.get(name)]
        for name in ("step_seconds", "peak_mb", "peak_gpu_mb", "val_mean_dice")
    }
    return {
        "steps": int(rows[-1]["iteration"]),
        "epochs": int(rows[-1]["epoch"]),
        "step_seconds": round(statistics.median(columns["step_seconds"]), 5),
        "peak_mb": max(columns["peak_mb"], default=None),
        "peak_gpu_mb": max(columns["peak_gpu_mb"], default=None),
        "best_val_dice": max(columns["val_mean_dice"]),
    }


def _of_network(study: Study, run: Run, place: Place) -> dict[str, Any]:
    """Return the learning rate and the numbers of parameters, as the run's configs give them."""
    files = [str(ROOT / file) for file in configs_of(study, run, place)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    weights = list(parser.get_parsed_content("network_def").parameters())
    return {
        "learning_rate": parser["learning_rate"],
        "parameters": sum(weight.numel() for weight in weights),
        "trainable_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def _inference_seconds(path: Path) -> float | None:
    return json.loads(path.read_text())["inference_seconds"] if path.is_file() else None


def commit_of_code() -> str:
    """Return the code's commit, with "-dirty" if the code has changes; changes in docs/ do not count."""
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--", "icmoe_monai", "configs", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit[:10] + ("-dirty" if changes else "")


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return found.stdout.strip()
