"""The figures of an inference report as SVG, in colours that the page sets for light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icmoe_monai.visualize.overlay import class_colour
from icmoe_monai.visualize.svg import INK, MARK, svg_of

_MOST_VECTOR_MARKS = 1000
_MOST_CLASSES_APART = 4


def draw_figures(done: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Draw the report's figures: return title and SVG of each that at least two cases have values for.

    Args:
        done: The cases of a report that are done.
        labels: Names of the foreground classes.

    Example:
        >>> [title for title, _ in draw_figures([{"seconds": 0.2}, {"seconds": 0.3}], ["lesion"])]
        ['Time per case']
    """
    drawings = (_draw_amounts, _draw_reliability, _draw_seconds)
    figures = []
    for drawing in drawings if len(done) > 1 else ():
        figure = Figure(figsize=(4.6, 3.1))
        axes = figure.subplots()
        title = drawing(axes, done, labels)
        if title is not None:
            figures.append((title, svg_of(figure, axes, salt=drawing.__name__)))
    return figures


def is_number(value: Any) -> bool:
    """Tell whether a value of a report is a finite number.

    Args:
        value: The value.
    """
    return isinstance(value, (int, float)) and math.isfinite(value)


def _draw_amounts(axes: Axes, done: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str | None:
    calibrated = all(case.get("area_mm2") for case in done)
    key, factor = ("area_mm2", 1) if calibrated else ("foreground_share", 100)
    amounts = [[factor * value for value in case[key]] for case in done if case.get(key)]
    if len(amounts) < 2:
        return None
    axes.set_xlabel("area found (mm²)" if calibrated else "share of the picture (%)")
    axes.set_ylabel("number of cases")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if 1 < len(labels) <= _MOST_CLASSES_APART and all(len(values) == len(labels) for values in amounts):
        colours = ["#{:02x}{:02x}{:02x}".format(*class_colour(k + 1)) for k in range(len(labels))]
        apart = list(map(list, zip(*amounts, strict=True)))
        axes.hist(apart, bins=12, color=colours, edgecolor=INK, linewidth=0.6, label=list(labels))
        for text in axes.legend(frameon=False, labelcolor=INK).get_texts():
            text.set_parse_math(False)
    else:
        bins = min(30, max(5, math.ceil(2 * math.sqrt(len(amounts)))))
        axes.hist(list(map(math.fsum, amounts)), bins=bins, color=MARK, edgecolor=INK, linewidth=0.6)
    axes.set_xlim(left=0)
    return "How much was found"


def _draw_reliability(axes: Axes, done: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str | None:
    points = [
        (100 * math.fsum(case["foreground_share"]), case["reliability"]["confidence"])
        for case in done
        if case.get("foreground_share") and is_number((case.get("reliability") or {}).get("confidence"))
    ]
    if len(points) < 2:
        return None
    _scatter(axes, points)
    axes.set_xlabel("share of the picture (%)")
    axes.set_ylabel("confidence (0 to 1)")
    return "Confidence and how much was found"


def _draw_seconds(axes: Axes, done: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str | None:
    points = [(n, case["seconds"]) for n, case in enumerate(done, start=1) if is_number(case.get("seconds"))]
    if len(points) < 2:
        return None
    _scatter(axes, points)
    axes.set_xlabel("segmented case, in order")
    axes.set_ylabel("time per case (s)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    return "Time per case"


def _scatter(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    many = len(points) > _MOST_VECTOR_MARKS
    size, alpha = (3.0, 0.9) if many else (5.5, 0.75)
    # Each mark is 100 bytes of the page; many are one picture.
    axes.plot(
        *zip(*points, strict=True), "o", color=MARK, rasterized=many, markersize=size, alpha=alpha, markeredgewidth=0
    )
