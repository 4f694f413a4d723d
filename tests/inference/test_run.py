from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from report_schema import VALIDATOR

from icmoe_monai.errors import FailedCasesError, InputError
from icmoe_monai.inference import run
from icmoe_monai.inference.journal import SENT, VOLUME, Journal
from icmoe_monai.inference.measures import INTERVALS
from icmoe_monai.inference.report import CALIBRATED, InferenceReport
from icmoe_monai.inference.run import InferenceRun, run_missing
from icmoe_monai.inference.writing import SaveImage2Dd
from icmoe_monai.utils.files import read_csv

# Differs from each of its mirror images and from its transpose, and H != W.
LEFT_OUT = [{"name": "notes.txt", "reason": "no image of a kind that is read here"}]
MASK = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=np.uint8)


def probabilities_of(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None] * 0.8 + 0.1


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def evaluator_of(
    tmp_path: Path,
    names: list[str],
    *,
    fail_at: str | None = None,
    error: BaseException | None = None,
    failures: Mapping[str, str] = MappingProxyType({}),
    background: bool = False,
) -> Engine:
    def fail(item: dict) -> dict:
        if item["name"] == fail_at and error is not None:
            raise error
        return item

    journal = Journal(output_dir=tmp_path, settings={"checkpoint": Path("/home/me/model.pt")})
    items = [{"image": probabilities_of(MASK), "name": name, "failure": failures.get(name, "")} for name in names]
    missing = journal.missing(items)
    report = InferenceReport(output_dir=tmp_path, left_out=LEFT_OUT, labels=["lesion"])
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(missing), batch_size=1),
        network=torch.nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=Compose([fail, SaveImage2Dd(output_dir=tmp_path, background=background)]),
        val_handlers=[InferenceRun(journal=journal, cases=items, report=report)],
        decollate=True,
    )


def read_report(folder: Path) -> dict:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    VALIDATOR.validate(report)
    return report


def test_report_of_a_whole_run(tmp_path: Path) -> None:
    evaluator_of(tmp_path, ["x y/a.jpg", "b.png"]).run()
    report = read_report(tmp_path)
    assert (report["complete"], report["stopped_by"], report["num_cases"], report["num_failed"]) == (True, None, 2, 0)
    assert report["settings"] == {"checkpoint": "model.pt"}
    assert report["left_out"] == LEFT_OUT
    assert set(report["versions"]) == {"icmoe_monai", "monai", "torch"}
    seconds = [case.pop("seconds") for case in report["cases"]]
    assert all(0 <= second < 5 for second in seconds)
    shared = {
        **{"status": "done", "error": None, "note": None, "frame": None, "height": 3, "width": 5, "spacing_mm": None},
        **{"foreground_pixels": [4], "foreground_share": [4 / 15], "area_mm2": None, "num_components": [2]},
        **{"overlay": None, "reliability": None, "volume": None, "controlled": None, "disagreement_map": None},
        **dict.fromkeys((*CALIBRATED, *INTERVALS)),
        **dict.fromkeys(("reason_code", "segmentation", "structured_report", "secondary_capture")),
    }
    assert report["cases"] == [
        {"name": "x y/a.jpg", "mask": "masks/x y/a.png"} | shared,
        {"name": "b.png", "mask": "masks/b.png"} | shared,
    ]
    assert not any(str(tmp_path) in path.read_text(encoding="utf-8") for path in tmp_path.glob("report.*"))
    rows = read_csv(tmp_path / "report.csv")
    assert [(row["name"], row["foreground_pixels"], row["area_mm2"]) for row in rows] == [
        ("x y/a.jpg", "4", "uncalibrated"),
        ("b.png", "4", "uncalibrated"),
    ]
    assert "x y/a.jpg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_failed_cases_end_the_run_with_a_sentence_once_all_others_are_done(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(InputError, match=r"^1 of 3 images could not be used, .* The first: b\.jpg is empty\.$"):
        evaluator_of(tmp_path, names, failures={"b.jpg": "b.jpg is empty."}).run()
    report = read_report(tmp_path)
    assert (report["complete"], report["num_failed"]) == (True, 1)
    assert [(case["status"], case["error"]) for case in report["cases"]] == [
        ("done", None),
        ("failed", "b.jpg is empty."),
        ("done", None),
    ]


def test_repeated_run_does_what_is_missing_and_reports_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 2 images"):
        evaluator_of(tmp_path, ["a.jpg", "b.jpg"], failures={"b.jpg": "b.jpg is empty."}).run()
    before = (tmp_path / "masks" / "a.png").stat().st_mtime_ns
    evaluator = evaluator_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    run_missing(evaluator)
    assert evaluator.state.iteration == 2
    assert (tmp_path / "masks" / "a.png").stat().st_mtime_ns == before
    assert [case["status"] for case in read_report(tmp_path)["cases"]] == ["done"] * 3
    nothing = evaluator_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "report.json").unlink()
    run_missing(nothing)
    assert nothing.state.iteration == 0
    assert read_report(tmp_path)["num_cases"] == 3


@pytest.mark.parametrize(
    ("error", "raised", "stopped_by"),
    [
        (ValueError("stop here"), RuntimeError, "RuntimeError"),  # MONAI's wrapping
        (InputError("stop here"), RuntimeError, "InputError"),
        (KeyboardInterrupt("stop here"), KeyboardInterrupt, "KeyboardInterrupt"),
    ],
    ids=["error", "input error", "ctrl-c"],
)
def test_report_of_a_run_cut_short(
    tmp_path: Path, error: BaseException, raised: type[BaseException], stopped_by: str
) -> None:
    evaluator = evaluator_of(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], fail_at="c.jpg", error=error)
    with pytest.raises(raised, match=r"applying transform|stop here"):
        evaluator.run()
    report = read_report(tmp_path)
    assert (report["complete"], report["stopped_by"]) == (False, stopped_by)
    assert [case["name"] for case in report["cases"]] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("skip_completed", [False, True])
