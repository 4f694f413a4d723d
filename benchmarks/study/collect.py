"""Collect a study's finished runs into the files that are committed: `runs.csv`, `DATASET_dice.csv`, `study.json`.

`runs.csv` has a line for each run, `DATASET_dice.csv` a line for each test image and a column for each run and method:
for every row `ROW/seed_K/voted`, for the row icmoe also `mean_vote`, each expert and `oracle`; and one for the image's
group, such as its patient, where the data set has groups. Data sets, rows, seeds are in the study's order, whatever the
order in which they were run. Runs that the files already hold, made on another machine, are kept as long as the study
still asks for them; `study.json` records the study as it was collected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.study.file import REFERENCE, Run, Study, settings_of, trials_of
from benchmarks.study.plan import Place, identity_of
from icmoe_monai.networks.icmoe import EXPERTS
from icmoe_monai.utils.files import read_csv, write_csv, write_json

GROUP = "group"  # of a test image, such as its patient; a column where the data set tells it
METHODS = ("voted", "mean_vote", *EXPERTS, "oracle")
_SCORES = {"dice": "dsc", "iou": "iou", "hd95_detected": "hd95_detected", "hd95_penalised": "hd95_penalised"}
_NUMBERS = (
    "commit", "trunk", "learning_rate", "steps", "epochs", "best_val_dice", "parameters", "trainable_parameters",
    "step_seconds", "peak_mb", "peak_gpu_mb", "inference_seconds",
)  # fmt: skip
_VOTES = (
    "disagreement", "hard_disagreement", "vote_entropy", *(f"load_{name}" for name in EXPERTS),
    *(f"mean_vote_{name}" for name in EXPERTS),
)  # fmt: skip


class Finished(NamedTuple):
    """Hold a finished run and the content of its `run.json`, `summary.json` and `cases.csv`."""

    run: Run
    content: dict[str, Any]
    summary: dict[str, Any]
    cases: list[dict[str, str]]


def collect(study: Study, place: Place, results: Path) -> int:
    """Write the files from all runs that are finished with the study's present settings; return the number of runs.

    A run that is not finished here keeps its lines in the files, if they were made with the study's present settings.
    """
    rates = tuned_rates(results / "tuning.csv")
    found = {run: finished for run in _in_order(study) if (finished := _read(study, run, place, rates)) is not None}
    kept = {run: line for run, line in _lines_before(study, place, results, rates).items() if run not in found}
    lines = [_line(found[run]) if run in found else kept[run] for run in _in_order(study) if run in {**found, **kept}]
    if lines:
        write_csv(results / "runs.csv", lines)
    for dataset in study.datasets:
        path = results / f"{dataset}_dice.csv"
        before = _columns_of(path, [run for run in kept if run.dataset == dataset])
        table = _dice_of_cases([finished for run, finished in found.items() if run.dataset == dataset], before)
        if table:
            write_csv(path, _ordered(table, study))
    tuning = study.tuning and study.tuning._asdict()
    write_json(results / "study.json", study._asdict() | {"tuning": tuning, "overlays": _overlays_of(study)})
    return len(lines)


def write_tuning(study: Study, place: Place, results: Path) -> None:
    """Write `tuning.csv`: the best validation Dice of every finished trial, and the best trial of each complete row."""
    keys = ("row", "dataset", "seed", "learning_rate", "best_val_dice", "steps", "commit", "trunk")
    contents = [_content(study, run, place, {}) for run in trials_of(study)]
    lines: list[dict[str, Any]] = [{key: content[key] for key in keys} for content in contents if content]
    for line in lines:
        others = [other["best_val_dice"] for other in lines if other["row"] == line["row"]]
        is_complete = study.tuning is not None and len(others) == len(study.tuning.learning_rates)
        line["chosen"] = "yes" if is_complete and line["best_val_dice"] == max(others) else ""
    if lines:
        write_csv(results / "tuning.csv", lines)


def tuned_rates(path: Path) -> dict[str, float]:
    """Return the chosen learning rate of every row in a `tuning.csv`; empty if there is no file."""
    if not path.is_file():
        return {}
    return {line["row"]: float(line["learning_rate"]) for line in reversed(read_csv(path)) if line["chosen"]}


def rate_of(run: Run, rates: Mapping[str, float]) -> float | None:
    """Return a run's learning rate: a trial's own, else the tuned one of its row, else None for the config's.

    A row that was not tuned takes the rate of the row icmoe, so that an ablation differs from it in one thing only.
    """
    if run.trial is not None:
        return run.trial
    return rates.get(run.row, rates.get(REFERENCE))


def _in_order(study: Study) -> list[Run]:
    return [Run(row, dataset, seed) for dataset in study.datasets for row in study.rows for seed in study.seeds]


def _content(study: Study, run: Run, place: Place, rates: Mapping[str, float]) -> dict[str, Any] | None:
    """Return a run's `run.json`; None if it is not finished, or is of other settings or another trunk.

    Where no trunk is named, as it need not be for collecting, every trunk is accepted.
    """
    folder = place.folder(study, run)
    if not (folder / "run.json").is_file():
        return None
    started = json.loads((folder / "started.json").read_text())
    identity = identity_of(study, run, place, rate_of(run, rates))
    if place.trunk is None:
        identity["trunk"] = started["trunk"]
    return json.loads((folder / "run.json").read_text()) if started == identity else None


def _read(study: Study, run: Run, place: Place, rates: Mapping[str, float]) -> Finished | None:
    content = _content(study, run, place, rates)
    if content is None:
        return None
    folder = place.folder(study, run) / "evaluation"
    return Finished(run, content, json.loads((folder / "summary.json").read_text()), read_csv(folder / "cases.csv"))


def _line(finished: Finished) -> dict[str, Any]:
    run, content, summary = finished.run, finished.content, finished.summary
    line: dict[str, Any] = {"dataset": run.dataset, "row": run.row, "seed": run.seed}
    line |= {name: content[name] for name in _NUMBERS}
    for method in METHODS:
        scores = summary["methods"].get(method, {})
        for name, key in _SCORES.items():
            line[f"{method}_{name}"] = scores[key]["mean"] if scores else None
    line["test_cases"] = summary["num_cases"]
    line["voting_gain"] = summary["voting_gain"]["mean"]
    line |= {name: summary["votes"].get(name) for name in _VOTES}
    line |= content["hardware"] | {f"version_{name}": value for name, value in content["versions"].items()}
    return line | {f"command_{name}": command for name, command in content["commands"].items()}


def _lines_before(study: Study, place: Place, results: Path, rates: Mapping[str, float]) -> dict[Run, dict[str, Any]]:
    """Return the lines of `runs.csv` that were made elsewhere, with the study's present settings."""
    if not (results / "runs.csv").is_file() or not (results / "study.json").is_file():
        return {}
    before = json.loads((results / "study.json").read_text())
    asked, overlays = set(_in_order(study)), _overlays_of(study)
    overlays_before = before.get("overlays", overlays)  # older files hold only the overlays' names

    def is_asked(run: Run, line: Mapping[str, str]) -> bool:
        return (
            run in asked
            and before["settings"] == study.settings
            and before.get("base") == study.base
            and before["datasets"].get(run.dataset) == study.datasets[run.dataset]
            and before["rows"].get(run.row) == study.rows[run.row]
            and overlays_before.get(run.row) == overlays[run.row]
            and not (place.folder(study, run) / "started.json").is_file()  # else this machine's own run counts
            and _is_of_rate(line, rate_of(run, rates))
            and (place.trunk is None or line["trunk"] == (identity_of(study, run, place, None)["trunk"] or ""))
        )

    lines = {Run(line["row"], line["dataset"], int(line["seed"])): line for line in read_csv(results / "runs.csv")}
    return {run: dict(line) for run, line in lines.items() if is_asked(run, line)}


