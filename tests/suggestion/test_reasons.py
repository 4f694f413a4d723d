"""Figures of an image, orders by one of them, and reasons in words."""

from __future__ import annotations

import pytest

from icmoe_monai.suggestion.reasons import Figures, percentile, told
from icmoe_monai.suggestion.suggestion import DISAGREEMENT, PREDICTED_DICE, RANDOM, order

RECORD = {
    "name": "a.png",
    "reliability": {"expert_agreement": 0.7},
    "predicted_dice": None,
    "out_of_distribution": None,
}
IMAGE = {
    "out_of_distribution": None, "among_all": 0.121, "among_labelled": 0.083, "distance": 0.412,
    "distance_percentile": 81.0, "disagreement": 0.3,
    "disagreement_percentile": 92.0, "predicted_dice": 0.456, "is_empty": False,
}  # fmt: skip


def test_doubt_is_the_disagreement_or_its_mean_with_the_dice_that_is_missing():
    assert Figures.of(RECORD).doubt == pytest.approx(0.3)
    assert Figures.of({**RECORD, "predicted_dice": 0.9}).doubt == pytest.approx(0.2)


def test_an_order_by_one_figure_puts_the_doubtful_first_and_ties_by_name():
    figures = [Figures("b", 0.1, 0.8), Figures("a", 0.1, None), Figures("c", 0.6, 0.9), Figures("d", 0.3, 0.2)]
    assert [figures[place].name for place in order(figures, DISAGREEMENT)] == ["c", "d", "a", "b"]
    assert [figures[place].name for place in order(figures, PREDICTED_DICE)] == ["a", "d", "b", "c"]


def test_a_random_order_follows_from_seed_and_names_alone():
    figures = [Figures(name, 0.5) for name in "abcdefgh"]
    orders = [[figures[place].name for place in order(figures, RANDOM, seed=seed)] for seed in (0, 0, 1)]
    turned = figures[::-1]
    assert orders[0] == orders[1] == [turned[place].name for place in order(turned, RANDOM, seed=0)]
    assert orders[0] != orders[2]
    assert sorted(orders[2]) == list("abcdefgh")


def test_a_share_below_a_value_is_told_in_per_cent():
    assert percentile(0.5, [0.1, 0.5, 0.6, 0.2]) == 50


def test_reasons_tell_every_figure_in_words():
    sentences = told(IMAGE)
    assert sentences == [
        "Its like are 12 % of all images, of which doubtful ones count more, and 8 % of what is labelled or above.",
        "Its distance from the nearest labelled image is 0.41, more than that of 81 % of the pool.",
        "Any two experts' masks overlap by a Dice of 0.70 on average, less than in 92 % of the pool.",
        "The draft's Dice is expected to be 0.46.",
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"out_of_distribution": True}, "It is unlike what the model was trained on."),
        ({"is_empty": True}, "Nothing was found in it: the draft is empty."),
    ],
)
def test_what_is_special_is_told_and_what_is_not_known_is_left_out(changed, sentence):
    assert sentence not in told(IMAGE)
    assert sentence in told({**IMAGE, **changed})
    nothing = dict.fromkeys(("among_all", "among_labelled", "distance", "distance_percentile", "predicted_dice"))
    assert len(told({**IMAGE, **nothing})) == 1
