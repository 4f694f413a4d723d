"""The ensemble of a cross-validation, judged and calibrated on images that its networks have not seen.

Each image is segmented by the network of the fold that it was kept out of. These masks give the scores, decide whether
flipped views are worth their time, and calibrate the ensemble.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icmoe_monai.commands.workflow import build_workflow
from icmoe_monai.data.splits import OUT_OF_FOLD, Case, checksum
from icmoe_monai.errors import InputError
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.training.folder import BEST, LAST
from icmoe_monai.utils.files import read_csv, write_json
from icmoe_monai.utils.schema import read_json
from icmoe_monai.utils.statistics import bootstrap_interval, rounded
from icmoe_monai.weights.checkpoint import read_recipe
from icmoe_monai.weights.folds import join_folds
from icmoe_monai.weights.recipe import EARLIER, Recipe

ENSEMBLE, REPORT = "ensemble.pt", "folds.json"
_FOLDERS = {"none": "out_of_fold", "flips": "out_of_fold_flips"}


class FoldedSet(NamedTuple):
    """Hold a set that is dealt into folds.

    Attributes:
        identity: What identifies the images of all folds.
        cases: These, each with its `fold`.
        decoder: Size of the experts' decoders, that of the networks that are trained already, else as the set chooses.
    """

    identity: dict[str, Any]
    cases: list[Case]
    decoder: str


def find_set(root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], folders: Sequence[Path]) -> FoldedSet:
    """Deal the set into folds, and check that no network that is trained, or begun, has seen its own fold.

    Args:
        root: Folder of the bundle.
        configs: The configs that the folds are trained with, beside the command's own.
        overrides: Settings by name, as the folds are trained with them, and `folds`.
        folders: The folds' folders, from the first to the last; of one without weights nothing is checked.

    Raises:
        InputError: If the data or a setting cannot be used, or the set has changed since a fold was begun.
    """
    parser = _workflow(root, configs, overrides, ["evaluate.json"]).parser
    cases = parser.get_parsed_content("cases")[OUT_OF_FOLD]
    FoldEnsemble([parser.get_parsed_content("network_def")])  # refuses a network of which no ensemble can be made
    decoder = parser.get_parsed_content("decoder")
    for number, folder in enumerate(folders, start=1):
        file = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
        if file is None:
            continue
        recipe = read_recipe(file)[0] or {}
        known = recipe.get("training_set") or {}
        if known.get("sha256") != checksum(case["name"] for case in cases if case["fold"] != number):
            raise InputError(
                f"{folder.name} was not trained on what the set's other folds hold now, so that it may have seen its "
                "own: the images, masks or groups have changed since. Give the set as it was, another folder, or "
                "--overwrite True."
            )
        decoder = Recipe(recipe, earlier=EARLIER).setting("decoder", decoder)
    return FoldedSet(parser.get_parsed_content("training_set"), cases, decoder)


def make_ensemble(
    root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], output: Path, folders: Sequence[Path]
) -> None:
    """Join the networks of all folds, score and calibrate them, and write the report.

    Args:
        root: Folder of the bundle.
        configs: As of `find_set`.
        overrides: As of `find_set`.
        output: Folder of the results.
        folders: The folds' folders, from the first to the last.

    Raises:
        InputError: If the folds do not fit together, the data cannot be used, or the ensemble, which is there then,
            cannot be calibrated.
    """
    file = output / ENSEMBLE
    training_set, cases, _ = find_set(root, configs, overrides, folders)
    checkpoints = [folder / BEST for folder in folders]
    join_folds(checkpoints, file, training_set=training_set, settings={"tta": "none"})
    given = {**overrides} | {"checkpoint": str(file), "calibration": "none"}
    scores = {}
    for tta, name in _FOLDERS.items():
        _run(root, configs, given | {"tta": tta, "output_dir": str(output / name)}, ["evaluate.json"])
        scores[tta] = read_dice(output / name)
    scored = _Scores(scores, {case["name"]: case for case in cases})
    chosen = scored.chosen_views()
    if chosen != "none":
        join_folds(checkpoints, file, training_set=training_set, settings={"tta": chosen})
    report = scored.report(chosen, {tta: _seconds(output / name) for tta, name in _FOLDERS.items()})
    write_json(output / REPORT, report)  # before the calibration, which few images may not allow
    _tell(report, output)
    try:
        _run(root, configs, {**overrides, "checkpoint": str(file)}, ["evaluate.json", "calibrate.yaml"])
    except InputError as error:
        alone = ["icmoe", "calibrate", str(overrides["dataset_dir"]), "--checkpoint", str(file)]
        raise InputError(
            f"{file} is made and can be used, and has no calibration: {error} The command for it alone: "
            f"{shlex.join([*alone, '--config', 'out_of_fold'])}"
        ) from error


def read_dice(folder: Path) -> dict[str, float]:
    """Return the Dice score of every case's voted mask, of several classes the mean, by the case's name.

    Args:
        folder: The folder of an evaluation.
    """
    rows = read_csv(folder / "cases.csv")
    return {
        row["case"]: float(row["dsc"])
        for row in rows
        if row["method"] == "voted" and row.get("class") in (None, "mean")
    }


def _workflow(root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], own: Sequence[str]) -> Any:
    """Build an evaluation or a calibration, each image by the network that has not seen it."""
    names = [root / "configs" / name for name in ("train.json", *own)]
    files = [*names, *configs, root / "configs" / "out_of_fold.yaml"]
    return build_workflow(root, files, overrides, workflow_type="train")


def _run(root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], own: Sequence[str]) -> None:
    flow = _workflow(root, configs, overrides, own)
    flow.run()
    flow.finalize()


def _seconds(folder: Path) -> float | None:
    path = folder / "timing.json"
    return read_json(path.read_bytes(), str(path))["inference_seconds"] if path.is_file() else None


class _Scores:
    """Hold the Dice score of every image by the network that has not seen it, with and without further views.

    Args:
        dice: By the views, the score by the case's name.
        cases: Each case, with its `fold` and perhaps its `group`, by its name.
    """

    def __init__(self, dice: Mapping[str, Mapping[str, float]], cases: Mapping[str, Mapping[str, Any]]) -> None:
        self.names = sorted(cases)
        self.groups = [cases[name].get("group") for name in self.names]
        self.folds = np.array([cases[name]["fold"] for name in self.names])
        self.dice = {tta: np.array([of[name] for name in self.names]) for tta, of in dice.items()}

    def chosen_views(self) -> str:
        """Return which views to use: further ones only where the whole interval of their gain is above 0."""
        gain = self._gain()["interval"]
        return "flips" if gain is not None and gain[0] > 0 else "none"

    def report(self, chosen: str, seconds: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the scores of all images and of each fold, and what the views gain and cost."""
        dice = self.dice[chosen]
        by_fold = {str(fold): self._told(dice, self.folds == fold) for fold in sorted(set(self.folds.tolist()))}
        views = {tta: self._told(of) | {"seconds": seconds[tta]} for tta, of in self.dice.items()}
        tta = {"chosen": chosen, **views, "flips_minus_none": self._gain()}
        return {"dice": self._told(dice), "folds": by_fold, "tta": tta}

    def _gain(self) -> dict[str, Any]:
        return self._told(self.dice["flips"] - self.dice["none"])

    def _told(self, values: np.ndarray, chosen: np.ndarray | None = None) -> dict[str, Any]:
        places = np.arange(len(values)) if chosen is None else np.flatnonzero(chosen)
        values, groups = values[places], [self.groups[place] for place in places]
        ends = bootstrap_interval(np.mean, values, groups=groups)
        interval = None if ends is None else [rounded(end) for end in ends]
        return {"images": len(values), "mean": rounded(values.mean()), "interval": interval}


def _tell(report: Mapping[str, Any], output: Path) -> None:
    logger = logging.getLogger(__name__)
    for name, found in (*((f"fold {n}", of) for n, of in report["folds"].items()), ("all folds", report["dice"])):
        ends = "" if found["interval"] is None else " (95 % interval {:.3f} to {:.3f})".format(*found["interval"])
        logger.info("%s: Dice of %d unseen images %.3f%s", name, found["images"], found["mean"], ends)
    logger.info("Views at test time: %s.", report["tta"]["chosen"])
    file = output / ENSEMBLE
    logger.info("The ensemble: %s. Next: icmoe predict IMAGES OUT --checkpoint %s", file, shlex.quote(str(file)))