def _overlays_of(study: Study) -> dict[str, Any]:
    """Return the content of every row's overlay."""
    dataset, seed = next(iter(study.datasets)), study.seeds[0]
    return {row: settings_of(study, Run(row, dataset, seed))["row"] for row in study.rows}


def _is_of_rate(line: Mapping[str, str], rate: float | None) -> bool:
    """Return whether a line's run had this learning rate; None stands for the config's own."""
    if rate is None:
        return "--learning_rate" not in line["command_training"]
    return float(line["learning_rate"]) == rate


def _columns_of(path: Path, runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Return the Dice of every case in a file, for the given runs only."""
    prefixes = tuple(f"{run.row}/seed_{run.seed}/" for run in runs)
    if not prefixes or not path.is_file():
        return {}
    return {
        line["case"]: {
            name: value for name, value in line.items() if name in ("case", GROUP) or name.startswith(prefixes)
        }
        for line in read_csv(path)
    }


def _ordered(table: Sequence[Mapping[str, str]], study: Study) -> list[dict[str, str]]:
    columns = [f"{row}/seed_{seed}/{method}" for row in study.rows for seed in study.seeds for method in METHODS]
    return [{name: line[name] for name in ("case", GROUP, *columns) if name in line} for line in table]


def _dice_of_cases(found: Sequence[Finished], before: Mapping[str, dict[str, str]]) -> list[dict[str, str]]:
    table = {name: dict(line) for name, line in before.items()}
    for finished in found:
        methods = METHODS if finished.run.row == REFERENCE else ("voted",)
        for case in finished.cases:
            if case["method"] in methods and case.get("class", "mean") == "mean":
                column = f"{finished.run.row}/seed_{finished.run.seed}/{case['method']}"
                line = table.setdefault(case["case"], {"case": case["case"]})
                line |= {GROUP: case[GROUP]} if GROUP in case else {}
                line[column] = f"{float(case['dsc']):.4f}"
    return [table[name] for name in sorted(table)]
