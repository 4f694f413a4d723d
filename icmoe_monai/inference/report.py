"""The report of an inference run: the record of each case, the report's content, and its three files.

A report is made from plain values alone, a journal's records among them, so that it can be written again from these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icmoe_monai.imageio.dicom.identifiers import Identifiers
from icmoe_monai.inference.folders import OBJECTS
from icmoe_monai.inference.measures import PER_CLASS
from icmoe_monai.inference.report_page import render_report
from icmoe_monai.utils.engines import versions
from icmoe_monai.utils.files import without_folders, write_atomically, write_csv, write_json

SCHEMA = 2  # of report.json, as docs/report.schema.json describes it; raised where a field changes or goes
OUT_OF_DISTRIBUTION = ("ood_score", "ood_percentile", "out_of_distribution")
CALIBRATED = ("predicted_dice", "review", "no_lesion_probability", "no_lesion", *OUT_OF_DISTRIBUTION)
UIDS = Identifiers._fields  # of a DICOM image, in a run with `trace`
_KEPT_OF_A_FAILURE = ("name", "stamp", "frame", "seconds", *UIDS)
_OF_WHAT_WAS_SENT = ("file", "status", "reason_code", "error")


class InferenceReport:
    """Write `report.json`, `report.csv` and `report.html`: the results of every image, and the model and settings.

    A report may leave the clinic, so it holds no path of this machine: names are relative to the dataset, masks to
    `output_dir`, of an absolute path among the settings only the last part is kept, of an exception only its class.
    Names themselves are kept, unless the run is anonymous: a folder called after a patient appears.

    Args:
        output_dir: Folder of the results, into which the report is written.
        labels: Names of the foreground classes.
        left_out: Name and reason of the files that are no images.
        calibration: Summary of the run's calibration, as `Calibration.summary` returns it.
        further: Keys of items whose values are reported for each case, beside the usual keys.

    Example:
        >>> import json, tempfile
        >>> case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 3), "foreground_pixels": [3]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = InferenceReport(output_dir=folder)
        ...     content = report.content([report.record(case)], settings={"checkpoint": "/home/me/model.pt"})
        ...     report.write(content)
        ...     read = json.loads(Path(folder, "report.json").read_text())
        >>> read["num_cases"], read["settings"], read["cases"][0]["foreground_pixels"]
        (1, {'checkpoint': 'model.pt'}, [3])
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        labels: Sequence[str] = ("foreground",),
        left_out: Sequence[Mapping[str, str]] = (),
        calibration: Mapping[str, Any] | None = None,
        further: Sequence[str] = (),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.labels = list(labels)
        self.left_out = [dict(file) for file in left_out]
        self.calibration = without_folders(dict(calibration or {}))
        self.further = tuple(further)

    def record(self, item: Mapping[str, Any], *, seconds: float = 0.0, tell_frame: bool = False) -> dict[str, Any]:
        """Return the record of a case: its line of the report, and the `stamp` of its file.

        Args:
            item: The case with its results: `name`, and where present `failure`, `failure_code`, `mask_path`,
                `mask_shape` (height, width), the values of `measure`, and others that the postprocessing adds.
            seconds: How long the case took.
            tell_frame: Whether the case's file holds several frames, so that the record includes the `frame`.
        """
        failure = item.get("failure") or None
        height, width = item.get("mask_shape", (None, None))
        record = {
            "name": str(item["name"]),
            "status": "failed" if failure else "done",
            "error": failure,
            "reason_code": (item.get("failure_code") or "other") if failure else None,
            "note": (item.get("note") or None) if not failure else None,
            "stamp": item.get("stamp"),
            "frame": int(item.get("frame", 0)) if tell_frame else None,
            "height": height,
            "width": width,
            "spacing_mm": item.get("spacing_mm"),
            "mask": item.get("mask_path"),
            "overlay": item.get("overlay_path"),
            "controlled": item.get("controlled_path"),
            "disagreement_map": item.get("disagreement_path"),
        }
        record |= {key: item[key] or None for key in UIDS if key in item}
        for key in (*PER_CLASS, "reliability", *CALIBRATED, *self.further):
            record[key] = item.get(key) if not failure else None
        return {**record, "seconds": round(seconds, 4)}

    def content(
        self,
        cases: Sequence[Mapping[str, Any]],
        *,
        volumes: Sequence[Mapping[str, Any]] = (),
        no_objects: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
        sent: Sequence[Mapping[str, Any]] = (),
        model: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        complete: bool = False,
        stopped_by: str | None = None,
    ) -> dict[str, Any]:
        """Return the content of `report.json`.

        Args:
            cases: Record of each case, as `record` returns it, in the report's order.
            volumes: Files of volumes: `file`, in one of the folders of `OBJECTS`, and `cases`, their names.
            no_objects: Code of the reason why a case has not the files that it should have, by its name.
            notes: Sentences on files that were not made, such as volumes, or lack something of their source.
            sent: What came of each file that was to be sent: `file`, `status`, `reason_code` and `error`.
            model: The model that made the masks, as `describe_model` returns it.
            settings: Plain values of the settings that determine the masks.
            complete: Whether every case was tried.
            stopped_by: Class of the exception that ended the run.
        """
        files: dict[str, dict[str, str]] = {}
        for volume in volumes:
            key = OBJECTS[volume["file"].split("/")[0]]
            for name in volume["cases"]:
                files.setdefault(name, {})[key] = volume["file"]
        codes = no_objects or {}
        told = []
        for case in cases:
            name, seen = case["name"], {key: value for key, value in case.items() if key != "stamp"}
            code = case.get("reason_code") or codes.get(name)
            told.append({**seen, "reason_code": code} | dict.fromkeys(OBJECTS.values()) | files.get(name, {}))
        return {
            "schema": SCHEMA,
            "complete": complete,
            "stopped_by": stopped_by,
            "num_cases": len(told),
            "num_failed": sum(case["status"] == "failed" for case in told),
            "versions": versions(),
            "model": dict(model or {}),
            "settings": without_folders(dict(settings or {})),
            "calibration": self.calibration,
            "labels": self.labels,
            "left_out": self.left_out,
            "notes": list(notes),
            "sent": [{key: one[key] for key in _OF_WHAT_WAS_SENT} for one in sent],
            "cases": told,
        }

    def renew(self, content: Mapping[str, Any]) -> None:
        """Write `report.json` alone, which is quick.

        Args:
            content: The report's content, as `content` returns it.

        Raises:
            InputError: If the file cannot be written.
        """
        write_json(self.output_dir / "report.json", content)

    def write(self, content: Mapping[str, Any], *, thumbnails: Mapping[str, bytes] | None = None) -> None:
        """Write all three files of the report.

        Args:
            content: The report's content, as `content` returns it.
            thumbnails: JPEG pictures for the page that are made already, by the overlays' paths; the others are made
                from the overlays.

        Raises:
            InputError: If a file cannot be written.
        """
        self.renew(content)
        write_csv(self.output_dir / "report.csv", [_row(case, self.labels) for case in content["cases"]])
        page = render_report(content, output_dir=self.output_dir, thumbnails=thumbnails)
        write_atomically(self.output_dir / "report.html", lambda temporary: temporary.write_bytes(page.encode()))


def failed_record(record: Mapping[str, Any], error: str, code: str) -> dict[str, Any]:
    """Return the record of a case as failed, because its files could not be written.

    Args:
        record: The case's record, as `InferenceReport.record` returned it.
        error: Sentence on the failure.
        code: The same as one of `errors.REASONS`.
    """
    kept = {key: record[key] for key in _KEPT_OF_A_FAILURE if key in record}
    return {**dict.fromkeys(record), **kept, "status": "failed", "error": error, "reason_code": code}


def _row(case: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Return a case as a line of the CSV: one column per class where there are several."""
    row: dict[str, Any] = {}
    for key, value in case.items():
        if key == "reliability":
            row |= value or {}
        elif key == "spacing_mm":
            row |= dict(zip(("row_spacing_mm", "column_spacing_mm"), value or (None, None), strict=True))
        elif key in PER_CLASS:
            ends = [""] if len(labels) == 1 else [f"_{label}" for label in labels]
            missing = "uncalibrated" if key == "area_mm2" and case["status"] == "done" else None
            row |= {key + end: part for end, part in zip(ends, value or [missing] * len(ends), strict=True)}
        else:
            row[key] = value
    return row
