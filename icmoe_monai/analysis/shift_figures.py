"""Figures of an evaluation on shifted (degraded) images.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. A `summary` is what
`shift_metrics.summarise` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icmoe_monai.analysis.figures import GRID
from icmoe_monai.analysis.shifts import CLEAN, SHIFTS, STRENGTHS, case_seed, shift_image
from icmoe_monai.imageio.read import read_image
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.visualize.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION

_DICE_COLOUR, _QUALITY_COLOURS = BLACK, (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
_MARKERS = "osD^vP*X<>"
_DASHES = ("dashed", "dotted", "dashdot", (0, (5, 1)), (0, (1, 1)))
_WIDTH_INCHES, _DPI = 12.0, 120
_SIDE = 320  # pixels of a picture in the sheet of examples
_SHIFT_COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, "#8C6D31", "#666666")


def draw_conditions(summary: Mapping[str, Any], path: str | Path) -> None:
    """Draw Dice with its interval, and the mean of every figure of quality, over the strength, in a panel per shift.

    Args:
        summary: The result of `shift_metrics.summarise`.
        path: The PNG to write, 1440 pixels wide.
    """
    entries = {(entry["shift"], entry["strength"]): entry for entry in summary["conditions"]}
    shifts = [shift for shift in dict.fromkeys(shift for shift, _ in entries) if shift != CLEAN]
    num_columns = min(3, len(shifts))
    num_rows = -(-len(shifts) // num_columns)
    figure = Figure(figsize=(_WIDTH_INCHES, 2.9 * num_rows + 0.8), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    for axis, shift in zip(axes.ravel(), shifts, strict=False):
        column = [entries[CLEAN, 0], *(entries[shift, strength] for strength in STRENGTHS)]
        _draw_condition(axis, column)
        axis.set_title(f"{shift.replace('_', ' ')} ({SHIFTS[shift].unit})", fontsize=10)
    for axis in axes.ravel()[len(shifts) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("strength (0: as read)")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean over cases, 0 to 1")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=10)
    _save(figure, path)


def draw_quality(summary: Mapping[str, Any], path: str | Path) -> None:
    """Draw the mean Dice over the mean of a figure of quality, a mark per condition, in a panel per figure of quality.

    Args:
        summary: The result of `shift_metrics.summarise`.
        path: The PNG to write, 1440 pixels wide.
    """
    names = list(summary["spearman"])
    shifts = list(dict.fromkeys(entry["shift"] for entry in summary["conditions"]))
    figure = Figure(figsize=(_WIDTH_INCHES, 4.6), layout="constrained")
    axes = figure.subplots(1, max(len(names), 1), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, names, strict=False):
        for i, shift in enumerate(shifts):
            entries = [entry for entry in summary["conditions"] if entry["shift"] == shift]
            axis.scatter(
                [entry["quality"][name] for entry in entries],
                [entry["dice"] for entry in entries],
                s=[30 + 30 * entry["strength"] for entry in entries],
                marker=_MARKERS[i % len(_MARKERS)],
                color=_SHIFT_COLOURS[i % len(_SHIFT_COLOURS)],
                edgecolors="white",
                linewidths=0.6,
                label="as read" if shift == CLEAN else shift.replace("_", " "),
                zorder=3,
            )
        rho = summary["spearman"][name]["over_conditions"]
        axis.set_title("Spearman " + ("undefined" if rho is None else f"{rho:+.2f}"), fontsize=10)
        axis.set_xlabel(f"mean {name.replace('_', ' ')}, 0 to 1")
        axis.grid(color=GRID, linewidth=0.6)
    axes[0].set_ylabel("mean Dice of the voted mask")
    handles, labels = axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"loc": "outside lower center", "ncols": 10, "fontsize": 9}
    legend = figure.legend(handles, labels, title="larger mark: stronger shift", **style)
    for mark in legend.legend_handles:
        mark.set_sizes([60])  # type: ignore[union-attr]
    _save(figure, path)


def draw_examples(image_path: str, shifts: Sequence[str], path: str | Path, *, seed: int = 0) -> None:
    """Draw one image under every shift and strength.

    Args:
        image_path: File of the image.
        shifts: Names of `SHIFTS`, at least one.
        path: The PNG to write, 1440 pixels wide.
        seed: Seed of all random numbers.
    """
    image = torch.from_numpy(np.ascontiguousarray(read_image(image_path).transpose(2, 0, 1)))
    num_rows = -(-(len(shifts) + 1) // 2)
    ratio = min(1.5, image.shape[1] / image.shape[2])
    panel = _WIDTH_INCHES / 6
    figure = Figure(figsize=(_WIDTH_INCHES, num_rows * (panel * ratio + 0.32)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    axes = figure.subplots(num_rows, 6, squeeze=False).reshape(-1, 3)
    for axis in axes.ravel():
        axis.set_axis_off()
    _show(axes[0, 0], image, "as read")
    for row, shift in zip(axes[1:], shifts, strict=False):
        for axis, strength, amount in zip(row, STRENGTHS, SHIFTS[shift].amounts, strict=True):
            shifted = shift_image(image, shift, strength, seed=case_seed("example", seed))
            _show(axis, shifted, f"{shift.replace('_', ' ')} {strength} ({amount:g})")
    _save(figure, path)


def _show(axis: Axes, image: torch.Tensor, title: str) -> None:
    step = max(1, max(image.shape[1:]) // _SIDE)
    picture = image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()[::step, ::step]
    axis.imshow(picture)
    axis.set_title(title, fontsize=9, pad=2)


def _draw_condition(axis: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    strengths = [entry["strength"] for entry in entries]
    dice = np.array([entry["dice"] for entry in entries])
    axis.plot(strengths, dice, color=_DICE_COLOUR, marker="o", linewidth=2, label="Dice")
    if all(entry["interval"] for entry in entries):
        low, high = np.transpose([entry["interval"] for entry in entries])
        axis.fill_between(strengths, low, high, color=_DICE_COLOUR, alpha=0.15, linewidth=0, label="95 % interval")
    for i, name in enumerate(entries[0]["quality"]):
        values = [entry["quality"][name] for entry in entries]
        colour, dashes = _QUALITY_COLOURS[i % len(_QUALITY_COLOURS)], _DASHES[i % len(_DASHES)]
        axis.plot(strengths, values, color=colour, linestyle=dashes, linewidth=1.8, label=name.replace("_", " "))
    worst = entries[-1]
    words = f"Dice at {worst['strength']}, minus as read: {worst['minus_clean']:+.3f}"
    if worst["minus_clean_interval"]:
        words += " ({:+.3f} to {:+.3f})".format(*worst["minus_clean_interval"])
    axis.text(0.02, 0.03, words, transform=axis.transAxes, fontsize=8.5)
    axis.set_ylim(0, 1)
    axis.set_xticks(strengths)
    axis.grid(color=GRID, linewidth=0.6)


def _save(figure: Figure, path: str | Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))
