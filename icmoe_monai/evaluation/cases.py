"""Score every case by every method, and summarise the scores: `cases.csv`, `summary.json` and a table in the log.

The time that the network took is in a file of its own, `timing.json`, so that an evaluation repeated on one
machine gives the other two files bit for bit.

MONAI computes the scores. If MONAI leaves a score undefined, these conventions apply, by which a failure never improves
a number:

- label and prediction empty: DSC = IoU = precision = recall = 1 and HD95 = 0;
- only the label empty, a *false alarm*: DSC = IoU = precision = recall = 0, HD95 undefined;
- only the prediction empty, a *miss*: the same zeros, HD95 undefined;
- specificity is tn / (tn + fp), and 1 if the label fills the image, since no background pixel can be wrong then.

HD95, in pixels, is the larger of the two directed 95th percentiles of the distances between the borders. If it is
undefined, the cell in `cases.csv` is empty. The summary gives two means: `hd95_detected`, over the cases in which label
and prediction are non-empty, with the number of these cases, and `hd95_penalised`, over all cases, in which a miss and
a false alarm count as the image's diagonal.

For K>1 every foreground class is scored separately, and the score of a case is the mean over these classes. The HD95 of
a case in `cases.csv` is empty if that of one class is; `hd95_detected` takes the mean over the case's detected classes.
A case counts as missed (as a false alarm) if one of its classes does.

Intervals are 95% percentile bootstrap intervals over the cases, or over their groups where these are known; standard
deviations are those of a sample (n - 1). A statistic that a single case or group cannot give is null.

Letters: E experts; K output channels; H W label.
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.evaluation.votes import vote_statistics
from icmoe_monai.transforms.votes import EXPERT_NAMES, voting_methods
from icmoe_monai.utils.distributed import gathered, is_first
from icmoe_monai.utils.engines import CaseHandler, split_items, versions
from icmoe_monai.utils.files import without_folders, write_csv, write_json
from icmoe_monai.utils.statistics import bootstrap_interval, count_groups, rounded

RATES = ("dsc", "iou", "precision", "recall", "specificity")


class MaskScores(NamedTuple):
    """Hold the scores of one mask, or their means over the foreground classes.

    The rates are in 0..1; `hd95` is in pixels, None if undefined; `missed` and `false_alarm` are 0 or 1, over several
    classes the numbers of classes; `height` and `width` are the label's, in pixels.
    """

    dsc: float
    iou: float
    hd95: float | None
    precision: float
    recall: float
    specificity: float
    label_pixels: int
    predicted_pixels: int
    height: int
    width: int
    missed: int
    false_alarm: int


# what the handlers after this one write, or have written of an evaluation with other settings or of another model
_BESIDE = (
    *("timing.json", "predictions.png", "protocol.json", "protocol.csv"),
    *("reliability.json", "reliability.csv", "reliability.png", "risk_coverage.png", "predicted_dice.png"),
)


class CaseMetrics(CaseHandler):
    """Handler: score every case by every method, and write the scores and their summary.

    Needs `SplitVotesd` in the evaluator's postprocessing and a label in every item. The name of a case is the item's
    `name`, or else the path of its image below the folder that all images share. Only numbers are kept between cases.
    Before the first case, the handler checks that it can write to the folder. With several processes, the first one
    writes the scores of all. What other handlers of an earlier evaluation have left there is removed with its scores;
    those of this one belong after it.

    `cases.csv`: a row for every case and method (for K>1 one for every foreground class and one for their mean), with
    the fields of `MaskScores`, and after the name the `group` where the cases have one.

    `summary.json`: `num_cases`; `num_groups`, of the cases, or null; `methods`, by method: `dsc`, `iou`,
    `hd95_detected`, `hd95_penalised`, `precision`, `recall`, `specificity`, each with `cases`, `mean`, `std`, `median`
    and `interval`, then `missed_cases`, `false_alarms` and, for K>1, the same by class under `classes`; `voting_gain`,
    the voted DSC minus that of the best single expert (the best on average; chosen anew in every bootstrap sample);
    `voted_minus_mean_vote`, the voted DSC minus that of the mean vote; `votes`, the means of `vote_statistics`;
    `settings`.

    `timing.json`, with MONAI's engines only: `inference_seconds`, the median over the iterations of the time from the
    loaded case to its voted prediction, with all windows, before the prediction is resized to the label.

    Args:
        output_dir: Folder of the three files; made if it does not exist.
        out_channels: K.
        expert_names: The E names, as given to `SplitVotesd`.
        num_bootstrap: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        bundle_info: Further entries of `settings`, such as the checkpoint; versions and seed are always there. Absolute
            paths are cut to their last part.

    Raises:
        InputError: If the folder cannot be written, or a case has no label.

    Example:
        >>> import tempfile, torch
        >>> from icmoe_monai.transforms.votes import SplitVotesd
        >>> split = SplitVotesd(expert_names=("only",))
        >>> item = {"pred": torch.tensor([0.9, 0.9, 1.0]).reshape(3, 1, 1), "label": torch.ones(1, 1, 1), "name": "a"}
        >>> evaluator = Engine(lambda engine, batch: [split(item) for item in batch])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     CaseMetrics(output_dir=folder, expert_names=("only",)).attach(evaluator)
        ...     state = evaluator.run([[item]])
        ...     print(Path(folder, "cases.csv").read_text().splitlines()[1])
        a,voted,1.000000,1.000000,0.000000,1.000000,1.000000,1.000000,1,1,1,1,0,0
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        out_channels: int = 1,
        expert_names: Sequence[str] = EXPERT_NAMES,
        num_bootstrap: int = 1000,
        seed: int = 0,
        bundle_info: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.out_channels = out_channels
        self.expert_names = tuple(expert_names)
        self.methods = voting_methods(expert_names)
        self.num_bootstrap = num_bootstrap
        self.seed = seed
        own = {"versions": versions(), "seed": seed, "num_bootstrap": num_bootstrap}
        self.settings = own | without_folders(dict(bundle_info or {}))
        self._names: list[str] = []
        self._groups: list[str | None] = []
        self._scores: dict[str, list[list[MaskScores]]] = {}  # method -> cases -> foreground classes
        self._votes: list[dict[str, float]] = []
        self._start = 0.0
        self._seconds: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register the handler; with one of MONAI's engines, the forward pass is timed too.

        Args:
            engine: The evaluator.
        """
        super().attach(engine)
        engine.add_event_handler(Events.ITERATION_STARTED, self.iteration_started)
        if isinstance(engine, Workflow):
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.forward_completed)

    def started(self, engine: Engine) -> None:
        """Clear the results of an earlier run, and check before the first case that the folder can be written.

        Raises:
            InputError: If the folder cannot be written.
        """
        if is_first():
            trial = self.output_dir / ".settings.json"
            write_json(trial, self.settings)
            trial.unlink()
        self._names, self._scores, self._votes = [], {method: [] for method in self.methods}, []
        self._groups, self._seconds = [], []

    def iteration_started(self, engine: Engine) -> None:
        """Start timing one iteration."""
        self._start = time.perf_counter()

    def forward_completed(self, engine: Engine) -> None:
        """Note the time that the network took."""
        if torch.cuda.is_initialized():  # a call returns before the GPU has finished
            torch.cuda.synchronize()
        self._seconds.append(time.perf_counter() - self._start)

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases of one iteration."""
        for item in split_items(engine):
            self._names.append(_name(item, len(self._names) + 1))
            if item.get("label") is None:
                raise InputError(f"{self._names[-1]} has no label: evaluate labelled cases only.")
            self._groups.append(item.get("group"))
            label = convert_to_tensor(item["label"], track_meta=False, device="cpu")[0]
            for method in self.methods:
                label_map = convert_to_tensor(item[method], track_meta=False, device="cpu")[0]
                classes = range(1, max(self.out_channels, 2))
                self._scores[method].append([mask_scores(label_map == k, label == k) for k in classes])
            self._votes.append(vote_statistics(item["expert_probabilities"], item["votes"], self.expert_names))

    def completed(self, engine: Engine) -> None:
        """Gather the scores of all processes, write the files and log the table."""
        self._names, self._votes = gathered(self._names), gathered(self._votes)
        self._groups = gathered(self._groups)
        self._scores = {method: gathered(self._scores[method]) for method in self.methods}
        self._seconds = gathered(self._seconds)
        if is_first():
            self._write()

    def _write(self) -> None:
        methods = {method: self._summary(self._scores[method]) for method in self.methods}
        summary = {
            "num_cases": len(self._names),
            "num_groups": count_groups(self._groups),
            "methods": methods,
            "voting_gain": self._gain(self.expert_names),
            "voted_minus_mean_vote": self._gain(["mean_vote"]),
            "votes": {name: rounded(np.mean([votes[name] for votes in self._votes])) for name in self._votes[0]},
            "settings": self.settings,
        }
        write_csv(self.output_dir / "cases.csv", list(self._rows()))
        write_json(self.output_dir / "summary.json", summary)
        for name in _BESIDE:
            (self.output_dir / name).unlink(missing_ok=True)
        if self._seconds:
            write_json(self.output_dir / "timing.json", {"inference_seconds": round(median(self._seconds), 5)})
        logger = logging.getLogger(__name__)
        logger.info("%s", _table(summary))
        logger.info("The scores: %s", self.output_dir / "summary.json")

    def _summary(self, cases: list[list[MaskScores]]) -> dict[str, Any]:
        means = [_mean_over_classes(case) for case in cases]
        columns: dict[str, list[float | None]] = {rate: [getattr(mean, rate) for mean in means] for rate in RATES}
        detected = [[s.hd95 for s in case if s.hd95 is not None and s.label_pixels] for case in cases]
        columns["hd95_detected"] = [float(np.mean(distances)) if distances else None for distances in detected]
        columns["hd95_penalised"] = [float(np.mean([_penalised(s) for s in case])) for case in cases]
        summary: dict[str, Any] = {name: self._statistics(column) for name, column in columns.items()}
        summary["missed_cases"] = sum(mean.missed > 0 for mean in means)
        summary["false_alarms"] = sum(mean.false_alarm > 0 for mean in means)
        if len(cases[0]) > 1:
            by_class = zip(*cases, strict=True)
            summary["classes"] = {str(k): self._summary([[s] for s in scores]) for k, scores in enumerate(by_class, 1)}
        return summary

    def _statistics(self, column: Sequence[float | None]) -> dict[str, Any]:
        """Return the statistics of the cases that have a value."""
        known = [place for place, value in enumerate(column) if value is not None]
        if not known:
            return {"cases": 0, "mean": None, "std": None, "median": None, "interval": None}
        values = np.array([column[place] for place in known], dtype=float)
        return {
            "cases": len(known),
            "mean": rounded(np.mean(values)),
            "std": rounded(np.std(values, ddof=1)) if len(known) > 1 else None,
            "median": rounded(np.median(values)),
            "interval": self._interval(np.mean, values, groups=[self._groups[place] for place in known]),
        }

    def _gain(self, others: Sequence[str]) -> dict[str, Any]:
        dsc = {name: [_mean_over_classes(case).dsc for case in self._scores[name]] for name in ("voted", *others)}
        columns = [np.asarray(column) for column in dsc.values()]
        best = max(others, key=lambda name: np.mean(dsc[name]))
        interval = self._interval(_gain, *columns, groups=self._groups)
        return {"over": best, "mean": rounded(_gain(*columns)), "interval": interval}

    def _interval(
        self, statistic: Callable[..., Any], *columns: np.ndarray, groups: Sequence[str | None]
    ) -> list[float] | None:
        ends = bootstrap_interval(statistic, *columns, num_samples=self.num_bootstrap, seed=self.seed, groups=groups)
        return None if ends is None else [rounded(end) for end in ends]

    def _rows(self) -> Iterator[dict[str, Any]]:
        is_multiclass = self.out_channels > 1
        has_groups = count_groups(self._groups) is not None
        for index, name in enumerate(_without_common_folder(self._names)):
            case = {"case": name} | ({"group": self._groups[index]} if has_groups else {})
            for method in self.methods:
                scores = self._scores[method][index]
                rows = {str(k): score for k, score in enumerate(scores, 1)} | {"mean": _mean_over_classes(scores)}
                for k, score in rows.items() if is_multiclass else [("", scores[0])]:
                    of_class = {"class": k} if is_multiclass else {}
                    values = zip(MaskScores._fields, map(_cell, score), strict=True)
                    yield {**case, "method": method, **of_class, **dict(values)}


