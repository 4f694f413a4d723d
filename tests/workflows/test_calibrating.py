"""From a trained model to calibrated reports, through MONAI's own doors and the shipped configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import put_demo_set
from monai.bundle import ConfigWorkflow
from PIL import Image
from report_schema import VALIDATOR

from icmoe_monai.__main__ import main
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.utils.files import read_csv
from icmoe_monai.utils.locks import LOCK
from icmoe_monai.weights.pyramid import load_pyramid_weights
from icmoe_monai.weights.tensor_files import save_checkpoint

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TRAIN, EVALUATE, CALIBRATE, INFERENCE = (
    str(CONFIGS / name) for name in ("train.json", "evaluate.json", "calibrate.yaml", "inference.json")
)
SMALL = {"image_size": 64, "num_workers": 0, "device": "cpu", "pretrained": None}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def run(config: Any, kind: str, **overrides: Any) -> None:
    flow = ConfigWorkflow(config_file=config, workflow_type=kind, logging_file=False, **SMALL | overrides)
    flow.initialize()
    flow.run()
    flow.finalize()


def calibrate(dataset: Path, checkpoint: Path, **overrides: Any) -> None:
    run([TRAIN, EVALUATE, CALIBRATE], "train", run_id="calibrating", dataset_dir=str(dataset),
        checkpoint=str(checkpoint), **{"alpha": 0.3, **overrides})  # fmt: skip


def sentence_of(error: BaseException) -> str:
    return str(find_input_error(error) or error)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo set with ten validation images."""
    folder = tmp_path_factory.mktemp("data") / "set"
    put_demo_set(folder)
    splits = json.loads((folder / "splits.json").read_text())
    names = splits["train"] + splits["val"]
    (folder / "splits.json").write_text(json.dumps({**splits, "train": names[:5], "val": names[5:]}))
    return folder


@pytest.fixture(scope="module")
def calibrated(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights with its calibration beside it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_checkpoint(ICMoE(detail=ImagePyramid()).state_dict(), folder / "best.pt")
    calibrate(dataset, folder / "best.pt")
    return folder


def test_the_calibration_lies_beside_the_checkpoint_and_nothing_else_is_written(
    calibrated: Path, dataset: Path
) -> None:
    assert sorted(path.name for path in calibrated.iterdir()) == ["best.calibration.json", "best.pt"]
    content = json.loads((calibrated / "best.calibration.json").read_text())
    assert content["data"]["num_images"] == len(json.loads((dataset / "splits.json").read_text())["val"]) == 10
    assert content["settings"]["image_size"] == 64


def test_the_test_images_change_nothing(calibrated: Path, dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "set"
    shutil.copytree(dataset, other)
    for name in json.loads((other / "splits.json").read_text())["test"]:
        for kind in ("images", "masks"):
            with Image.open(other / kind / f"{name}.png") as image:
                turned = image.transpose(Image.Transpose.ROTATE_180).point(lambda value: 255 - value)
            turned.save(other / kind / f"{name}.png")
    calibrate(other, calibrated / "best.pt", calibration_file=str(tmp_path / "again.json"))
    assert (tmp_path / "again.json").read_bytes() == (calibrated / "best.calibration.json").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"split": "test"}, "fitted on the validation images"),
        ({"alpha": 0.01}, "alpha 0.01 needs at least 99 validation images with foreground, and there are 10"),
        ({"alpha": 0}, "alpha must be a number above 0 and below 1"),
    ],
    ids=["test-images", "too-few", "no-rate"],
)
def test_what_cannot_be_calibrated_is_refused(overrides: dict, sentence: str, calibrated: Path, dataset: Path) -> None:
    before = (calibrated / "best.calibration.json").read_bytes()
    with pytest.raises((RuntimeError, InputError)) as raised:
        calibrate(dataset, calibrated / "best.pt", **overrides)
    assert sentence in sentence_of(raised.value)
    assert (calibrated / "best.calibration.json").read_bytes() == before


def test_an_evaluation_judges_the_calibration(calibrated: Path, dataset: Path, tmp_path: Path) -> None:
    run([TRAIN, EVALUATE], "train", run_id="evaluating", dataset_dir=str(dataset), output_dir=str(tmp_path),
        checkpoint=str(calibrated / "best.pt"))  # fmt: skip
    result = json.loads((tmp_path / "reliability.json").read_text())
    assert result["calibration"]["file"] == "best.calibration.json"
    assert list(result["calibration_error"]) == ["before", "after"]
    assert result["control"]["alpha"] == 0.3
    assert (tmp_path / "reliability.png").is_file()
    assert 0 <= result["area"]["coverage"] <= 1
    assert result["area"]["num_images"] == result["control"]["num_images"]
    assert 0 <= result["out_of_distribution"]["share"] <= 1
    scores = {row["case"]: float(row["dsc"]) for row in read_csv(tmp_path / "cases.csv") if row["method"] == "voted"}
    dice = {row["case"]: float(row["dice"]) for row in read_csv(tmp_path / "reliability.csv")}
    assert dice == pytest.approx(scores, abs=1e-6)


