"""How much the masks suffer when images are degraded (shifted), and whether figures of quality reveal it.

`ShiftMetrics` writes `shifts.csv`, `shifts.json` and three pictures. A *shift* is a kind of degradation (`shifts`), a
*condition* is a shift at a strength, or the clean images. A *figure of quality* is a number that tells, without a
label, how good a mask may be (`QUALITY_SIGNS`).

Every case is scored under every condition by the Dice of its voted mask at the label's size (empty label and mask: 1;
only one empty: 0; K>1: mean over the foreground classes). Its figures of quality are those that a run without labels
would report. Intervals are 95 % percentile bootstrap intervals over the cases, or over their groups where these are
known; differences from the clean images are paired by case.

Spearman's correlation of Dice with each figure of quality is reported three ways: over the means of the conditions,
which asks whether the figure reveals that a whole set of images is worse; over all cases and conditions; and within
each case over its conditions, averaged over the cases in which both vary.

Letters: C conditions; N cases; K output channels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from monai.utils.type_conversion import convert_to_tensor

from icmoe_monai.analysis.shift_figures import draw_conditions, draw_examples, draw_quality
from icmoe_monai.analysis.shifts import CLEAN, SHIFTS
from icmoe_monai.calibration.file import Calibration
from icmoe_monai.calibration.fit import mean_dice
from icmoe_monai.errors import InputError
from icmoe_monai.transforms.vote_features import FIGURES, reliability
from icmoe_monai.utils.distributed import check_one_process
from icmoe_monai.utils.engines import CaseHandler, split_items, versions
from icmoe_monai.utils.files import without_folders, write_csv, write_json
from icmoe_monai.utils.statistics import bootstrap_interval, count_groups, rank_correlation, rounded

# Figures of quality, with the sign that their correlation with Dice should have.
QUALITY_SIGNS = {
    "predicted_dice": 1,
    "confidence": 1,
    "expert_agreement": 1,
    "disagreement": -1,
    "vote_entropy": -1,
}


def case_quality(item: Mapping[str, Any], calibration: Calibration | None = None) -> dict[str, float]:
    """Return the figures of quality of a case.

    Args:
        item: A case after `SplitVotesd`. If it also went through `TakeVoteFeaturesd`, the figures are those of its
            `vote_features`, as inference reports them; else they are computed from its probabilities and votes.
        calibration: Adds `predicted_dice`, if it can predict the Dice score and the item has `vote_features`.

    Returns:
        The figures by name, among those of `QUALITY_SIGNS`.
    """
    features = item.get("vote_features")
    if features:
        predicted = None if calibration is None else calibration.predict_dice(features)
        figures = {name: float(features[name]) for name in FIGURES}
        return figures if predicted is None else {"predicted_dice": predicted, **figures}
    maps = [convert_to_tensor(item[key], track_meta=False) for key in ("probability", "expert_probabilities", "votes")]
    return reliability(*maps)


class ShiftMetrics(CaseHandler):
    """Handler: score the masks of shifted images, and write `shifts.csv`, `shifts.json` and three pictures at the end.

    Needs `SplitVotesd` in the evaluator's postprocessing, a label in every case, and the cases of `shifted_cases`.

    Args:
        output_dir: Folder of the files.
        out_channels: K.
        calibration: Predicts the Dice of a case, which is then one of the figures of quality (`QUALITY_SIGNS`).
        num_bootstrap: Number of bootstrap samples.
        seed: Seed of the bootstrap, and of the shifts in the picture of examples.
        bundle_info: Settings to note in the results, such as the checkpoint; absolute paths are cut to their last part.

    Raises:
        InputError: If a case has no label.

    Example:
        >>> handler = ShiftMetrics(output_dir="nowhere")
        >>> evaluator = Engine(lambda engine, batch: batch)
        >>> handler.attach(evaluator)
        >>> evaluator.has_event_handler(handler.iteration_completed)
        True
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        out_channels: int = 1,
        calibration: Calibration | None = None,
        num_bootstrap: int = 1000,
        seed: int = 0,
        bundle_info: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.out_channels = out_channels
        self.calibration = calibration
        self.num_bootstrap = num_bootstrap
        self.seed = seed
        self.settings = {"versions": versions(), "seed": seed, **without_folders(dict(bundle_info or {}))}
        self._rows: list[dict[str, Any]] = []
        self._example = ""

    def started(self, engine: Engine) -> None:
        """Clear the results of an earlier run.

        Raises:
            InputError: If there are several processes.
        """
        check_one_process("An evaluation of shifts")
        self._rows, self._example = [], ""

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases of one iteration."""
        for item in split_items(engine):
            if item.get("label") is None:
                raise InputError(f"{item['name']} has no label: evaluate labelled cases only.")
            self._example = self._example or str(getattr(item.get("image"), "meta", {}).get("filename_or_obj", ""))
            group = {"group": item["group"]} if "group" in item else {}
            condition = {"case": item["name"], **group, "shift": item["shift"], "strength": int(item["strength"])}
            self._rows.append({**condition, "dice": self._dice(item), **case_quality(item, self.calibration)})

    def completed(self, engine: Engine) -> None:
        """Write the files and log the table."""
        summary = summarise(self._rows, num_bootstrap=self.num_bootstrap, seed=self.seed)
        rows = [{k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in self._rows]
        write_csv(self.output_dir / "shifts.csv", rows)
        write_json(self.output_dir / "shifts.json", {**summary, "settings": self.settings})
        draw_conditions(summary, self.output_dir / "shifts.png")
        draw_quality(summary, self.output_dir / "shift_quality.png")
        if self._example:
            shifts = [name for name in SHIFTS if any(row["shift"] == name for row in self._rows)]
            draw_examples(self._example, shifts, self.output_dir / "shift_examples.png", seed=self.seed)
        logger = logging.getLogger(__name__)
        logger.info("%s", _table(summary))
        logger.info("The scores: %s", self.output_dir / "shifts.json")

    def _dice(self, item: Mapping[str, Any]) -> float:
        voted, label = (convert_to_tensor(item[key], track_meta=False, device="cpu") for key in ("voted", "label"))
        return mean_dice(voted, label, self.out_channels)


def summarise(rows: Sequence[Mapping[str, Any]], *, num_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Summarise the scores of all cases by condition, as `shifts.json` holds them.

    Args:
        rows: A row for every case under every condition, with `case`, perhaps its `group`, `shift`, `strength`, `dice`
            and the figures of quality, in this order.
        num_bootstrap: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        `num_cases`; `num_groups`, of the cases, or None; `conditions`, each with `shift`, `strength`, `amount`, `unit`,
        the mean `dice` and its `interval`, the mean difference `minus_clean` and its `minus_clean_interval`, and
        `quality`, the mean of each figure of quality; `spearman`, by figure of quality: `expected_sign`,
        `over_conditions`, `over_cases_and_conditions`, `within_cases`, `num_cases_within`.
    """
    names = list(dict.fromkeys(row["case"] for row in rows))
    conditions = list(dict.fromkeys((row["shift"], row["strength"]) for row in rows))
    group_of = {row["case"]: row.get("group") for row in rows}
    groups = [group_of[name] for name in names]
    figures = [key for key in rows[0] if key not in ("case", "group", "shift", "strength")]
    values = np.full((len(figures), len(conditions), len(names)), np.nan)
    place = {condition: i for i, condition in enumerate(conditions)}, {name: i for i, name in enumerate(names)}
    for row in rows:
        c, n = place[0][row["shift"], row["strength"]], place[1][row["case"]]
        values[:, c, n] = [row[figure] for figure in figures]
    dice, quality = values[0], dict(zip(figures[1:], values[1:], strict=True))

    def interval(column: np.ndarray) -> list[float] | None:
        ends = bootstrap_interval(np.mean, column, num_samples=num_bootstrap, seed=seed, groups=groups)
        return None if ends is None else [rounded(end) for end in ends]

    clean = dice[place[0][CLEAN, 0]]
    entries = []
    for c, (shift, strength) in enumerate(conditions):
        means = {name: rounded(figure[c].mean()) for name, figure in quality.items()}
        amount = SHIFTS[shift].amounts[strength - 1] if shift in SHIFTS else None
        entries.append(
            {
                "shift": shift,
                "strength": strength,
                "amount": amount,
                "unit": SHIFTS[shift].unit if shift in SHIFTS else None,
                "dice": rounded(dice[c].mean()),
                "interval": interval(dice[c]),
                "minus_clean": rounded((dice[c] - clean).mean()),
                "minus_clean_interval": interval(dice[c] - clean),
                "quality": means,
            }
        )
    return {
        "num_cases": len(names),
        "num_groups": count_groups(groups),
        "conditions": entries,
        "spearman": {name: _correlations(dice, figure, QUALITY_SIGNS.get(name)) for name, figure in quality.items()},
    }


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    rho = rank_correlation(first, second)
    return None if rho is None else rounded(rho)


