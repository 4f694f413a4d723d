"""Regions, pairs and wins of pictures small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icmoe_monai.analysis.pixels import case_maps, find_regions, look_at_pixels, summarise


def item_of(label: torch.Tensor, experts: torch.Tensor, votes: torch.Tensor) -> dict:
    return {"label": label, "expert_probabilities": experts, "votes": votes}


def halves() -> dict:
    """Foreground in the left half; the first expert is right, the second finds all, the third nothing."""
    label = torch.zeros(1, 40, 40)
    label[..., :20] = 1
    experts = torch.stack([label, torch.ones_like(label), torch.zeros_like(label)])
    votes = torch.tensor([0.5, 0.3, 0.2])[:, None, None].repeat(1, 40, 40)
    return item_of(label, experts, votes)


def test_regions_of_a_picture():
    item = halves()
    decisions, _, label = case_maps(item)
    regions = find_regions(label, decisions)
    assert {name: int(region[0].sum()) for name, region in regions.items()} == {
        "inside": 18, "border": 4, "outside": 18, "ambiguous": 40,
    }  # fmt: skip
    empty = find_regions(np.zeros((8, 8), int), np.zeros((2, 8, 8), int))
    assert {name: int(region.sum()) for name, region in empty.items()} == {
        "inside": 0, "border": 0, "outside": 64, "ambiguous": 0,
    }  # fmt: skip


def test_numbers_of_a_picture():
    found = summarise([look_at_pixels(halves())], ("a", "b", "c"))
    inside = found["regions"]["inside"]
    assert inside["share"] == 0.45
    assert inside["mean_vote"] == {"a": 0.5, "b": 0.3, "c": 0.2}  # to six digits
    assert inside["right"] == {"a": 1, "b": 1, "c": 0}
    assert found["regions"]["outside"]["right"] == {"a": 1, "b": 0, "c": 1}
    assert found["pairs"] == {
        "a, b": {"differ": 0.5, "both_wrong": 0},
        "a, c": {"differ": 0.5, "both_wrong": 0},
        "b, c": {"differ": 1, "both_wrong": 0},
    }
    assert found["wins"]["a"] == {"alone_right": 0, "alone_wrong": 0}
    assert found["wins"]["b"] == {"alone_right": 0, "alone_wrong": 0.5}


def test_wins_lie_where_only_one_is_right():
    item = halves()
    item["expert_probabilities"][1, :, :, :20] = 0  # now the first alone is right on the left
    item["expert_probabilities"][1, :, :, 20:] = 0
    one = look_at_pixels(item)
    assert one.alone_right.tolist() == [1, 0, 0]  # of the pixels that an expert or the label calls foreground
    assert one.positions[0, :, :11].mean() == 1
    assert one.positions[0, :, 13:].mean() == 0
    assert one.both_wrong[1, 2] == 1


def test_a_single_expert_is_not_compared():
    item = halves()
    alone = item_of(item["label"], item["expert_probabilities"][1:2], torch.ones(1, 40, 40))
    found = summarise([look_at_pixels(alone)], ("only",))
    assert set(found) == {"regions"}
    assert set(found["regions"]) == {"inside", "border", "outside"}
    assert found["regions"]["outside"]["right"] == {"only": 0}


def test_classes_are_compared_by_their_number():
    label = torch.zeros(1, 40, 40)
    label[..., 10:20], label[..., 20:30] = 1, 2
    swapped = torch.where(label > 0, 3 - label, label)
    one_hot = [torch.nn.functional.one_hot(each[0].long(), 3).permute(2, 0, 1).float() for each in (label, swapped)]
    votes = torch.full((2, 40, 40), 0.5)
    found = summarise([look_at_pixels(item_of(label, torch.stack(one_hot), votes))], ("a", "b"))
    assert found["pairs"]["a, b"]["differ"] == 1
    assert found["wins"] == {"a": {"alone_right": 1, "alone_wrong": 0}, "b": {"alone_right": 0, "alone_wrong": 1}}


def test_large_maps_are_brought_down_and_draws_follow_the_seed():
    label = torch.zeros(1, 600, 1200)
    label[..., :600] = 1
    votes = torch.rand(2, 600, 1200).softmax(0)
    item = item_of(label, torch.rand(2, 1, 600, 1200), votes)
    decisions, small, classes = case_maps(item)
    assert decisions.shape == small.shape == (2, 256, 512)
    assert classes.mean() == pytest.approx(0.5)
    first, again, other = (look_at_pixels(item, seed=seed).drawn["inside"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (200, 2)
    assert not np.array_equal(first, other)
