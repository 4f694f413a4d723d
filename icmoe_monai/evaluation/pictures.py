"""Page of pictures that shows each expert's prediction and the votes, one row per case.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart.

Letters: E experts; K output channels; H W size of the maps; h w size of the small pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from PIL import Image

from icmoe_monai.data.splits import take_evenly
from icmoe_monai.imageio.read import read_image
from icmoe_monai.networks.voting import disagreement
from icmoe_monai.transforms.votes import EXPERT_NAMES
from icmoe_monai.utils.distributed import collect, gathered, is_first, num_processes, process_index
from icmoe_monai.utils.engines import CaseHandler, case_items
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.visualize.colours import BLUE, EXPERT_COLOURS, ORANGE, rgb
from icmoe_monai.visualize.overlay import class_hex
from icmoe_monai.visualize.page import as_utf8

_LABEL_COLOUR, _VOTED_COLOUR, _INK = BLUE, ORANGE, "#222222"
_LEGEND_COLUMNS = 7
_LONGEST_SIDE = 320
_WIDTH_INCHES, _DPI = 12.0, 120


class PredictionPictures(CaseHandler):
    """Handler: draw each expert's prediction and the votes of some cases, spread evenly over a run.

    Writes `<output_dir>/predictions.png`. Each case is kept as a small picture only, so that the page needs little
    memory. The image is read again from its file, because the one in the item is resized and normalised; the maps must
    cover the whole image, at any resolution (`Invertd`, then `SplitVotesd`). With several processes, the first one
    writes the page with the cases of all.

    Args:
        output_dir: Folder of the page.
        num_cases: Number of cases to show.
        expert_names: The E names, in the order of the maps.
        labels: The names of classes 1, 2, ...; each class then has a colour of its own, if they are several.

    Example:
        >>> import tempfile
        >>> evaluator = Engine(lambda engine, batch: [batch])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PredictionPictures(output_dir=folder, num_cases=0).attach(evaluator)
        ...     state = evaluator.run([{}])
        ...     list(Path(folder).iterdir())
        []
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        num_cases: int = 6,
        expert_names: Sequence[str] = EXPERT_NAMES,
        labels: Sequence[str] = ("target",),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.num_cases = num_cases
        self.expert_names = tuple(expert_names)
        self.labels = tuple(labels)
        self.cases: list[dict[str, Any]] = []
        self.chosen: set[int] = set()

    def started(self, engine: Engine) -> None:
        """Clear the cases of an earlier run, and choose the iterations whose cases are shown."""
        self.cases = []
        iterations = range(1, sum(collect(engine.state.epoch_length or 0)) + 1)
        self.chosen = set(take_evenly(iterations, min(self.num_cases, len(iterations)))[0])

    def iteration_completed(self, engine: Engine) -> None:
        """Keep small pictures of the cases of a chosen iteration."""
        place = (engine.state.iteration - 1) * num_processes() + process_index() + 1  # as if one process ran
        if place in self.chosen:
            for item in case_items(engine)[: self.num_cases - len(self.cases)]:
                self.cases.append(_case_picture(item) | {"place": place})

    def completed(self, engine: Engine) -> None:
        """Gather the cases of all processes and write the page, if there is a case."""
        self.cases = sorted(gathered(self.cases), key=lambda case: case["place"])[: self.num_cases]
        if self.cases and is_first():
            path = self.output_dir / "predictions.png"
            prediction_grid(self.cases, path, expert_names=self.expert_names, labels=self.labels)


def prediction_grid(
    cases: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    expert_names: Sequence[str] = EXPERT_NAMES,
    labels: Sequence[str] = ("target",),
) -> None:
    """Draw one row per case: image with contours, each expert's probability of foreground, votes, disagreement.

    Args:
        cases: Each with `name`, and arrays of one size: `image` (h, w, 3) in 0..255; `label` (h, w), class numbers, or
            None; `voted` (h, w), class numbers; `expert_probabilities` (E, h, w) of foreground, 0..1; `votes`
            (E, h, w), summing to 1 over E; `disagreement` (h, w) in 0..1.
        path: The PNG to write, 1440 pixels wide and readable at 1200.
        expert_names: The E names, at most 7.
        labels: The names of classes 1, 2, ... With one, the prediction and the label differ by colour; with several, by
            the line, and the classes by colour.

    Raises:
        ValueError: If there is no case, or a case has another number of experts.
        InputError: If the file cannot be written.
    """
    num_experts = len(expert_names)
    if not 1 <= num_experts <= len(EXPERT_COLOURS):
        raise ValueError(f"expert_names must be 1 to {len(EXPERT_COLOURS)} names, got {num_experts}.")
    if not cases:
        raise ValueError("cases must hold at least one case, got 0.")
    figure, axes = _page(cases, num_columns=num_experts + 3)
    titles = ["image", *(name.replace("_", " ") for name in expert_names), "votes", "disagreement"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11)
    for row, case in zip(axes, cases, strict=True):
        _draw_case(row, case, num_experts, by_class=len(labels) > 1)
    _draw_legends(figure, axes, cases, expert_names, labels)
    with warnings.catch_warnings():
        # A letter that matplotlib's font lacks, as in a Japanese file name, is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))


