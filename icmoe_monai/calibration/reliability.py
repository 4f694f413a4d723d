"""Measure on labelled cases how reliable a model's confidence is: `reliability.json` and its figures.

- *Calibration error* (ECE) and reliability diagram: `temperature.bin_sums`, 15 bins of equal width over all pixels of
  all images, at the label's own size, before and after calibration.
- *Predicted Dice*: Spearman's rank correlation with the true Dice; mean absolute error; and the gain if the fifth of
  the cases with the lowest predicted Dice goes to review: the mean Dice of the other cases minus that of all.
- *Risk and coverage*: the cases are sorted by a confidence, best first; at coverage k / n the risk is the mean of
  1 - Dice over the first k. AURC, the area under this curve, is the mean of the risks over k = 1..n; smaller is better.
  The confidences are the predicted Dice; the naive one, the mean over pixels of the voted class's probability; and
  minus the mean over pixels of the entropy of the plain mean of the experts' probabilities. `optimal` sorts by the true
  Dice; `random` is the expected risk of a random order.
- *Control*: the false-negative rate of the risk-controlled masks (mean over images with foreground), beside alpha and
  the rate of the default masks; and the share of the image that either kind of mask covers, the price of the guarantee.
- *Area*: the share of images whose label's area lies in its interval, of those that show something, of several classes
  all their areas; and the median of the interval's upper end over its lower one.
- *Out of distribution*: the share of cases that are called so, which on the training's own kind are false alarms. In
  the other figures these cases count like all others, though inference withholds their predicted Dice; beside the
  area's coverage of all stands that of the cases whose interval is given.
- *No lesion*: sensitivity (share of the images with a lesion that are not called lesion-free) and specificity (share of
  the lesion-free images that are called lesion-free).

A value is null if it needs a calibration, or a kind of image, that is not there. Intervals are 95 % percentile
bootstrap intervals over images, or over groups of images (patients) where these are known.

Letters: n cases; K output channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from icmoe_monai.calibration.conformal import controlled_mask, level_index, miss_curve, miss_rate
from icmoe_monai.calibration.figures import draw_predicted_dice, draw_reliability, draw_risk_coverage
from icmoe_monai.calibration.file import Calibration
from icmoe_monai.calibration.fit import mean_dice, names_digest
from icmoe_monai.calibration.no_lesion import order_of, rates_of
from icmoe_monai.calibration.temperature import bin_sums, calibration_error
from icmoe_monai.networks.pooling import FEATURES
from icmoe_monai.networks.voting import as_distribution
from icmoe_monai.utils.distributed import collect, gathered, is_first
from icmoe_monai.utils.engines import CaseHandler, split_items
from icmoe_monai.utils.files import write_csv, write_json
from icmoe_monai.utils.statistics import bootstrap_interval, count_groups, rank_correlation

REVIEWED_SHARE = 0.2
CONFIDENCES = {
    "predicted_dice": "predicted Dice",
    "naive_confidence": "mean confidence of the vote",
    "mean_vote_confidence": "entropy of the experts' mean",
}


class ReliabilityMetrics(CaseHandler):
    """Handler: report how reliable the confidence of the model is, over all cases of an evaluation.

    Writes `reliability.json`, `reliability.csv` (a line per case) and two figures, or three if the Dice is predicted.
    Needs `TakeVoteFeaturesd` and `SplitVotesd` in the evaluator's postprocessing, and labels. Only numbers are kept
    between cases. With several processes, the first one writes the results of all.

    Args:
        output_dir: Folder of the files.
        out_channels: K.
        calibration: The calibration to judge; None: no calibration.
        num_bootstrap: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Example:
        >>> ReliabilityMetrics(output_dir="evaluation").calibration.reason
        'No calibration was given.'
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        out_channels: int = 1,
        calibration: Calibration | None = None,
        num_bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.out_channels = out_channels
        self.calibration = calibration or Calibration(reason="No calibration was given.")
        self.num_bootstrap = num_bootstrap
        self.seed = seed
        self.result: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._groups: list[str | None] = []
        self._bins: dict[str, np.ndarray] = {}

    def started(self, engine: Engine) -> None:
        """Clear the results of an earlier run."""
        self._rows, self._groups, self._bins = [], [], {}

    def iteration_completed(self, engine: Engine) -> None:
        """Measure the cases of one iteration."""
        for item in split_items(engine):
            keys = ("probability", "disagreement", "expert_probabilities", "voted", "label")
            parts = (convert_to_tensor(item[key], track_meta=False, device="cpu") for key in keys)
            probability, apart, experts, voted, label = parts
            self._add_bins("before", probability, label)
            if self.calibration.is_there:
                self._add_bins("after", self.calibration.probabilities(probability, apart), label)
            curve = miss_curve(probability, label)
            features = item["vote_features"]
            self._groups.append(item.get("group"))
            self._rows.append(
                {
                    "case": str(item.get("name", len(self._rows) + 1)),
                    "dice": mean_dice(voted, label, self.out_channels),
                    "predicted_dice": self.calibration.predict_dice(features),
                    "naive_confidence": float(_whole(probability).amax(0).mean()),
                    "mean_vote_confidence": -_entropy(experts.mean(0)),
                    "has_lesion": curve is not None,
                    "false_negative_rate": miss_rate(voted, label),
                    "controlled_false_negative_rate": self._controlled_rate(curve),
                    "foreground_share": float((voted > 0).float().mean()),
                    "controlled_foreground_share": self._controlled_share(probability),
                    **self.calibration.judge_lesion(features, item.get(FEATURES)),
                    **self._area(probability, label, features),
                    **self.calibration.judge(item.get(FEATURES)),
                }
            )

    def _add_bins(self, when: str, probabilities: Tensor, label: Tensor) -> None:
        self._bins[when] = self._bins.get(when, 0) + bin_sums(probabilities, label)

    def _area(self, probability: Tensor, label: Tensor, features: Mapping[str, float]) -> dict[str, Any]:
        """Return whether the interval of areas holds that of each class that the label shows, and its width."""
        nothing = dict.fromkeys(("area_covered", "area_ratio"))
        thresholds = self.calibration.area_thresholds(features)
        if thresholds is None:
            return nothing
        P = probability if len(probability) == 1 else probability[1:]
        smallest, largest = ((level <= P).sum((1, 2)).tolist() for level in reversed(thresholds))
        areas = [int((label == k).sum()) for k in range(1, len(P) + 1)]
        shown = [(low, area, high) for low, area, high in zip(smallest, areas, largest, strict=True) if area]
        if not shown:
            return nothing
        ratio = float(np.mean([(high + 1) / (low + 1) for low, _, high in shown]))
        return {"area_covered": all(low <= area <= high for low, area, high in shown), "area_ratio": ratio}

    def _controlled_rate(self, curve: np.ndarray | None) -> float | None:
        if curve is None or not self.calibration.is_there:
            return None
        return float(curve[level_index(self.calibration.threshold)])

    def _controlled_share(self, probability: Tensor) -> float | None:
        if not self.calibration.is_there:
            return None
        return float((controlled_mask(probability, self.calibration.threshold) > 0).float().mean())

    def completed(self, engine: Engine) -> None:
        """Gather the results of all processes and write the files."""
        self._rows, self._groups = gathered(self._rows), gathered(self._groups)
        bins = collect(self._bins)
        self._bins = {when: np.sum([part[when] for part in bins], axis=0) for when in self._bins}
        if is_first():
            self._write()

    def _write(self) -> None:
        confidences = {name: self._column(name) for name in CONFIDENCES}
        dice = self._column("dice")
        known = {name: values for name, values in confidences.items() if not np.isnan(values).any()}
        self.result = {
            "num_cases": len(self._rows),
            "num_groups": count_groups(self._groups),
            "calibration": {key: self.calibration.summary()[key] for key in ("file", "sha256", "reason")},
            "images_of_the_calibration": self._saw_these(),
            "calibration_error": {when: calibration_error(bins) for when, bins in self._bins.items()},
            "predicted_dice": self._quality(known.get("predicted_dice"), dice),
            "aurc": {
                **{name: aurc(values, dice) for name, values in known.items()},
                "optimal": aurc(dice, dice),
                "random": float(1 - dice.mean()),
            },
            "control": self._control(),
            "no_lesion": self._no_lesion(),
            "area": self._area_coverage(),
            "out_of_distribution": self._out_of_distribution(),
        }
        write_json(self.output_dir / "reliability.json", self.result)
        write_csv(self.output_dir / "reliability.csv", self._rows)
        draw_reliability(self._bins, self.output_dir / "reliability.png", is_top_class=self.out_channels > 1)
        curves = {CONFIDENCES[name]: risk_coverage(values, dice) for name, values in known.items()}
        draw_risk_coverage(curves | {"true Dice (optimum)": risk_coverage(dice, dice)}, self._figure("risk_coverage"))
        if "predicted_dice" in known:
            limit = self.calibration.review_below
            draw_predicted_dice(known["predicted_dice"], dice, self._figure("predicted_dice"), review_below=limit)
        self._log()

    def _figure(self, name: str) -> Path:
        return self.output_dir / f"{name}.png"

    def _column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self._rows], dtype=float)

    def _saw_these(self) -> bool | None:
        """Tell whether the calibration was fitted on images of the same names, which makes the results too good."""
        if not self.calibration.is_there:
            return None
        return self.calibration.names_digest == names_digest([row["case"] for row in self._rows])

    def _quality(self, predicted: np.ndarray | None, dice: np.ndarray) -> dict[str, Any] | None:
        if predicted is None:
            return None
        both = [predicted, dice]
        spearman = rank_correlation(*both)
        return {
            "spearman": spearman,
            "spearman_interval": None if spearman is None else self._interval(_spearman, *both),
            "mean_absolute_error": float(np.abs(predicted - dice).mean()),
            "mean_predicted": float(predicted.mean()),
            "mean_dice": float(dice.mean()),
            "reviewed_share": REVIEWED_SHARE,
            "mean_dice_of_the_rest": float(dice[_kept(predicted)].mean()),
            "gain": _gain(*both),
            "gain_interval": self._interval(_gain, *both),
        }

    def _control(self) -> dict[str, Any] | None:
        rates = self._column("false_negative_rate")
        rates = rates[~np.isnan(rates)]
        if not rates.size:
            return None
        result = {"num_images": len(rates), "default_rate": float(rates.mean())}
        result["default_share"] = float(self._column("foreground_share").mean())
        if not self.calibration.is_there:
            return {**result, **dict.fromkeys(("alpha", "threshold", "rate", "interval", "share"))}
        controlled = self._column("controlled_false_negative_rate")
        is_known = ~np.isnan(controlled)
        controlled = controlled[is_known]
        chosen = {key: self.calibration.content["control"][key] for key in ("alpha", "threshold")}
        interval = self._interval(np.mean, controlled, chosen=is_known)
        share = float(self._column("controlled_foreground_share").mean())
        return {**result, **chosen, "rate": float(controlled.mean()), "interval": interval, "share": share}

    def _area_coverage(self) -> dict[str, Any] | None:
        covered, unlike = self._column("area_covered"), self._column("out_of_distribution") == 1
        told = ~np.isnan(covered)
        if not told.any():
            return None
        ratio = self._column("area_ratio")
        return {
            "level": self.calibration.content["area"]["level"],
            "num_images": int(told.sum()),
            "coverage": float(covered[told].mean()),
            "interval": self._interval(np.mean, covered[told], chosen=told),
            "coverage_where_given": float(covered[told & ~unlike].mean()) if (told & ~unlike).any() else None,
            "median_ratio": float(np.median(ratio[told])),
        }

    def _out_of_distribution(self) -> dict[str, Any] | None:
        called = self._column("out_of_distribution")
        if np.isnan(called).any():
            return None
        return {
            "num_called": int(called.sum()),
            "share": float(called.mean()),
            "interval": self._interval(np.mean, called),
            "mean_score": float(self._column("ood_score").mean()),
        }

    def _no_lesion(self) -> dict[str, Any]:
        has_lesion = np.array([row["has_lesion"] for row in self._rows], dtype=bool)
        result: dict[str, Any] = {"num_with_lesion": int(has_lesion.sum()), "num_lesion_free": int((~has_lesion).sum())}
        called = [row["no_lesion"] for row in self._rows]
        if any(answer is None for answer in called):
            reason = (self.calibration.content.get("fit") or {}).get("no_lesion", {}).get("reason")
            reason = reason or self.calibration.reason or "Of some images there are no features to judge them by."
            return {**result, "sensitivity": None, "specificity": None, "reason": reason}
        result |= rates_of(np.array(called, dtype=bool), ~has_lesion)
        sensitivity = self.calibration.content["no_lesion"].get("sensitivity")  # not in files up to 0.8
        return {**result, **order_of(self._column("no_lesion_probability"), ~has_lesion, sensitivity), "reason": None}

    def _interval(
        self, statistic: Callable[..., Any], *columns: np.ndarray, chosen: np.ndarray | None = None
    ) -> list[float] | None:
        """Return the interval of a statistic over all cases, or over those chosen by an array of bool."""
        groups = self._groups if chosen is None else [self._groups[place] for place in np.flatnonzero(chosen)]
        return bootstrap_interval(
            statistic, *columns, num_samples=self.num_bootstrap, seed=self.seed, vectorized=False, groups=groups
        )

    def _log(self) -> None:
        errors = ", ".join(f"{value:.3f} {when}" for when, value in self.result["calibration_error"].items())
        told = [f"Calibration error: {errors} calibration."]
        correlation = (self.result["predicted_dice"] or {}).get("spearman")
        if correlation is not None:
            told.append(f"Predicted Dice: rank correlation {correlation:.3f}.")
        control = self.result["control"] or {}
        if control.get("rate") is not None:
            told.append(f"Missed of lesions: {control['rate']:.3f} (alpha {control['alpha']:.3f}).")
        logging.getLogger(__name__).info(" ".join(told))


