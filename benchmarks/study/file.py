"""Definition of a study: rows (overlays of `configs/train.json`), data sets and seeds, read from a YAML file.

    base: configs/backbones/vit_t.yaml  # optional: an overlay of train.json under all rows
    seeds: [0, 1, 2]
    datasets:            # folder below --data_dir -> settings that only this set has
      busi: {}
    settings:            # of all runs
      max_epochs: 4
    rows:                # name -> overlay of train.json, or null for IC-MoE as it is
      icmoe: null
      unet: configs/baselines/unet.yaml
    tuning:              # optional
      dataset: busi
      seed: 0
      learning_rates: [0.003, 0.001]
      rows: [icmoe, unet]  # optional: the others take row icmoe's learning rate
    once: [ensemble]  # optional: rows that are made of all seeds' runs of another row; only the first seed is run

If a setting is given in several places, a row's overrides a data set's, a data set's overrides the study's, and the
study's overrides the base's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from icmoe_monai.errors import InputError

ROOT = Path(__file__).parents[2]
REFERENCE = "icmoe"  # the row that others are compared with
_KEYS = ("seeds", "datasets", "settings", "rows")
_OPTIONAL = ("base", "tuning", "once")


class Tuning(NamedTuple):
    """Hold the learning rates that are tried, the data set and seed to try them on, and the rows to tune."""

    dataset: str
    seed: int
    learning_rates: list[float]
    rows: list[str]


class Study(NamedTuple):
    """Hold a study as its file describes it; `rows` and `base` name overlays by their path in the repository."""

    name: str
    seeds: list[int]
    datasets: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    rows: dict[str, str | None]
    tuning: Tuning | None
    base: str | None = None
    once: Sequence[str] = ()


class Run(NamedTuple):
    """Hold one training: its row, data set and seed, and in a tuning the learning rate that it tries, `trial`."""

    row: str
    dataset: str
    seed: int
    trial: float | None = None

    @property
    def folder(self) -> Path:
        """Return the run's folder, relative to the study's."""
        if self.trial is None:
            return Path(self.dataset, self.row, f"seed_{self.seed}")
        return Path("tuning", self.row, f"learning_rate_{self.trial:g}")


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Args:
        path: The file; its stem is the study's name.

    Raises:
        InputError: If something is missing, unknown or of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no study at {path}: name a file of configs/studies.")
    content = yaml.safe_load(path.read_text())
    missing = [key for key in _KEYS if not (isinstance(content, dict) and content.get(key))]
    unknown = [key for key in content if key not in (*_KEYS, *_OPTIONAL)] if isinstance(content, dict) else []
    if missing or unknown:
        raise InputError(
            f"{path} must hold {', '.join(_KEYS)} and may hold {', '.join(_OPTIONAL)}; wrong: {missing + unknown}."
        )
    rows = dict(content["rows"])
    for overlay in (content.get("base"), *rows.values()):
        if overlay is not None and not (ROOT / overlay).is_file():
            raise InputError(f"{path} names an overlay that is not there: {overlay}.")
    datasets = {name: dict(settings or {}) for name, settings in content["datasets"].items()}
    study = Study(
        path.stem, list(content["seeds"]), datasets, dict(content["settings"]), rows, None, content.get("base"),
        list(content.get("once", [])),
    )  # fmt: skip
    _check_names(study.once, rows, "row")
    if content.get("tuning"):
        tuning = Tuning(**{"rows": list(rows), **content["tuning"]})
        _check_names(tuning.rows, rows, "row")
        _check_names([tuning.dataset], datasets, "data set")
        study = study._replace(tuning=tuning)
    return study


def select(study: Study, kind: str, names: Sequence[str] | None) -> list[Any]:
    """Return the study's rows, datasets or seeds (`kind`), all or those in `names`, in the study's order."""
    known = list(getattr(study, kind))
    _check_names(names or [], known, kind.removesuffix("s"))
    return [name for name in known if not names or name in names]


def runs_of(
    study: Study,
    rows: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """List the study's runs in the order in which they are made: seed by seed, and row by row for each seed.

    An interrupted study then has complete seeds, and for the last seed the first rows on all data sets.
    """
    chosen = [select(study, *pair) for pair in (("seeds", seeds), ("rows", rows), ("datasets", datasets))]
    return [
        Run(row, dataset, seed)
        for seed in chosen[0]
        for row in chosen[1]
        if row not in study.once or seed == study.seeds[0]
        for dataset in chosen[2]
    ]


def trials_of(study: Study, rows: Sequence[str] | None = None) -> list[Run]:
    """List the trials of the study's tuning."""
    if study.tuning is None:
        raise InputError(f"Study {study.name} has no tuning: add it to its file.")
    tuning = study.tuning
    return [
        Run(row, tuning.dataset, tuning.seed, rate)
        for row in select(study, "rows", rows)
        if row in tuning.rows
        for rate in tuning.learning_rates
    ]


def settings_of(study: Study, run: Run) -> dict[str, Any]:
    """Return the settings that identify a run besides its seed, by which a finished run is recognised.

    Overlays are given by their content, since the files may change.
    """
    settings = {"study": study.settings | study.datasets[run.dataset], "row": _content_of(study.rows[run.row])}
    if study.base:
        settings["base"] = _content_of(study.base)
    return json.loads(json.dumps(settings))


def _content_of(overlay: str | None) -> dict[str, Any]:
    return yaml.safe_load((ROOT / overlay).read_text()) if overlay else {}


def _check_names(names: Iterator[Any] | Sequence[Any], known: Any, what: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"{what} must be one of {', '.join(map(str, known))}, got {name}.")
