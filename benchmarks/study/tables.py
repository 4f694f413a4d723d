"""Write the tables of docs/results.md, from the files of `benchmarks.study.collect` alone.

    python -m benchmarks.study.tables          # write the tables
    python -m benchmarks.study.tables --check  # exit status 1 if docs/results.md is not what would be written

A study's tables stand between `<!-- study NAME: begin -->` and `<!-- study NAME: end -->`; a study without these marks
is put at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.document import between_marks, in_brackets, table, why_no_interval
from benchmarks.study.collect import GROUP, METHODS
from benchmarks.study.file import REFERENCE, ROOT
from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import EXPERTS
from icmoe_monai.utils.files import read_csv, write_atomically
from icmoe_monai.utils.statistics import bootstrap_interval, count_groups, grouped_interval

NUM_BOOTSTRAP = 5000
_ROW_HEADS = (
    "row", "Dice", "std over seeds", f"minus {REFERENCE} (95 %)", "seeds", "learning rate", "trained (M)", "step (ms)",
    "peak (MB)", "inference (ms)",
)  # fmt: skip
_EXPERT_HEADS = (
    "data set", *(method.replace("_", " ") for method in METHODS), "load " + " / ".join(EXPERTS),
    "voted minus best expert (95 %)", "voted minus mean vote (95 %)", "seeds",
)  # fmt: skip
_POOLED_HEADS = ("beside", f"{REFERENCE} voted, minus it (95 %)", "data sets", "seeds")


class Results(NamedTuple):
    """Hold the content of one study's files.

    Attributes:
        study: `study.json`.
        runs: The lines of `runs.csv`.
        dice: For each data set the Dice of every test image, (N,), by (row, seed, method).
        groups: For each data set the group (patient) of every test image, or None where groups are not known.
    """

    study: dict[str, Any]
    runs: list[dict[str, str]]
    dice: dict[str, dict[tuple[str, int, str], np.ndarray]]
    groups: dict[str, list[str] | None]


def read_results(folder: Path) -> Results:
    """Read the files of one study.

    Raises:
        InputError: If a test image lacks the Dice of a run.
    """
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    runs = read_csv(folder / "runs.csv") if (folder / "runs.csv").is_file() else []
    dice, groups = {}, {}
    for dataset in study["datasets"]:
        path = folder / f"{dataset}_dice.csv"
        lines = read_csv(path) if path.is_file() else []
        columns = [name for name in lines[0] if name not in ("case", GROUP)] if lines else []
        empty = [name for name in columns if any(line[name] == "" for line in lines)]
        if empty:
            raise InputError(
                f"{path} lacks values of {empty[0]}: its seeds have other test images; give a splits.json."
            )
        dice[dataset] = {_column(name): np.array([float(line[name]) for line in lines]) for name in columns}
        groups[dataset] = [line[GROUP] for line in lines] if lines and all(line.get(GROUP) for line in lines) else None
    return Results(study, runs, dice, groups)


def tables_of(results: Results) -> str:
    """Return a study's tables as Markdown."""
    parts = [_caption(results)]
    for dataset in results.study["datasets"]:
        columns = results.dice[dataset]
        if columns:
            parts.append(f"### {dataset}, {_images(results, dataset)}\n\n" + table(_ROW_HEADS, _rows(results, dataset)))
    experts = [line for dataset in results.study["datasets"] if (line := _experts(results, dataset))]
    if experts:
        parts.append(f"### The experts of {REFERENCE}\n\n" + table(_EXPERT_HEADS, experts))
    pooled = _pooled(results)
    if pooled:
        text = (
            "Means over the data sets, each of which counts alike; images, or groups of them, are drawn with "
            "replacement within each."
        )
        parts.append(f"### All data sets\n\n{text}\n\n{table(_POOLED_HEADS, pooled)}")
    return "\n\n".join(parts)


def mean_over_seeds(
    columns: Mapping[tuple[str, int, str], np.ndarray], row: str, method: str, seeds: Iterable[int]
) -> np.ndarray:
    """Return the Dice of every image, as the mean over seeds, (N,)."""
    return np.mean([columns[row, seed, method] for seed in seeds], axis=0)


def seeds_of(columns: Mapping[tuple[str, int, str], np.ndarray], row: str) -> list[int]:
    """Return the seeds for which a row is finished."""
    return [seed for name, seed, method in columns if name == row and method == "voted"]