def _correlations(dice: np.ndarray, figure: np.ndarray, sign: int | None) -> dict[str, Any]:
    """Return Spearman's correlations of Dice with a figure of quality, both (C, N), in the three ways."""
    within = [rho for d, q in zip(dice.T, figure.T, strict=True) if (rho := _correlation(d, q)) is not None]
    return {
        "expected_sign": sign,
        "over_conditions": _correlation(dice.mean(1), figure.mean(1)),
        "over_cases_and_conditions": _correlation(dice.ravel(), figure.ravel()),
        "within_cases": rounded(np.mean(within)) if within else None,
        "num_cases_within": len(within),
    }


def _table(summary: Mapping[str, Any]) -> str:
    lines = [f"{summary['num_cases']} cases, Dice [95 % interval], minus clean [95 % interval]:"]
    for entry in summary["conditions"]:
        name = f"{entry['shift']} {entry['strength'] or ''}".ljust(16)
        lines.append(f"{name} {_cell(entry['dice'], entry['interval'])}  ")
        if entry["strength"]:
            lines[-1] += _cell(entry["minus_clean"], entry["minus_clean_interval"])
    for name, rho in summary["spearman"].items():
        over, within = rho["over_conditions"], rho["within_cases"]
        lines.append(f"Dice and {name}: Spearman {over} over conditions, {within} within cases")
    return "\n".join(lines)


def _cell(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:+.4f}" + (f" [{interval[0]:+.4f} {interval[1]:+.4f}]" if interval else "")
