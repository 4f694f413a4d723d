"""Charts of the expert analysis: votes by region, load, pairs of experts, positions in the picture, training.

Every function returns a matplotlib figure, which `to_png` draws 1200 pixels wide. The colours are those of Okabe and
Ito, which colour-blind readers can tell apart; markers or dashes differ as well.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from icmoe_monai.analysis.pixels import REGIONS, CasePixels
from icmoe_monai.visualize.colours import EXPERT_COLOURS

MARKERS = "osD^vP*"
DASHES: tuple[Any, ...] = ("solid", "dashed", "dotted", "dashdot", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
WIDTH_INCHES, _DPI = 10.0, 120
INK, GRID = "#222222", "#dddddd"
_MOST_DRAWN = 20_000


def to_png(figure: Figure) -> bytes:
    """Render a figure as a PNG, 1200 pixels wide.

    Args:
        figure: The figure.

    Returns:
        The content of the PNG file.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def new_figure(height: float) -> Figure:
    """Create an empty figure of the width that all figures share.

    Args:
        height: Height in inches.
    """
    return Figure(figsize=(WIDTH_INCHES, height), layout="constrained")


def draw_votes(cases: Sequence[CasePixels], expert_names: Sequence[str]) -> Figure:
    """Draw the distribution of the votes over pixels as box plots, by region and expert.

    A box shows the quartiles, its whiskers 5 to 95 %.

    Args:
        cases: What was measured on each case.
        expert_names: The E names.
    """
    figure = new_figure(4.2)
    axis = figure.subplots()
    E = len(expert_names)
    step = 0.8 / E
    present = [region for region in REGIONS if any(region in case.drawn for case in cases)]
    for place, region in enumerate(present):
        drawn = np.concatenate([case.drawn[region] for case in cases if region in case.drawn])[:_MOST_DRAWN]
        places = place + step * (np.arange(E) - (E - 1) / 2)
        boxes = axis.boxplot(
            drawn, positions=places, widths=step * 0.8, whis=(5, 95), showfliers=False, patch_artist=True,
            medianprops={"color": INK, "linewidth": 2},
        )  # fmt: skip
        for box, colour in zip(boxes["boxes"], EXPERT_COLOURS, strict=False):
            box.set_facecolor(colour)
    axis.axhline(1 / E, color=INK, linewidth=1, linestyle="dotted")
    axis.text(len(present) - 0.5, 1 / E, "equal\nvotes", va="center", ha="left", fontsize=9)
    axis.set(xlim=(-0.5, len(present) - 0.5), ylim=(0, 1), ylabel="vote (weight of the expert at a pixel, 0 to 1)")
    axis.set_xticks(range(len(present)), present)
    axis.set_xlabel("region of the picture, by its label; ambiguous: where experts decide differently")
    handles = [Patch(color=colour, label=name) for colour, name in zip(EXPERT_COLOURS, expert_names, strict=False)]
    axis.legend(handles=handles, loc="upper left", ncols=E, fontsize=10)
    return figure


def draw_load(loads: Mapping[str, float], dead_below: float) -> Figure:
    """Draw the share of pixels at which each expert has the largest vote.

    Args:
        loads: Shares, 0..1, by expert.
        dead_below: An expert whose share is below this one counts as dead.
    """
    figure = new_figure(0.45 * len(loads) + 1.4)
    axis = figure.subplots()
    names = list(loads)
    hatches = ["///" if loads[name] < dead_below else "" for name in names]
    bars = axis.barh(names, [100 * loads[name] for name in names], color=EXPERT_COLOURS[: len(names)], hatch=hatches)
    axis.bar_label(bars, fmt="%.1f %%", padding=4)
    axis.axvline(100 * dead_below, color=INK, linestyle="dashed", linewidth=1.5)
    axis.text(100 * dead_below, -0.85, f" alarm below {100 * dead_below:g} %", fontsize=9, va="top")
    axis.set(xlim=(0, 105), xlabel="load: share of pixels with the largest vote (%)", ylim=(len(names) - 0.5, -0.95))
    return figure


