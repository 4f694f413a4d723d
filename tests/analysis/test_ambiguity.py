"""Phantoms of known ambiguity: nothing differs but the level, and the measures are those of the zone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from icmoe_monai.analysis.ambiguity import LEVELS, AmbiguityTest, make_ambiguous_set, measure, summarise
from icmoe_monai.data.phantoms import core_of, draw_dermoscopy, draw_ultrasound
from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.transforms.load import LoadImage2Dd
from icmoe_monai.transforms.votes import SplitVotesd


def pixels(case: dict) -> np.ndarray:
    return np.asarray(Image.open(case["image"])).astype(float)


@pytest.fixture(scope="module", params=["dermoscopy", "ultrasound"])
def cases(request, tmp_path_factory) -> list[dict]:
    return make_ambiguous_set(tmp_path_factory.mktemp("set"), look=request.param, num_phantoms=1)


def test_only_the_level_differs(cases):
    assert [case["level"] for case in cases] == [*LEVELS["rim"], *LEVELS["softness"]]
    rim = [case for case in cases if case["family"] == "rim"]
    zone = rim[0]["zone"]
    mask = np.asarray(Image.open(rim[0]["label"])) > 0
    np.testing.assert_array_equal(zone, mask & ~core_of(mask))
    corner = np.s_[:20, :20]
    for case in rim[1:]:
        np.testing.assert_array_equal(pixels(case)[corner], pixels(rim[0])[corner])
        np.testing.assert_array_equal(case["zone"], zone)
    # in the rim the picture goes from the tissue to the lesion: farther from the end the farther from its level
    from_last = [np.abs(pixels(case) - pixels(rim[-1]))[zone].mean() for case in rim]
    assert from_last == sorted(from_last, reverse=True)
    assert from_last[0] > 3
    assert from_last[-1] == 0
    soft = next(case for case in cases if case["family"] == "softness")
    assert (soft["zone"] & ~mask).any()
    assert (soft["zone"] & mask).any()


@pytest.mark.parametrize("draw", [draw_dermoscopy, draw_ultrasound])
def test_a_phantom_of_the_demo_set_is_as_it_was(draw):
    plain, mask = draw(np.random.default_rng(5), (60, 80))
    whole, same = draw(np.random.default_rng(5), (60, 80), rim=1.0, softness=1.0)
    np.testing.assert_array_equal(plain, whole)
    np.testing.assert_array_equal(mask, same)


def test_known_ambiguity_is_largest_half_way_and_alike_on_both_sides(cases):
    known = [case["ambiguity"] for case in cases]
    assert known[:7] == [0, 0.36, 0.75, 1, 0.75, 0.36, 0]
    assert known[7:] == [0.25, 0.5, 1, 2, 4]


@pytest.mark.parametrize(("arguments", "message"), [({"look": "x"}, "look must be"), ({"num_phantoms": 0}, "got 0")])
def test_what_cannot_be_drawn(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        make_ambiguous_set(tmp_path, **arguments)


def test_measures_are_means_over_the_zone():
    zone = np.array([[True, False]])
    item = {
        "probability": torch.tensor([[[0.5, 1.0]]]),
        "expert_probabilities": torch.tensor([[[[1.0, 1.0]]], [[[0.0, 1.0]]]]),
        "votes": torch.tensor([[[0.25, 1.0]], [[0.75, 0.0]]]),
    }
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    measured = measure(zone, item)
    assert measured == {"disagreement": 1.0, "vote_entropy": pytest.approx(entropy), "uncertainty": pytest.approx(1.0)}
    alone = {**item, "expert_probabilities": item["expert_probabilities"][:1], "votes": item["votes"][:1]}
    assert measure(zone, alone) == {"uncertainty": pytest.approx(1.0)}


def test_summary_correlates_within_phantoms():
    cases = [
        {"family": family, "level": level, "ambiguity": level, "phantom": phantom}
        | {"measured": {"uncertainty": phantom + level * (1 if family == "rim" else -1)}}
        for family, levels in LEVELS.items()
        for phantom in (0, 10)
        for level in levels
    ]
    found = summarise(cases)
    assert found["rim"]["spearman"]["uncertainty"]["within_phantoms"] == 1
    assert found["softness"]["spearman"]["uncertainty"]["within_phantoms"] == -1
    assert abs(found["rim"]["spearman"]["uncertainty"]["pooled"]) < 1
    assert found["rim"]["levels"][1]["mean"] == {"uncertainty": 5.1}
    assert set(found["rim"]["spearman"]) == {"uncertainty"}


def test_every_phantom_is_segmented_as_a_case_is(tmp_path: Path):
    network = ICMoE(experts=["basic"])
    seen = []

    def inferer(image, same):
        assert same is network
        assert not network.training
        seen.append(tuple(image.shape))
        bright = (image.mean(1, keepdim=True) / 255).clamp(0, 1)
        return torch.cat([bright, bright, torch.ones_like(bright)], dim=1)

    test = AmbiguityTest(
        network=network, inferer=inferer, preprocessing=Compose([LoadImage2Dd()]),
        postprocessing=SplitVotesd(expert_names=("basic",)), num_phantoms=1,
    )  # fmt: skip
    summary, pictures = test.run(tmp_path)
    assert seen == [(1, 3, 200, 240)] * 12
    assert {family: len(of_family) for family, of_family in pictures.items()} == {"rim": 7, "softness": 5}
    image = pictures["rim"][0]["image"]
    np.testing.assert_allclose(pictures["rim"][0]["probability"], image.mean(2) / 255, atol=1e-5)
    assert len(summary["rim"]["levels"]) == 7
