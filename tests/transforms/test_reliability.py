from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from icmoe_monai.transforms.vote_features import TakeReliabilityd, reliability


def test_figures_of_a_case_by_hand() -> None:
    """Two experts, one row of four pixels: both find the first, one the second, neither the rest."""
    voted = torch.tensor([[[0.9, 0.6, 0.1, 0.2]]])
    experts = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]], [[[0.8, 0.2, 0.0, 0.0]]]])
    votes = torch.tensor([[[0.5, 1.0, 0.5, 0.5]], [[0.5, 0.0, 0.5, 0.5]]])
    found = reliability(voted, experts, votes)
    assert found["confidence"] == pytest.approx((0.9 + 0.6) / 2)
    assert found["disagreement"] == pytest.approx((0.2 + 0.8) / 2)
    assert found["vote_entropy"] == pytest.approx((1 + 0) / 2)
    assert found["expert_agreement"] == pytest.approx(2 * 1 / (2 + 1))


def test_nothing_found_takes_the_whole_image_and_one_expert_agrees_with_itself() -> None:
    quiet = reliability(torch.full((1, 2, 3), 0.1), torch.full((1, 1, 2, 3), 0.2), torch.ones(1, 2, 3))
    assert quiet == pytest.approx({"confidence": 0.9, "disagreement": 0, "vote_entropy": 0, "expert_agreement": 1})


def test_classes_and_meta_data_are_kept() -> None:
    probabilities = torch.rand(3, 2, 4, 5).softmax(1)
    parts = [probabilities[0], probabilities.flatten(0, 1), torch.full((3, 4, 5), 1 / 3)]
    pred = MetaTensor(torch.cat(parts), meta={"kept": 1})
    item = TakeReliabilityd(out_channels=2)({"pred": pred})
    torch.testing.assert_close(item["pred"].as_tensor(), probabilities[0])
    assert item["pred"].meta["kept"] == 1
    assert item["reliability"]["vote_entropy"] == pytest.approx(1)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be .* for K=1, got \(1, 2, 2\)"):
        TakeReliabilityd()({"pred": torch.zeros(1, 2, 2)})