def mask_scores(predicted_mask: Tensor, label_mask: Tensor) -> MaskScores:
    """Score one mask against its label, by the conventions in the module's docstring.

    Args:
        predicted_mask: (H, W), bool.
        label_mask: (H, W), bool.

    Example:
        >>> import torch
        >>> scores = mask_scores(torch.tensor([[1, 0, 0, 0]]).bool(), torch.tensor([[1, 1, 0, 0]]).bool())
        >>> round(scores.dsc, 3), scores.iou, scores.precision, scores.recall
        (0.667, 0.5, 1.0, 0.5)
    """
    y_pred, y = predicted_mask[None, None], label_mask[None, None]
    predicted_pixels, label_pixels = int(y_pred.sum()), int(y.sum())
    missed = label_pixels > 0 and predicted_pixels == 0
    false_alarm = predicted_pixels > 0 and label_pixels == 0
    hd95: float | None = None if missed or false_alarm else 0.0
    if label_pixels and predicted_pixels:
        with warnings.catch_warnings():
            # MONAI 1.6.1 warns of a deprecated argument that it passes itself.
            warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
            hd95 = float(compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95))
    confusion = get_confusion_matrix(y_pred.byte(), y.byte())
    undefined = 0.0 if missed or false_alarm else 1.0
    rates = {"precision": undefined, "recall": undefined, "specificity": 1.0}
    for name, value in rates.items():
        rates[name] = float(compute_confusion_matrix_metric(name, confusion).nan_to_num(value))
    return MaskScores(
        dsc=float(compute_dice(y_pred, y, ignore_empty=False)),
        iou=float(compute_iou(y_pred, y, ignore_empty=False)),
        hd95=hd95,
        **rates,
        label_pixels=label_pixels,
        predicted_pixels=predicted_pixels,
        height=y.shape[-2],
        width=y.shape[-1],
        missed=int(missed),
        false_alarm=int(false_alarm),
    )


