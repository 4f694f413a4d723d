"""Label maps of every method against values computed by hand, and vote statistics against NumPy."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor

from icmoe_monai.errors import InputError
from icmoe_monai.evaluation.votes import VoteStatistics, vote_statistics
from icmoe_monai.transforms.votes import SplitVotesd, voting_methods

TWO = ("first", "second")
DICE = {
    "_target_": "monai.handlers.IgniteMetricHandler",
    "metric_fn": {
        "_target_": "monai.metrics.DiceMetric",
        "include_background": False,
        "ignore_empty": False,
        "num_classes": "@out_channels",
    },
    "output_transform": "$monai.handlers.from_engine(['voted', 'label'])",
}


def _random_case(num_experts: int, out_channels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_experts, out_channels, 5, 7, generator=generator)
    votes = torch.randn(num_experts, 5, 7, generator=generator).softmax(0)
    return (logits.sigmoid() if out_channels == 1 else logits.softmax(1)), votes


def test_one_channel_maps_are_those_worked_out_by_hand() -> None:
    # Four pixels in a row; the mean of column 3's experts is 0.5, which is not above one half.
    pred = torch.tensor(
        [
            [0.8, 0.1, 0.5, 0.3],  # voted probabilities
            [0.9, 0.1, 0.5, 0.2],  # the first expert's probabilities
            [0.3, 0.7, 0.5, 0.1],  # the second's
            [0.6, 0.2, 0.0, 1.0],  # votes, which resampling has brought off 1
            [0.2, 0.2, 0.0, 1.0],
        ]
    )[:, None]
    item = SplitVotesd(expert_names=TWO)({"pred": pred, "label": torch.tensor([[[1, 1, 1, 0]]])})
    assert {name: item[name].flatten().tolist() for name in voting_methods(TWO)} == {
        "voted": [1, 0, 0, 0],
        "mean_vote": [1, 0, 0, 0],
        "first": [1, 0, 0, 0],
        "second": [0, 1, 0, 0],
        "oracle": [1, 1, 0, 0],
    }
    assert item["voted"].dtype == torch.uint8
    assert item["voted"].shape == (1, 1, 4)
    torch.testing.assert_close(item["votes"][:, 0], torch.tensor([[0.75, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 0.5]]))
    torch.testing.assert_close(item["probability"].flatten(), torch.tensor([0.8, 0.1, 0.5, 0.3]))
    assert item["expert_probabilities"].shape == (2, 1, 1, 4)


def test_three_classes_are_decided_by_argmax_and_the_oracle_keeps_the_vote_where_all_are_wrong() -> None:
    experts = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[0.2, 0.1, 0.7], [0.1, 0.2, 0.7]]])  # E, W, K
    voted = torch.tensor([[0.3, 0.3, 0.4], [0.2, 0.7, 0.1]])
    votes = torch.full((2, 2), 0.5)
    pred = torch.cat([voted.T, *(expert.T for expert in experts), votes])[:, None]
    item = SplitVotesd(out_channels=3, expert_names=TWO)({"pred": pred, "label": torch.tensor([[[0, 0]]])})
    assert {name: item[name].flatten().tolist() for name in voting_methods(TWO)} == {
        "voted": [2, 1],
        "mean_vote": [2, 1],
        "first": [0, 1],
        "second": [2, 2],
        "oracle": [0, 1],
    }
    torch.testing.assert_close(item["probability"], voted.T[:, None])


def test_maps_carry_the_metadata_of_the_prediction_and_a_missing_label_leaves_out_the_oracle() -> None:
    pred = MetaTensor(torch.rand(3, 4, 5), meta={"filename_or_obj": "a.png"})
    item = SplitVotesd(expert_names=("only",))({"pred": pred, "label": None})
    assert item["voted"].meta["filename_or_obj"] == "a.png"
    assert "oracle" not in item
    assert item["pred"] is pred


@pytest.mark.parametrize(
    ("pred_shape", "label", "error", "message"),
    [
        ((4, 2, 2), torch.zeros(1, 2, 2), ValueError, r"\(5, H, W\) for K=1 and E=2, got \(4, 2, 2\)"),
        ((5, 2, 2), torch.zeros(1, 3, 2), ValueError, r"shape \(1, 2, 2\) like the prediction .* got \(1, 3, 2\)"),
        ((5, 2, 2), torch.full((1, 2, 2), 255), InputError, "classes 0 to 1 only, got values from 255 to 255"),
        ((5, 2, 2), torch.full((1, 2, 2), 0.5), InputError, r"classes 0 to 1 only, got values from 0\.5"),
    ],
    ids=["channels", "label-size", "label-of-255", "interpolated-label"],
)
def test_what_cannot_be_compared_is_refused(
    pred_shape: tuple[int, ...], label: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SplitVotesd(expert_names=TWO)({"pred": torch.zeros(pred_shape), "label": label})


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", "voted"), ("label",)], ids=["none", "twice", "voted", "label"])
def test_expert_names_that_collide_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expert_names must be distinct and none of"):
        SplitVotesd(expert_names=names)


def test_statistics_of_two_pixels_are_those_worked_out_by_hand() -> None:
    probabilities = torch.tensor([[1.0, 0.5], [0.0, 0.75]]).reshape(2, 1, 1, 2)
    votes = torch.tensor([[1.0, 0.5], [0.0, 0.5]]).reshape(2, 1, 2)
    assert vote_statistics(probabilities, votes, TWO) == pytest.approx(
        {
            "disagreement": (1.0 + 0.5) / 2,
            "hard_disagreement": 1.0,
            "vote_entropy": (0.0 + 1.0) / 2,
            "load_first": (1.0 + 0.5) / 2,  # the second pixel is a tie
            "load_second": 0.25,
            "mean_vote_first": 0.75,
            "mean_vote_second": 0.25,
        }
    )


@pytest.mark.parametrize("out_channels", [1, 3])
def test_statistics_equal_numpy(out_channels: int) -> None:
    probabilities, votes = _random_case(3, out_channels)
    p, w = probabilities.numpy().astype(np.float64), votes.numpy().astype(np.float64)
    full = np.concatenate([1 - p, p], axis=1) if out_channels == 1 else p
    pairs = list(itertools.combinations(range(3), 2))
    decided = full.argmax(1)
    statistics = vote_statistics(probabilities, votes, "abc")
    assert statistics["disagreement"] == pytest.approx(np.mean([1 - (full[i] * full[j]).sum(0) for i, j in pairs]))
    assert statistics["hard_disagreement"] == pytest.approx(np.mean([decided[i] != decided[j] for i, j in pairs]))
    assert statistics["vote_entropy"] == pytest.approx(-(w * np.log(w)).sum(0).mean() / math.log(3))
    assert [statistics[f"load_{e}"] for e in "abc"] == pytest.approx([np.mean(w.argmax(0) == e) for e in range(3)])
    assert [statistics[f"mean_vote_{e}"] for e in "abc"] == pytest.approx(w.mean((1, 2)).tolist())
    assert 0 < statistics["hard_disagreement"] < 1


def test_permuting_the_experts_permutes_their_loads_and_votes_and_nothing_else() -> None:
    probabilities, votes = _random_case(3, 1)
    order = [2, 0, 1]
    before = vote_statistics(probabilities, votes, "abc")
    after = vote_statistics(probabilities[order], votes[order], "cab")
    assert after == pytest.approx(before)
    assert len({before[f"load_{e}"] for e in "abc"}) == 3


def test_equal_votes_give_equal_loads_and_full_entropy() -> None:
    probabilities, votes = _random_case(3, 1)
    statistics = vote_statistics(probabilities, torch.full_like(votes, 1 / 3), "abc")
    assert [statistics[f"load_{e}"] for e in "abc"] == pytest.approx([1 / 3] * 3)
    assert statistics["vote_entropy"] == pytest.approx(1)


def test_a_single_expert_agrees_with_itself() -> None:
    probabilities, _ = _random_case(1, 3)
    statistics = vote_statistics(probabilities, torch.ones(1, 5, 7), ["only"])
    expected = {"disagreement": 0, "hard_disagreement": 0, "vote_entropy": 0, "load_only": 1, "mean_vote_only": 1}
    assert statistics == pytest.approx(expected)


def _vote_item(first_vote: float, width: int) -> dict[str, torch.Tensor]:
    pred = torch.tensor([0.0, 1.0, 0.0, first_vote, 1 - first_vote])
    return {"pred": pred[:, None, None].expand(5, 1, width)}


def test_the_handler_writes_the_mean_over_cases_before_the_next_handler_and_forgets_the_last_run() -> None:
    split = SplitVotesd(expert_names=TWO)
    engine = Engine(lambda _, batch: [split(item) for item in batch])
    VoteStatistics(expert_names=TWO, prefix="val_").attach(engine)
    seen: list[float] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(e.state.metrics["val_mean_vote_first"]))
    engine.run([[_vote_item(1.0, 1)], [_vote_item(0.5, 9)]])
    engine.run([[_vote_item(0.25, 2)]])
    assert seen == [0.75, 0.25]


def test_the_handler_says_that_the_tensor_was_not_split() -> None:
    engine = Engine(lambda _, batch: batch)
    VoteStatistics().attach(engine)
    with pytest.raises(ValueError, match=r"must hold SplitVotesd, got items of \['pred'\]"):
        engine.run([[_vote_item(1.0, 1)]])


@pytest.mark.parametrize(
    ("out_channels", "voted", "label", "expected"),
    [
        (1, [[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]], [2 / 3, 1.0]),
        (1, [[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]], [0.0, 0.0]),
        (3, [[1, 1, 2], [0, 0, 0]], [[1, 2, 2], [0, 1, 1]], [2 / 3, 2 / 3, 0.0, 1.0]),
    ],
    ids=["found-and-empty", "false-alarm-and-miss", "three-classes"],
)
def test_plain_monai_dice_of_a_config_reads_the_maps(
    out_channels: int, voted: list[list[int]], label: list[list[int]], expected: list[float]
) -> None:
    parser = ConfigParser({"imports": ["$import monai"], "out_channels": out_channels, "dice": DICE})
    parser.get_parsed_content("imports")
    engine = Engine(lambda _, batch: batch)
    parser.get_parsed_content("dice").attach(engine, "val_dice_voted")
    items = [
        {"voted": torch.tensor([[first]], dtype=torch.uint8), "label": torch.tensor([[second]])}
        for first, second in zip(voted, label, strict=True)
    ]
    engine.run([[item] for item in items])
    assert engine.state.metrics["val_dice_voted"] == pytest.approx(np.mean(expected))


def _in_two_processes(local_rank: int, folder: str) -> None:
    split = SplitVotesd(expert_names=TWO)
    engine = Engine(lambda _, batch: [split(item) for item in batch])
    VoteStatistics(expert_names=TWO).attach(engine)
    engine.run([[_vote_item([1.0, 0.5][idist.get_rank()], 3)]])
    Path(folder, str(idist.get_rank())).write_text(str(engine.state.metrics["mean_vote_first"]))


@pytest.mark.slow
def test_two_processes_share_their_means(tmp_path: Path) -> None:
    with idist.Parallel(backend="gloo", nproc_per_node=2, init_method=f"file://{tmp_path}/init") as parallel:
        parallel.run(_in_two_processes, str(tmp_path))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0.75", "0.75"]
