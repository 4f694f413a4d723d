"""A network is built again from its blueprint, and a blueprint from a stranger builds nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.baselines import Baseline
from icmoe_monai.networks.blueprint import blueprint_of, build_network, completed
from icmoe_monai.networks.icmoe import ICMoE

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAYS = sorted([*CONFIGS.glob("ablations/*.yaml"), *CONFIGS.glob("baselines/*.yaml"), CONFIGS / "pretrain.yaml"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_whatever_overlay_defines_a_network_its_blueprint_builds_it(overlay):
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "train.json"), str(overlay)]))
    network = parser.get_parsed_content("network_def")
    blueprint = blueprint_of(network)
    assert json.loads(json.dumps(blueprint)) == blueprint  # plain values, as `weights_only` reads them
    again = build_network(blueprint)
    assert blueprint_of(again) == blueprint
    assert {n: w.shape for n, w in again.state_dict().items()} == {n: w.shape for n, w in network.state_dict().items()}
    again.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), network.eval()(image))


@pytest.mark.parametrize("name", ["Linear", "torch.nn.Linear", "os.system", "DynUNet", "None"])
def test_no_other_class_is_built(name):
    for blueprint in ({"class": name}, {"class": "Baseline", "out_channels": 1, "network": {"class": name}}):
        with pytest.raises(InputError, match=rf"the class {name} is not built from a blueprint, which knows .*ICMoE"):
            build_network(blueprint)


def test_a_blueprint_of_another_version_is_told():
    with pytest.raises(InputError, match=r"A blueprint of ICMoE does not fit this version of it: .*number_of_wings"):
        build_network({"class": "ICMoE", "number_of_wings": 2})


def test_of_a_network_that_is_not_recorded_only_the_name_is_known():
    found = blueprint_of(Baseline(network=nn.Conv2d(3, 1, 1), out_channels=1))
    assert found["network"] == {"class": "torch.nn.modules.conv.Conv2d"}
    assert completed(found["network"]) == found["network"]


def test_arguments_that_a_blueprint_lacks_are_the_classs_own_defaults():
    assert completed({"class": "ICMoE", "rank": 4}) == {**blueprint_of(ICMoE()), "rank": 4}