def _mean_over_classes(scores: Sequence[MaskScores]) -> MaskScores:
    """Return the mean rates and distance, the sums of pixels, and the numbers of missed classes and false alarms."""
    mean: dict[str, Any] = {rate: float(np.mean([getattr(score, rate) for score in scores])) for rate in RATES}
    for count in ("label_pixels", "predicted_pixels", "missed", "false_alarm"):
        mean[count] = sum(getattr(score, count) for score in scores)
    distances = [score.hd95 for score in scores if score.hd95 is not None]
    mean["hd95"] = float(np.mean(distances)) if len(distances) == len(scores) else None
    return scores[0]._replace(**mean)


def _penalised(score: MaskScores) -> float:
    return math.hypot(score.height, score.width) if score.hd95 is None else score.hd95


def _gain(first: np.ndarray, *others: np.ndarray, axis: int = -1) -> Any:
    """Return the mean of the first column minus the largest mean of the others."""
    return np.mean(first, axis=axis) - np.max([np.mean(other, axis=axis) for other in others], axis=0)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)


def _name(item: Mapping[str, Any], number: int) -> str:
    path = getattr(item.get("image"), "meta", {}).get("filename_or_obj")
    return str(item.get("name") or (os.path.abspath(path) if path else f"case {number}"))


def _without_common_folder(names: list[str]) -> list[str]:
    folders = [os.path.dirname(name) for name in names if os.path.isabs(name)]
    common = os.path.commonpath(folders) if folders else ""
    return [Path(name).relative_to(common).as_posix() if os.path.isabs(name) else name for name in names]


def _table(summary: Mapping[str, Any]) -> str:
    """Return the mean scores as a table for the log, the DSC with its interval."""
    heads = ("DSC", "[95% interval]", "IoU", "prec.", "recall", "spec.", "HD95 det.", "HD95 pen.", "missed", "alarms")
    rows = [("method", *heads)]
    for method, scores in summary["methods"].items():
        means = [_short(scores[rate]["mean"]) for rate in (*RATES, "hd95_detected", "hd95_penalised")]
        interval = " ".join(map(_short, scores["dsc"]["interval"] or [None, None]))
        rows.append((method, means[0], interval, *means[1:], str(scores["missed_cases"]), str(scores["false_alarms"])))
    lines = [
        row[0].ljust(20) + "".join(cell.rjust(15 if i == 1 else 10) for i, cell in enumerate(row[1:])) for row in rows
    ]
    gain = summary["voting_gain"]
    lines.append(f"voted DSC - {gain['over']}'s: {gain['mean']:+.4f}, interval {gain['interval']}")
    return "\n".join([f"{summary['num_cases']} cases, means:", *lines])


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value <= 1 else f"{value:.2f}"