def interval(
    statistic: Callable[..., Any], *columns: np.ndarray, groups: Sequence[str] | None = None
) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of a statistic of columns' means.

    A sample draws the same images from all columns, or where groups are known, the same groups.

    Args:
        statistic: Maps the columns' means in every sample to the statistic's value in that sample.
        columns: Dice of every image, (N,) each.
        groups: The group of every image, or None.

    Returns:
        The lower and the upper end, or None for a single image or group.
    """
    num_groups = count_groups(groups or ())
    if groups is not None and num_groups and 2 <= num_groups < len(groups):
        low, high = grouped_interval(statistic, *columns, num_samples=NUM_BOOTSTRAP, groups=groups)
        return low, high

    def of_columns(*drawn: np.ndarray, axis: int = 0) -> Any:
        return statistic(*(column.mean(axis=axis) for column in drawn))

    ends = bootstrap_interval(of_columns, *columns, num_samples=NUM_BOOTSTRAP, groups=groups)
    return None if ends is None else (ends[0], ends[1])


def pooled_interval(
    differences: Sequence[np.ndarray], groups: Sequence[Sequence[str] | None] | None = None
) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean over data sets of each set's mean over images.

    Args:
        differences: For each data set a value of every image, (N,).
        groups: For each data set the group of every image, whole ones of which are drawn, or None.

    Returns:
        The lower and the upper end, or None if a set has a single image or group: it would seem to be certain.
    """
    rng = np.random.default_rng(0)
    sets = list(zip(differences, groups or [None] * len(differences), strict=True))
    if any(len(each if known is None else set(known)) < 2 for each, known in sets):
        return None
    means = [_drawn_means(each, known, rng) for each, known in sets]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(low), float(high)


def document(text: str, all_results: Sequence[Results]) -> str:
    """Return the text of a document with the tables of all studies replaced, or added at its end."""
    for results in all_results:
        name = results.study["name"]
        begin, end = f"<!-- study {name}: begin -->", f"<!-- study {name}: end -->"
        if begin not in text or end not in text:
            text = f"{text.rstrip()}\n\n## Study {name}\n\n{begin}\n{end}\n"
        text = between_marks(text, f"study {name}", f"\n{tables_of(results)}\n\n")
    return text


def results_in(folder: Path) -> list[Results]:
    """Read all studies in a folder that have a finished run."""
    found = [read_results(path.parent) for path in sorted(folder.glob("*/study.json"))]
    return [results for results in found if results.runs]


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, or with `--check` compare them; return the exit status, 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of results.md and results/")
    options = parser.parse_args(arguments)
    path = options.docs / "results.md"
    text = path.read_text(encoding="utf-8")
    new = document(text, results_in(options.docs / "results"))
    if options.check:
        return int(new != text)
    if new != text:
        write_atomically(path, lambda temporary: temporary.write_text(new, encoding="utf-8"))
    return 0


def _drawn_means(values: np.ndarray, groups: Sequence[str] | None, rng: np.random.Generator) -> np.ndarray:
    """Return the mean over images in every bootstrap sample of one data set, (NUM_BOOTSTRAP,)."""
    group_of_image = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(group_of_image, weights=values), np.bincount(group_of_image)
    drawn = rng.integers(0, len(sums), (NUM_BOOTSTRAP, len(sums)))
    means: np.ndarray = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _images(results: Results, dataset: str) -> str:
    num_images = len(next(iter(results.dice[dataset].values())))
    num_groups = count_groups(results.groups[dataset] or ())
    return f"{num_images} test images" + (f" of {num_groups} groups" if num_groups else "")


def _rows(results: Results, dataset: str) -> list[list[str]]:
    columns = results.dice[dataset]
    lines = []
    for row in results.study["rows"]:
        seeds = seeds_of(columns, row)
        if not seeds:
            continue
        means = [columns[row, seed, "voted"].mean() for seed in seeds]
        ours_of, shared = _compared(results, dataset, row)
        difference = "-"
        if shared and row != REFERENCE:
            ours = mean_over_seeds(columns, REFERENCE, "voted", ours_of)
            others = mean_over_seeds(columns, row, "voted", shared)
            difference = _with_interval(lambda other, our: other - our, others, ours, groups=results.groups[dataset])
        spread = f"{np.std(means, ddof=1):.3f}" if len(means) > 1 else "-"
        runs = [run for run in results.runs if (run["dataset"], run["row"]) == (dataset, row)]
        lines.append([row, f"{np.mean(means):.3f}", spread, difference, str(len(seeds)), *_costs(runs)])
    return lines


def _compared(results: Results, dataset: str, row: str) -> tuple[list[int], list[int]]:
    """Return the seeds of the reference and of a row that are compared: those that both have, or all beside one."""
    columns = results.dice[dataset]
    ours, others = seeds_of(columns, REFERENCE), seeds_of(columns, row)
    if row in results.study.get("once", []):
        return (ours, others) if ours else ([], [])
    shared = [seed for seed in others if seed in ours]
    return shared, shared


