"""The ensemble of a cross-validation, judged and calibrated on images that its networks have not seen.

Each image is segmented by the network of the fold that it was kept out of. These masks give the scores, decide whether
flipped views are worth their time, and calibrate the ensemble.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icmoe_monai.commands.workflow import build_workflow
from icmoe_monai.data.splits import OUT_OF_FOLD
from icmoe_monai.utils.files import read_csv, write_json
from icmoe_monai.utils.schema import read_json
from icmoe_monai.utils.statistics import bootstrap_interval, rounded
from icmoe_monai.weights.folds import join_folds

ENSEMBLE, REPORT = "ensemble.pt", "folds.json"
_FOLDERS = {"none": "out_of_fold", "flips": "out_of_fold_flips"}


def make_ensemble(
    root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], output: Path, folders: Sequence[Path]
) -> None:
    """Join the networks of all folds, score and calibrate them, and write the report.

    Args:
        root: Folder of the bundle.
        configs: The configs that the folds were trained with, beside the command's own.
        overrides: Settings by name, as the folds were trained with them.
        output: Folder of the results.
        folders: The folds' folders, from the first to the last.

    Raises:
        InputError: If the folds do not fit together, or the data cannot be used.
    """
    file = output / ENSEMBLE
    own = dict(overrides) | {"folds": len(folders), "demo_dir": str(output / "demo"), "output_dir": str(output)}
    checkpoints = [folder / "best.pt" for folder in folders]
    data = _workflow(root, configs, own | {"checkpoint": str(checkpoints[0])}, ["evaluate.json"]).parser
    training_set, cases = data.get_parsed_content("training_set"), data.get_parsed_content("cases")[OUT_OF_FOLD]
    join_folds(checkpoints, file, training_set=training_set, settings={"tta": "none"})
    given = own | {"checkpoint": str(file), "calibration": "none"}
    scores = {}
    for tta, name in _FOLDERS.items():
        _run(root, configs, given | {"tta": tta, "output_dir": str(output / name)}, ["evaluate.json"])
        scores[tta] = _dice(output / name)
    chosen = _chosen(scores)
    if chosen != "none":
        join_folds(checkpoints, file, training_set=training_set, settings={"tta": chosen})
    _run(root, configs, own | {"checkpoint": str(file)}, ["evaluate.json", "calibrate.yaml"])
    seconds = {tta: _seconds(output / name) for tta, name in _FOLDERS.items()}
    report = _report({case["name"]: case["fold"] for case in cases}, scores, seconds, chosen)
    write_json(output / REPORT, report)
    _tell(report, output)


def _workflow(root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], own: Sequence[str]) -> Any:
    """Build an evaluation or a calibration, each image by the network that has not seen it."""
    names = [root / "configs" / name for name in ("train.json", *own)]
    files = [*names, *configs, root / "configs" / "out_of_fold.yaml"]
    return build_workflow(root, files, overrides, workflow_type="train")


def _run(root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], own: Sequence[str]) -> None:
    flow = _workflow(root, configs, overrides, own)
    flow.run()
    flow.finalize()


def _dice(folder: Path) -> dict[str, float]:
    """Return the Dice score of every case's voted mask, of several classes the mean, by the case's name."""
    rows = read_csv(folder / "cases.csv")
    return {
        row["case"]: float(row["dsc"])
        for row in rows
        if row["method"] == "voted" and row.get("class") in (None, "mean")
    }


def _seconds(folder: Path) -> float | None:
    path = folder / "timing.json"
    return read_json(path.read_bytes(), str(path))["inference_seconds"] if path.is_file() else None


def _chosen(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return which views to use: more than one only where the whole interval of the difference is above 0."""
    gain = _difference(scores)
    return "flips" if gain["interval"] is not None and gain["interval"][0] > 0 else "none"


def _difference(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return _told(np.array([scores["flips"][case] - scores["none"][case] for case in scores["none"]]))


def _told(values: np.ndarray) -> dict[str, Any]:
    ends = bootstrap_interval(np.mean, values)
    interval = None if ends is None else [rounded(end) for end in ends]
    return {"images": len(values), "mean": rounded(values.mean()), "interval": interval}


def _report(
    fold_of: Mapping[str, int],
    scores: Mapping[str, Mapping[str, float]],
    seconds: Mapping[str, float | None],
    chosen: str,
) -> dict[str, Any]:
    dice = scores[chosen]
    numbers = sorted(set(fold_of.values()))
    by_fold = {number: np.array([dice[case] for case in dice if fold_of[case] == number]) for number in numbers}
    views = {tta: _told(np.array(list(of.values()))) | {"seconds": seconds[tta]} for tta, of in scores.items()}
    return {
        "dice": _told(np.array(list(dice.values()))),
        "folds": {str(number): _told(of) for number, of in by_fold.items()},
        "tta": {"chosen": chosen, **views, "flips_minus_none": _difference(scores)},
    }


def _tell(report: Mapping[str, Any], output: Path) -> None:
    logger = logging.getLogger(__name__)
    for name, found in (*((f"fold {n}", of) for n, of in report["folds"].items()), ("all folds", report["dice"])):
        ends = "" if found["interval"] is None else " (95 % interval {:.3f} to {:.3f})".format(*found["interval"])
        logger.info("%s: Dice of %d unseen images %.3f%s", name, found["images"], found["mean"], ends)
    logger.info("Views at test time: %s.", report["tta"]["chosen"])
    file = output / ENSEMBLE
    logger.info("The ensemble: %s. Next: icmoe predict IMAGES OUT --checkpoint %s", file, file)
