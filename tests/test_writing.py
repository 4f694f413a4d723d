from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from monai.transforms.io.dictionary import SaveImaged
from PIL import Image

from icmoe_monai import writing
from icmoe_monai.errors import InputError
from icmoe_monai.writing import CLASS_COLOURS, InferenceReport, SaveImage2Dd, write_atomically, write_json

# Differs from each of its mirror images and from its transpose, and H != W.
MASK = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=np.uint8)
NAMES = ["a.jpg", "patient 1/a b.jpeg", "Müller/日本 ü.PNG", "-dash.tif", "a.b/c.d.webp", "no_suffix"]


def probabilities_of(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None] * 0.8 + 0.1


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_binary_mask_comes_back_from_disk(tmp_path: Path, name: str) -> None:
    item = SaveImage2Dd(output_dir=tmp_path)({"pred": probabilities_of(MASK), "name": name})
    with Image.open(tmp_path / item["mask_path"]) as image:
        assert (image.mode, image.size) == ("L", (5, 3))
        np.testing.assert_array_equal(np.asarray(image), MASK * 255)
    assert files_in(tmp_path) == [Path("masks", name).with_suffix(".png").as_posix()] == [item["mask_path"]]
    assert (item["mask_shape"], item["foreground_pixels"]) == ((3, 5), [4])


def test_threshold_is_exclusive_as_in_the_metrics(tmp_path: Path) -> None:
    pred = torch.tensor([[[0.69, 0.5, 0.7, 0.71]]], dtype=torch.float64)
    counts = [
        SaveImage2Dd(output_dir=tmp_path, threshold=threshold)({"pred": pred, "name": "a.png"})["foreground_pixels"]
        for threshold in (0.5, 0.75)
    ]
    assert counts == [[3], [0]]


def test_classes_are_indices_with_visible_colours_in_eight_bits(tmp_path: Path) -> None:
    classes = MASK * 2 + (np.arange(5) == 3)
    pred = MetaTensor(torch.eye(4)[classes.astype(int)].movedim(-1, 0))
    item = SaveImage2Dd(output_dir=tmp_path, out_channels=4)({"pred": pred, "name": "a.png"})
    path = tmp_path / item["mask_path"]
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), classes)
        assert image.convert("RGB").getpixel((0, 0)) == CLASS_COLOURS[2]
    assert path.read_bytes()[24] == 8  # IHDR's bit depth
    assert item["foreground_pixels"] == [3, 4, 0]
    palette = np.array(writing._palette()).reshape(256, 3)
    assert len(np.unique(palette[:32], axis=0)) == 32


def test_probability_maps_have_sixteen_bits(tmp_path: Path) -> None:
    pred = torch.tensor([[[0.0, 0.25], [0.5, 1.0], [1e-5, 1.0005]]])
    SaveImage2Dd(output_dir=tmp_path, probability_maps=True)({"pred": pred, "name": "x/a.jpg"})
    assert files_in(tmp_path) == ["masks/x/a.png", "probabilities/x/a.png"]
    with Image.open(tmp_path / "probabilities/x/a.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), [[0, 16384], [32768, 65535], [1, 65535]])


def test_each_foreground_class_has_a_probability_map(tmp_path: Path) -> None:
    pred = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)).softmax(0)
    SaveImage2Dd(output_dir=tmp_path, out_channels=3, probability_maps=True)({"pred": pred, "name": "a.jpg"})
    assert files_in(tmp_path) == ["masks/a.png", "probabilities/a_class1.png", "probabilities/a_class2.png"]
    with Image.open(tmp_path / "probabilities/a_class2.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 65535, pred[2], atol=1e-5)


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "", ".."])
def test_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"The case name {name!r} leads out of the output folder"):
        SaveImage2Dd(output_dir=tmp_path)({"pred": probabilities_of(MASK), "name": name})
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (torch.full((1, 2, 2), float("nan")), r"prediction of a\.png is not a number in places"),
        (torch.full((1, 2, 2), -4.0), "must be probabilities for a.png, got -4 to -4: put Activationsd"),
        (torch.zeros(2, 2, 2), r"must be \(1, H, W\) for a\.png, got \(2, 2, 2\)"),
        (torch.zeros(2, 2), r"must be \(1, H, W\) for a\.png, got \(2, 2\)"),
    ],
    ids=["nan", "logits", "channels", "axes"],
)
def test_what_is_no_prediction_is_refused(tmp_path: Path, pred: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaveImage2Dd(output_dir=tmp_path)({"pred": pred, "name": "a.png"})
    assert files_in(tmp_path) == []


def test_number_of_classes_must_fit_eight_bits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out_channels must be 1 to 256, got 257"):
        SaveImage2Dd(output_dir=tmp_path, out_channels=257)


def test_other_products_recognise_the_saver() -> None:
    assert issubclass(SaveImage2Dd, SaveImaged)
    assert "SaveImage" in SaveImage2Dd.__name__


@pytest.mark.parametrize("error", [ValueError("half"), KeyboardInterrupt("half")], ids=["error", "ctrl-c"])
def test_failed_write_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_text("before")

    def fail_midway(temporary: Path) -> None:
        temporary.write_text("half of it")
        raise error

    with pytest.raises(type(error), match="half"):
        write_atomically(path, fail_midway)
    assert (files_in(tmp_path), path.read_text()) == (["a.bin"], "before")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "read-only"), (errno.EIO, "something else lies in its place")],
    ids=["full", "read-only", "other"],
)
def test_refusal_of_the_system_names_folder_and_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_text("half of it")
        raise OSError(number, "the system says no")

    with pytest.raises(InputError, match=rf"Cannot write a\.bin in .*new: the system says no\. .*{remedy}"):
        write_atomically(tmp_path / "new" / "a.bin", fail)
    assert files_in(tmp_path) == []


def test_file_in_place_of_the_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "masks").write_text("a file")
    with pytest.raises(InputError, match=r"Cannot write a\.png in .*masks.*something else lies in its place"):
        SaveImage2Dd(output_dir=tmp_path)({"pred": probabilities_of(MASK), "name": "a.png"})
    assert files_in(tmp_path) == ["masks"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b.json").write_text("{}")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


def test_json_holds_no_nan_and_any_name(tmp_path: Path) -> None:
    # A name in Latin-1 reaches Python as a surrogate.
    content = {"nan": float("nan"), "inf": [np.float32("inf")], "n": np.int64(3), "p": Path("a/b"), "ü": "a\udcfc.png"}
    write_json(tmp_path / "a.json", content)
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "nan": None,
        "inf": [None],
        "n": 3,
        "p": "a/b",
        "ü": "a\udcfc.png",
    }


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
    monkeypatch.setattr(writing, "_SECONDS_BETWEEN_REPORTS", -1.0)
    report = InferenceReport(output_dir=tmp_path)
    case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 2), "foreground_pixels": [1]}
    evaluator = Engine(lambda engine, batch: [batch])
    report.attach(evaluator)
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