def test_terminated_run_is_not_complete(tmp_path: Path, skip_completed: bool) -> None:
    evaluator = evaluator_of(tmp_path, ["a.jpg", "b.jpg"])
    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: evaluator.terminate(skip_completed))
    evaluator.run()
    assert (read_report(tmp_path)["complete"], read_report(tmp_path)["num_cases"]) == (False, 1)


def test_report_is_renewed_during_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SECONDS_BETWEEN_REPORTS", -1.0)
    case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 2), "foreground_pixels": [1]}
    cases = [case, {**case, "name": "b.jpg"}]
    journal = Journal(output_dir=tmp_path)
    report = InferenceReport(output_dir=tmp_path)
    handler = InferenceRun(journal=journal, cases=journal.missing(cases), report=report)
    evaluator = Engine(lambda engine, batch: [batch])
    handler.attach(evaluator)
    seen = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(read_report(tmp_path)))
    evaluator.run(cases)
    assert [(report["complete"], report["num_cases"]) for report in seen] == [(False, 1), (False, 2)]


def test_unwritable_folder_ends_the_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    evaluator = evaluator_of(tmp_path / "file" / "output", ["a.jpg"])
    with pytest.raises(InputError, match=r"Cannot write cases\.jsonl in .*file"):
        evaluator.run()
    assert evaluator.state.iteration == 0


def test_name_that_the_disk_refuses_fails_alone(tmp_path: Path) -> None:
    names = [f"{'n' * 300}.jpg", "=a.jpg"]
    with pytest.raises(InputError, match="1 of 2 images could not be used"):
        evaluator_of(tmp_path, names, background=True).run()
    assert [case["status"] for case in read_report(tmp_path)["cases"]] == ["failed", "done"]
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()
    assert [row["name"] for row in read_csv(tmp_path / "report.csv")] == names


def test_name_that_is_not_unicode_is_reported(tmp_path: Path) -> None:
    evaluator_of(tmp_path, [b"\xff.png".decode("utf-8", "surrogateescape")]).run()
    assert len(read_csv(tmp_path / "report.csv")) == 1
    assert (tmp_path / "report.html").is_file()


class Sending:
    """Note each file of a volume as sent, but for those that fail or stop it."""

    def __init__(self, *, failing: str = "", stopping: str = "") -> None:
        self.failing, self.stopping = failing, stopping
        self.num_calls = 0

    def send(self, journal: Journal) -> None:
        self.num_calls += 1
        for volume in journal.records(VOLUME).values():
            (file,) = volume["files"]
            if file["file"] == self.stopping:
                raise KeyboardInterrupt
            told = ("failed", "busy", "It is too busy.") if file["file"] == self.failing else ("done", None, None)
            record = dict(zip(("status", "reason_code", "error"), told, strict=True))
            journal.add(SENT, {"name": file["file"], "file": file["file"], "sha256": "0", **record})


def sending(tmp_path: Path, sender: Sending) -> tuple[Engine, list[dict]]:
    """Return an engine over two cases, each with a volume."""
    case = {"mask_path": "masks/a.png", "mask_shape": (2, 2), "foreground_pixels": [1]}
    cases = [{**case, "name": f"{name}.dcm"} for name in "ab"]
    journal = Journal(output_dir=tmp_path)
    journal.missing(cases)
    handler = InferenceRun(journal=journal, cases=cases, report=InferenceReport(output_dir=tmp_path), sender=sender)
    engine = Engine(lambda engine, batch: [batch])
    handler.attach(engine)

    def add_volume() -> None:
        name = engine.state.output[0]["name"]
        files = [{"file": f"segmentations/{name}", "cases": [name]}]
        journal.add(VOLUME, {"name": name, "of": [name], "files": files, "remarks": []})

    engine.add_event_handler(Events.ITERATION_COMPLETED, add_volume)
    return engine, cases


def test_a_runs_files_are_sent_once_at_its_end_and_the_report_tells(tmp_path: Path) -> None:
    sender = Sending()
    engine, cases = sending(tmp_path, sender)
    engine.run(cases)
    done = {"status": "done", "reason_code": None, "error": None}
    assert read_report(tmp_path)["sent"] == [{"file": f"segmentations/{name}.dcm", **done} for name in "ab"]
    assert sender.num_calls == 1


def test_what_could_not_be_sent_fails_the_run_and_is_told(tmp_path: Path) -> None:
    engine, cases = sending(tmp_path, Sending(failing="segmentations/b.dcm"))
    with pytest.raises(FailedCasesError, match=r"1 of 2 DICOM objects could not be sent.* It is too busy"):
        engine.run(cases)
    report = read_report(tmp_path)
    assert (report["complete"], report["num_failed"]) == (True, 0)
    assert [one["reason_code"] for one in report["sent"]] == [None, "busy"]
    assert "It is too busy." in report["notes"]


def test_what_was_sent_before_a_stop_is_told(tmp_path: Path) -> None:
    engine, cases = sending(tmp_path, Sending(stopping="segmentations/b.dcm"))
    with pytest.raises(KeyboardInterrupt):
        engine.run(cases)
    assert [one["file"] for one in read_report(tmp_path)["sent"]] == ["segmentations/a.dcm"]


def test_a_run_that_was_cut_short_sends_nothing(tmp_path: Path) -> None:
    sender = Sending()
    engine, cases = sending(tmp_path, sender)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), engine.terminate)
    engine.run(cases)
    assert sender.num_calls == 0
