"""The bundle's workflows over two processes of torchrun, on CPUs over gloo, beside one process: the same results."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import put_demo_set
from nibabel import Nifti1Image, save
from PIL import Image
from processes import ROOT, run_workflow, torchrun
from shipped import NETWORK
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Python 3.12 warns of every fork of a process with threads
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # of filters of one channel, where two strides are the same memory
    pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning"),
]
SMALL = {"image_size": 64, "num_workers": 0, "device": "cpu"}
# Nothing that a process draws by itself: all anchors, and no augmentation. Adam would make whole steps of what rounding
# leaves of a gradient near 0.
PLAIN = {
    "train#preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "icmoe_monai.transforms.load.LoadImage2Dd", "keys": ["image", "label"], "out_channels": 1},
            {"_target_": "Resized", "keys": ["image", "label"], "spatial_size": [64, 64], "mode": ["area", "nearest"]},
            {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 128, "divisor": 64},
            {"_target_": "EnsureTyped", "keys": ["image", "label"], "track_meta": False},
        ],
    },
    "optimizer#_target_": "torch.optim.SGD",
    "learning_rate": 0.03,
    "loss_def#contrast": {"_target_": "icmoe_monai.losses.SemanticContrastiveLoss", "num_anchors": 100_000},
}


def configs(*names: str) -> list[str]:
    return [name if Path(name).is_absolute() else str(ROOT / "configs" / f"{name}.json") for name in names]


def as_words(arguments: Mapping[str, object]) -> list[str]:
    return [word for name, value in arguments.items() for word in (f"--{name}", str(value))]


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses_of(folder: Path) -> list[float]:
    """Return the loss of every step."""
    events = EventAccumulator(str(folder)).Reload()
    return [event.value for event in events.Scalars("train_loss")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve images for training, three for validation, three for test: no even number."""
    folder = tmp_path_factory.mktemp("data") / "set"
    put_demo_set(folder)
    return folder


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """Output folders of one process with batches of four, and of two, by torchrun, with batches of two."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = {"dataset_dir": str(dataset), **SMALL, "min_steps": 1, "max_epochs": 3}
    (folder / "plain.json").write_text(json.dumps(PLAIN))
    files = configs("train", str(folder / "plain.json"))
    assert run_workflow(files, "training", 1, **arguments, output_dir=str(folder / "1"), batch_size=4) == [0]
    files = ["training", "--config_file", str(configs("train", "multi_gpu_train", str(folder / "plain.json")))]
    arguments |= {"output_dir": folder / "2", "batch_size": 2}
    done = torchrun(*files, *as_words(arguments), folder=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_two_processes_train_as_one_does_with_the_doubled_batch(trained):
    one, two = (rows(trained / name / "metrics.csv") for name in ("1", "2"))
    assert [row["iteration"] for row in one] == [row["iteration"] for row in two] == ["3", "6", "9"]
    for name in [name for name in one[0] if name not in ("seconds", "step_seconds", "peak_mb", "peak_gpu_mb")]:
        values = [np.array([float(row[name]) for row in table]) for table in (one, two)]
        # a Dice of some thousand pixels changes by more than 1e-4 with a single pixel
        tolerance = 1e-4 if name == "train_loss" or "dice" not in name else 2e-3
        np.testing.assert_allclose(*values, rtol=0, atol=tolerance, err_msg=name)
    curves = [losses_of(trained / name / "tensorboard") for name in "12"]
    assert len(curves[0]) == 9
    np.testing.assert_allclose(*curves, rtol=0, atol=1e-4)
    assert np.ptp(curves[0]) > 0.05


def test_weights_statistics_and_prototypes_are_those_of_one_process(trained):
    one, two = (torch.load(trained / name / "last.pt", weights_only=True) for name in ("1", "2"))
    assert one["trunk"] == two["trunk"]
    assert one["model"].keys() == two["model"].keys()
    assert any("running_mean" in name for name in one["model"])
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=2e-4, msg=name)
    assert one["loss"]["contrast.remembered"].all()
    torch.testing.assert_close(two["loss"], one["loss"], rtol=0, atol=1e-4)


def test_files_are_written_once(trained):
    assert {path.name for path in (trained / "2").iterdir()} == {"best.pt", "last.pt", "metrics.csv", "tensorboard"}
    events = [len(list((trained / name / "tensorboard").iterdir())) for name in "12"]
    assert events[0] == events[1] > 0


def test_two_processes_resume_and_stop_early_together(trained, dataset, tmp_path):
    """From one process's last.pt, which has counted one of three validations and a best value that none exceeds."""
    begun = torch.load(trained / "1" / "last.pt", weights_only=True)
    torch.save(begun | {"early_stop": {"best": 1.0, "count": 1}}, tmp_path / "last.pt")
    files = configs("train", "multi_gpu_train", str(trained / "plain.json"))
    codes = run_workflow(
        files, "training", 2, **SMALL, dataset_dir=str(dataset), output_dir=str(tmp_path / "o"), min_steps=1,
        max_epochs=9, batch_size=2, checkpoint=str(tmp_path / "last.pt"), patience=3,
    )  # fmt: skip
    assert codes == [0, 0]
    assert [row["epoch"] for row in rows(tmp_path / "o" / "metrics.csv")] == ["4", "5"]


