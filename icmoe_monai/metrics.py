"""What one prediction holds: a label map of every compared method, and how the experts differ and vote.

From the voting inferer's one tensor (the vote's probabilities, the experts', the votes) `SplitVotesd` derives a label
map for each *method*: `voted` (pixel-probability adaptive voting), `mean_vote` (the plain mean of the experts'
probabilities), every expert alone, and `oracle`, the upper bound of any per-pixel voting: the label wherever at least
one expert decides it, else the voted decision. `voting_methods` lists them for configs and handlers.

Letters: E experts; K output channels (K=1: sigmoid, classes 0 and 1; K>1: softmax, class 0 is the background); H W the
size of the label, which is the image's original one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from math import log
from typing import Any

import ignite.distributed as idist
import torch
from einops import rearrange
from ignite.engine import Engine, Events
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import DiceMetric
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.network import EXPERTS
from icmoe_monai.report import case_items
from icmoe_monai.voting import disagreement, to_probabilities

EXPERT_NAMES = EXPERTS


class SplitVotesd(MapTransform):
    """Split the voting inferer's tensor into label maps of every method, probabilities and votes.

    Adds to the item: `voted`, `mean_vote`, each expert's name and, where the item has a "label", `oracle`: label maps
    (1, H, W), uint8 (int32 above 256 classes), with the prediction's metadata; `probability` (K, H, W), that of the
    vote; `votes` (E, H, W), summing to 1 over E; `expert_probabilities` (E, K, H, W). A decision is p > 0.5 for K=1
    and argmax for K>1. The prediction must be at the label's size already (`Invertd` before this).

    Args:
        keys: Key of the tensor to split, (K + E*K + E, H, W): voted probabilities, the experts'
            (expert-major), votes; all are probabilities, so that resampling treats them alike.
        out_channels: K.
        expert_names: The E names, in the tensor's order.

    Raises:
        ValueError: If two names are equal or one is taken.

    Example:
        >>> pred = torch.tensor([0.8, 0.9, 0.1, 0.7, 0.3]).reshape(5, 1, 1)
        >>> item = SplitVotesd(expert_names=("first", "second"))({"pred": pred})
        >>> [int(item[method]) for method in ("voted", "mean_vote", "first", "second")]
        [1, 0, 1, 0]
    """

    def __init__(
        self, *, keys: str | Sequence[str] = "pred", out_channels: int = 1, expert_names: Sequence[str] = EXPERT_NAMES
    ) -> None:
        super().__init__(keys)
        voting_methods(expert_names)
        self.out_channels = out_channels
        self.expert_names = tuple(expert_names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the parts added.

        Args:
            data: Item with the tensor under `keys` and, to get `oracle`, the class map "label" (1, H, W).

        Raises:
            ValueError: If the tensor has not K + E*K + E channels, or the label another size.
            InputError: If the label holds anything but the classes.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            pred = item[key]
            parts = self._split(convert_to_tensor(pred, track_meta=False).float())
            if item.get("label") is not None:
                parts["oracle"] = self._oracle(convert_to_tensor(item["label"], track_meta=False), parts)
            for name, part in parts.items():
                # Four axes would read as a volume: expert_probabilities stays without the image's metadata.
                item[name] = part if part.ndim == 4 else convert_to_dst_type(part, pred, dtype=part.dtype)[0]
        return item

    def _split(self, pred: Tensor) -> dict[str, Tensor]:
        K, E = self.out_channels, len(self.expert_names)
        if pred.ndim != 3 or pred.shape[0] != K + E * K + E:
            expected = f"({K + E * K + E}, H, W) for K={K} and E={E}"
            raise ValueError(f"The voted prediction must have the shape {expected}, got {tuple(pred.shape)}.")
        probability, expert_channels, votes = pred.split([K, E * K, E])
        expert_probabilities = rearrange(expert_channels, "(e k) h w -> e k h w", e=E)
        parts = {"voted": decide(probability), "mean_vote": decide(expert_probabilities.mean(0))}
        parts.update(zip(self.expert_names, map(decide, expert_probabilities), strict=True))
        votes = votes.clamp_min(0)
        total = votes.sum(0)
        votes = torch.where(total > 0, votes / total, torch.full_like(votes, 1 / E))
        return parts | {"probability": probability, "votes": votes, "expert_probabilities": expert_probabilities}

    def _oracle(self, label: Tensor, parts: dict[str, Tensor]) -> Tensor:
        voted = parts["voted"]
        if label.shape != voted.shape:
            expected = f"{tuple(voted.shape)} like the prediction (Invertd brings it to the label's size)"
            raise ValueError(f"The label must have the shape {expected}, got {tuple(label.shape)}.")
        lowest, highest, last_class = float(label.min()), float(label.max()), max(self.out_channels, 2) - 1
        if lowest < 0 or highest > last_class or bool((label != label.round()).any()):
            found = f"values from {lowest:g} to {highest:g}"
            raise InputError(f"A label must hold the classes 0 to {last_class} only, got {found}: remap the masks.")
        label = label.to(voted)
        one_is_right = torch.stack([parts[name] == label for name in self.expert_names]).any(0)
        return torch.where(one_is_right, label, voted)


class TakeVotedd(MapTransform):
    """Add `voted`, the vote's label map (1, H, W), from the network's structured output in training.

    MONAI's engines take an `ICMoEOutput` apart into a list per case, of which the voted logits are the first.

    Args:
        keys: Key of the output.
    """

    def __init__(self, keys: str | Sequence[str] = "pred") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with `voted` added."""
        item = dict(data)
        for key in self.key_iterator(item):
            item["voted"] = decide(to_probabilities(item[key][0]))
        return item