def test_labels_of_training_images_tell_no_more_than_whether_they_are_empty(dataset: Path, tmp_path: Path) -> None:
    network = ICMoE(detail=ImagePyramid())  # with random weights a pyramid's features are the same of all images
    load_pyramid_weights(ROOT / "models" / "efficientnet_lite0_imagenet.safetensors", network.detail)
    save_checkpoint(network.state_dict(), tmp_path / "seeing.pt")

    def prototypes(name: str, kind: str | None = None) -> str:
        other = tmp_path / name
        shutil.copytree(dataset, other)
        for stem in json.loads((other / "splits.json").read_text())["train"] if kind else ():
            with Image.open(other / kind / f"{stem}.png") as image:
                turned = image.transpose(Image.Transpose.ROTATE_180)
            turned.save(other / kind / f"{stem}.png")
        calibrate(other, tmp_path / "seeing.pt", calibration_file=str(tmp_path / f"{name}.json"))
        content = json.loads((tmp_path / f"{name}.json").read_text())
        return content["out_of_distribution"]["prototypes"]

    known = prototypes("known")
    assert prototypes("masks", "masks") == known
    assert prototypes("images", "images") != known


def infer(calibrated: Path, dataset: Path, output: Path, **overrides: Any) -> dict:
    run(INFERENCE, "infer", dataset_dir=str(dataset / "images"), output_dir=str(output),
        checkpoint=str(calibrated / "best.pt"), **overrides)  # fmt: skip
    report = json.loads((output / "report.json").read_text())
    VALIDATOR.validate(report)
    return report


def test_inference_reports_what_the_calibration_says(calibrated: Path, dataset: Path, tmp_path: Path) -> None:
    report = infer(calibrated, dataset, tmp_path, probability_maps=True, disagreement_maps=True)
    threshold = report["calibration"]["control"]["threshold"]
    assert report["calibration"]["file"] == "best.calibration.json"
    plain = infer(calibrated, dataset, tmp_path / "plain", probability_maps=True, calibration="none")
    for case, uncalibrated in zip(report["cases"], plain["cases"], strict=True):
        assert case["out_of_distribution"] == (case["ood_score"] > 1)
        if case["out_of_distribution"]:
            assert (case["predicted_dice"], case["foreground_pixels_low"], case["review"]) == (None, None, True)
        else:
            assert 0 < case["predicted_dice"] < 1
            assert case["review"] == (case["predicted_dice"] < report["calibration"]["review_below"])
            assert case["foreground_pixels_low"][0] <= case["foreground_pixels"][0] <= case["foreground_pixels_high"][0]
        assert case["no_lesion"] is None
        assert case["reliability"] == uncalibrated["reliability"]
        assert (tmp_path / case["mask"]).read_bytes() == (tmp_path / "plain" / uncalibrated["mask"]).read_bytes()
        stem = Path(case["name"]).stem
        assert [case["controlled"], case["disagreement_map"]] == [f"controlled/{stem}.png", f"disagreement/{stem}.png"]
        voted = np.asarray(Image.open(tmp_path / "plain" / "probabilities" / f"{stem}.png"))
        controlled, apart = (np.asarray(Image.open(tmp_path / case[key])) for key in ("controlled", "disagreement_map"))
        differs = (controlled > 0) != (voted / 65535 >= threshold)
        assert not (differs & (np.abs(voted / 65535 - threshold) > 1e-4)).any()
        assert apart.dtype == np.uint16
        assert 0 < apart.mean() < 65535
        assert {uncalibrated[key] for key in ("predicted_dice", "review", "controlled", "disagreement_map")} == {None}
    name = report["cases"][0]["mask"].replace("masks", "probabilities")
    assert (tmp_path / name).read_bytes() != (tmp_path / "plain" / name).read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert "Predicted Dice" in page
    assert "at most 30 % of a lesion" in page
    assert "risk-controlled mask" in page
    assert "Predicted Dice" not in (tmp_path / "plain" / "report.html").read_text()
    assert float(read_csv(tmp_path / "report.csv")[0]["predicted_dice"]) == report["cases"][0]["predicted_dice"]


def test_another_models_calibration_is_refused_before_anything_is_written(
    calibrated: Path, dataset: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    save_checkpoint(ICMoE(detail=ImagePyramid()).state_dict(), tmp_path / "other.pt")
    with pytest.raises((RuntimeError, InputError)) as raised:
        run(INFERENCE, "infer", dataset_dir=str(dataset / "images"), output_dir=str(tmp_path / "out"),
            checkpoint=str(tmp_path / "other.pt"), calibration=str(calibrated / "best.calibration.json"))  # fmt: skip
    assert "is of another model: it was fitted to best.pt" in sentence_of(raised.value)
    # the exception, which is looked at here, keeps the folder held
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_results_of_another_calibration_are_not_mixed(calibrated: Path, dataset: Path, tmp_path: Path) -> None:
    infer(calibrated, dataset, tmp_path)
    with pytest.raises((RuntimeError, InputError)) as raised:
        infer(calibrated, dataset, tmp_path, calibration="none")
    assert "holds results that were made otherwise (calibration differ)" in sentence_of(raised.value)


def test_the_command_takes_a_calibration(calibrated: Path, dataset: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(dataset / "images"), str(tmp_path), "--checkpoint", str(calibrated / "best.pt"),
                 "--image_size", "64", "--num_workers", "0", "--pretrained", "null", "--device", "cpu"]  # fmt: skip
    assert main([*arguments, "--calibration", str(calibrated / "best.calibration.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["cases"][0]["ood_score"] > 0
    assert main([*arguments, "--overwrite", "--calibration", "none"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["calibration"]["reason"] == "No calibration was asked for."
    assert report["cases"][0]["predicted_dice"] is None
