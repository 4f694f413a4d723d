"""Is the plan better than the defaults, and the ensemble of five folds better than one training?

    python -m benchmarks.study.folds --data_dir D --sets busi glas --seeds 2 1 --runs_dir RUNS --results_dir OUT

For each set, and for as many seeds as are said of it, it gives a user's commands: `icmoe plan`, three trainings of as
many steps (`icmoe train` by the defaults, by the plan, and by the plan with `--folds 5`), and `icmoe evaluate` on the
test images. Further options are settings of the trainings (`--max_epochs 3`). `--results_dir` then has

- `cases.csv`, the Dice of every test image and seed;
- `folds.json`, means, their differences with 95 % intervals (images, each with its mean over the seeds, or whole groups
  of them, drawn with replacement; pooled: each set counts alike), and of each seed what the plan chose and the figures
  of the ensemble's calibration on the test images.

Called again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.command import sigterm_as_ctrl_c, tell
from benchmarks.cost.measure import hardware
from benchmarks.document import in_brackets, table
from benchmarks.study.collect import GROUP
from benchmarks.study.run import RunFailedError, commit_of_code, last_line
from benchmarks.study.tables import interval, pooled_interval
from icmoe_monai.commands.out_of_fold import read_dice
from icmoe_monai.utils.engines import versions
from icmoe_monai.utils.files import read_csv, write_csv, write_json
from icmoe_monai.utils.statistics import rounded

TRAININGS = DEFAULT, PLAN, FOLDS = ("default", "plan", "folds")
PAIRS = ((PLAN, DEFAULT), (FOLDS, PLAN), (FOLDS, DEFAULT))
_NOT_OF_FOLDS = ("val_interval", "patience")  # what `--folds` decides by itself
_SEED = "seed_"
_PREDICTED = ("spearman", "spearman_interval", "mean_absolute_error")
_PLANNED = ("image_size", "longest_side", "decoder", "augmentation")


class Scores(NamedTuple):
    """Hold the Dice of the test images.

    Attributes:
        dice: For each set and training the Dice of every image, (N,), its mean over the seeds.
        groups: For each set the group of every image, or None.
        lines: The lines of `cases.csv`.
    """

    dice: dict[str, dict[str, np.ndarray]]
    groups: dict[str, list[str] | None]
    lines: list[dict[str, Any]]


def commands_of(data: Path, home: Path, settings: Mapping[str, Any], num_folds: int) -> list[tuple[Path, list[str]]]:
    """Return what is done for a set: each command, and the file that it writes last.

    Args:
        data: Folder of the set.
        home: Folder of what is written, of a set and seed.
        settings: Settings of all trainings.
        num_folds: Number of folds.
    """
    plan = str(home / "plan" / "plan.yaml")
    folds = {name: value for name, value in settings.items() if name not in _NOT_OF_FOLDS}
    commands = [(Path(plan), ["plan", str(data), str(home / "plan"), "--no_timing", *_words(settings)])]
    for name in TRAININGS:
        run = home / name
        words = [] if name == DEFAULT else ["--config", plan]
        words += ["--folds", str(num_folds)] if name == FOLDS else []
        words += _words(folds if name == FOLDS else settings)
        checkpoint = run / ("ensemble.pt" if name == FOLDS else "best.pt")
        # `icmoe train` ends with what tells that it has ended: `folds.json`, or the log of this benchmark
        last = run / "folds.json" if name == FOLDS else run / "trained"
        commands.append((last, ["train", str(data), str(run), *words]))
        evaluate = ["evaluate", str(data), str(run / "evaluation"), "--checkpoint", str(checkpoint)]
        commands.append((run / "evaluation" / "summary.json", [*evaluate, "--num_pictures", "0"]))
    return commands


def homes_of(runs_dir: Path, sets: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Path]]:
    """Return for each set the folders of its seeds.

    Args:
        runs_dir: Folder of all runs.
        sets: Names of the sets.
        seeds: The number of seeds of each set, or one number for all.

    Raises:
        ValueError: If there are neither one nor as many numbers as sets.
    """
    numbers = list(seeds) * len(sets) if len(seeds) == 1 else seeds
    return {
        name: [runs_dir / name / f"{_SEED}{seed}" for seed in range(number)]
        for name, number in zip(sets, numbers, strict=True)
    }


def run_set(data: Path, home: Path, settings: Mapping[str, Any], num_folds: int) -> None:
    """Give the commands of a set and seed that have not been done yet.

    Raises:
        RunFailedError: If a command fails; the message is the last line of its log.
    """
    home.mkdir(parents=True, exist_ok=True)
    for number, (last, words) in enumerate(commands_of(data, home, settings, num_folds)):
        if last.is_file():
            continue
        tell(f"{data.name}, {home.name}: icmoe {words[0]} {Path(words[2]).relative_to(home)}")
        goes_on = words[0] == "train" and (Path(words[2]) / "last.pt").is_file()
        again = ["--checkpoint", str(Path(words[2]) / "last.pt")] if goes_on else []
        log = home / f"{number}_{words[0]}.log"
        with open(log, "w", encoding="utf-8") as file:
            command = [sys.executable, "-m", "icmoe_monai", *words, *again]
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if status:
            raise RunFailedError(f"{log}: {last_line(log)}")
        if last.name == "trained":
            last.touch()


def read_scores(homes: Mapping[str, Sequence[Path]]) -> Scores:
    """Read the Dice of all test images, of all seeds of all sets.

    Args:
        homes: For each set, the folders of its seeds.
    """
    dice, groups, lines = {}, {}, []
    for name, seeds in homes.items():
        of_set = [_lines_of(name, home) for home in seeds]
        of_seeds = {training: [[line[training] for line in of_seed] for of_seed in of_set] for training in TRAININGS}
        dice[name] = {training: np.mean(values, axis=0) for training, values in of_seeds.items()}
        known = [line[GROUP] for line in of_set[0]]
        groups[name] = known if all(known) else None
        lines += [line for of_seed in of_set for line in of_seed]
    return Scores(dice, groups, lines)


def _lines_of(name: str, home: Path) -> list[dict[str, Any]]:
    found = {training: read_dice(home / training / "evaluation") for training in TRAININGS}
    group_of = {line["case"]: line.get(GROUP, "") for line in read_csv(home / PLAN / "evaluation" / "cases.csv")}
    return [
        {"set": name, "seed": _seed_of(home), "case": case, GROUP: group_of[case]}
        | {training: rounded(found[training][case]) for training in TRAININGS}
        for case in sorted(group_of)
    ]


def compare(scores: Scores) -> dict[str, Any]:
    """Return the means and differences of the trainings, by set and pooled."""
    found: dict[str, Any] = {"sets": {}, "pooled": {}}
    for name, dice in scores.dice.items():
        found["sets"][name] = {"num_test": len(dice[PLAN]), "dice": {of: rounded(dice[of].mean()) for of in TRAININGS}}
        for first, second in PAIRS:
            ends = interval(lambda a, b: a - b, dice[first], dice[second], groups=scores.groups[name])
            found["sets"][name][f"{first}_minus_{second}"] = _difference([dice[first] - dice[second]], ends)
    for first, second in PAIRS:
        differences = [dice[first] - dice[second] for dice in scores.dice.values()]
        ends = pooled_interval(differences, list(scores.groups.values()))
        found["pooled"][f"{first}_minus_{second}"] = _difference(differences, ends)
    return found


def describe(home: Path) -> dict[str, Any]:
    """Return what a plan changes, and the figures of the ensemble's calibration on the test images."""
    planned = yaml.safe_load((home / "plan" / "plan.yaml").read_text(encoding="utf-8"))
    reliability = json.loads((home / FOLDS / "evaluation" / "reliability.json").read_text(encoding="utf-8"))
    out_of_fold = json.loads((home / FOLDS / "folds.json").read_text(encoding="utf-8"))
    predicted = reliability["predicted_dice"] or {}
    return {
        "seed": _seed_of(home),
        "plan": {name: value for name, value in planned.items() if name.split("#")[0] in _PLANNED},
        "out_of_fold": out_of_fold,
        "calibration_error": reliability["calibration_error"],
        "predicted_dice": {name: predicted.get(name) for name in _PREDICTED},
    }


