"""Draw the figures of docs/cost.md from the files in docs/results/.

python -m benchmarks.cost.figures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.cost.wanted import setting_of
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.visualize.colours import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION, YELLOW

DOCS = Path(__file__).parents[2] / "docs"
_GREY = "#595959"
_MEGABYTES = (500, 1000, 2000, 4000)
_STYLE = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
# group in the figure: its colour, its hatch, and the parts in the files that it sums
_GROUPS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "reading": (_GREY, "", ("reading images", "reading features", "reading")),
    "trunk": (BLUE, "", ("trunk",)),
    "pyramid": (SKY_BLUE, "//", ("pyramid",)),
    "experts": (GREEN, "", ("experts", "experts, forward", "experts, backward")),
    "decoders": (ORANGE, "//", ("decoders", "decoders, forward", "decoders, backward")),
    "vote (and loss)": (
        PURPLE, "", ("gate", "windows and vote", "vote, forward", "loss, forward", "loss and vote, backward")
    ),
    "optimizer": (YELLOW, "//", ("optimizer",)),
    "writing": (VERMILION, "", ("writing",)),
}  # fmt: skip


def draw_parts(bars: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the share of time that each part of a step or an image takes, as stacked bars.

    Args:
        bars: Seconds by part, by the name of the bar.
        path: The PNG file.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.8 + 0.55 * len(bars)), layout="constrained")
        axes = figure.subplots()
        names = [f"{name}\n{sum(parts.values()):.2f} s" for name, parts in bars.items()]
        left = [0.0] * len(bars)
        for group, (colour, hatch, members) in _GROUPS.items():
            shares = [
                100 * sum(parts.get(part, 0.0) for part in members) / sum(parts.values()) for parts in bars.values()
            ]
            axes.barh(names, shares, left=left, color=colour, hatch=hatch, edgecolor="white", label=group)
            left = [start + share for start, share in zip(left, shares, strict=True)]
        axes.set(xlim=(0, 100))
        axes.set_xlabel("share of the time (%)")
        axes.invert_yaxis()
        figure.legend(frameon=False, loc="outside upper center", ncols=4)
        _save(figure, path)


def draw_growth(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw seconds and peak memory of one image against its pixels, both axes logarithmic.

    Args:
        rows: Measurements with `side` (pixels), `seconds` and `peak_mb`.
        path: The PNG file.
    """
    sides = [row["side"] for row in rows]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, key, name, colour in zip(
            figure.subplots(1, 2),
            ("seconds", "peak_mb"),
            ("seconds", "peak memory (MB)"),
            (BLUE, ORANGE),
            strict=True,
        ):
            values = [row[key] for row in rows]
            axes.loglog(sides, values, "o-", color=colour, label="measured")
            if key == "seconds":
                last = values[-1] / sides[-1] ** 2
                axes.loglog(sides, [last * side**2 for side in sides], ":", color=_GREY, label="as the pixels")
                axes.legend(frameon=False)
            else:
                axes.set_yticks(_MEGABYTES, [str(value) for value in _MEGABYTES])
            axes.set_xticks(sides, [str(side) for side in sides])
            axes.minorticks_off()
            axes.set_xlabel("side of the image (pixels)")
            axes.set_ylabel(name)
        _save(figure, path)


def draw_trainings(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the seconds of a step and the peak memory of every training.

    Args:
        results: `results` of training_cost.json: `trainings` by setting.
        path: The PNG file.
    """
    with matplotlib.rc_context(_STYLE):
        heights = [len(result["trainings"]) for result in results.values()]
        figure = Figure(figsize=(9, 1.2 + 0.4 * sum(heights)), layout="constrained")
        grid = figure.subplots(len(results), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
        for row, result in zip(grid, results.values(), strict=True):
            names = list(result["trainings"])
            for axes, key, colour in zip(row, ("step_seconds", "peak_mb"), (BLUE, ORANGE), strict=True):
                bars = axes.barh(names, [one[key] for one in result["trainings"].values()], color=colour)
                axes.bar_label(bars, fmt="%.1f" if key == "step_seconds" else "%.0f", padding=3, fontsize=9)
                axes.margins(x=0.15)
                axes.invert_yaxis()
            row[0].set_title(f"{setting_of(result)}: seconds a step", loc="left", fontsize=11)
            row[1].set_title("peak memory (MB)", loc="left", fontsize=11)
            row[1].set_yticklabels([])
        _save(figure, path)


def bars_of(training: Mapping[str, Any], inference: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the bars of `draw_parts`: a training step without and with the cache, and an image from file to files."""
    bars = {}
    for result in training["results"].values():
        parts, setting = result["parts"], setting_of(result)
        frozen = ("trunk", "pyramid", "reading images")
        bars[f"step, {setting}"] = {part: spent for part, spent in parts.items() if part != "reading features"}
        bars[f"cached step, {setting}"] = {part: spent for part, spent in parts.items() if part not in frozen}
    for run in inference["workflows"][::-1]:
        if run["longest_side"] == 2 * inference["window"]:
            spent = {part: run["parts"][part] / run["num_images"] for part in ("reading", "writing")}
            bars[f"image, {run['longest_side']} pixels"] = {**inference["parts"], **spent}
    return bars


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100, metadata={"Software": None}))


def main(arguments: list[str] | None = None) -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=DOCS)
    docs = parser.parse_args(arguments).docs
    training, inference = (
        json.loads((docs / "results" / f"{name}_cost.json").read_text()) for name in ("training", "inference")
    )
    draw_parts(bars_of(training, inference), docs / "images" / "cost_parts.png")
    draw_growth(inference["growth"]["rows"], docs / "images" / "cost_growth.png")
    draw_trainings(training["results"], docs / "images" / "cost_training.png")


if __name__ == "__main__":
    main()
