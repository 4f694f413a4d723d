"""Figures of the reliability report: reliability diagram, risk and coverage, predicted Dice.

They are PNG files 1200 pixels wide. The colours are those of Okabe and Ito, which colour-blind readers can tell apart;
markers or dashes differ as well. Letters: n cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icmoe_monai.utils.files import write_atomically
from icmoe_monai.visualize.colours import BLUE, GREEN, ORANGE, PURPLE

_GREY = "#595959"
_STYLE = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False}
_LINES = ((BLUE, "-"), (ORANGE, "--"), (PURPLE, "-."), (_GREY, ":"), (GREEN, (0, (5, 1, 1, 1))))
_SIZE, _DPI = (10.0, 5.6), 120


def draw_reliability(bins: Mapping[str, np.ndarray], path: str | Path, *, is_top_class: bool = False) -> None:
    """Draw the reliability diagram: how often the pixels of each bin of confidence are right, and their number.

    Args:
        bins: `temperature.bin_sums`, by "before" and, if there is a calibration, "after" it.
        path: The PNG to write.
        is_top_class: Whether the confidence is the probability of the top class, rather than that of the foreground.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        right, count = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.15, 1]})
        right.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="perfect")
        edges = np.linspace(0, 1, next(iter(bins.values())).shape[1] + 1)
        for (when, sums), colour, mark in zip(bins.items(), (ORANGE, BLUE), ("s", "o"), strict=False):
            n = sums[0]
            used = n > 0
            error = np.abs(sums[1] - sums[2]).sum() / n.sum()
            label = f"{when} calibration (ECE {error:.3f})"
            right.plot(sums[1][used] / n[used], sums[2][used] / n[used], f"{mark}-", color=colour, label=label)
            count.stairs(100 * n / n.sum(), edges, color=colour, linewidth=2, label=f"{when} calibration")
        what = "top class" if is_top_class else "foreground"
        right.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        right.set_xlabel(f"mean probability of the {what} in a bin")
        right.set_ylabel("share of pixels that are right" if is_top_class else "share of pixels that are foreground")
        count.set(xlim=(0, 1), yscale="log")
        count.set_xlabel(f"probability of the {what}")
        count.set_ylabel("share of all pixels (%)")
        right.legend(frameon=False, loc="upper left", fontsize=11)
        count.legend(frameon=False, loc="upper center", fontsize=11)
        _save(figure, path)


def draw_risk_coverage(curves: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Draw the mean risk (1 - Dice) of the cases that are kept when the least confident ones go to review.

    Args:
        curves: `reliability.risk_coverage` by the name of the confidence, at most 5.
        path: The PNG to write.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for (name, risk), (colour, line) in zip(curves.items(), _LINES, strict=False):
            coverage = 100 * np.arange(1, len(risk) + 1) / len(risk)
            axes.plot(
                coverage, risk, color=colour, linestyle=line, linewidth=2, label=f"{name}: AURC {risk.mean():.3f}"
            )
        axes.set(xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("cases kept, the most confident first (%)")
        axes.set_ylabel("mean risk of the kept cases (1 - Dice)")
        figure.legend(frameon=False, loc="outside upper left", ncols=2, title="sorted by", alignment="left")
        _save(figure, path)


def draw_predicted_dice(
    predicted: np.ndarray, dice: np.ndarray, path: str | Path, *, review_below: float | None = None
) -> None:
    """Draw the true Dice of each case over its predicted Dice.

    Args:
        predicted: Predicted Dice, (n,).
        dice: True Dice, (n,).
        path: The PNG to write.
        review_below: Review is advised for cases whose predicted Dice is below this value; None: for no case.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="as predicted")
        advised = predicted < (-1.0 if review_below is None else review_below)
        _mark(axes, predicted[~advised], dice[~advised], "o", BLUE, "case")
        if review_below is not None:
            _mark(axes, predicted[advised], dice[advised], "^", ORANGE, "case, review advised")
            axes.axvline(
                review_below, color=ORANGE, linestyle="--", linewidth=1.5, label=f"review below {review_below:.2f}"
            )
        axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.set_xlabel("predicted Dice (0 to 1)")
        axes.set_ylabel("true Dice (0 to 1)")
        axes.legend(frameon=False, loc="upper left")
        _save(figure, path)


def _mark(axes: Axes, x: np.ndarray, y: np.ndarray, mark: str, colour: str, label: str) -> None:
    axes.plot(x, y, mark, color=colour, markersize=6, alpha=0.75, markeredgewidth=0, label=f"{label} ({len(x)})")


def _save(figure: Figure, path: str | Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=_DPI, metadata={"Software": None}))
