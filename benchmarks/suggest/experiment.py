"""One part of the experiment: label what a strategy suggests of a data set's training images, and train again.

In `RUNS/suggest_START_ADDED/SET/seed_K` are

- `sets/start`, `sets/STRATEGY`, data sets that differ in their list of training images alone: their images, masks and
  groups are links to the data set's own, as are the validation and test images;
- `runs/`, trainings and evaluations as `benchmarks.study` makes them;
- `pool`, copies of the training images that are not labelled yet;
- `results`, `results_calibrated`, the folders of `icmoe suggest`, and `suggestions_STRATEGY.json`.

The strategy predicted_dice needs a calibration, which `icmoe calibrate` fits on the validation split: it is given those
labels, too, which the others are not.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.study.collect import GROUP
from benchmarks.study.file import REFERENCE, Run, Study
from benchmarks.study.plan import Place, environment_of, state_of
from benchmarks.study.run import Execute, RunFailedError, last_line, make_run
from benchmarks.study.subsets import link_set
from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.splits import shuffle_key
from icmoe_monai.suggestion.drafts import DRAFTS
from icmoe_monai.suggestion.suggestion import DISAGREEMENT, PREDICTED_DICE, RANDOM, SUGGEST, VALUES
from icmoe_monai.utils.files import read_csv

BEGIN = "start"
ORDER = ((RANDOM, SUGGEST), (DISAGREEMENT,), (PREDICTED_DICE,))  # what is to be known first, over all sets and seeds
STRATEGIES = [name for names in ORDER for name in names]


class Part(NamedTuple):
    """Hold a data set, a seed, and the images that are labelled at the start and added.

    Attributes:
        study: The study's file.
        data: The data set's folder.
        seed: Seed of the labelled images, of training and of what is drawn at random.
        start: Number of images that are labelled at the start.
        added: Number that each strategy adds.
        home: Folder of the part.
    """

    study: Study
    data: Path
    seed: int
    start: int
    added: int
    home: Path

    @property
    def own_study(self) -> Study:
        """The study of the part's own data sets, one for the start and one for each strategy."""
        settings = self.study.datasets[self.data.name]
        return self.study._replace(seeds=[self.seed], datasets=dict.fromkeys((BEGIN, *STRATEGIES), settings))

    @property
    def place(self) -> Place:
        """Where the part's runs are made, each with one thread."""
        return Place(self.home / "sets", self.home / "runs", None, len(os.sched_getaffinity(0)))

    def run(self, name: str) -> Run:
        """Return the run of the start or of a strategy."""
        return Run(REFERENCE, name, self.seed)

    def is_finished(self, name: str) -> bool:
        """Tell whether that run has its results."""
        return state_of(self.own_study, self.run(name), self.place, None) == "finished"

    def folder(self, name: str) -> Path:
        """Return that run's folder."""
        return self.place.folder(self.own_study, self.run(name))


def make(part: Part, strategy: str, execute: Execute) -> None:
    """Train from the start, choose by a strategy, and train again; what is done already is kept.

    Args:
        part: The part.
        strategy: A name that `icmoe suggest --by` knows.
        execute: Runs a command.

    Raises:
        RunFailedError: If a command fails.
    """
    splits = {
        split: [case["name"] for case in cases] for split, cases in find_cases(str(part.data), check=False).items()
    }
    order = sorted(splits["train"], key=lambda name: shuffle_key(name, part.seed))
    labelled, unlabelled = order[: part.start], order[part.start :]
    _make_set(part, BEGIN, splits, labelled)
    _train(part, BEGIN, execute)
    if not (part.home / "sets" / strategy / "splits.json").is_file():
        _make_set(part, strategy, splits, labelled + _suggested(part, strategy, unlabelled, execute))
    _train(part, strategy, execute)


def dice_of(part: Part, name: str) -> dict[str, float]:
    """Return the Dice score of every test image by its name, of a run that is finished."""
    return {row["case"]: float(row["dsc"]) for row in _voted(part, name)}


def groups_of(part: Part, name: str) -> dict[str, str]:
    """Return the group of every test image by its name, of a run that is finished; nothing where none is known."""
    return {row["case"]: row[GROUP] for row in _voted(part, name) if GROUP in row}


def _voted(part: Part, name: str) -> list[dict[str, str]]:
    rows = read_csv(part.folder(name) / "evaluation" / "cases.csv")
    return [row for row in rows if row["method"] == "voted"]


def _train(part: Part, name: str, execute: Execute) -> None:
    if not part.is_finished(name):
        make_run(part.own_study, part.run(name), part.place, None, execute)


def _make_set(part: Part, name: str, splits: dict[str, list[str]], train: Sequence[str]) -> None:
    link_set(part.data, part.home / "sets" / name, {**splits, "train": train})


def _suggested(part: Part, strategy: str, unlabelled: Sequence[str], execute: Execute) -> list[str]:
    """Return the names that `icmoe suggest` chooses of the pool."""
    found = part.home / f"suggestions_{strategy}.json"
    if not found.is_file():
        pool = _make_pool(part, unlabelled)
        checkpoint = part.folder(BEGIN) / "best.pt"
        icmoe = [sys.executable, "-m", "icmoe_monai"]
        results = part.home / ("results_calibrated" if strategy == PREDICTED_DICE else "results")
        if strategy == PREDICTED_DICE:
            own = [*icmoe, "calibrate", str(part.home / "sets" / BEGIN), "--checkpoint", str(checkpoint)]
            _do(part, own, execute, part.home / "calibrate.log")
        calibration = [] if strategy == PREDICTED_DICE else ["--calibration", "none"]
        command = [
            *icmoe, "suggest", str(pool), "--output", str(results), "--checkpoint", str(checkpoint), "--labelled",
            str(part.home / "sets" / BEGIN), "--number", str(part.added), "--by", strategy, "--seed", str(part.seed),
            "--num_workers", "0", *calibration,
        ]  # fmt: skip
        shutil.rmtree(results / DRAFTS, ignore_errors=True)  # of another strategy; nobody corrects them
        _do(part, command, execute, part.home / "suggest.log")
        shutil.copyfile(results / VALUES, found)
    return [Path(image["name"]).stem for image in json.loads(found.read_text())["images"]]


def _make_pool(part: Part, names: Sequence[str]) -> Path:
    """Copy the images, for a pool's links must not lead out of it."""
    pool = part.home / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    files = {path.stem: path for path in (part.data / "images").iterdir()}
    for name in names:
        target = pool / files[name].name
        if not target.exists():
            shutil.copy2(files[name], target)
    return pool


def _do(part: Part, command: list[str], execute: Execute, log: Path) -> None:
    if execute(command, log, environment_of(part.own_study, part.place)):
        raise RunFailedError(last_line(log) or f"{command[3]} has failed, and nothing is in its log")
