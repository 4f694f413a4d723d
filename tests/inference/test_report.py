"""The report as it is written from records, without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.inference.measures import INTERVALS
from icmoe_monai.inference.report import CALIBRATED, InferenceReport, failed_record
from icmoe_monai.utils.files import read_csv

ITEM = {
    "name": "a/b.dcm", "stamp": [7, 8], "source": "/data/a/b.dcm", "frame": 2, "image": object(),
    "mask_path": "masks/a/b.png", "mask_shape": (30, 40), "spacing_mm": (0.5, 0.25), "foreground_pixels": [3, 0],
    "foreground_share": [0.0025, 0.0], "num_components": [1, 0], "area_mm2": None, "reliability": {"confidence": 0.9},
    "review": True, "votes": "votes/a/b.tif",
}  # fmt: skip


def report_in(folder: Path, **arguments: object) -> InferenceReport:
    return InferenceReport(output_dir=folder, labels=["cyst", "tumour"], **arguments)


def test_a_record_tells_what_was_found_and_nothing_else_of_the_item(tmp_path: Path) -> None:
    record = report_in(tmp_path).record(ITEM, seconds=1.23456, tell_frame=True)
    assert json.loads(json.dumps(record)) == {
        **{
            "name": "a/b.dcm",
            "status": "done",
            "error": None,
            "reason_code": None,
            "note": None,
            "stamp": [7, 8],
            "frame": 2,
            "height": 30,
            "width": 40,
        },
        **{"spacing_mm": [0.5, 0.25], "mask": "masks/a/b.png"},
        **dict.fromkeys(["overlay", "controlled", "disagreement_map", "reason_code"]),
        **{"foreground_pixels": [3, 0], "foreground_share": [0.0025, 0.0], "area_mm2": None, "num_components": [1, 0]},
        **dict.fromkeys(INTERVALS),
        **{"reliability": {"confidence": 0.9}, **dict.fromkeys(CALIBRATED), "review": True, "seconds": 1.2346},
    }


def test_a_frame_is_told_only_where_a_file_holds_several(tmp_path: Path) -> None:
    assert report_in(tmp_path).record(ITEM)["frame"] is None


def test_further_keys_are_told_where_they_are_asked_for(tmp_path: Path) -> None:
    record = report_in(tmp_path, further=["votes", "peak_mb"]).record(ITEM)
    assert (record["votes"], record["peak_mb"]) == ("votes/a/b.tif", None)
    assert "votes" not in report_in(tmp_path).record(ITEM)


def test_a_failure_tells_no_figures(tmp_path: Path) -> None:
    report = report_in(tmp_path, further=["votes"])
    record = report.record({**ITEM, "failure": "a/b.dcm is cut short."})
    assert (record["status"], record["error"]) == ("failed", "a/b.dcm is cut short.")
    assert record["reason_code"] == "other"
    figures = ("foreground_pixels", "foreground_share", "num_components", "reliability", "review", "votes")
    assert all(record[key] is None for key in figures)


def test_a_case_whose_files_are_refused_keeps_its_name_and_loses_all_that_was_found(tmp_path: Path) -> None:
    record = report_in(tmp_path).record(ITEM, seconds=2.0, tell_frame=True)
    failed = failed_record(record, "The name is too long.", "not_written")
    assert list(failed) == list(record)
    assert {key: value for key, value in failed.items() if value is not None} == {
        **{"name": "a/b.dcm", "status": "failed", "error": "The name is too long.", "stamp": [7, 8]},
        **{"frame": 2, "seconds": 2.0, "reason_code": "not_written"},
    }


def test_the_content_counts_cases_names_volumes_and_hides_stamps_and_folders(tmp_path: Path) -> None:
    report = report_in(
        tmp_path,
        left_out=[{"name": "notes.txt", "reason": "no image"}],
        calibration={"file": "/home/me/model.calibration.json"},
    )
    cases = [report.record(ITEM), report.record({"name": "c.png", "failure": "c.png is empty."})]
    content = report.content(
        cases,
        volumes=[
            {"file": f"{folder}/a/b.dcm", "cases": ["a/b.dcm"]} for folder in ("segmentations", "structured_reports")
        ],
        no_objects={"a/b.dcm": "no_object", "c.png": "no_object"},
        notes=["c.png has no volume."],
        model={"checkpoint": "model.pt"},
        settings={"checkpoint": "/home/me/model.pt", "overlap": 0.5},
        stopped_by="KeyboardInterrupt",
    )
    assert list(content) == [
        "schema", "complete", "stopped_by", "num_cases", "num_failed", "versions", "model", "settings", "calibration",
        "labels", "left_out", "notes", "sent", "cases",
    ]  # fmt: skip
    assert (content["complete"], content["stopped_by"]) == (False, "KeyboardInterrupt")
    assert (content["num_cases"], content["num_failed"]) == (2, 1)
    assert [case["segmentation"] for case in content["cases"]] == ["segmentations/a/b.dcm", None]
    assert [case["structured_report"] for case in content["cases"]] == ["structured_reports/a/b.dcm", None]
    assert [case["volume"] for case in content["cases"]] == [None, None]
    assert [case["reason_code"] for case in content["cases"]] == ["no_object", "other"]
    assert not any("stamp" in case for case in content["cases"])
    assert content["settings"] == {"checkpoint": "model.pt", "overlap": 0.5}
    assert content["calibration"] == {"file": "model.calibration.json"}
    assert content["notes"] == ["c.png has no volume."]
    assert all("stamp" in case for case in cases)  # the journal's records are left as they are


def test_json_is_renewed_alone_and_the_whole_is_three_files(tmp_path: Path) -> None:
    report = report_in(tmp_path)
    report.renew(report.content([report.record(ITEM)]))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    report.write(report.content([report.record(ITEM)], complete=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.html", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is True
    assert "a/b.dcm" in (tmp_path / "report.html").read_text()


def test_a_row_has_a_column_per_class(tmp_path: Path) -> None:
    report = report_in(tmp_path)
    cases = [report.record(ITEM), report.record({"name": "=c.png", "failure": "=c.png is empty."})]
    report.write(report.content(cases))
    done, failed = read_csv(tmp_path / "report.csv")
    assert (done["foreground_pixels_cyst"], done["foreground_pixels_tumour"]) == ("3", "0")
    assert (done["area_mm2_cyst"], done["row_spacing_mm"], done["column_spacing_mm"]) == ("uncalibrated", "0.5", "0.25")
    assert (done["confidence"], done["review"]) == ("0.9", "True")
    assert (failed["name"], failed["error"], failed["area_mm2_cyst"]) == ("=c.png", "=c.png is empty.", "")
    assert "\n=c.png" not in (tmp_path / "report.csv").read_text()


def test_thumbnails_that_are_there_are_taken_into_the_page(tmp_path: Path) -> None:
    report = report_in(tmp_path)
    (tmp_path / "overlays").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "overlays" / "b.png")
    Image.new("RGB", (7, 5), (200, 0, 0)).save(tmp_path / "small.jpg")
    content = report.content([report.record({**ITEM, "overlay_path": "overlays/b.png"})])
    report.write(content, thumbnails={"overlays/b.png": (tmp_path / "small.jpg").read_bytes()})
    assert 'width="7" height="5"' in (tmp_path / "report.html").read_text()


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    report = report_in(tmp_path / "file")
    with pytest.raises(InputError, match=r"Cannot write report\.json in .*file"):
        report.write(report.content([]))