def _costs(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a row's learning rates, and the medians of trained parameters, step, peak and inference over its runs."""
    peaks = [run["peak_gpu_mb"] or run["peak_mb"] for run in runs]
    rates = sorted({float(run["learning_rate"]) for run in runs})
    return [
        ", ".join(f"{rate:g}" for rate in rates),
        _median((run["trainable_parameters"] for run in runs), 1e-6, 2),
        _median((run["step_seconds"] for run in runs), 1e3, 0),
        _median(peaks, 1, 0),
        _median((run["inference_seconds"] for run in runs), 1e3, 0),
    ]


def _experts(results: Results, dataset: str) -> list[str]:
    columns = results.dice[dataset]
    seeds = seeds_of(columns, REFERENCE)
    if not seeds:
        return []
    dice = {method: mean_over_seeds(columns, REFERENCE, method, seeds) for method in METHODS}
    runs = [run for run in results.runs if (run["dataset"], run["row"]) == (dataset, REFERENCE)]
    loads = [statistics.mean(float(run[f"load_{name}"]) for run in runs) for name in EXPERTS]
    experts, groups = [dice[name] for name in EXPERTS], results.groups[dataset]
    return [
        dataset,
        *(f"{column.mean():.3f}" for column in dice.values()),
        " / ".join(f"{load:.2f}" for load in loads),
        _with_interval(lambda voted, *others: voted - np.max(others, axis=0), dice["voted"], *experts, groups=groups),
        _with_interval(lambda voted, mean: voted - mean, dice["voted"], dice["mean_vote"], groups=groups),
        str(len(seeds)),
    ]


def _pooled(results: Results) -> list[list[str]]:
    """Return a line for every other row and every part of the reference, over the sets and seeds that both have."""
    rows = [(name, name, "voted") for name in results.study["rows"] if name != REFERENCE]
    parts = [(f"its {method.replace('_', ' ')}", REFERENCE, method) for method in METHODS
             if method not in ("voted", "oracle")]  # fmt: skip
    lines = []
    for name, row, method in [*rows, *parts]:
        differences, groups, seeds = [], [], set()
        for dataset, columns in results.dice.items():
            ours, shared = _compared(results, dataset, row)
            if shared:
                voted = mean_over_seeds(columns, REFERENCE, "voted", ours)
                differences.append(voted - mean_over_seeds(columns, row, method, shared))
                groups.append(results.groups[dataset])
                seeds.update(ours)
        if len(differences) > 1:
            ends = in_brackets(pooled_interval(differences, groups), "+.4f")
            mean = np.mean([each.mean() for each in differences])
            lines.append([name, f"{mean:+.4f} {ends}", str(len(differences)), str(len(seeds))])
    return lines


def _caption(results: Results) -> str:
    study, runs = results.study, results.runs
    num_once = len(study.get("once", []))
    num_planned = ((len(study["rows"]) - num_once) * len(study["seeds"]) + num_once) * len(study["datasets"])
    settings = ", ".join(f"{name} {value}" for name, value in study["settings"].items())
    own = [
        f"; {dataset}: " + ", ".join(f"{name} {value}" for name, value in settings_of_set.items())
        for dataset, settings_of_set in study["datasets"].items()
        if settings_of_set
    ]
    machines = _distinct(
        f"{run['gpu'] or run['cpu']}, {run['jobs']} at a time, {run['threads']} threads each" for run in runs
    )
    versions = _distinct(f"PyTorch {run['version_torch']}, MONAI {run['version_monai']}" for run in runs)
    why = why_no_interval([name for name, known in results.groups.items() if count_groups(known or ()) == 1])
    return "\n".join(
        [
            f"`configs/studies/{study['name']}.yaml`, {len(runs)} of {num_planned} runs finished. Settings: {settings}"
            f"{''.join(own)}. Trunk: {_distinct(run['trunk'] for run in runs if run['trunk']) or 'none'}. Commit: "
            f"{_distinct(run['commit'] for run in runs)}. Made on {machines}; {versions}.",
            "",
            "Dice: mean of the test images, then of the seeds. Intervals: images, or whole groups of them (patients) "
            "where these are known, drawn with replacement, each image with its mean over the seeds that both have; "
            "how far other seeds would lie apart they do not say. *Trained*: parameters with a gradient. *Step*, "
            "*inference*: of the median training step, and of the median image. *Peak*: memory of the training "
            "process, on a GPU what it had allocated there." + (f" {why}" if why else ""),
        ]
    )


def _with_interval(statistic: Callable[..., Any], *columns: np.ndarray, groups: Sequence[str] | None) -> str:
    ends = in_brackets(interval(statistic, *columns, groups=groups), "+.3f")
    return f"{float(statistic(*(column.mean() for column in columns))):+.3f} {ends}"


def _median(values: Iterable[str], factor: float, digits: int) -> str:
    numbers = [float(value) * factor for value in values if value]
    return f"{statistics.median(numbers):.{digits}f}" if numbers else "-"


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _column(name: str) -> tuple[str, int, str]:
    row, seed, method = name.split("/")
    return row, int(seed.removeprefix("seed_")), method


if __name__ == "__main__":
    sys.exit(main())