def draw_pairs(pairs: Mapping[str, Mapping[str, float]], expert_names: Sequence[str]) -> Figure:
    """Draw how often two experts decide differently, and how often both are wrong.

    Args:
        pairs: The `pairs` that `pixels.summarise` returns.
        expert_names: The E names, at least two.
    """
    figure = new_figure(0.75 * len(expert_names) + 1.7)
    left, right = figure.subplots(1, 2)
    titles = {"differ": "Pairs that decide differently", "both_wrong": "Pairs of which both are wrong"}
    for axis, (key, title) in zip((left, right), titles.items(), strict=True):
        shares = np.full((len(expert_names), len(expert_names)), np.nan)
        for pair, values in pairs.items():
            first, second = (list(expert_names).index(name) for name in pair.split(", "))
            shares[first, second] = shares[second, first] = 100 * values[key]
        top = max(1.0, float(np.nanmax(shares)))
        image = axis.imshow(shares, cmap="cividis", vmin=0, vmax=top, aspect="auto")
        for i, j in np.argwhere(np.isfinite(shares)):
            colour = "white" if shares[i, j] < 0.55 * top else "black"
            axis.text(j, i, f"{shares[i, j]:.1f}", ha="center", va="center", color=colour, fontsize=12)
        axis.set_xticks(range(len(expert_names)), expert_names)
        axis.set_yticks(range(len(expert_names)), expert_names)
        axis.set_title(title, fontsize=11)
        figure.colorbar(image, ax=axis, label="share of compared pixels (%)")
    return figure


def draw_positions(cases: Sequence[CasePixels], expert_names: Sequence[str]) -> Figure:
    """Draw a map per expert of the positions at which this expert alone is right, as a share of the cases' pixels.

    Args:
        cases: What was measured on each case.
        expert_names: The E names, at least two.
    """
    shares = 100 * np.mean([case.positions for case in cases], axis=0)
    figure = new_figure(WIDTH_INCHES / len(expert_names) * 0.8 + 0.4)
    axes = figure.subplots(1, len(expert_names), squeeze=False)[0]
    top = max(0.1, float(shares.max()))
    for axis, one, name in zip(axes, shares, expert_names, strict=True):
        image = axis.imshow(one, cmap="cividis", vmin=0, vmax=top, extent=(0, 100, 100, 0))
        axis.set_title(f"only {name} is right", fontsize=11)
        axis.set_xlabel("place across (% of width)")
    axes[0].set_ylabel("place down (% of height)")
    figure.colorbar(image, ax=list(axes), label="share of the cases' pixels (%)", shrink=0.8)
    return figure


def draw_training(rows: Sequence[Mapping[str, Any]], loads: Mapping[str, str], dead_below: float) -> Figure:
    """Draw three panels over the epochs of a training: load, vote entropy with disagreement, and Dice.

    Args:
        rows: Validated epochs, each with its numbers by column of `metrics.csv`.
        loads: Names of the columns that hold the loads, by expert.
        dead_below: An expert whose load is below this share counts as dead.
    """
    columns = {"vote entropy": "val_vote_entropy", "disagreement": "val_disagreement"}
    scores = {"voted": "val_mean_dice", "mean vote": "val_mean_vote_dice", "oracle": "val_oracle_dice"}
    figure = new_figure(3.6)
    first, second, third = figure.subplots(1, 3)
    _draw_lines(first, rows, loads)
    first.axhline(dead_below, color=INK, linestyle="dotted", linewidth=1.2, label="alarm")
    first.set(ylabel="load (share of pixels)", ylim=(0, 1))
    _draw_lines(second, rows, columns)
    second.set(ylabel="vote entropy, disagreement (0 to 1)", ylim=(0, 1))
    _draw_lines(third, rows, scores)
    third.set(ylabel="validation Dice", ylim=(0, 1))
    for axis in (first, second, third):
        axis.set_xlabel("epoch")
        axis.grid(color=GRID, linewidth=0.6)
        axis.legend(fontsize=9)
    return figure


def _draw_lines(axis: Axes, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    for i, (name, column) in enumerate(columns.items()):
        points = [(row["epoch"], row[column]) for row in rows if column in row]
        if points:
            style: dict[str, Any] = {"color": EXPERT_COLOURS[i], "linestyle": DASHES[i], "marker": MARKERS[i]}
            axis.plot(*zip(*points, strict=True), markersize=4, linewidth=1.8, label=name, **style)
