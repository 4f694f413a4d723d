"""A figure of matplotlib's as SVG text for a page, in colours that the page sets for light and dark."""

from __future__ import annotations

import io
import re
import warnings

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icmoe_monai.visualize.colours import BLUE

INK, MARK = "#010203", BLUE.lower()  # placeholders as an SVG spells them; `svg_of` puts the page's own colours there


def svg_of(figure: Figure, axes: Axes, *, salt: str) -> str:
    """Return a figure as SVG, to stand in a page among others.

    Args:
        figure: The figure, drawn in `INK` and `MARK`, without a layout of its own.
        axes: Its axes, whose lines and labels take the page's colour.
        salt: Makes its ids unlike those of the page's other figures.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    style = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10, "mathtext.default": "regular"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # The page's own font, not matplotlib's, draws the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        _make_room(figure, axes)
        figure.savefig(file, format="svg", transparent=True, dpi=160, metadata=nothing)
    text = file.getvalue()
    text = re.sub(
        r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL
    )  # it would reach the whole page
    # Several figures in a page must not share ids; nothing refers to those of groups.
    return re.sub(r'<g id="[^"]*"', "<g", text).replace(INK, "currentColor").replace(MARK, "var(--mark)")


def _make_room(figure: Figure, axes: Axes) -> None:
    """Leave room for the labels, by their signs: a layout that measures them takes as long as all the rest.

    What it would measure are the letters of matplotlib's font, and those that a reader sees are of the page's.
    """
    across, down = (72 * float(inches) for inches in figure.get_size_inches())
    figure.subplots_adjust(left=50 / across, right=1 - 12 / across, bottom=38 / down, top=1 - 14 / down)
    widest = max(len(label.get_text()) for label in axes.get_yticklabels())
    figure.subplots_adjust(left=(26 + 6.4 * widest) / across)
