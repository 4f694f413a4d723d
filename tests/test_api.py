"""The public names, and how MONAI knows them."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

import icmoe_monai
from icmoe_monai.settings import (
    find_bundle_root,
    find_output_root,
    parameter_groups,
    trainable_parameters,
)


def test_public_names():
    assert icmoe_monai.__all__ == [
        "ICMoE", "ICMoELoss", "ICMoEOutput", "ImagePyramid", "InputError", "PixelVoting", "Predictor",
        "SamImageEncoder", "SemanticContrastiveLoss", "SlidingWindowVotingInferer", "VotingInferer", "__version__",
        "build_sam_encoder", "load_pyramid_weights", "load_sam_weights", "load_weights", "register",
        "save_pyramid_weights", "save_sam_weights", "save_weights", "trunk_fingerprint",
    ]  # fmt: skip
    assert all(hasattr(icmoe_monai, name) for name in icmoe_monai.__all__)


def test_documents_name_the_public_names():
    root = Path(icmoe_monai.__file__).parent.parent
    text = "".join(
        (root / name).read_text()
        for name in (
            "README.md",
            "docs/method.md",
            "docs/data.md",
            "docs/encoder.md",
            "docs/models.md",
            "docs/python.md",
        )
    )
    for name in set(icmoe_monai.__all__) - {"__version__", "register"}:
        assert name in text, name


@pytest.mark.parametrize("target", ["ICMoE", "icmoe_monai.networks.ICMoE", "monai.networks.nets.ICMoE"])
def test_the_network_is_built_by_its_bare_and_its_full_name(target):
    network = ConfigParser({"network": {"_target_": target, "out_channels": 2}}).get_parsed_content("network")
    assert type(network) is icmoe_monai.ICMoE
    assert network.out_channels == 2


def test_registering_again_changes_nothing():
    before = ComponentLocator.MOD_START
    icmoe_monai.register()
    assert before == ComponentLocator.MOD_START == ("monai", "icmoe_monai")


def test_the_bundle_is_found_beside_the_package():
    root = Path(find_bundle_root())
    assert root == Path(icmoe_monai.__file__).parent.parent
    assert (root / "configs" / "metadata.json").is_file()
    assert find_output_root(str(root)) == str(root)


def test_the_bundle_of_an_installed_package_is_in_it_and_results_are_not(tmp_path, monkeypatch):
    installed = tmp_path / "icmoe_monai" / "bundle"
    monkeypatch.setattr("icmoe_monai.settings._SHIPPED", installed)
    assert find_bundle_root() == str(Path(icmoe_monai.__file__).parent.parent)
    (installed / "configs").mkdir(parents=True)
    (installed / "configs" / "metadata.json").touch()
    assert find_bundle_root() == str(installed)
    assert find_output_root(str(installed)) == "."
    assert find_output_root(str(tmp_path)) == str(tmp_path)


def test_without_a_bundle_the_working_directory_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("icmoe_monai.settings._SHIPPED", tmp_path / "none")
    monkeypatch.setattr("icmoe_monai.settings._PACKAGE", tmp_path / "icmoe_monai")
    assert find_bundle_root() == "."


def test_what_trains_leaves_out_a_frozen_encoder():
    network = icmoe_monai.ICMoE()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    trained = {names[id(parameter)].split(".")[0] for parameter in trainable_parameters(network)}
    assert trained == {"adapted", "communication", "decoders", "detail", "embed", "gate", "voting"}


def names_by_rate(network: torch.nn.Module, *, encoder_is_pretrained: bool) -> dict[float, set[str]]:
    groups = parameter_groups(
        network, learning_rate=1.0, pretrained_share=0.25, encoder_is_pretrained=encoder_is_pretrained
    )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(trainable_parameters(network))
    return {group["lr"]: {names[id(p)].split(".")[0] for p in group["params"]} for group in groups}


def test_frozen_weights_leave_one_group_in_the_networks_order():
    network = icmoe_monai.ICMoE(detail=icmoe_monai.ImagePyramid())
    (group,) = parameter_groups(network, learning_rate=0.5, pretrained_share=0.2, encoder_is_pretrained=True)
    assert group["lr"] == 0.5
    assert [id(p) for p in group["params"]] == [id(p) for p in trainable_parameters(network)]


@pytest.mark.parametrize("is_pretrained", [True, False], ids=["from a file", "from random weights"])
def test_an_encoder_that_is_trained_has_a_rate_of_its_own_if_it_is_pretrained(is_pretrained):
    rates = names_by_rate(icmoe_monai.ICMoE(train_trunk=True), encoder_is_pretrained=is_pretrained)
    assert rates.keys() == ({1.0, 0.25} if is_pretrained else {1.0})
    assert "detail" in rates[1.0]  # a stem, which nothing has trained before
    assert ("encoder" in rates[1.0]) != is_pretrained
    if is_pretrained:
        assert rates[0.25] == {"encoder"}


def test_a_pyramid_that_is_trained_has_a_rate_of_its_own():
    network = icmoe_monai.ICMoE(detail=icmoe_monai.ImagePyramid().requires_grad_(True))
    assert names_by_rate(network, encoder_is_pretrained=True)[0.25] == {"detail"}


@pytest.mark.parametrize("share", [0, -0.1, "0.2"])
def test_a_share_that_trains_nothing_is_refused(share):
    with pytest.raises(icmoe_monai.InputError, match=rf"pretrained_share must be above 0, got {share!r}"):
        parameter_groups(torch.nn.Linear(1, 1), learning_rate=1, pretrained_share=share, encoder_is_pretrained=True)
