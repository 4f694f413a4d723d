"""Run the experiment: do the images that `icmoe suggest` adds bring more than as many at random?

    python -m benchmarks.suggest --data_dir DATA
    python -m benchmarks.suggest.table

For each data set and seed some training images are labelled at the start, the others are the pool. A network is
trained on them, each strategy adds images of the pool, and another network is trained on all of these from the
beginning. Test images judge. All by a user's commands, each in its own process of one thread. Called again, the
experiment goes on where it was stopped. After every run the results are collected into `docs/results/suggest_SET.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.command import names_in, sigterm_as_ctrl_c, tell
from benchmarks.study.file import ROOT, Study, read_study, select
from benchmarks.study.run import Execute
from benchmarks.suggest.experiment import BEGIN, ORDER, STRATEGIES, Part, dice_of, groups_of, make
from icmoe_monai.errors import InputError
from icmoe_monai.utils.children import Children, run_side_by_side
from icmoe_monai.utils.files import write_json

Task = tuple[str, int, str]  # data set, seed, strategy


def main(arguments: list[str] | None = None, execute: Execute | None = None) -> int:
    """Run the experiment; return the exit status, 1 if a part of it has failed."""
    options = _parser().parse_args(arguments)
    study = read_study(options.study)
    children = Children()
    execute = execute or partial(children.execute, folder=ROOT)
    tasks = list(_tasks(study, options))

    def told(task: Task, error: BaseException | None) -> None:
        dataset, seed, strategy = task
        tell(f"{dataset} seed {seed} {strategy}: {error or 'done'}")
        collect(study, options)

    def work(task: Task) -> None:
        dataset, seed, strategy = task
        make(_part(study, options, dataset, seed), strategy, execute)

    try:
        with sigterm_as_ctrl_c():
            failed = run_side_by_side(tasks, work, jobs=1, told=told, stop=children.stop)
    except KeyboardInterrupt:
        tell("Stopped; called again, the experiment goes on from here.")
        return 130
    return int(bool(failed))


def collect(study: Study, options: argparse.Namespace) -> None:
    """Write the results of all finished runs, of all seeds and strategies, whatever this call was to run.

    Args:
        study: The experiment's study.
        options: The command's options.
    """
    for dataset, settings in study.datasets.items():
        dice: dict[str, dict[str, list[float]]] = {}
        names: list[str] = []
        groups: dict[str, str] = {}
        for seed in study.seeds:
            part = _part(study, options, dataset, seed)
            for strategy in (BEGIN, *STRATEGIES):
                if part.is_finished(strategy):
                    found = dice_of(part, strategy)
                    names = names or sorted(found)
                    groups = groups or groups_of(part, strategy)
                    dice.setdefault(strategy, {})[str(seed)] = [round(found[name], 6) for name in names]
        if dice:
            content = {
                "dataset": dataset,
                "num_start": options.start,
                "num_added": options.added,
                "settings": study.settings | settings,
                "cases": names,
                "groups": [groups[name] for name in names] if groups else None,
                "dice": dice,
            }
            write_json(options.results_dir / f"suggest_{dataset}.json", content)


def _tasks(study: Study, options: argparse.Namespace) -> Iterator[Task]:
    wanted = names_in(options.strategies) or STRATEGIES
    unknown = [name for name in wanted if name not in STRATEGIES]
    if unknown:
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}, got {unknown[0]}.")
    seeds = select(study, "seeds", [int(seed) for seed in names_in(options.seeds) or []])
    for group in ORDER:
        for seed in seeds:
            for dataset in select(study, "datasets", names_in(options.datasets)):
                for strategy in group:
                    if strategy in wanted:
                        yield dataset, seed, strategy


def _part(study: Study, options: argparse.Namespace, dataset: str, seed: int) -> Part:
    home = options.runs_dir.resolve() / f"{study.name}_{options.start}_{options.added}" / dataset / f"seed_{seed}"
    return Part(study, options.data_dir.resolve() / dataset, seed, options.start, options.added, home)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--study", type=Path, default=Path(__file__).parent / "suggest.yaml", help="the settings")
    parser.add_argument("--start", type=int, default=32, help="images that are labelled at the start")
    parser.add_argument("--added", type=int, default=32, help="images that each strategy adds")
    parser.add_argument("--strategies", help="only these, with commas")
    parser.add_argument("--datasets", help="only these, with commas")
    parser.add_argument("--seeds", help="only these, with commas")
    parser.add_argument("--runs_dir", type=Path, default=ROOT / "runs")
    parser.add_argument("--results_dir", type=Path, default=ROOT / "docs" / "results")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"{error}")