def risk_coverage(confidence: np.ndarray, dice: np.ndarray) -> np.ndarray:
    """Compute the risk of the k most confident cases, the mean of 1 - Dice, for every k from 1 to n.

    Args:
        confidence: Confidence of each case, (n,), larger is better; cases of equal confidence share their mean risk.
        dice: True Dice of each case, (n,).

    Returns:
        The risks, (n,).
    """
    _, inverse, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    shared = np.bincount(inverse, 1 - dice) / counts
    return np.asarray(np.cumsum(np.repeat(shared, counts)) / np.arange(1, len(dice) + 1))


def aurc(confidence: np.ndarray, dice: np.ndarray) -> float:
    """Compute the area under the risk-coverage curve (AURC); smaller is better.

    Args:
        confidence: Confidence of each case, (n,), larger is better.
        dice: True Dice of each case, (n,).

    Example:
        >>> aurc(np.array([0.9, 0.1]), np.array([1.0, 0.5]))  # risks 0 and 0.25
        0.125
    """
    return float(risk_coverage(confidence, dice).mean())


def _kept(predicted: np.ndarray) -> np.ndarray:
    """Return the indices of the cases that do not go to review."""
    return np.argsort(-predicted, kind="stable")[: max(1, round((1 - REVIEWED_SHARE) * len(predicted)))]


def _spearman(predicted: np.ndarray, dice: np.ndarray) -> float:
    """Return the rank correlation of a bootstrap sample, NaN if a column does not vary."""
    found = rank_correlation(predicted, dice)
    return float("nan") if found is None else found


def _gain(predicted: np.ndarray, dice: np.ndarray) -> float:
    return float(dice[_kept(predicted)].mean() - dice.mean())


def _whole(probabilities: Tensor) -> Tensor:
    return as_distribution(probabilities[None, None])[0, 0]


def _entropy(probabilities: Tensor) -> float:
    p = _whole(probabilities).double().clamp(1e-6, 1)
    return float(-(p * p.log()).sum(0).mean())
