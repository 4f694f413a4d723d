"""The figures of a plan's page: sizes of the images, how much is foreground, and how wide targets are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icmoe_monai.planning.facts import target_diameters
from icmoe_monai.planning.looks import Look
from icmoe_monai.visualize.svg import INK, MARK, svg_of

_BINS = 24


def draw_facts(looks: Sequence[Look], *, longest_side: int) -> list[tuple[str, str]]:
    """Draw the figures: return title and SVG of each that there are values for.

    Args:
        looks: What was seen of the cases.
        longest_side: Longest side of the images at the planned size, in pixels.
    """
    shares = [100 * look.mask.foreground for look in looks if look.mask is not None]
    figures = (
        ("Longest side of the images", "pixels", "images", [look.longest for look in looks if look.longest]),
        ("How much of an image is target", "share of the image (%)", "images", shares),
        ("Width of the targets at the planned size", "pixels, as of a disc of the same area", "targets",
         target_diameters(looks, longest_side=longest_side)),
    )  # fmt: skip
    return [(title, _histogram(title, x, y, values)) for title, x, y, values in figures if len(values)]


def _histogram(title: str, x: str, y: str, values: Sequence[float] | np.ndarray) -> str:
    figure = Figure(figsize=(4.6, 2.6))
    axes = figure.subplots()
    axes.hist(values, bins=_BINS, color=MARK, edgecolor=INK, linewidth=0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(f"number of {y}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return svg_of(figure, axes, salt=title)
