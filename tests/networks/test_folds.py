"""An ensemble of folds against its networks run one by one."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import vote
from icmoe_monai.networks.baselines import Baseline, expert_names
from icmoe_monai.networks.folds import FoldEnsemble, joined_state, merge_folds, repeated, split_folds
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.voting import unpack


def over_a_pyramid(seed: int, **further: object) -> ICMoE:
    torch.manual_seed(seed)
    network = ICMoE(
        backbone=None, detail=ImagePyramid(), experts=["basic", "adaptive"], own_network={"adaptive": "lite0"},
        deference=5.0, **further,
    )  # fmt: skip
    nn.init.normal_(network.gate.out.weight, std=0.1)
    return network


def over_an_encoder(seed: int, **further: object) -> ICMoE:
    torch.manual_seed(seed)
    network = ICMoE(backbone="vit_t", **further)
    nn.init.normal_(network.gate.out.weight, std=0.1)
    return network


def plain(seed: int, out_channels: int = 1) -> Baseline:
    torch.manual_seed(seed)
    return Baseline(network=nn.Conv2d(3, out_channels, 1), out_channels=out_channels)


def folds_of(make, num_folds: int = 3, **further: object) -> list:
    """Return networks of one kind whose frozen parts have equal weights, as those of a cross-validation have."""
    folds = [make(seed, **further).requires_grad_(False).eval() for seed in range(num_folds)]
    for fold in folds[1:]:
        if isinstance(fold, ICMoE):
            fold.encoder.load_state_dict(folds[0].encoder.state_dict())
            fold.detail.load_state_dict(folds[0].detail.state_dict())
    return folds


KINDS = {"pyramid": over_a_pyramid, "encoder": over_an_encoder, "baseline": plain}


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_the_mask_is_the_mean_of_the_folds_votes(make, out_channels):
    image = torch.randn(2, 3, 32, 48)
    folds = folds_of(make, out_channels=out_channels)
    alone = [vote(fold.expert_maps(image), fold, with_experts=True) for fold in folds]
    ensemble = FoldEnsemble(deepcopy(folds)).eval()
    found = unpack(vote(ensemble.expert_maps(image), ensemble, with_experts=True)[0], out_channels)
    parts = [unpack(one[0], out_channels) for one in alone]
    mean = torch.stack([one.probabilities for one in parts]).mean(0)
    torch.testing.assert_close(found.probabilities, mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.votes.sum(0), torch.ones(32, 48), rtol=0, atol=1e-5)
    for fold, expected in zip(split_folds(found, 3), parts, strict=True):
        for name in ("probabilities", "expert_probabilities", "votes"):
            torch.testing.assert_close(getattr(fold, name), getattr(expected, name), rtol=0, atol=1e-4)
    merged = merge_folds(found, 3)
    experts = torch.stack([one.expert_probabilities for one in parts]).mean(0)
    torch.testing.assert_close(merged.expert_probabilities, experts, rtol=0, atol=1e-5)
    torch.testing.assert_close(merged.votes, torch.stack([one.votes for one in parts]).mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [over_a_pyramid, over_an_encoder])
def test_what_is_frozen_runs_once_for_all_folds(make, monkeypatch):
    ensemble = FoldEnsemble(folds_of(make)).eval()
    first, runs = ensemble.folds[0], []

    def count(part: nn.Module, method: str) -> None:
        run = getattr(part, method)
        monkeypatch.setattr(part, method, lambda *given: (runs.append(part), run(*given))[1])

    count(first.detail, "forward")
    count(first.encoder, "trunk")
    ensemble.expert_maps(torch.randn(1, 3, 32, 32))
    assert runs == [first.encoder, first.detail]
    assert all(fold.encoder is first.encoder and fold.detail is first.detail for fold in ensemble.folds)


def test_folds_that_train_their_encoder_keep_their_own():
    folds = [over_an_encoder(seed, train_trunk=True).eval() for seed in range(2)]
    ensemble = FoldEnsemble(folds).eval()
    assert ensemble.folds[0].encoder is not ensemble.folds[1].encoder
    image = torch.randn(1, 3, 32, 32)
    mean = torch.stack([torch.sigmoid(fold(image)) for fold in folds]).mean(0)
    torch.testing.assert_close(torch.sigmoid(ensemble(image)), mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_the_joined_weights_are_those_of_an_ensemble_of_copies(make):
    folds = folds_of(make)
    image = torch.randn(1, 3, 32, 32)
    expected = FoldEnsemble(deepcopy(folds)).eval()(image)
    ensemble = repeated(make(9).requires_grad_(False).eval(), 3).eval()
    ensemble.load_state_dict(joined_state([fold.state_dict() for fold in folds]))
    torch.testing.assert_close(ensemble(image), expected, rtol=0, atol=1e-4)
    assert repeated(folds[0], 1) is folds[0]


def test_it_compiles_to_torchscript():
    ensemble = FoldEnsemble(folds_of(over_a_pyramid)).eval()
    scripted, image = torch.jit.script(ensemble), torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(scripted(image), ensemble(image), rtol=0, atol=1e-4)
    torch.testing.assert_close(scripted.expert_maps(image), ensemble.expert_maps(image), rtol=0, atol=1e-5)


def test_experts_have_the_names_that_they_have_in_a_fold():
    assert expert_names(FoldEnsemble(folds_of(over_a_pyramid)), ["a"]) == ["basic", "adaptive"]
    assert expert_names(FoldEnsemble(folds_of(plain)), ["a"]) == ["a"]


@pytest.mark.parametrize("folds", [[], [over_a_pyramid(0), over_an_encoder(0)], [plain(0), plain(0, 3)]])
def test_unlike_networks_are_no_ensemble(folds):
    with pytest.raises(InputError, match="A plain network has no vote"):
        FoldEnsemble([nn.Conv2d(3, 1, 1)])
    with pytest.raises(InputError, match="networks of one kind"):
        FoldEnsemble(folds)
