"""Handlers for validation: MONAI's mean Dice of every method, and statistics of the experts and their votes.

Letters: E experts; K output channels; H W the size of the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from icmoe_monai.networks.voting import disagreement
from icmoe_monai.transforms.votes import EXPERT_NAMES, decide, voting_methods
from icmoe_monai.utils.engines import CaseHandler, split_items


def dice_metrics(
    *, out_channels: int = 1, expert_names: Sequence[str] = EXPERT_NAMES, prefix: str = ""
) -> dict[str, IgniteMetricHandler]:
    """Create the metrics of an evaluator that compute MONAI's mean Dice of every method but the vote.

    The vote's own Dice is the evaluator's key metric. A case with an empty label counts 1 if the prediction is empty
    too, else 0.

    Args:
        out_channels: K.
        expert_names: The E names, as given to `SplitVotesd`.
        prefix: Prefix of each metric's name, for instance "val_".

    Returns:
        The metrics by name, `<prefix><method>_dice`.
    """
    return {
        f"{prefix}{method}_dice": IgniteMetricHandler(
            metric_fn=DiceMetric(
                include_background=out_channels == 1,
                ignore_empty=False,
                num_classes=out_channels if out_channels > 1 else None,
            ),
            output_transform=from_engine([method, "label"]),
        )
        for method in voting_methods(expert_names)
        if method != "voted"
    }


class VoteStatistics(CaseHandler):
    """Handler: write the means of `vote_statistics` over the cases to `engine.state.metrics`.

    Needs `SplitVotesd` in the evaluator's postprocessing. Handlers of one event run in the order of their list, in
    which this one belongs before `StatsHandler`, `TensorBoardStatsHandler`, `MLFlowHandler` and all others that read
    the metrics. Every case has the same weight, whatever its size. In distributed validation the sums of the processes
    are added.

    Args:
        expert_names: The E names, as given to `SplitVotesd`.
        prefix: Prefix of each metric's name, for instance "val_".

    Example:
        >>> from icmoe_monai.transforms.votes import SplitVotesd
        >>> split = SplitVotesd(expert_names=("first", "second"))
        >>> pred = torch.tensor([0.0, 1.0, 0.0, 0.75, 0.25]).reshape(5, 1, 1)
        >>> engine = Engine(lambda engine, batch: [split(item) for item in batch])
        >>> VoteStatistics(expert_names=("first", "second"), prefix="val_").attach(engine)
        >>> metrics = engine.run([[{"pred": pred}]]).metrics
        >>> metrics["val_disagreement"], metrics["val_load_first"], metrics["val_mean_vote_first"]
        (1.0, 1.0, 0.75)
    """

    def __init__(self, *, expert_names: Sequence[str] = EXPERT_NAMES, prefix: str = "") -> None:
        self.expert_names = tuple(expert_names)
        self.prefix = prefix
        self._num_cases = 0
        self._sums: dict[str, float] = {}

    def started(self, engine: Engine) -> None:
        """Clear the sums of the previous epoch."""
        self._num_cases, self._sums = 0, {}

    def iteration_completed(self, engine: Engine) -> None:
        """Add the statistics of the cases of one iteration."""
        for item in split_items(engine):
            statistics = vote_statistics(item["expert_probabilities"], item["votes"], self.expert_names)
            self._sums = {name: self._sums.get(name, 0.0) + value for name, value in statistics.items()}
            self._num_cases += 1

    def completed(self, engine: Engine) -> None:
        """Write the means over all processes to `engine.state.metrics`."""
        totals = torch.tensor([self._num_cases, *self._sums.values()], dtype=torch.float64)
        if idist.get_world_size() > 1:
            totals = torch.as_tensor(idist.all_reduce(totals.to(idist.device())))
        means = (totals[1:] / totals[0]).tolist()
        engine.state.metrics.update({self.prefix + name: mean for name, mean in zip(self._sums, means, strict=True)})


def vote_statistics(expert_probabilities: Tensor, votes: Tensor, expert_names: Sequence[str]) -> dict[str, float]:
    """Compute for one case how much the experts disagree and how the votes are distributed among them.

    - `disagreement`: 1 - mean over pairs and pixels of the agreement <p_i, p_j> (K=1: p_i p_j + (1-p_i)(1-p_j));
    - `hard_disagreement`: mean over pairs of experts of the share of pixels that the two decide differently;
    - `vote_entropy`: mean over pixels of -sum_e w_e log w_e / log E: 0 if one expert has the whole vote, 1 if all votes
      are equal;
    - `load_<expert>`: share of the pixels at which this expert has the largest vote; a tie is shared equally, so that
      equal votes give equal loads;
    - `mean_vote_<expert>`: mean over pixels of the expert's vote.

    A single expert has disagreements and entropy 0, load and mean vote 1.

    Args:
        expert_probabilities: (E, K, H, W), 0..1.
        votes: Votes w, (E, H, W), summing to 1 over E.
        expert_names: The E names.

    Returns:
        The statistics by name, all in 0..1.
    """
    votes = convert_to_tensor(votes, track_meta=False)
    E = votes.shape[0]
    decisions = [decide(probability) for probability in expert_probabilities]
    differ = [float((first != second).float().mean()) for first, second in combinations(decisions, 2)]
    entropy = float(torch.special.entr(votes).sum(0).mean()) / log(E) if E > 1 else 0.0
    is_largest = (votes == votes.amax(0)).float()
    loads = (is_largest / is_largest.sum(0)).mean((1, 2)).tolist()
    return {
        "disagreement": float(disagreement(expert_probabilities[None]).mean()),
        "hard_disagreement": sum(differ) / max(len(differ), 1),
        "vote_entropy": entropy,
        **{f"load_{name}": load for name, load in zip(expert_names, loads, strict=True)},
        **{f"mean_vote_{name}": vote for name, vote in zip(expert_names, votes.mean((1, 2)).tolist(), strict=True)},
    }
