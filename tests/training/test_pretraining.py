from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folders import put_plain
from monai.bundle import ConfigParser

from icmoe_monai.errors import InputError
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.training.pretraining import export_trunk, find_sets
from icmoe_monai.weights.sam import load_sam_weights, trunk_fingerprint

CONFIGS = Path(__file__).parents[2] / "configs"
SPLITS = {"train": ["case_0", "case_1"], "val": ["case_2"], "test": ["case_3"]}


def test_sets_are_joined_split_by_split_and_small_ones_are_repeated(tmp_path: Path) -> None:
    for name in ("large", "small"):
        put_plain(tmp_path / name, num_cases=4, splits=SPLITS)
    found = find_sets(str(tmp_path), repeats={"large": 1, "small": 3})
    assert [case["name"] for case in found["train"]] == ["large/case_0", "large/case_1"] + [
        "small/case_0",
        "small/case_1",
    ] * 3
    assert [case["name"] for case in found["val"]] == ["large/case_2", "small/case_2"]
    assert [case["name"] for case in found["test"]] == ["large/case_3", "small/case_3"]
    assert found["train"][2]["image"] == str(tmp_path / "small" / "images" / "case_0.jpg")


@pytest.mark.parametrize(
    ("dataset_dir", "repeats", "told"),
    [
        (None, {"a": 1}, "dataset_dir is not set: set it to the folder that holds a"),
        ("", {"a": 1}, "dataset_dir is not set"),
        ("x", {}, r"sets must name folders, each with a number of at least 1, got \{\}"),
        ("x", {"a": 0}, "at least 1, got {'a': 0}"),
        ("x", {"a": 1}, r"x.a does not exist"),
    ],
)
def test_sets_that_cannot_be_used_are_told(dataset_dir: str | None, repeats: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        find_sets(dataset_dir, repeats=repeats)


def test_the_recipe_starts_from_random_weights():
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "train.json"), str(CONFIGS / "pretrain.yaml")]))
    assert parser["pretrained"] is None
    network = parser.get_parsed_content("network_def")
    assert isinstance(network.detail, NoDetail)  # all that is drawn must have come through the trunk
    assert all(weight.requires_grad for weight in network.encoder.parameters())


def test_an_exported_trunk_is_the_encoder_to_the_rounding_of_float16(tmp_path: Path) -> None:
    network = ICMoE(experts=["basic"])
    export_trunk(network, str(tmp_path / "trunk.safetensors"))
    exported = load_sam_weights(tmp_path / "trunk.safetensors")
    for name, value in network.encoder.state_dict().items():
        torch.testing.assert_close(exported.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert (tmp_path / "trunk.safetensors").stat().st_size < 12e6
    export_trunk(network, str(tmp_path / "whole.safetensors"), half=False)
    assert trunk_fingerprint(load_sam_weights(tmp_path / "whole.safetensors")) == trunk_fingerprint(network.encoder)