def table_of(found: Mapping[str, Any]) -> str:
    """Return the table of docs/results.md, of the content of `folds.json`."""
    rows = []
    for name, of_set in found["sets"].items():
        dice = [f"{of_set['dice'][training]:.3f}" for training in TRAININGS]
        errors = [of_seed["calibration_error"].get("after") for of_seed in of_set["seeds"]]
        correlations = [of_seed["predicted_dice"]["spearman"] for of_seed in of_set["seeds"]]
        calibration = [", ".join(_shown(error, ".3f") for error in errors)]
        calibration += [", ".join(_shown(correlation, ".2f") for correlation in correlations)]
        numbers = [str(of_set["num_test"]), str(len(of_set["seeds"]))]
        rows.append([name, *numbers, *dice, *map(_with_interval, _differences(of_set)), *calibration])
    rows.append(["pooled", "", "", "", "", "", *map(_with_interval, _differences(found["pooled"])), "", ""])
    heads = [f"{first} minus {second} (95 %)" for first, second in PAIRS]
    of_seeds = ["calibration error", "Spearman of predicted Dice"]
    return table(["set", "test images", "seeds", *TRAININGS, *heads, *of_seeds], rows)


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing, and write the results; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="number of seeds: of each set, or of all")
    parser.add_argument("--runs_dir", type=Path, required=True)
    parser.add_argument("--results_dir", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    options, further = parser.parse_known_args(arguments)
    settings = {name.removeprefix("--"): value for name, value in zip(further[::2], further[1::2], strict=True)}
    if "seed" in settings:
        parser.error("--seed is decided by --seeds: leave it out.")
    homes = homes_of(options.runs_dir, options.sets, options.seeds)
    with sigterm_as_ctrl_c():
        for name, seeds in homes.items():
            for home in seeds:
                of_seed = settings | {"seed": str(_seed_of(home))}
                run_set(options.data_dir / name, home, of_seed, options.folds)
    scores = read_scores(homes)
    found = compare(scores)
    for name, seeds in homes.items():
        found["sets"][name]["seeds"] = [describe(home) for home in seeds]
    write_csv(options.results_dir / "cases.csv", scores.lines)
    head = {"settings": settings, "folds": options.folds, "commit": commit_of_code()}
    write_json(options.results_dir / "folds.json", head | found | {"hardware": hardware("cpu"), "versions": versions()})
    print(table_of(found))  # noqa: T201
    return 0


def _seed_of(home: Path) -> int:
    return int(home.name.removeprefix(_SEED))


def _words(settings: Mapping[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def _differences(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [found[f"{first}_minus_{second}"] for first, second in PAIRS]


def _with_interval(difference: Mapping[str, Any]) -> str:
    return f"{difference['mean']:+.4f} {in_brackets(difference['interval'], '+.4f')}"


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _difference(differences: Sequence[np.ndarray], ends: Sequence[float] | None) -> dict[str, Any]:
    mean = float(np.mean([each.mean() for each in differences]))
    return {"mean": rounded(mean), "interval": None if ends is None else [rounded(end) for end in ends]}


if __name__ == "__main__":
    sys.exit(main())
