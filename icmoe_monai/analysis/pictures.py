"""Pictures of the expert analysis: t-SNE of features, their similarity, cases with the right experts, phantoms.

Every function returns a matplotlib figure in the style of `figures`. Letters: E experts; n points; H W maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from icmoe_monai.analysis.ambiguity import LEVELS, MEASURES
from icmoe_monai.analysis.figures import DASHES, GRID, INK, MARKERS, WIDTH_INCHES, new_figure
from icmoe_monai.visualize.colours import BLUE, EXPERT_COLOURS, SKY_BLUE, VERMILION, rgb
from icmoe_monai.visualize.overlay import class_hex
from icmoe_monai.visualize.page import as_utf8

_ALL_RIGHT, _SOME_RIGHT, _ALL_WRONG = "#EEEEEE", "#B0B0B0", INK
_BACKGROUND = "#888888"
_GAP = 6  # pixels between pictures of a strip
_PAIR_COLOURS = {"foreground": VERMILION, "background": SKY_BLUE, "between": INK}
DEPTH_TITLES = {"features": "features", "decoded": "decoder", "embeddings": "embeddings"}


def draw_spread(spread: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Draw the t-SNE coordinates of points, coloured by class, in a panel per depth and expert.

    Args:
        spread: Coordinates (n, 2) and classes (n,) of the points, by depth and expert.
    """
    panels = [(depth, name, *found) for depth, by_expert in spread.items() for name, found in by_expert.items()]
    num_experts = len(spread["decoded"])
    num_columns = num_experts
    num_columns += int(len(panels) > 2 * num_columns)  # the embeddings stand beside the decoders
    panel = WIDTH_INCHES / max(num_columns, 3)
    figure = new_figure(2 * panel + 0.5)
    axes = figure.subplots(2, num_columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    classes = sorted({int(c) for *_, found in panels for c in found})
    for axis, (depth, name, places, found) in zip(_in_order(axes, num_experts), panels, strict=False):
        for c in classes:
            style: dict[str, Any] = {
                "color": _class_colour(c),
                "marker": MARKERS[c % 7],
                "s": 14,
                "linewidths": 0.3,
            }
            axis.scatter(*places[found == c].T, edgecolors="white", **style)
        axis.set_title(f"{name}: {DEPTH_TITLES.get(depth, depth)}", fontsize=10)
        axis.set(xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
        axis.set_axis_on()
    handles = [
        figure.axes[0].scatter([], [], color=_class_colour(c), marker=MARKERS[c % 7], s=50, label=_class_name(c))
        for c in classes
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=10)
    return figure


def draw_similarity(before: Mapping[str, Any], after: Mapping[str, Any], titles: tuple[str, str]) -> Figure:
    """Draw the distributions of the cosines of pairs of points: `before` on the left, `after` on the right.

    There is a row per depth and expert.

    Args:
        before: Results of `features.similarity` for the network to compare with, by "depth: expert".
        after: The same for the network that is analysed.
        titles: Titles of the two columns.
    """
    figure = new_figure(1.35 * len(after) + 1.0)
    axes = figure.subplots(len(after), 2, squeeze=False, sharex=True)
    bins = np.linspace(-1, 1, 61)
    for row, name in zip(axes, after, strict=True):
        for axis, found in zip(row, (before.get(name), after[name]), strict=True):
            axis.set(yticks=[], xlim=(-1, 1))
            axis.grid(color=GRID, linewidth=0.6)
            if found is None:
                axis.text(0, 0.5, "nothing to compare", ha="center", va="center")
                continue
            for (group, colour), dashes in zip(_PAIR_COLOURS.items(), DASHES, strict=False):
                counts, _ = np.histogram(found[group], bins, density=True)
                axis.stairs(counts, bins, color=colour, linestyle=dashes, linewidth=2)
            words = f"separation {found['separation']:+.2f}, AUC {found['auc']:.2f}"
            axis.text(0.01, 0.93, words, transform=axis.transAxes, va="top", fontsize=9)
        row[0].set_ylabel(name.replace(": ", "\n"), rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11)
    for axis in axes[-1]:
        axis.set_xlabel("cosine of two points' features (height: density)")
    names = {"foreground": "both foreground", "background": "both background", "between": "one of each"}
    lines = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=names[group])
        for (group, colour), dashes in zip(_PAIR_COLOURS.items(), DASHES, strict=False)
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def draw_wins(cases: Sequence[Mapping[str, Any]], expert_names: Sequence[str]) -> Figure:
    """Draw cases and, beside each, a map of which experts are right.

    Args:
        cases: At least one, each with `name`, `image` (H, W, 3) in 0..255, `label` (H, W), and `right`, bool
            (E, H, W).
        expert_names: The E names, at least two.
    """
    num_columns = min(3, len(cases))
    num_rows = -(-len(cases) // num_columns)
    ratios = [min(1.5, case["image"].shape[0] / case["image"].shape[1]) for case in cases]
    heights = [max(ratios[row * num_columns : (row + 1) * num_columns]) for row in range(num_rows)]
    panel = WIDTH_INCHES / (2 * num_columns)
    figure = new_figure(sum(panel * height + 0.3 for height in heights) + 0.6)
    axes = figure.subplots(num_rows, 2 * num_columns, squeeze=False, height_ratios=heights).reshape(-1, 2)
    for axis in axes.ravel():
        axis.set_axis_off()
        axis.set_anchor("N")
    for (left, right), case in zip(axes, cases, strict=False):
        left.imshow(case["image"])
        label = case["label"] > 0
        if label.any() and not label.all():
            left.contour(label, levels=[0.5], colors="white", linewidths=2.4)
            left.contour(label, levels=[0.5], colors=BLUE, linewidths=1.2, linestyles="dashed")
        name = as_utf8(case["name"])
        left.set_title(name if len(name) <= 24 else "..." + name[-21:], fontsize=9, parse_math=False)
        right.imshow(_wins_map(case["right"]))
    patches = [Patch(color=EXPERT_COLOURS[i], label=f"only {name}") for i, name in enumerate(expert_names)]
    rest = {_ALL_RIGHT: "all right", _SOME_RIGHT: "some right", _ALL_WRONG: "all wrong"}
    if len(expert_names) == 2:
        del rest[_SOME_RIGHT]  # of two experts, "some right" is always "only one right"
    patches += [Patch(facecolor=colour, edgecolor="#888888", label=label) for colour, label in rest.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=9)
    return figure


def draw_ambiguity(summary: Mapping[str, Any], examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the measures over the known ambiguity, and below them one phantom of each family at every level.

    Args:
        summary: The result of `ambiguity.summarise`.
        examples: By family, one phantom's pictures in the order of the levels: `image` (H, W, 3), `probability` and
            `disagreement` (H, W) in 0..1.
    """
    strips = [_strip(examples[family]) for family in summary]
    heights = [WIDTH_INCHES * strip.shape[0] / strip.shape[1] for strip in strips]
    figure = new_figure(4.4 + sum(heights))
    grid = figure.add_gridspec(3, 2, height_ratios=(3.6, *heights))
    labels = {"rim": "rim's share of the lesion (ambiguous at 0.5)", "softness": "width of the border (factor)"}
    for i, family in enumerate(summary):
        axis = figure.add_subplot(grid[0, i])
        _draw_measures(axis, summary[family])
        axis.set(xlabel=labels[family], ylabel="mean over the zone, 0 to 1", ylim=(0, 1.3))
        axis.set_yticks(np.linspace(0, 1, 6))
        if family == "softness":
            axis.set_xscale("log", base=2)
            axis.set_xticks(LEVELS[family], [f"{level:g}" for level in LEVELS[family]])
        axis.grid(color=GRID, linewidth=0.6)
        _draw_strip(figure.add_subplot(grid[1 + i, :]), strips[i], LEVELS[family], labels[family])
    return figure


def _in_order(axes: np.ndarray, num_experts: int) -> list[Axes]:
    """Return the panels to draw on: one per expert in the first row, then all of the second row."""
    return [*axes[0, :num_experts], *axes[1]]


def _draw_measures(axis: Axes, family: Mapping[str, Any]) -> None:
    levels = [entry["level"] for entry in family["levels"]]
    for i, name in enumerate(MEASURES):
        if name not in family["spearman"]:
            continue
        mean, low, high = ([entry[key][name] for entry in family["levels"]] for key in ("mean", "low", "high"))
        rho = family["spearman"][name]["within_phantoms"]
        words = f"{name.replace('_', ' ')} (rho {'-' if rho is None else format(rho, '+.2f')})"
        axis.plot(levels, mean, color=EXPERT_COLOURS[i], linestyle=DASHES[i], marker=MARKERS[i], label=words)
        axis.fill_between(levels, low, high, color=EXPERT_COLOURS[i], alpha=0.15, linewidth=0)
    axis.legend(fontsize=8.5, loc="upper center", ncols=2)


def _strip(pictures: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Lay phantoms side by side, each above its probability and disagreement, as one picture (H, W, 3) in 0..1."""
    maps = {"probability": colormaps["cividis"], "disagreement": colormaps["magma"]}
    columns = [
        [picture["image"] / 255, *(colours(picture[key])[..., :3] for key, colours in maps.items())]
        for picture in pictures
    ]
    gap = ((_GAP, 0), (_GAP, 0), (0, 0))
    rows = [[np.pad(one, gap, constant_values=1) for one in row] for row in zip(*columns, strict=True)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _draw_strip(axis: Axes, strip: np.ndarray, levels: Sequence[float], label: str) -> None:
    axis.imshow(strip)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_xticks((np.arange(len(levels)) + 0.5) / len(levels) * strip.shape[1], [f"{level:g}" for level in levels])
    axis.set_yticks((np.arange(3) + 0.5) / 3 * len(strip), ["phantom", "voted\nprobability", "disagree-\nment"])
    axis.set_xlabel(label)


def _wins_map(right: np.ndarray) -> np.ndarray:
    num_right = right.sum(0)
    E = len(right)
    colours = np.empty((*num_right.shape, 3))
    colours[:] = rgb(_SOME_RIGHT)
    colours[num_right == E], colours[num_right == 0] = rgb(_ALL_RIGHT), rgb(_ALL_WRONG)
    for one, colour in zip(right, EXPERT_COLOURS, strict=False):
        colours[one & (num_right == 1)] = rgb(colour)
    return colours / 255


def _class_colour(index: int) -> str:
    return class_hex(index) if index else _BACKGROUND


def _class_name(index: int) -> str:
    return "background" if index == 0 else "foreground" if index == 1 else f"class {index}"