def _case_picture(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the image and the maps of an item, (E, K, H, W), (E, H, W) or (1, H, W), reduced to one small size."""
    image = read_image(str(item["image"].meta["filename_or_obj"]))
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    probabilities = torch.as_tensor(item["expert_probabilities"]).detach().float().cpu()
    K = probabilities.shape[1]
    foreground = probabilities[:, 0] if K == 1 else 1 - probabilities[:, 0]
    label = item.get("label")
    return {
        "name": str(item["name"]),
        "image": np.asarray(Image.fromarray(image.astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)),
        "label": None if label is None else _fit(label, size, Image.Resampling.NEAREST)[0],
        "voted": _fit(item["voted"], size, Image.Resampling.NEAREST)[0],
        "expert_probabilities": _fit(foreground, size, Image.Resampling.BILINEAR),
        "votes": _fit(item["votes"], size, Image.Resampling.BILINEAR),
        "disagreement": _fit(disagreement(probabilities[None]), size, Image.Resampling.BILINEAR)[0],
    }


def _fit(maps: Any, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    arrays = torch.as_tensor(maps).detach().float().cpu().numpy()
    return np.stack([np.asarray(Image.fromarray(array).resize(size, resampling)) for array in arrays])


def _page(cases: Sequence[Mapping[str, Any]], num_columns: int) -> tuple[Figure, np.ndarray]:
    # A row is as high as its image at the common width, but at most twice this width; a taller image is drawn smaller.
    heights = [min(2.0, case["image"].shape[0] / case["image"].shape[1]) for case in cases]
    panel = _WIDTH_INCHES / num_columns
    figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) * panel + 0.25 * len(cases) + 1.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05)  # type: ignore[union-attr,call-arg]
    axes = figure.subplots(len(cases), num_columns, squeeze=False, height_ratios=heights)
    for axis in axes.ravel():
        axis.set_axis_off()
        axis.set_anchor("N")
    return figure, axes


def _draw_case(axes: Iterable[Axes], case: Mapping[str, Any], num_experts: int, *, by_class: bool) -> None:
    maps, votes = case["expert_probabilities"], case["votes"]
    if len(maps) != num_experts or len(votes) != num_experts:
        raise ValueError(
            f"{case['name']} must have {num_experts} experts, got {len(maps)} maps and {len(votes)} votes."
        )
    first, *rest = axes
    first.imshow(case["image"])
    if case.get("label") is not None:
        _contour(first, case["label"], None if by_class else _LABEL_COLOUR, "dashed")
    _contour(first, case["voted"], None if by_class else _VOTED_COLOUR, "solid")
    name = as_utf8(case["name"])
    name = name if len(name) <= 28 else "..." + name[-25:]
    # Below the image, where there is no title and no contour; a "$" in a name must not start a formula.
    first.text(0, -0.02, name, transform=first.transAxes, va="top", fontsize=9, parse_math=False)
    for axis, probability in zip(rest, maps, strict=False):
        axis.imshow(probability, cmap="cividis", vmin=0, vmax=1)
    colours = np.array([rgb(colour) for colour in EXPERT_COLOURS[:num_experts]]) / 255
    rest[-2].imshow(np.clip(np.einsum("ehw,ec->hwc", votes, colours), 0, 1))
    rest[-1].imshow(case["disagreement"], cmap="magma", vmin=0, vmax=1)


def _contour(axis: Axes, classes: np.ndarray, colour: str | None, style: str) -> None:
    """Draw the contours of the classes, in one colour or, where that is None, each in its class's."""
    for index in np.unique(np.rint(classes)):
        inside = np.rint(classes) == index
        if index > 0 and not inside.all():
            own = class_hex(int(index)) if colour is None else colour
            lines = axis.contour(inside, levels=[0.5], colors=own, linestyles=style, linewidths=1.6)
            lines.set_path_effects([withStroke(linewidth=3.0, foreground="white")])


def _draw_legends(
    figure: Figure,
    axes: np.ndarray,
    cases: Sequence[Mapping[str, Any]],
    expert_names: Sequence[str],
    labels: Sequence[str],
) -> None:
    # Without panchor a colour bar would move its pictures down, out of line with their neighbours.
    style: dict[str, Any] = {"location": "bottom", "panchor": (0.5, 1.0), "shrink": 0.8, "aspect": 40}
    for row, text in ((axes[-1, 1:-2], "probability of foreground"), (axes[-1, -1:], "0: experts agree")):
        bar = figure.colorbar(row[0].images[0], ax=list(row), label=text, **style)
        bar.set_ticks([0, 0.5, 1])
    by_class = len(labels) > 1
    lines = [Line2D([], [], color=_INK if by_class else _VOTED_COLOUR, label="voted")]
    if any(case.get("label") is not None for case in cases):
        lines.append(Line2D([], [], color=_INK if by_class else _LABEL_COLOUR, linestyle="dashed", label="label"))
    if by_class:
        lines += [Line2D([], [], color=class_hex(k), lw=4, label=label) for k, label in enumerate(labels, start=1)]
    patches = [
        Patch(color=colour, label=f"vote for {name.replace('_', ' ')}")
        for colour, name in zip(EXPERT_COLOURS, expert_names, strict=False)
    ]
    handles = [*lines, *patches]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), _LEGEND_COLUMNS), fontsize=10)
