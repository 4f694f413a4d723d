"""report.json against docs/report.schema.json, which other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from report_schema import CONTENT, VALIDATOR

from icmoe_monai.inference.report import SCHEMA, InferenceReport, failed_record
from icmoe_monai.transforms.vote_features import FIGURES
from icmoe_monai.weights.frozen import describe_model

UNITS = ("in pixels", "in mm", "in square mm", "in seconds", "in MB", "0 to 1", "Number", "number", "Index")
FOUND = {
    "name": "a.dcm", "mask_path": "masks/a.png", "overlay_path": "overlays/a.png",
    "controlled_path": "controlled/a.png", "mask_shape": (4, 6), "spacing_mm": (0.5, 0.25),
    "foreground_pixels": [3, 0], "foreground_share": [0.125, 0.0], "area_mm2": [0.375, 0.0], "num_components": [1, 0],
    "reliability": dict.fromkeys(FIGURES, 0.5), "predicted_dice": 0.9, "review": False,
    "no_lesion_probability": None, "no_lesion": None, "ood_score": 0.5, "ood_percentile": 40.0,
    "out_of_distribution": False, "foreground_pixels_low": [1, 0], "foreground_pixels_high": [5, 1],
    "area_mm2_low": [0.125, 0.0], "area_mm2_high": [0.625, 0.125],
}  # fmt: skip
WINDOWS = {
    "votes": "votes/a.tif",
    "outlines": "outlines/a.geojson",
    "windows_run": 3,
    "windows_skipped": 1,
    "windows_out_of_distribution": 0.25,
    "peak_mb": 512.5,
}


def content_of(folder: Path, *, further: bool = False) -> dict[str, Any]:
    report = InferenceReport(
        output_dir=folder, labels=("red", "blue"), left_out=[{"name": "x.txt", "reason": "It is no image."}],
        further=tuple(WINDOWS) if further else (),
    )  # fmt: skip
    done = report.record({**FOUND, **WINDOWS}, seconds=0.5, tell_frame=True)
    cases = [
        done,
        report.record({"name": "b", "failure": "It is damaged.", "failure_code": "damaged", "study_uid": "1.2"}),
        failed_record(done, "The disk is full.", "not_written"),
    ]
    content = report.content(
        cases, volumes=[{"file": "segmentations/a.dcm", "cases": ["a.dcm"]}], notes=["No volume."],
        model=describe_model(None), settings={"overlap": 0.5}, complete=True,
    )  # fmt: skip
    return json.loads(json.dumps(content))


def parts(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in node.get("properties", {}).items():
        yield f"{path}/{name}", part
        yield from parts(part, f"{path}/{name}")
        yield from parts(part.get("items", {}), f"{path}/{name}")


@pytest.mark.parametrize("further", [False, True], ids=["images", "large_images"])
def test_a_report_is_as_the_schema_says(further: bool, tmp_path: Path) -> None:
    VALIDATOR.validate(content_of(tmp_path, further=further))


def test_the_versions_are_one() -> None:
    jsonschema.Draft202012Validator.check_schema(CONTENT)
    assert CONTENT["properties"]["schema"]["const"] == SCHEMA


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), SCHEMA + 1),
        (("unknown",), 1),
        (("cases", 0, "unknown"), 1),
        (("cases", 0, "status"), "maybe"),
        (("cases", 1, "reason_code"), "bad"),
        (("cases", 1, "study_uid"), "Doe"),
        (("cases", 0, "foreground_share"), [1.5, 0]),
        (("cases", 0, "spacing_mm"), [0.5]),
        (("cases", 0, "seconds"), "0.5"),
        (("left_out", 0, "reason"), None),
    ],
    ids=lambda part: "-".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_another_report_is_not(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    content: Any = content_of(tmp_path)
    node = content
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(content)


def test_every_field_is_described_and_every_number_has_a_unit() -> None:
    for path, part in parts(CONTENT):
        assert len(part.get("description", "")) > 10, path
        kinds = {part.get("type"), part.get("items", {}).get("type")} if isinstance(part.get("type"), str) else {
            *part.get("type", ()), part.get("items", {}).get("type")}  # fmt: skip
        if kinds & {"number", "integer"}:
            assert any(unit in part["description"] for unit in UNITS), path
