"""Plan of a study's run: its folder, the settings that it depends on, its commands and their overlay."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.study.file import Run, Study, settings_of
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_atomically


class Place(NamedTuple):
    """Hold the folders, the encoder's weights and the number of processes with which a study's runs are made.

    Attributes:
        data_dir: The folder of the data sets.
        runs_dir: The folder of the studies' runs.
        trunk: File of the encoder's weights, or a name of official ones; None: those that the configs name, or any, if
            runs are only collected.
        jobs: Number of runs at the same time.
        commit: The code's commit, for a copy without git.
    """

    data_dir: Path
    runs_dir: Path
    trunk: str | None
    jobs: int
    commit: str | None = None

    def folder(self, study: Study, run: Run) -> Path:
        """Return a run's folder."""
        return self.runs_dir / study.name / run.folder

    def cache(self, study: Study) -> Path:
        """Return the folder of cached images that all runs of a study share."""
        return self.runs_dir / study.name / "cache"

    @property
    def threads(self) -> int:
        """Return the number of threads of one process."""
        return max(1, len(os.sched_getaffinity(0)) // self.jobs)


def check_place(place: Place) -> None:
    """Check the data folder, the trunk and the number of jobs.

    Raises:
        InputError: If the folder or the trunk's file is missing, or `jobs` is below 1.
    """
    if not place.data_dir.is_dir():
        raise InputError(f"There is no folder {place.data_dir}: set --data_dir to the folder of the data sets.")
    if place.trunk is not None and os.sep in place.trunk and not Path(place.trunk).is_file():
        raise InputError(f"There are no weights at {place.trunk}: set --trunk to a file, or a name of official ones.")
    if place.jobs < 1:
        raise InputError(f"jobs must be at least 1, got {place.jobs}.")


def identity_of(study: Study, run: Run, place: Place, learning_rate: float | None) -> dict[str, Any]:
    """Return everything that a run's results depend on, except the code and the images."""
    settings = settings_of(study, run)
    takes_trunk = settings["row"].get("pretrained", True) is not None
    return {
        "row": run.row,
        "dataset": run.dataset,
        "seed": run.seed,
        "learning_rate": learning_rate,
        "trunk": describe_file(place.trunk) if takes_trunk else None,
        "settings": settings,
    }


def state_of(study: Study, run: Run, place: Place, learning_rate: float | None) -> str:
    """Return a run's state under its present settings: "finished", "half" (there is a `last.pt`) or "new"."""
    folder = place.folder(study, run)
    if not is_of(folder, identity_of(study, run, place, learning_rate)):
        return "new"
    if (folder / "run.json").is_file():
        return "finished"
    return "half" if (folder / "last.pt").is_file() else "new"


def is_of(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether the run in a folder was begun with the settings of an `identity_of`."""
    started = folder / "started.json"
    return started.is_file() and json.loads(started.read_text()) == identity


def describe_file(source: str | None) -> str | None:
    """Return a file's name and the beginning of its SHA-256; for official weights, only the name."""
    if source is None or not Path(source).is_file():
        return source
    return _describe(source, os.stat(source).st_mtime_ns)


def commands_of(study: Study, run: Run, place: Place, learning_rate: float | None) -> dict[str, list[str]]:
    """Return the commands of a run, run in the repository: "training" and, unless it is a trial, "evaluating"."""
    folder = place.folder(study, run)
    files = configs_of(study, run, place)
    common = ["--dataset_dir", str(place.data_dir / run.dataset), "--seed", str(run.seed)]
    rate = [] if learning_rate is None else ["--learning_rate", str(learning_rate)]
    commands = {"training": [*_command("training", files), *common, *rate, "--output_dir", str(folder)]}
    if run.trial is None:
        weights = ["--checkpoint", str(folder / "best.pt"), "--output_dir", str(folder / "evaluation")]
        choice = ["--split", "test", "--num_pictures", "0"]
        commands["evaluating"] = [
            *_command("evaluating", [*files, "configs/evaluate.json"]), *common, *weights, *choice,
        ]  # fmt: skip
    return commands


def configs_of(study: Study, run: Run, place: Place) -> list[str]:
    """Return the configs of a run's training, later ones to be laid over earlier ones; ours by their path in `ROOT`."""
    files = ("configs/train.json", study.base, str(place.folder(study, run) / "settings.yaml"), study.rows[run.row])
    return [file for file in files if file]


def write_settings(study: Study, run: Run, place: Place) -> None:
    """Write a run's overlay: settings of the study and the data set, with a cache of images on disk for all runs."""
    settings: dict[str, Any] = {"num_workers": 0} | study.settings | study.datasets[run.dataset]
    if place.trunk is not None:
        settings["pretrained"] = place.trunk
    settings["cases#check"] = False  # `check_sets` has checked the data set
    for part, split, with_meta in (("train", "train", False), ("validate", "val", True)):
        settings[f"{part}#dataset"] = {
            "_target_": "PersistentDataset",
            "data": f"$@cases['{split}']",
            "transform": f"@{part}#preprocessing",
            "cache_dir": str(place.cache(study) / f"{run.dataset}_{settings.get('image_size', 'default')}" / split),
            "hash_transform": "$monai.data.utils.pickle_hashing",  # another preprocessing gets other cache files
            "track_meta": with_meta,  # needed to bring a prediction to the label's size
            "weights_only": not with_meta,
        }
    text = "# Written by benchmarks.study; comes before the row's own overlay.\n"
    text += yaml.safe_dump(settings, sort_keys=False)
    path = place.folder(study, run) / "settings.yaml"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def environment_of(study: Study, place: Place) -> dict[str, str]:
    """Return the environment of a run's processes: their number of threads, and the folder of temporary files."""
    temporary = place.cache(study) / "tmp"  # on the cache's disk, so that MONAI moves files into the cache atomically
    temporary.mkdir(parents=True, exist_ok=True)
    threads = {name: str(place.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **threads, "TMPDIR": str(temporary)}


def quoted(command: list[str]) -> str:
    """Return a command as it is typed into a shell."""
    return " ".join(f'"{word}"' if "'" in word or " " in word else word for word in command)


def portable(command: list[str], place: Place) -> str:
    """Return a command as text, with this machine's paths replaced by python, DATA and RUNS."""
    text = quoted(command)
    names = {sys.executable: "python", str(place.data_dir): "DATA", str(place.runs_dir): "RUNS"}
    for path, name in names.items():
        text = text.replace(path, name)
    return text


def _command(entry: str, files: list[str]) -> list[str]:
    named = ",".join(f"'{file}'" for file in files)
    return [sys.executable, "-m", "monai.bundle", "run", entry, "--config_file", f"[{named}]"]


@lru_cache
def _describe(source: str, changed: int) -> str:
    return f"{Path(source).name} {hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12]}"
