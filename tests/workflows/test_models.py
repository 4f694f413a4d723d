"""The shipped weights: what docs/models.md says that they are, and that they fit what is shipped around them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from shipped import over_the_pyramids
from torch import Tensor

from icmoe_monai.calibration.file import find_calibration
from icmoe_monai.errors import InputError
from icmoe_monai.weights.checkpoint import load_weights, read_recipe
from icmoe_monai.weights.frozen import fingerprints
from icmoe_monai.weights.sam import load_sam_weights, trunk_fingerprint
from icmoe_monai.weights.tensor_files import read_metadata

ROOT = Path(__file__).parents[2]
TRUNK, PYRAMID, MODEL, BUSI = (
    ROOT / "models" / name
    for name in (
        "sam_vit_t_medical.safetensors",
        "efficientnet_lite0_imagenet.safetensors",
        "model.pt",
        "experts_busi.safetensors",
    )
)
DOCUMENT = (ROOT / "docs" / "models.md").read_text()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 3, 64, 96)


def test_the_trunk_is_the_one_that_the_document_tells_of():
    fingerprint = trunk_fingerprint(load_sam_weights(TRUNK))
    assert re.findall(r"^ {4}([0-9a-f]{64})$", DOCUMENT, flags=re.MULTILINE) == [fingerprint]
    assert read_metadata(TRUNK)["backbone"] == "vit_t"


@pytest.mark.parametrize("path", [TRUNK, PYRAMID, MODEL, BUSI], ids=lambda path: path.name)
def test_a_file_is_as_large_as_the_document_says(path):
    (size,) = re.findall(rf"`models/{re.escape(path.name)}` \|.*\| ([\d.]+) MB \|", DOCUMENT)
    assert path.stat().st_size / 1e6 == pytest.approx(float(size), abs=0.05)
    assert path.stat().st_size <= 25e6  # what the Model Zoo takes


def test_the_model_is_whole_and_over_the_frozen_pyramid(image):
    state = torch.load(MODEL, weights_only=True)
    network, fresh = over_the_pyramids(read_recipe(MODEL)[0]), over_the_pyramids(read_recipe(MODEL)[0])
    network.load_state_dict(state)  # as monai.bundle.load does
    assert fingerprints(network) == fingerprints(fresh)
    assert list(fingerprints(network)) == ["detail"]
    with torch.no_grad():
        assert not torch.equal(network(image), fresh(image))


@pytest.mark.parametrize(("path", "is_whole"), [(MODEL, True), (BUSI, False)], ids=["model", "busi"])
def test_a_shipped_model_is_the_default_design_and_says_what_it_is_for(path, is_whole):
    recipe, whole = read_recipe(path)
    train = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs" / "train.json")))
    names = ("backbone", "own_network", "deference", "experts", "image_size", "voting")
    assert {name: recipe["settings"][name] for name in names} == {
        name: train.get_parsed_content(name) for name in names
    }
    assert whole == is_whole
    assert recipe["modality"]
    assert len(recipe["segments"]) == 1


def test_experts_for_ultrasound_fit_the_pyramid_and_no_other(image):
    network = over_the_pyramids(read_recipe(BUSI)[0])
    load_weights(network, BUSI)
    with torch.no_grad():
        assert network(image).isfinite().all()
        next(network.detail.parameters()).mul_(2)
    with pytest.raises(InputError, match=r"experts_busi\.safetensors was trained"):
        load_weights(network, BUSI)


@pytest.mark.parametrize("path", [MODEL, BUSI], ids=lambda path: path.name)
def test_a_shipped_models_calibration_lies_beside_it_and_holds_for_the_settings_of_inference(path):
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs" / "inference.json")))
    parser["checkpoint"] = str(path)
    settings = parser.get_parsed_content("settings")
    assert settings["image_size"] == settings["longest_side"] == 256
    calibration = find_calibration("auto", checkpoint=path, settings=settings)
    assert calibration.reason is None
    assert calibration.content["data"]["split"] == "val"
    assert 0 < calibration.review_below < 1
    assert calibration.threshold <= 0.5  # not above: the mask is never smaller than the default


def test_what_the_document_says_of_the_pretraining_is_in_its_files():
    best = []
    for stage in (1, 2):
        lines = (ROOT / "docs" / "results" / f"pretrain_stage{stage}.csv").read_text().splitlines()
        column = lines[0].split(",").index("val_mean_dice")
        best.append(max(float(line.split(",")[column] or 0) for line in lines[1:]))
    assert f"Validation Dice {best[0]:.3f} after stage 1 and {best[1]:.3f} after stage 2" in DOCUMENT


def test_the_metadata_name_scores_of_the_shipped_models():
    metrics = json.loads((ROOT / "configs" / "metadata.json").read_text())["eval_metrics"]
    files = {name: ROOT / "docs" / "results" / f"reliability_{name}.json" for name in ("isic2017", "busi")}
    measured = {name: json.loads(path.read_text())["predicted_dice"]["mean_dice"] for name, path in files.items()}
    assert metrics == {f"{name}_test_mean_dice": round(dice, 4) for name, dice in measured.items()}


def test_what_the_document_says_of_pictures_at_their_natural_shape_is_in_its_files():
    for name in ("natural_isic2017", "natural_isic2017_before"):
        content = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
        assert content["num_cases"] == 98
        assert f"{content['methods']['voted']['dsc']['mean']:.3f} ([{name}.json]" in DOCUMENT


@pytest.mark.parametrize("name", ["isic2017", "busi"])
def test_what_the_document_says_of_the_vote_on_validation_images_is_in_its_file(name):
    content = json.loads((ROOT / "docs" / "results" / f"validation_{name}.json").read_text())
    assert content["settings"]["split"] == "val"
    assert f"{content['methods']['voted']['dsc']['mean']:.4f} and " in DOCUMENT


def test_the_second_stage_was_chosen_by_its_validation():
    lines = (ROOT / "docs" / "results" / "varied_isic2017.csv").read_text().splitlines()
    column = lines[0].split(",").index("val_mean_dice")
    best = max(float(line.split(",")[column]) for line in lines[1:])
    assert f"Validation Dice {best:.4f} after it" in DOCUMENT
