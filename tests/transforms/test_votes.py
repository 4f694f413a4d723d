from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from icmoe_monai.transforms.votes import DecideMaskd, decide


def test_one_foreground_is_what_lies_above_one_half():
    probabilities = torch.tensor([[[0.1, 0.5, 0.51, 0.9]]])
    assert decide(probabilities).tolist() == [[[0, 0, 1, 1]]]


def test_of_several_classes_the_most_probable():
    probabilities = torch.tensor([[[0.2, 0.6]], [[0.5, 0.3]], [[0.3, 0.1]]])
    assert decide(probabilities).tolist() == [[[1, 0]]]


def test_more_classes_than_a_byte_holds_are_not_wrapped():
    probabilities = torch.zeros(300, 1, 1)
    probabilities[299] = 1
    assert decide(probabilities).tolist() == [[[299]]]


def test_an_item_keeps_its_metadata_and_a_failed_one_is_left_alone():
    transform = DecideMaskd("pred")
    mask = transform({"pred": MetaTensor(torch.tensor([[[0.7]]]), meta={"spatial_shape": (1, 1)})})["pred"]
    assert mask.dtype == torch.uint8
    assert mask.meta["spatial_shape"] == (1, 1)
    failed = {"failure": "no image", "pred": torch.tensor([[[0.7]]])}
    assert transform(failed) == failed
    assert transform({"name": "a"}) == {"name": "a"}


def test_a_mask_that_was_decided_already_is_not_decided_again():
    probabilities = MetaTensor(torch.tensor([[[0.2, 0.7]]]), meta={"name": "a"})
    item = DecideMaskd("pred")({"pred": probabilities, "classes": np.array([[1, 0]], np.uint8)})
    assert item["pred"].tolist() == [[[1, 0]]]
    assert item["pred"].dtype == torch.uint8
    assert item["pred"].meta["name"] == "a"
