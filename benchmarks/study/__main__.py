"""Run a study: every row on every data set with every seed. It resumes where it stopped, and collects results.

    python -m benchmarks.study configs/studies/mixture.yaml --data_dir DATA --tune
    python -m benchmarks.study configs/studies/mixture.yaml --data_dir DATA --jobs 2
    python -m benchmarks.study.tables

A run is a training and an evaluation by a user's commands, each in its own process (`run`). Called again, the study
skips runs that are finished with the same settings, resumes half-trained ones, and repeats failed ones. After every run
all finished runs are collected into `docs/results/NAME` (`collect`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.command import names_in, sigterm_as_ctrl_c, tell
from benchmarks.study.collect import collect, rate_of, tuned_rates, write_tuning
from benchmarks.study.file import ROOT, Run, Study, read_study, runs_of, trials_of
from benchmarks.study.plan import Place, check_place, commands_of, quoted, state_of
from benchmarks.study.run import Execute, make_run
from icmoe_monai.data.cases import find_cases
from icmoe_monai.errors import InputError
from icmoe_monai.utils.children import Children, run_side_by_side

SHIPPED_TRUNK = ROOT / "models" / "sam_vit_t_medical.safetensors"


def run_all(
    study: Study,
    runs: Sequence[Run],
    place: Place,
    rates: Mapping[str, float],
    execute: Execute,
    finished: Callable[[], object],
    stop: Callable[[], object],
) -> dict[Run, str]:
    """Make all runs that are not finished yet, `place.jobs` at a time.

    Args:
        study: The study.
        runs: Runs of the study, in order.
        place: Folders and settings of the runs.
        rates: Learning rate of each row that has its own.
        execute: Runs a command.
        finished: Called after every run that this call has finished.
        stop: Ends the running commands, after Ctrl-C.

    Returns:
        The runs that failed, each with the last line of its log.
    """
    pending = [run for run in runs if state_of(study, run, place, rate_of(run, rates)) != "finished"]
    tell(f"{len(runs)} runs, {len(runs) - len(pending)} of them finished before")
    num_done = 0

    def told(run: Run, error: BaseException | None) -> None:
        nonlocal num_done
        num_done += 1
        tell(f"{num_done}/{len(pending)} {_name(run)}: {error or 'done'}")
        if error is None:
            finished()

    def work(run: Run) -> None:
        make_run(study, run, place, rate_of(run, rates), execute)

    failed = run_side_by_side(pending, work, jobs=place.jobs, told=told, stop=stop)
    return {run: str(error) or type(error).__name__ for run, error in failed.items()}


def check_sets(study: Study, runs: Sequence[Run], place: Place, rates: Mapping[str, float]) -> None:
    """Check every image of the data sets that unfinished runs need, once for all runs."""
    needed = {run.dataset for run in runs if state_of(study, run, place, rate_of(run, rates)) != "finished"}
    for name in sorted(needed):
        settings = study.settings | study.datasets[name]
        folder = str(place.data_dir / name)
        find_cases(folder, out_channels=settings.get("out_channels", 1), needed=("train", "val", "test"))


def _check_tuned(study: Study, runs: Sequence[Run], rates: Mapping[str, float]) -> None:
    """Raise if only some of the rows to tune have a tuned learning rate, since this would favour them."""
    listed = study.tuning.rows if study.tuning is not None and rates else []
    untuned = list(dict.fromkeys(run.row for run in runs if run.row in listed and run.row not in rates))
    if untuned:
        raise InputError(
            f"tuning.csv has no learning rate of {', '.join(untuned)} yet: run --tune first, or remove it."
        )


def main(arguments: list[str] | None = None, execute: Execute | None = None) -> int:
    """Run or tune a study, collect its runs or list its commands; return the exit status."""
    options = _parser().parse_args(arguments)
    study = read_study(options.study)
    trunk = options.trunk
    if trunk is None and not options.collect_only and study.base:
        trunk = study.settings.get("pretrained") or str(SHIPPED_TRUNK)
    trunk = str(Path(trunk).resolve()) if trunk and os.path.exists(trunk) else trunk
    place = Place(options.data_dir.resolve(), options.runs_dir.resolve(), trunk, options.jobs, options.commit)
    results = options.results_dir / study.name
    if options.collect_only:
        tell(f"collected {collect(study, place, results)} runs into {results}")
        return 0
    check_place(place)
    rates = {} if options.tune else tuned_rates(results / "tuning.csv")
    rows = names_in(options.rows)
    runs = (
        trials_of(study, rows)
        if options.tune
        else runs_of(study, rows, names_in(options.datasets), [int(seed) for seed in names_in(options.seeds) or []])
    )
    _check_tuned(study, runs, rates)
    if options.dry_run:
        return _tell_plan(study, runs, place, rates)
    check_sets(study, runs, place, rates)
    children = Children()
    execute = execute or partial(children.execute, folder=ROOT)
    finish = (lambda: write_tuning(study, place, results)) if options.tune else (lambda: collect(study, place, results))
    try:
        with sigterm_as_ctrl_c():
            failed = run_all(study, runs, place, rates, execute, finish, children.stop)
    except KeyboardInterrupt:
        tell("Stopped; called again, the study goes on from here.")
        return 130
    finish()
    for run, line in failed.items():
        tell(f"FAILED {_name(run)}: {line} ({place.folder(study, run)})")
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="file of configs/studies")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--trunk", help="the encoder's weights, if the study has one: a file or a name; else models/'s")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each with its share of the cores")
    parser.add_argument("--rows", help="only these, with commas")
    parser.add_argument("--datasets", help="only these, with commas")
    parser.add_argument("--seeds", help="only these, with commas")
    parser.add_argument("--runs_dir", type=Path, default=ROOT / "runs" / "studies")
    parser.add_argument("--results_dir", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--commit", help="the code's commit, where there is no git to ask")
    parser.add_argument("--tune", action="store_true", help="try the learning rates on the validation split")
    parser.add_argument("--collect_only", action="store_true", help="collect the finished runs, and run nothing")
    parser.add_argument("--dry_run", action="store_true", help="tell the commands, and run nothing")
    return parser


def _tell_plan(study: Study, runs: Sequence[Run], place: Place, rates: Mapping[str, float]) -> int:
    for run in runs:
        rate = rate_of(run, rates)
        tell(f"{_name(run)}: {state_of(study, run, place, rate)}, learning rate {rate or 'of the config'}")
        for command in commands_of(study, run, place, rate).values():
            tell("    " + quoted(command))
    return 0


def _name(run: Run) -> str:
    trial = "" if run.trial is None else f" learning rate {run.trial:g}"
    return f"{run.dataset} {run.row} seed {run.seed}{trial}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"{error}")
