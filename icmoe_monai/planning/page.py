"""HTML page of a plan: a single file with all figures and thumbnails, which loads nothing from the internet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from icmoe_monai.planning.faults import FAULT, Fault, Finding, image_file
from icmoe_monai.planning.figures import draw_facts
from icmoe_monai.planning.looks import Look
from icmoe_monai.planning.plan import Plan
from icmoe_monai.planning.words import told_facts, told_times
from icmoe_monai.visualize.overlay import draw_overlay, thumbnail
from icmoe_monai.visualize.page import as_utf8, data_uri, page_template

_MOST_SHOWN, _MOST_PICTURED = 200, 12  # findings of a kind, and those with pictures
_SIDE = 240  # pixels of a picture before it becomes a thumbnail
_FOREGROUND = 0.5


class _Item(NamedTuple):
    sentence: str
    pictures: list[tuple[str, str]]


class _Group(NamedTuple):
    title: str
    remedy: str
    is_fault: bool
    items: list[_Item]
    num_more: int


def render_plan(content: Mapping[str, Any], plan: Plan) -> str:
    """Render the page of a plan.

    Args:
        content: The content of `plan.json`.
        plan: The plan.

    Returns:
        The HTML text, to be written as UTF-8.
    """
    longest_side = int(plan.settings["longest_side"])
    num = plan.num_faults
    page = page_template("plan.html").render(
        num_faults=num,
        state=f"{num} {'fault' if num == 1 else 'faults'} to mend before a training." if num else "No fault was found.",
        summary=_summary(content, plan),
        groups=[_group(fault, plan) for fault in plan.faults],
        choices=[
            (choice.reason, [(name, str(value)) for name, value in choice.settings.items()]) for choice in plan.choices
        ],
        folds=plan.folds[1],
        commands=content["commands"],
        facts=told_facts(plan.facts, longest_side),
        figures=draw_facts(plan.looks, longest_side=longest_side),
        times=None if plan.times is None else told_times(plan.times),
    )
    return as_utf8(page)


def _summary(content: Mapping[str, Any], plan: Plan) -> list[tuple[str, str]]:
    settings = plan.settings
    told = {
        "Images": plan.facts["num_images"],
        "Window (pixels)": settings["image_size"],
        "Longest side (pixels)": settings["longest_side"],
        "Images a step": settings["batch_size"],
        "Epochs, at most": settings["max_epochs"],
        "Folds": plan.folds[0] if plan.folds[0] > 1 else "none",
        "Version": content["created_by"],
    }
    if plan.times is not None:
        told["A training, at most"] = told_times(plan.times)[0][1]
    return [(title, str(value)) for title, value in told.items()]


def _group(fault: Fault, plan: Plan) -> _Group:
    shown = fault.findings[:_MOST_SHOWN]
    items = [
        _Item(finding.sentence, _pictures(finding, plan) if place < _MOST_PICTURED else [])
        for place, finding in enumerate(shown)
    ]
    return _Group(fault.title, fault.remedy, fault.level == FAULT, items, len(fault.findings) - len(shown))


def _pictures(finding: Finding, plan: Plan) -> list[tuple[str, str]]:
    found = []
    for place in finding.places:
        look = plan.looks[place]
        if look.picture is not None:
            uri = data_uri(_draw(look))
            found.append((f"{image_file(look)} ({look.split})", uri))
    return found


def _draw(look: Look) -> bytes:
    """Return a thumbnail of a case, in the image's shape, with the contour of its mask."""
    scale = _SIDE / max(look.longest, 1)
    width, height = (max(1, round(side * scale)) for side in look.size[::-1])
    picture = Image.fromarray(np.asarray(look.picture)).resize((width, height), Image.Resampling.BILINEAR)
    classes: np.ndarray = np.zeros((height, width), np.uint8)
    if look.mask is not None:
        share = Image.fromarray(look.mask.share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
        classes = (np.asarray(share) >= _FOREGROUND).astype(np.uint8)
    return thumbnail(draw_overlay(np.asarray(picture), classes, labels=["target"]), size=(width, height))