def test_an_evaluation_of_two_processes_has_the_files_of_one(trained, dataset, tmp_path):
    for name, files in (("1", ["train", "evaluate"]), ("2", ["train", "evaluate", "multi_gpu_evaluate"])):
        codes = run_workflow(
            configs(*files), "evaluating", int(name), **SMALL, dataset_dir=str(dataset), protocol="isic2017",
            checkpoint=str(trained / "1" / "best.pt"), output_dir=str(tmp_path / name), num_pictures=2,
        )  # fmt: skip
        assert codes == [0] * int(name)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in "12"]
    assert files[0] == files[1]
    assert json.loads((tmp_path / "1" / "summary.json").read_text())["num_cases"] == 3
    for name in ("summary.json", "cases.csv", "protocol.json", "protocol.csv", "reliability.csv", "predictions.png"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    one, two = (json.loads((tmp_path / name / "reliability.json").read_text()) for name in "12")
    assert one.pop("calibration_error") == pytest.approx(two.pop("calibration_error"), abs=1e-9)
    assert one == two


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five pictures and a stack of four slices."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(5):
        picture = np.kron(rng.integers(0, 255, (5, 7, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"picture {number}.png")
    save(Nifti1Image(np.kron(rng.random((4, 5, 4)), np.ones((16, 16, 1))).astype(np.float32), np.eye(4)),
         folder / "stack.nii.gz")  # fmt: skip
    return folder


def segment(images: Path, output: Path, trained: Path, num_processes: int) -> list[int]:
    files = configs("inference", *(["multi_gpu_inference"] if num_processes > 1 else []))
    return run_workflow(
        files, "run", num_processes, **SMALL, dataset_dir=str(images), output_dir=str(output),
        checkpoint=str(trained / "1" / "best.pt"),
    )  # fmt: skip


def report_of(output: Path) -> dict:
    report = json.loads((output / "report.json").read_text())
    for case in report["cases"]:
        case.pop("seconds")
    return report


def files_of(output: Path) -> dict[str, bytes]:
    """Return what was written but for the reports, which hold times."""
    paths = [path for path in output.rglob("*") if path.is_file() and not path.name.startswith(("report.", "cases."))]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def test_an_inference_of_two_processes_has_the_files_of_one_and_goes_on(trained, images, tmp_path):
    for num_processes in (1, 2):
        assert segment(images, tmp_path / str(num_processes), trained, num_processes) == [0] * num_processes
    one, two = tmp_path / "1", tmp_path / "2"
    assert len(report_of(one)["cases"]) == 9
    assert report_of(one)["complete"]
    assert report_of(one) == report_of(two)
    assert files_of(one) == files_of(two)
    assert {"masks/picture 0.png", "volumes/stack.nii.gz"} <= files_of(one).keys()
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}  # no part of the journal
    records = [json.loads(line) for line in (two / "cases.jsonl").read_text().splitlines()]
    names = [record["record"]["name"] for record in records if record["kind"] == "case"]
    assert sorted(names) == sorted(case["name"] for case in report_of(one)["cases"])  # each case once
    # one process made the results, two go on: one case is lost, and only that is done again
    lost, kept = one / "masks" / "picture 3.png", one / "masks" / "picture 0.png"
    mask, before = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    assert segment(images, one, trained, 2) == [0, 0]
    assert (lost.read_bytes(), kept.stat().st_mtime_ns) == (mask, before)
    assert report_of(one) == report_of(two)


def test_large_images_of_two_processes_have_the_files_of_one(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in "abc":
        pixels = np.random.default_rng(ord(name)).integers(0, 200, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.png")
    for num_processes in (1, 2):
        files = configs("inference", str(ROOT / "configs" / "inference_large.yaml"))
        files += configs("multi_gpu_inference") if num_processes > 1 else []
        arguments = {
            **SMALL,
            "recipe": "none",
            **NETWORK,
            "dataset_dir": str(images),
            "output_dir": str(tmp_path / str(num_processes)),
        }
        assert run_workflow(files, "run", num_processes, **arguments) == [0] * num_processes
    assert report_of(tmp_path / "2")["complete"]
    assert [case["status"] for case in report_of(tmp_path / "2")["cases"]] == ["done"] * 3
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert "votes/c.tif" in files_of(tmp_path / "2")


def test_a_bad_image_ends_a_shared_run_as_it_ends_one_and_an_idle_process_waits(trained, tmp_path):
    """Two images for two processes, of which the second's cannot be decoded."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 48), (200, 90, 80)).save(images / "a.png")
    whole = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(whole).save(images / "b.png")
    data = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(data[: len(data) // 2])  # its header is whole
    assert segment(images, tmp_path / "1", trained, 1) == [3]
    arguments = {"dataset_dir": images, "output_dir": tmp_path / "2", **SMALL}
    arguments["checkpoint"] = trained / "1" / "best.pt"
    files = ["--config_file", str(configs("inference", "multi_gpu_inference"))]
    done = torchrun(*files, *as_words(arguments), folder=tmp_path)
    assert done.returncode == 1, done.stderr[-4000:]
    told = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "[rank0]: error: "))]
    assert len(told) == 1  # PyTorch's hook tells who says it
    sentence = "error: 1 of 2 images could not be used, the others are done; report.json says why."
    assert told[0].removeprefix("[rank0]: ").startswith(sentence)
    assert (tmp_path / "2" / "report.html").is_file()
    assert report_of(tmp_path / "1") == report_of(tmp_path / "2")
    # again: one case is left, for two processes, and the second ends without an error
    assert segment(images, tmp_path / "2", trained, 2) == [3, 0]
    assert report_of(tmp_path / "1") == report_of(tmp_path / "2")
    assert [case["status"] for case in report_of(tmp_path / "2")["cases"]] == ["done", "failed"]
