"""The file of an ensemble: made of its folds' checkpoints, and loaded as any other."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from recipes import TRAINED
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.checkpoint import load_weights, read_recipe, save_weights
from icmoe_monai.weights.folds import join_folds
from icmoe_monai.weights.frozen import describe_trunk, frozen_parts
from icmoe_monai.weights.handlers import LoadFrozen
from icmoe_monai.weights.pyramid import save_pyramid_weights
from icmoe_monai.weights.recipe import find_recipe, make_recipe
from icmoe_monai.weights.tensor_files import save_checkpoint

SIZES = {"backbone": None, "own_network": {"adaptive": "lite0"}, "experts": ["basic", "adaptive"]}


def network_of(seed: int, **further: object) -> ICMoE:
    torch.manual_seed(seed)
    network = ICMoE(detail=ImagePyramid(), **SIZES | further).eval()
    nn.init.normal_(network.gate.out.weight, std=0.1)
    return network


def written(network: ICMoE, path, **settings: object):
    save_weights(network, path, recipe=make_recipe(settings=TRAINED | SIZES | settings, network=network))
    return path


@pytest.fixture
def folds(tmp_path):
    """Return three networks over one frozen pyramid, and their files."""
    networks = [network_of(seed) for seed in range(3)]
    for network in networks[1:]:
        network.detail.load_state_dict(networks[0].detail.state_dict())
    save_pyramid_weights(networks[0].detail, tmp_path / "pyramid.safetensors")
    return networks, [written(network, tmp_path / f"{i}.pt") for i, network in enumerate(networks)]


def test_the_file_is_a_checkpoint_of_as_many_networks_as_folds(folds, tmp_path):
    networks, files = folds
    image = torch.randn(1, 3, 32, 32)
    mean = torch.stack([torch.sigmoid(network(image)) for network in networks]).mean(0)
    join_folds(files, tmp_path / "ensemble.pt", training_set={"num_images": 9}, settings={"tta": "flips"})
    trained = find_recipe(tmp_path / "ensemble.pt")
    assert (trained.num_folds, trained.setting("tta", "none"), trained.setting("longest_side", 0)) == (3, "flips", 48)
    assert trained.content["training_set"] == {"num_images": 9}
    ensemble = trained.network(network_of(9), "cpu").eval()
    assert isinstance(ensemble, FoldEnsemble)
    LoadFrozen(network=ensemble, pyramid=str(tmp_path / "pyramid.safetensors"))(Engine(lambda engine, batch: None))
    load_weights(ensemble, tmp_path / "ensemble.pt")
    torch.testing.assert_close(torch.sigmoid(ensemble(image)), mean, rtol=0, atol=0.01)  # half precision
    assert describe_trunk(ensemble) == describe_trunk(networks[0])
    assert frozen_parts(ensemble) == ["folds.0.detail", "folds.1.detail", "folds.2.detail"]
    assert (tmp_path / "ensemble.pt").stat().st_size < 0.6 * sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("name", ["whole.pt", "whole.safetensors", "part.safetensors"])
def test_an_ensemble_is_written_again_in_any_format(folds, name, tmp_path):
    networks, files = folds
    image, whole = torch.randn(1, 3, 32, 32), name.startswith("whole")
    ensemble = FoldEnsemble(networks).eval()
    join_folds(files, tmp_path / "ensemble.pt")
    save_weights(ensemble, tmp_path / name, whole=whole, recipe=read_recipe(tmp_path / "ensemble.pt")[0])
    other = find_recipe(tmp_path / name).network(network_of(9), "cpu").eval()
    if not whole:
        LoadFrozen(network=other, pyramid=str(tmp_path / "pyramid.safetensors"))(Engine(lambda engine, batch: None))
    load_weights(other, tmp_path / name)
    torch.testing.assert_close(other(image), ensemble(image), rtol=0, atol=1e-4)


def test_another_frozen_pyramid_is_refused(folds, tmp_path):
    _, files = folds
    join_folds(files, tmp_path / "ensemble.pt")
    ensemble = find_recipe(tmp_path / "ensemble.pt").network(network_of(9), "cpu")
    with pytest.raises(InputError, match="was trained with an image pyramid and this network has another"):
        load_weights(ensemble, tmp_path / "ensemble.pt")


def test_one_fold_alone_does_not_load_an_ensemble_nor_the_other_way_round(folds, tmp_path):
    networks, files = folds
    join_folds(files, tmp_path / "ensemble.pt")
    for network, file in ((networks[0], tmp_path / "ensemble.pt"), (FoldEnsemble(networks), files[0])):
        with pytest.raises(InputError, match="does not fit this network"):
            load_weights(network, file)


def test_folds_that_were_not_trained_alike_are_refused(folds, tmp_path):
    networks, files = folds
    other, longer = network_of(7), written(networks[1], tmp_path / "a.pt", longest_side=64)
    bare = tmp_path / "bare.pt"
    save_checkpoint(networks[0].state_dict(), bare)
    unlike = {
        "settings#longest_side 64, and the first fold with 48": longer,
        "network#rank 4, and the first fold with 8": written(network_of(1, rank=4), tmp_path / "b.pt"),
        "was trained on other frozen weights than the first fold": written(other, tmp_path / "c.pt"),
        "does not say how it was trained": bare,
    }
    for sentence, file in unlike.items():
        with pytest.raises(InputError, match=sentence):
            join_folds([files[0], file], tmp_path / "ensemble.pt")
    for few in ([], files[:1], files[:1] * 21):
        with pytest.raises(InputError, match="An ensemble has 2 to 20 folds, got"):
            join_folds(few, tmp_path / "ensemble.pt")
    assert not (tmp_path / "ensemble.pt").exists()
