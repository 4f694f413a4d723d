"""HTML page of a suggestion: a picture of each image with the draft's outline, and the reasons; it opens offline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from icmoe_monai.suggestion.reasons import told
from icmoe_monai.visualize.overlay import class_colour, draw_contours, thumbnail
from icmoe_monai.visualize.page import as_utf8, data_uri, page_template

_SIDE = 320  # pixels, the longer side of a picture
_ORDERS = {
    "suggest": "The first is the one whose like are the most frequent among all images, doubtful ones counting more, "
    "beside how frequent they are among the labelled ones; then it counts as labelled, and so the next.",
    "disagreement": "Ordered by how much the experts disagree.",
    "predicted_dice": "Ordered by the Dice that is to be expected of the drafts, the lowest first.",
    "random": "Drawn at random.",
}


def render_suggestion(
    content: Mapping[str, Any], pictures: Sequence[tuple[np.ndarray, np.ndarray]], labels: Sequence[str]
) -> str:
    """Render the page of a suggestion.

    Args:
        content: The content of `suggestions.json`.
        pictures: Picture, uint8 (H, W, 3), and class map, uint8 (H, W), of each image.
        labels: Names of the foreground classes.

    Returns:
        The HTML text, to be written as UTF-8, for the folder of `suggestions.json`.
    """
    rows = [
        {
            "rank": image["rank"],
            "name": as_utf8(image["name"]),
            "score": "" if image["score"] is None else f"{image['score']:.3f}",
            "picture": _picture(*drawn),
            "reasons": told(image),
            "links": [(title, "./" + quote(os.fsencode(image[title]))) for title in ("image", "mask")],
        }
        for image, drawn in zip(content["images"], pictures, strict=True)
    ]
    page = page_template("suggestions.html").render(
        rows=rows,
        order=_ORDERS[content["by"]],
        summary=_summary(content),
        contours=[
            (as_utf8(label), "rgb({} {} {})".format(*class_colour(k))) for k, label in enumerate(labels, start=1)
        ],
    )
    return as_utf8(page)


def _summary(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = content["model"]
    shown = {
        "Images of the pool": f"{content['num_pool']:,}",
        "Suggested": f"{len(content['images']):,}",
        "Known images": f"{content['num_known']:,}" if content["num_known"] else "not told",
        "By": content["by"],
        "Model": model.get("checkpoint"),
        "Model's SHA-256": model.get("sha256"),
    }
    return [(title, as_utf8(value)) for title, value in shown.items() if value is not None]


def _picture(picture: np.ndarray, classes: np.ndarray) -> tuple[str, int, int]:
    """Return a JPEG as a data URI, and its width and height."""
    jpeg = thumbnail(Image.fromarray(draw_contours(picture, classes)), side=_SIDE)
    scale = min(1.0, _SIDE / max(classes.shape))
    height, width = (max(1, round(side * scale)) for side in classes.shape)
    return data_uri(jpeg), width, height