def dice_metrics(
    *, out_channels: int = 1, expert_names: Sequence[str] = EXPERT_NAMES, prefix: str = ""
) -> dict[str, IgniteMetricHandler]:
    """Return MONAI's mean Dice of every method but the vote (which is the key metric), by name, for an evaluator.

    An empty ground truth counts: 1 if the prediction is empty too, else 0.

    Args:
        out_channels: K.
        expert_names: The E names, as given to `SplitVotesd`.
        prefix: Put before each name, for instance "val_".
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


class VoteStatistics:
    """Handler that writes the means of `vote_statistics` over the cases into `engine.state.metrics`.

    Needs `SplitVotesd` in the evaluator's postprocessing. Handlers of one event run in the order of the list: put it
    before `StatsHandler`, `TensorBoardStatsHandler`, `MLFlowHandler` and whatever else reads the metrics. Every case
    counts alike, whatever its size. In distributed validation the processes' sums are added up.

    Args:
        expert_names: The E names, as given to `SplitVotesd`.
        prefix: Put before each name, for instance "val_".

    Example:
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

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: Evaluator whose output is decollated.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        """Forget the previous epoch's cases."""
        self._num_cases, self._sums = 0, {}

    def iteration_completed(self, engine: Engine) -> None:
        """Add the cases of one iteration."""
        for item in split_items(engine):
            statistics = vote_statistics(item["expert_probabilities"], item["votes"], self.expert_names)
            self._sums = {name: self._sums.get(name, 0.0) + value for name, value in statistics.items()}
            self._num_cases += 1

    def completed(self, engine: Engine) -> None:
        """Write the means."""
        totals = torch.tensor([self._num_cases, *self._sums.values()], dtype=torch.float64)
        if idist.get_world_size() > 1:
            totals = torch.as_tensor(idist.all_reduce(totals.to(idist.device())))
        means = (totals[1:] / totals[0]).tolist()
        engine.state.metrics.update({self.prefix + name: mean for name, mean in zip(self._sums, means, strict=True)})


def vote_statistics(expert_probabilities: Tensor, votes: Tensor, expert_names: Sequence[str]) -> dict[str, float]:
    """Return how the experts of one case differ and how the votes are spread.

    - `disagreement`: 1 - mean over pairs and pixels of the agreement <p_i, p_j> (K=1: p_i p_j + (1-p_i)(1-p_j));
    - `hard_disagreement`: mean over pairs of the share of pixels they decide differently;
    - `vote_entropy`: mean over pixels of -sum_e w_e log w_e / log E: 0 if one expert decides, 1 if all count alike;
    - `load_<expert>`: share of pixels whose largest vote is the expert's; a tie is shared equally, so that equal votes
      give equal loads; `mean_vote_<expert>`.

    A single expert has disagreements and entropy 0, load and mean vote 1.

    Args:
        expert_probabilities: (E, K, H, W).
        votes: (E, H, W), summing to 1 over E.
        expert_names: The E names.
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


def voting_methods(expert_names: Sequence[str] = EXPERT_NAMES) -> tuple[str, ...]:
    """Return the names of the compared methods, which are also the item's keys for their label maps.

    Args:
        expert_names: The E names.

    Raises:
        ValueError: If there is no name, two are equal or one is taken.

    Example:
        >>> voting_methods(("only",))
        ('voted', 'mean_vote', 'only', 'oracle')
    """
    parts = ("voted", "mean_vote", "oracle", "probability", "votes", "expert_probabilities")
    taken = {*parts, "image", "label", "pred", "name"}
    if not expert_names or len(set(expert_names)) < len(expert_names) or taken & set(expert_names):
        names = list(expert_names)
        raise ValueError(f"expert_names must be distinct and none of {', '.join(sorted(taken))}, got {names}.")
    return ("voted", "mean_vote", *expert_names, "oracle")


def decide(probability: Tensor) -> Tensor:
    """Return the label map (1, H, W) of probabilities (K, H, W): p > 0.5 for K=1, argmax for K>1."""
    K = probability.shape[0]
    if K == 1:
        return (probability > 0.5).to(torch.uint8)
    return probability.argmax(0, keepdim=True).to(torch.uint8 if K <= 256 else torch.int32)


def split_items(engine: Engine) -> list[dict[str, Any]]:
    """Return the cases of the last iteration, which must have gone through `SplitVotesd`."""
    items = case_items(engine)
    if any("expert_probabilities" not in item for item in items):
        raise ValueError(f"The evaluator's postprocessing must hold SplitVotesd, got items of {sorted(items[0])}.")
    return items
