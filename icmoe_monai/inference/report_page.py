"""The HTML page of an inference run's report, which opens offline and loads nothing from a network."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from PIL import Image

from icmoe_monai.inference.report_figures import draw_figures, is_number
from icmoe_monai.utils.files import inside
from icmoe_monai.visualize.overlay import class_colour, thumbnail
from icmoe_monai.visualize.page import as_utf8, data_uri, page_template

MOST_THUMBNAILS = 500
_RELIABILITY = {
    "confidence": ("Confidence", "Mean probability of the voted class where something was found (1: certain)"),
    "disagreement": ("Disagreement", "How much the experts differ where something was found (0: not at all)"),
    "vote_entropy": ("Vote entropy", "How evenly the experts' votes are spread (0: one decides, 1: all count alike)"),
    "expert_agreement": ("Expert agreement", "Mean Dice overlap of what any two experts found (1: the same)"),
    "fold_agreement": ("Fold agreement", "Mean Dice overlap of what the votes of any two folds found (1: the same)"),
}

_CALIBRATED = {
    "predicted_dice": ("Predicted Dice", "The Dice score to be expected, by cases like the calibration's (1: perfect)"),
    "review": ("Review", "Whether the predicted Dice is so low that a look is advised"),
    "no_lesion_probability": ("No-lesion probability", "How probable it is that there is no lesion at all"),
    "no_lesion": ("No lesion", "Whether that probability is above the calibration's threshold"),
    "ood_score": ("Distance", "How far the picture is from those that the model was trained on (above 1: unlike them)"),
}


class _Cell(NamedTuple):
    """A value of the table: its text, the number to sort by if it is one, and the class of its style."""

    text: str
    number: float | None = None
    style: str = "number"


def render_report(
    report: Mapping[str, Any],
    *,
    output_dir: str | Path,
    max_thumbnails: int = MOST_THUMBNAILS,
    thumbnails: Mapping[str, bytes] | None = None,
) -> str:
    """Return a report as one HTML page without a reference to anything outside `output_dir`.

    The page must lie in `output_dir`, since its links are relative to that folder. The same report and overlays always
    give the same page.

    Args:
        report: The content of `report.json`.
        output_dir: Folder of the results; the pictures in the page are made from its overlays, where they exist.
        max_thumbnails: Largest number of pictures in the page, since each adds about 10 kB.
        thumbnails: JPEGs that `thumbnail` returned when overlays were drawn, by the overlays' relative paths; the
            others are made anew.

    Returns:
        The page, to be written as UTF-8.

    Example:
        >>> report = {"complete": True, "labels": ["lesion"], "cases": [{"name": "<a>.png", "status": "done"}]}
        >>> "&lt;a&gt;.png" in render_report(report, output_dir=".")
        True
    """
    folder = Path(output_dir)
    labels = [str(label) for label in report.get("labels") or ["foreground"]]
    cases: list[Mapping[str, Any]] = sorted(report.get("cases") or [], key=lambda case: not _is_unlike(case))
    done = [case for case in cases if case.get("status", "done") == "done"]
    pictures = _pictures(cases, folder, max_thumbnails, len(labels), thumbnails or {})
    columns = _columns(cases, labels, report.get("calibration") or {})
    rows = [
        {
            "name": _text(case.get("name", "")),
            "failed": case.get("status", "done") != "done",
            "error": _text(case.get("error") or ""),
            "code": _text(case.get("reason_code") or ""),
            "unlike": _is_unlike(case),
            "picture": picture,
            "links": _links(case, folder),
            "cells": [value(case) for _, _, value in columns],
        }
        for case, picture in zip(cases, pictures, strict=True)
    ]
    styles = [{row["cells"][index].style for row in rows} for index in range(len(columns))]
    page = page_template("report.html").render(
        columns=[
            (title, hint, "classes" if "classes" in seen else min(seen, default=""))
            for (title, hint, _), seen in zip(columns, styles, strict=True)
        ],
        rows=rows,
        summary=_summary(report, cases, done),
        stopped_by=_text(report.get("stopped_by") or ""),
        complete=bool(report.get("complete")),
        num_cases=len(cases),
        num_failed=len(cases) - len(done),
        num_unlike=sum(map(_is_unlike, cases)),
        left_out=[(_text(entry["name"]), _text(entry["reason"])) for entry in report.get("left_out") or []],
        notes=[_text(note) for note in report.get("notes") or []],
        settings=[(_text(key), _text(value)) for key, value in _flat(report.get("settings") or {})],
        figures=draw_figures(done, labels),
        num_pictures=max_thumbnails,
        pictures_left_out=any(case.get("overlay") for case in cases[_index_after(pictures, max_thumbnails) :]),
        contours=[(_text(label), "rgb({} {} {})".format(*class_colour(k))) for k, label in enumerate(labels, start=1)],
    )
    return as_utf8(page)


def _text(value: Any) -> str:
    """Return a value as text that is UTF-8, which a file name need not be."""
    is_word = value is None or isinstance(value, bool)
    return as_utf8({None: "none", True: "yes", False: "no"}[value] if is_word else value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _summary(
    report: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    seconds = [case["seconds"] for case in cases if is_number(case.get("seconds"))]
    entries = [("Cases", f"{len(cases):,}"), ("Segmented", f"{len(done):,}"), ("Failed", f"{len(cases) - len(done):,}")]
    if report.get("left_out"):
        entries.append(("Files left out", f"{len(report['left_out']):,}"))
    if seconds:
        entries.append(("Total time", _duration(math.fsum(seconds))))
    model = report.get("model") or {}
    names = {
        "checkpoint": "Model",
        "sha256": "Model's SHA-256",
        "trunk": "Encoder",
        "trunk_sha256": "Encoder's SHA-256",
        "pyramid": "Image pyramid",
        "pyramid_sha256": "Pyramid's SHA-256",
    }
    entries += [(names.get(key, str(key)), _text(value)) for key, value in model.items() if value is not None]
    entries += _calibration_entries(report.get("calibration") or {}, done)
    versions = report.get("versions") or {}
    if versions:
        entries.append(("Versions", _text(", ".join(f"{name} {number}" for name, number in versions.items()))))
    return entries


def _calibration_entries(calibration: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    control = calibration.get("control")
    if not control:
        return [("Calibration", _text(calibration["reason"]))] if calibration.get("reason") else []
    entries = [("Calibration", _text(calibration.get("file")))]
    entries.append(
        (
            "Risk-controlled masks miss, on average",
            f"at most {100 * control['alpha']:g} % of a lesion, in images like the calibration's",
        )
    )
    if any(_known(case, "out_of_distribution") for case in done):
        entries.append(("Unlike what the model was trained on", f"{sum(map(_is_unlike, done)):,}"))
    if any(_known(case, "review") for case in done):
        entries.append(("Review advised", f"{sum(bool(case.get('review')) for case in done):,}"))
    return entries


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _within(calibration: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> str:
    """Return what the interval behind an area says, where there is one."""
    level = (calibration.get("area") or {}).get("level")
    if not is_number(level) or not any(_known(case, "foreground_pixels_low") for case in cases):
        return ""
    return f"; in brackets what holds {100 * float(level):g} % of lesions, in images like the calibration's"  # type: ignore[arg-type]


def _columns(
    cases: Sequence[Mapping[str, Any]], labels: Sequence[str], calibration: Mapping[str, Any]
) -> list[tuple[str, str, Callable[[Mapping[str, Any]], _Cell]]]:
    """Return title, explanation and value of the columns after the name, without optional ones that no case has."""

    def values(key: str, show: Callable[[float], str], missing: str = "") -> Callable[[Mapping[str, Any]], _Cell]:
        return lambda case: _values_cell(case.get(key), labels, show, missing if _is_done(case) else "")

    def area(key: str, show: Callable[[float], str], missing: str = "") -> Callable[[Mapping[str, Any]], _Cell]:
        ends = (f"{key}_low", f"{key}_high")
        return lambda case: _values_cell(
            case.get(key), labels, show, missing if _is_done(case) else "", [case.get(end) for end in ends]
        )

    def figure(key: str) -> Callable[[Mapping[str, Any]], _Cell]:
        return lambda case: _number_cell((case.get("reliability") or {}).get(key), lambda value: f"{value:.2f}")

    within = _within(calibration, cases)
    columns: list[tuple[str, str, Callable[[Mapping[str, Any]], _Cell]]] = []
    if any(case.get("frame") is not None for case in cases):
        columns.append(("Frame", "", lambda case: _number_cell(case.get("frame"), str)))
    columns += [
        ("Status", "", lambda case: _Cell(_text(case.get("status", "done")), None, "status")),
        ("Size (px)", "Width by height", _size_cell),
        ("Area (px)", f"Pixels that were found{within}", area("foreground_pixels", lambda value: f"{value:,.0f}")),
        ("Area (mm²)", f"Only where the file tells its scale{within}", area("area_mm2", _square_mm, "uncalibrated")),
        ("Share (%)", "Of the picture's pixels", values("foreground_share", _percent)),
        ("Parts", "Connected parts", values("num_components", lambda value: f"{value:,.0f}")),
    ]
    present = {key for case in cases for key in case.get("reliability") or {}}
    columns += [(*_RELIABILITY[key], figure(key)) for key in _RELIABILITY if key in present]
    columns += [(*_CALIBRATED[key], show) for key, show in _calibrated_cells() if any(_known(c, key) for c in cases)]
    columns.append(("Time (s)", "", lambda case: _number_cell(case.get("seconds"), lambda value: f"{value:.2f}")))
    return columns


def _known(case: Mapping[str, Any], key: str) -> bool:
    return case.get(key) is not None


def _calibrated_cells() -> list[tuple[str, Callable[[Mapping[str, Any]], _Cell]]]:
    def figure(key: str) -> Callable[[Mapping[str, Any]], _Cell]:
        return lambda case: _number_cell(case.get(key), lambda value: f"{value:.2f}")

    def answer(key: str) -> Callable[[Mapping[str, Any]], _Cell]:
        return lambda case: _Cell(_text(case[key]), float(case[key]), "status") if _known(case, key) else _Cell("")

    return [
        ("predicted_dice", figure("predicted_dice")),
        ("review", answer("review")),
        ("no_lesion_probability", figure("no_lesion_probability")),
        ("no_lesion", answer("no_lesion")),
        ("ood_score", figure("ood_score")),
    ]


def _is_unlike(case: Mapping[str, Any]) -> bool:
    return bool(case.get("out_of_distribution"))


def _is_done(case: Mapping[str, Any]) -> bool:
    return bool(case.get("status", "done") == "done")


def _number_cell(value: Any, show: Callable[[float], str]) -> _Cell:
    return _Cell(show(value), value) if is_number(value) else _Cell("")


def _size_cell(case: Mapping[str, Any]) -> _Cell:
    height, width = case.get("height"), case.get("width")
    if height is None or width is None:
        return _Cell("")
    return _Cell(f"{width} × {height}", height * width)  # noqa: RUF001 (a multiplication sign)


def _values_cell(
    values: Any, labels: Sequence[str], show: Callable[[float], str], missing: str, ends: Sequence[Any] = ()
) -> _Cell:
    """Return a cell with one value per class, named if there are several classes, which sorts by the values' sum.

    The ends, two lists like the values, are told behind each value, in brackets.
    """
    if values is None or not all(map(is_number, values)):
        return _Cell(missing, None, "number faint")
    told = [show(value) for value in values]
    if ends and all(end is not None and len(end) == len(values) and all(map(is_number, end)) for end in ends):
        told = [f"{text} ({show(low)} to {show(high)})" for text, low, high in zip(told, *ends, strict=True)]
    if len(values) == 1:
        return _Cell(told[0], values[0])
    names = [_text(labels[k]) if k < len(labels) else f"class {k + 1}" for k in range(len(values))]
    pairs = (f"{name} {text}" for name, text in zip(names, told, strict=True))
    return _Cell(",\n".join(pairs), math.fsum(values), "classes")


def _square_mm(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _percent(share: float) -> str:
    return "<0.01" if 0 < share < 1e-4 else f"{100 * share:.2f}"


def _pictures(
    cases: Sequence[Mapping[str, Any]], folder: Path, most: int, num_labels: int, thumbnails: Mapping[str, bytes]
) -> list[tuple[str, int, int] | None]:
    """Return per case a data URI with its width and height, or None."""
    pictures: list[tuple[str, int, int] | None] = []
    num_made = 0
    for case in cases:
        path = inside(folder, case.get("overlay")) if num_made < most else None
        is_there = path is not None and os.path.isfile(path)
        jpeg = thumbnails.get(case["overlay"]) or _thumbnail(path, case, num_labels) if path and is_there else None
        num_made += jpeg is not None
        pictures.append(None if jpeg is None else _picture(jpeg))
    return pictures


def _index_after(pictures: Sequence[Any], most: int) -> int:
    """Return the number of cases before the pictures are cut off at `most`; all cases if they are not cut off."""
    shown = [index for index, picture in enumerate(pictures, start=1) if picture is not None]
    if most == 0:
        return 0
    return shown[-1] if len(shown) >= most else len(pictures)


def _thumbnail(path: Path, case: Mapping[str, Any], num_labels: int) -> bytes | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own file, as large as the input was
            with Image.open(path, formats=["PNG"]) as overlay:
                overlay.load()
        size = (int(case.get("width") or 0), int(case.get("height") or 0))
        fits = 0 < size[0] <= overlay.width and 0 < size[1] <= overlay.height
        return thumbnail(overlay, size=size if fits else None, num_labels=num_labels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _picture(jpeg: bytes) -> tuple[str, int, int]:
    size = Image.open(io.BytesIO(jpeg)).size
    return data_uri(jpeg), *size


def _links(case: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    titles = {
        "overlay": "overlay",
        "mask": "mask",
        "controlled": "risk-controlled mask",
        "disagreement_map": "disagreement",
        "votes": "votes",
        "outlines": "outlines",
        "volume": "NIfTI volume",
        "segmentation": "DICOM Segmentation",
        "structured_report": "DICOM Structured Report",
        "secondary_capture": "DICOM Secondary Capture",
    }
    paths = [(title, str(case[key])) for key, title in titles.items() if case.get(key)]
    # After "./" and with ":" quoted no name is taken for a scheme such as "javascript:".
    return [(title, "./" + quote(os.fsencode(path))) for title, path in paths if inside(folder, path)]
