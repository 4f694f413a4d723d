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
        figure: The figure, drawn in `INK` and `MARK`.
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
        figure.savefig(file, format="svg", transparent=True, dpi=160, metadata=nothing)
    text = file.getvalue()
    text = re.sub(
        r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL
    )  # it would reach the whole page
    # Several figures in a page must not share ids; nothing refers to those of groups.
    return re.sub(r'<g id="[^"]*"', "<g", text).replace(INK, "currentColor").replace(MARK, "var(--mark)")
