"""Several classes from end to end, with nothing but `--out_channels 3`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_files import asymmetric, save
from PIL import Image
from skimage.draw import disk, rectangle

from icmoe_monai.__main__ import main
from icmoe_monai.visualize.overlay import CLASS_COLOURS

TINY = ["--image_size", "32", "--num_workers", "0", "--device", "cpu"]
SHORT = ["--max_epochs", "1", "--min_steps", "2", "--batch_size", "4"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images with a red disk, class 1, and a blue square, class 2."""
    folder, random = tmp_path_factory.mktemp("data") / "three", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    names = [f"case{i}" for i in range(16)]
    for name in names:
        image, mask = random.normal(90, 10, (40, 48, 3)), np.zeros((40, 48), np.uint8)
        for k, place in enumerate((disk((20, 12), 7), rectangle((10, 28), extent=(12, 12))), start=1):
            mask[tuple(place)] = k
            image[(*place, 0 if k == 1 else 2)] += 100
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    (folder / "splits.json").write_text(json.dumps({"train": names[:4], "val": names[4:14], "test": names[14:]}))
    return folder


@pytest.fixture(scope="module")
def trained(three: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    assert main(["train", str(three), str(output), "--out_channels", "3", *SHORT, *TINY]) == 0
    return output


def test_training_evaluation_calibration_and_prediction_need_nothing_else(three: Path, trained: Path) -> None:
    checkpoint, further = ["--checkpoint", str(trained / "best.pt")], ["--num_workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(three), str(trained / "evaluation"), *checkpoint, *further]) == 0
    scores = json.loads((trained / "evaluation" / "summary.json").read_text())
    assert scores
    picture = np.asarray(Image.open(trained / "evaluation" / "predictions.png").convert("RGB")).reshape(-1, 3)
    for k in (1, 2):  # in the legend, and around the labels
        assert (picture == CLASS_COLOURS[k]).all(axis=1).sum() > 50
    assert main(["calibrate", str(three), *checkpoint, *further]) == 0
    assert (trained / "best.calibration.json").is_file()
    images = three / "images"
    assert main(["predict", str(images), str(trained / "predictions"), *checkpoint, *further]) == 0
    report = json.loads((trained / "predictions" / "report.json").read_text())
    assert [case["status"] for case in report["cases"]] == 16 * ["done"]
    assert all(len(case["foreground_pixels"]) == 2 for case in report["cases"])
    assert "class 2" in (trained / "predictions" / "report.html").read_text()


def test_names_given_in_training_are_those_of_the_report(three: Path, trained: Path, tmp_path: Path) -> None:
    names = ["--labels", "['disk','square']"]
    assert main(["train", str(three), str(tmp_path), "--out_channels", "3", *names, *SHORT, *TINY]) == 0
    checkpoint = ["--checkpoint", str(tmp_path / "best.pt"), "--num_workers", "0", "--device", "cpu"]
    assert main(["predict", str(three / "images"), str(tmp_path / "out"), *checkpoint]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "disk" in page
    assert "square" in page


def test_one_name_for_two_classes_is_refused(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--labels", "['disk']"]
    assert main(["train", str(three), str(tmp_path / "runs"), "--out_channels", "3", *names, *SHORT, *TINY]) == 1
    assert "labels must be 2, one for each foreground class" in capsys.readouterr().err


def test_codes_are_asked_for_only_where_a_dicom_segmentation_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.dcm", np.kron(asymmetric(), np.ones((4, 4))).astype(np.uint8))
    command = ["predict", str(tmp_path / "in"), str(tmp_path / "out"), "--checkpoint", str(trained / "best.pt")]
    command += ["--num_workers", "0", "--device", "cpu"]
    assert main(command) == 1
    assert "class 1 and class 2 have none: give --segments" in capsys.readouterr().err
    assert main([*command, "--dicom_seg", "none"]) == 0
