"""The figures of a vote against their definitions, at the edges of their range, and from batches of any size."""

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from icmoe_monai.inferers.voting import VotingInferer
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.voting import VotedMaps, disagreement, pack, unpack
from icmoe_monai.transforms.vote_features import (
    TakeReliabilityd,
    TakeVoteFeaturesd,
    dice_overlap,
    reliability,
    vote_features,
)
from icmoe_monai.transforms.votes import decide

NAMES = [
    "confidence", "disagreement", "vote_entropy", "expert_agreement", "soft_dice", "vote_agreement", "entropy",
    "boundary_entropy", "num_components", "largest_component", "foreground_share", "peak", "load_1", "load_2",
]  # fmt: skip


def vote(P: torch.Tensor, num_experts: int = 2) -> dict[str, float]:
    """Return the features of experts that all say the same."""
    votes = torch.full((num_experts, *P.shape), 1 / num_experts)
    experts = P.expand(num_experts, 1, *P.shape)
    return vote_features(P[None], experts, votes, apart=disagreement(experts[None])[0])


def test_names():
    assert list(vote(torch.rand(20, 30))) == NAMES


def test_two_squares():
    P = torch.full((40, 50), 0.1)
    P[5:15, 5:15] = 0.9
    P[25:30, 30:40] = 0.6
    found = vote(P)
    assert found["soft_dice"] == pytest.approx(2 * (100 * 0.9 + 50 * 0.6) / (150 + float(P.sum())))
    assert found["num_components"] == pytest.approx(np.log(3))
    assert found["largest_component"] == pytest.approx(100 / 150)
    assert found["foreground_share"] == pytest.approx(np.sqrt(150 / 2000))
    assert found["peak"] == pytest.approx(np.log(9), abs=1e-5)
    entropy = {p: -p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in (0.1, 0.6, 0.9)}
    assert found["entropy"] == pytest.approx((100 * entropy[0.9] + 50 * entropy[0.6]) / 150, abs=1e-5)
    assert entropy[0.1] < found["boundary_entropy"] < entropy[0.6]
    assert found["vote_agreement"] == found["expert_agreement"] == 1
    assert (found["load_1"], found["load_2"]) == (0.5, 0.5)


def test_a_certain_vote_is_expected_to_be_right_and_a_wavering_one_is_not():
    sharp, blurred = torch.full((32, 32), 0.001), torch.full((32, 32), 0.2)
    sharp[8:20, 8:20], blurred[8:20, 8:20] = 0.999, 0.6
    certain, wavering = vote(sharp), vote(blurred)
    for name, is_higher in {"soft_dice": True, "peak": True, "entropy": False, "boundary_entropy": False}.items():
        assert (certain[name] > wavering[name]) == is_higher, name


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything_found_are_finite(value):
    found = vote(torch.full((20, 30), value))
    assert all(np.isfinite(list(found.values())))
    assert found["soft_dice"] == value
    assert found["largest_component"] == value
    assert found["boundary_entropy"] == 1.0  # there is no border


def test_a_single_expert_has_features_too():
    assert all(np.isfinite(list(vote(torch.rand(9, 9), num_experts=1).values())))


def test_classes_count_together_as_foreground():
    voted = torch.softmax(torch.randn(3, 12, 14), 0)
    found = vote_features(voted, voted[None], torch.ones(1, 12, 14), apart=torch.zeros(12, 14))
    assert found["foreground_share"] == pytest.approx(float((voted.argmax(0) > 0).float().mean() ** 0.5))


def test_the_transform_keeps_the_tensor_and_gives_the_reliability_its_figures():
    pred = MetaTensor(torch.rand(7, 12, 14), meta={"filename_or_obj": "a.png"})
    pred[4:] = torch.softmax(pred[4:], 0)
    item = TakeVoteFeaturesd()({"pred": pred})
    assert item["pred"] is pred
    assert item["disagreement"].shape == (1, 12, 14)
    assert isinstance(item["disagreement"], MetaTensor)
    assert item["disagreement"].mean() > 0.1
    expected = reliability(pred[:1].as_tensor(), pred[1:4, None].as_tensor(), pred[4:].as_tensor())
    assert TakeReliabilityd()(item)["reliability"] == TakeReliabilityd()({"pred": pred})["reliability"] == expected
    with pytest.raises(ValueError, match=r"must be \(K \+ E K \+ E, H, W\)"):
        TakeVoteFeaturesd()({"pred": pred[:2]})


def test_a_batch_of_one_and_of_eight_give_the_same_features():
    network = ICMoE().eval()
    with torch.no_grad():
        images = torch.randn(8, 3, 64, 64)
        inferer = VotingInferer(with_experts=True)
        together = inferer(images, network)
        alone = torch.cat([inferer(image[None], network) for image in images])
    take = TakeVoteFeaturesd()
    for first, second in zip(together, alone, strict=True):
        expected = take({"pred": second})["vote_features"]
        assert take({"pred": first})["vote_features"] == pytest.approx(expected, abs=1e-5)
    assert len({take({"pred": pred})["vote_features"]["entropy"] for pred in alone}) == 8


@pytest.mark.parametrize("out_channels", [1, 3])
def test_the_features_of_an_ensemble_are_the_means_of_its_folds(out_channels):
    """A calibration is fitted on masks of single folds, and must meet what it knows."""
    torch.manual_seed(0)
    folds = []
    for _ in range(3):
        experts = torch.rand(2, out_channels, 24, 32)
        experts = experts / experts.sum(1, keepdim=True) if out_channels > 1 else experts
        votes = torch.softmax(torch.randn(2, 24, 32), 0)
        folds.append(VotedMaps(torch.einsum("ehw,ekhw->khw", votes, experts), experts, votes))
    joined = VotedMaps(
        torch.stack([fold.probabilities for fold in folds]).mean(0),
        torch.cat([fold.expert_probabilities for fold in folds]),
        torch.cat([fold.votes for fold in folds]) / 3,
    )
    take = TakeVoteFeaturesd(out_channels=out_channels, num_folds=3)
    item = TakeReliabilityd(out_channels=out_channels)(take({"pred": pack(joined)}))
    alone = [TakeVoteFeaturesd(out_channels=out_channels)({"pred": pack(fold)}) for fold in folds]
    for name in alone[0]["vote_features"]:
        mean = np.mean([one["vote_features"][name] for one in alone])
        assert item["vote_features"][name] == pytest.approx(mean, abs=1e-3), name
    apart = torch.stack([one["disagreement"] for one in alone]).mean(0)
    torch.testing.assert_close(item["disagreement"], apart, rtol=0, atol=1e-5)
    masks = [decide(fold.probabilities)[0].numpy() > 0 for fold in folds]
    pairs = [dice_overlap(masks[a], masks[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert item["reliability"]["fold_agreement"] == pytest.approx(np.mean(pairs), abs=0.02)
    torch.testing.assert_close(item["pred"], joined.probabilities)


def test_an_ensembles_tensor_becomes_that_of_its_merged_experts():
    maps = VotedMaps(torch.rand(1, 4, 5), torch.rand(6, 1, 4, 5), torch.softmax(torch.randn(6, 4, 5), 0))
    merged = unpack(TakeVoteFeaturesd(num_folds=3)({"pred": pack(maps)})["pred"], 1)
    torch.testing.assert_close(merged.expert_probabilities[0], maps.expert_probabilities[[0, 2, 4]].mean(0))
    torch.testing.assert_close(merged.votes[1], maps.votes[[1, 3, 5]].sum(0))
