"""One part of a config replaced alone, by one of MONAI's or PyTorch's: it works, or one sentence says what to do."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import put_demo
from monai.bundle import ConfigWorkflow

from icmoe_monai.errors import InputError, find_input_error

CONFIGS = Path(__file__).parents[2] / "configs"
TRAIN, EVALUATE, INFERENCE = ["train.json"], ["train.json", "evaluate.json"], ["inference.json"]
SMALL = {"num_workers": 0, "device": "cpu", "image_size": 64}
SHORT = {"max_epochs": 1, "min_steps": 1, "batch_size": 2}
UNET = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": "@out_channels",
    "channels": [4, 8], "strides": [2],
}  # fmt: skip
FLEXIBLE = {  # which has an encoder of its own, that is not SAM's
    "_target_": "monai.networks.nets.BasicUNet", "spatial_dims": 2, "in_channels": 3, "out_channels": "@out_channels",
    "features": [4, 4, 4, 4, 4, 4],
}  # fmt: skip
SEVERAL_OUTPUTS = {
    "_target_": "monai.networks.nets.BasicUNetPlusPlus", "spatial_dims": 2, "in_channels": 3,
    "out_channels": "@out_channels", "features": [4, 4, 4, 4, 4, 4],
}  # fmt: skip
WINDOWS = {"_target_": "monai.inferers.SlidingWindowInferer", "roi_size": [64, 64]}
DICE = {"_target_": "monai.losses.DiceCELoss", "sigmoid": True}
# MONAI warns of configs being code at every workflow, and of its own loaders' defaults
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def run(configs: list[str], **overrides: Any) -> ConfigWorkflow:
    kind = "infer" if configs == INFERENCE else "train"
    files = [str(CONFIGS / name) for name in configs]
    flow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **SMALL, **overrides)
    flow.initialize()
    flow.run()
    return flow


def sentence_of(configs: list[str], **overrides: Any) -> str:
    with pytest.raises((RuntimeError, ValueError, InputError)) as raised:
        run(configs, **overrides)
    cause = find_input_error(raised.value)
    assert cause is not None
    assert "\n" not in str(cause)
    return str(cause)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_demo(tmp_path_factory.mktemp("data") / "set", train=2, val=2, test=1)


@pytest.mark.parametrize("network", [UNET, FLEXIBLE], ids=["unet", "basic_unet"])
def test_a_plain_network_alone_trains_and_is_used(network: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    trained, evaluated, segmented = (str(tmp_path / name) for name in ("trained", "evaluated", "segmented"))
    run(TRAIN, network_def=network, dataset_dir=str(dataset), output_dir=trained, **SHORT)
    assert "val_network_dice" in rows(Path(trained))[0]
    best = {"checkpoint": f"{trained}/best.pt", "network_def": network}
    state = torch.load(best["checkpoint"], weights_only=True)
    assert not any(name.startswith("network.") for name in state)  # they are the network's own names
    run(EVALUATE, dataset_dir=str(dataset), output_dir=evaluated, **best)
    assert json.loads(Path(evaluated, "summary.json").read_text())["num_cases"] == 1
    run(INFERENCE, dataset_dir=str(dataset / "images"), output_dir=segmented, budget="8GB", **best)
    assert len(list(Path(segmented, "masks").iterdir())) == 18


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("loss_def", DICE),
        ("loss_def", "$torch.nn.functional.binary_cross_entropy_with_logits"),
        ("optimizer", {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01}),
        ("lr_scheduler", {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 1}),
        ("train#inferer", {"_target_": "SimpleInferer"}),
        ("train#dataset", {"_target_": "Dataset", "data": "$@cases['train']", "transform": "@train#preprocessing"}),
        ("validate#inferer", {"_target_": "icmoe_monai.inferers.VotingInferer", "with_experts": True}),
    ],
    ids=["monai_loss", "function", "optimizer", "lr_scheduler", "train_inferer", "dataset", "voting_inferer"],
)  # fmt: skip
def test_a_part_alone_trains(name: str, part: Any, dataset: Path, tmp_path: Path) -> None:
    run(TRAIN, dataset_dir=str(dataset), output_dir=str(tmp_path), **SHORT, **{name: part})
    assert 0 < float(rows(tmp_path)[0]["train_loss"]) < 100
    assert (tmp_path / "best.pt").is_file()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"network_def": SEVERAL_OUTPUTS}, "The network returns a list .*Baseline"),
        ({"validate#inferer": WINDOWS}, "validate#inferer is a SlidingWindowInferer .*SlidingWindowVotingInferer"),
        ({"validate#inferer#with_experts": False}, "validate#inferer is a SlidingWindowVotingInferer that returns no"),
        ({"lr_scheduler": None}, "lr_scheduler must be .* got NoneType"),
        (
            {"lr_scheduler": {
                "_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "optimizer": "@optimizer"}},
            "lr_scheduler must be .* got ReduceLROnPlateau",
        ),
        (
            {"cache_features": True, "train#dataset": {
                "_target_": "Dataset", "data": "$@cases['train']", "transform": "@train#preprocessing"}},
            "train#dataset is a Dataset, which keeps no features",
        ),
        ({"cache_features": True, "network_def": UNET}, "cache_features is for an ICMoE"),
        ({"train#dataset": {"_target_": "Dataset", "data": [{"image": 1.0}] * 2}}, "must give items with image and la"),
    ],
    ids=["outputs", "inferer", "no_votes", "no_schedule", "plateau", "no_features", "features_of_a_plain_network",
         "no_label"],
)  # fmt: skip
def test_a_part_that_cannot_be_trained_with_is_refused(
    overrides: dict[str, Any], sentence: str, dataset: Path, tmp_path: Path
) -> None:
    found = sentence_of(TRAIN, dataset_dir=str(dataset), output_dir=str(tmp_path), **SHORT, **overrides)
    assert re.search(sentence, found), found


@pytest.mark.parametrize(("configs", "name"), [(EVALUATE, "validate#inferer"), (INFERENCE, "inferer")])
def test_an_inferer_that_does_not_vote_is_refused_in_every_use(
    configs: list[str], name: str, dataset: Path, tmp_path: Path
) -> None:
    folder = dataset if configs == EVALUATE else dataset / "images"
    settings = {"recipe": "none", "dataset_dir": str(folder), "output_dir": str(tmp_path), name: WINDOWS}
    assert "SlidingWindowVotingInferer or VotingInferer" in sentence_of(configs, **settings)


@pytest.mark.parametrize("configs", [EVALUATE, INFERENCE], ids=["evaluate", "inference"])
def test_a_plain_network_is_refused_for_the_weights_of_another(
    configs: list[str], dataset: Path, tmp_path: Path
) -> None:
    found = sentence_of(configs, dataset_dir=str(dataset), output_dir=str(tmp_path), network_def=UNET, recipe="none")
    assert "does not fit this network" in found
