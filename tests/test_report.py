from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose

from icmoe_monai import report
from icmoe_monai.errors import InputError
from icmoe_monai.report import InferenceReport
from icmoe_monai.writing import SaveImage2Dd

# Differs from each of its mirror images and from its transpose, and H != W.
MASK = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=np.uint8)


def probabilities_of(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None] * 0.8 + 0.1


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def evaluator_of(tmp_path: Path, names: list[str], *, fail_at: str | None = None, error: BaseException) -> Engine:
    def fail(item: dict) -> dict:
        if item["name"] == fail_at:
            raise error
        return item

    items = [{"image": probabilities_of(MASK), "name": name} for name in names]
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items), batch_size=1),
        network=torch.nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=Compose([fail, SaveImage2Dd(output_dir=tmp_path)]),
        val_handlers=[InferenceReport(output_dir=tmp_path, settings={"checkpoint": Path("/home/me/model.pt")})],
        decollate=True,
    )


def read_report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_report_of_a_whole_run(tmp_path: Path) -> None:
    evaluator_of(tmp_path, ["x y/a.jpg", "b.png"], error=ValueError()).run()
    report = read_report(tmp_path)
    assert (report["complete"], report["stopped_by"], report["num_cases"]) == (True, None, 2)
    assert report["settings"] == {"checkpoint": "model.pt"}
    assert set(report["versions"]) == {"icmoe_monai", "monai", "torch"}
    seconds = [case.pop("seconds") for case in report["cases"]]
    assert all(0 <= second < 5 for second in seconds)
    shared = {"height": 3, "width": 5, "foreground_pixels": [4], "foreground_share": [4 / 15]}
    assert report["cases"] == [
        {"name": "x y/a.jpg", "mask": "masks/x y/a.png"} | shared,
        {"name": "b.png", "mask": "masks/b.png"} | shared,
    ]
    assert str(tmp_path) not in (tmp_path / "report.json").read_text(encoding="utf-8")


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
    evaluator = evaluator_of(tmp_path, ["a.jpg", "b.jpg"], error=ValueError())
    evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: evaluator.terminate(skip_completed))
    evaluator.run()
    assert (read_report(tmp_path)["complete"], read_report(tmp_path)["num_cases"]) == (False, 1)


def test_report_is_renewed_during_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_SECONDS_BETWEEN_REPORTS", -1.0)
    handler = InferenceReport(output_dir=tmp_path)
    case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 2), "foreground_pixels": [1]}
    evaluator = Engine(lambda engine, batch: [batch])
    handler.attach(evaluator)
    seen = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(read_report(tmp_path)))
    evaluator.run([case, case])
    assert [(report["complete"], report["num_cases"]) for report in seen] == [(False, 1), (False, 2)]


def test_unwritable_folder_ends_the_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    evaluator = evaluator_of(tmp_path / "file" / "output", ["a.jpg"], error=ValueError())
    with pytest.raises(InputError, match=r"Cannot write report\.json in .*file"):
        evaluator.run()
    assert evaluator.state.iteration == 0
