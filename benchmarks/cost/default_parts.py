"""The default network part by part: a training step, forward and backward, and a window.

Each part sees the detached results of those before it, and gradients are handed back from part to part, so that each
has a time and a count of its own. The result is that of an ordinary step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from benchmarks.cost.rows import Row, update
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput
from icmoe_monai.networks.pyramid import OwnNetwork
from icmoe_monai.networks.voting import disagreement, to_probabilities

T = TypeVar("T")


class Watch(Protocol):
    """What times or counts a part, and returns its result."""

    def __call__(self, part: str, run: Callable[[], T]) -> T: ...  # noqa: D102


class Chain:
    """Run parts forward one after the other, and then backward, the last first.

    Args:
        watch: Told every part, as "NAME, forward" and "NAME, backward".
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._done: list[tuple[str, Sequence[Tensor], list[Tensor]]] = []

    def forward(self, name: str, run: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """Run a part, and return its results without the graph that leads to them."""
        results = self.watch(f"{name}, forward", run)
        cuts = [result.detach().requires_grad_(result.requires_grad) for result in results]
        self._done.append((name, results, cuts))
        return cuts

    def backward(self) -> None:
        """Hand the gradients of what was returned back through every part that has one."""
        for name, results, cuts in reversed(self._done):
            reached = [(result, cut.grad) for result, cut in zip(results, cuts, strict=True) if cut.grad is not None]
            if reached:
                ends, gradients = zip(*reached, strict=True)
                self.watch(f"{name}, backward", lambda e=ends, g=gradients: torch.autograd.backward(e, g))


def run_network(network: ICMoE, image: Tensor, chain: Chain) -> ICMoEOutput:
    """Run the network forward part by part, in eval mode without the embeddings.

    Args:
        network: A network without an encoder.
        image: Normalised RGB, (B, 3, H, W).
        chain: Runs the parts.
    """
    levels = chain.forward("frozen pyramid", lambda: network.levels(image))
    no_features = network.expert_features(network.trunk(image))
    decoded, logits = [], []
    for i, (name, view) in enumerate(network.views.items()):
        seen = levels
        if isinstance(view, OwnNetwork):
            seen = chain.forward(f"{name} expert's pyramid", lambda view=view: view(levels))
        at4, expert_logits = chain.forward(
            f"{name} expert's decoder",
            lambda name=name, seen=seen, i=i: network.decoders[name](no_features[:, i], seen),
        )
        decoded.append(at4)
        logits.append(expert_logits)
    (gate,) = chain.forward("gate", lambda: [network.gate(decoded, image.shape[-2:])])

    def vote() -> Sequence[Tensor]:
        expert_logits = torch.stack(logits, dim=1)
        return expert_logits, *network.voting(to_probabilities(expert_logits), gate)

    expert_logits, fused, votes = chain.forward("vote", vote)
    if not network.training or network.embed is None:
        return ICMoEOutput(fused, expert_logits, votes, fused.new_zeros(len(fused), 1, 0, 0))
    semantic = decoded[network.expert_names.index("semantic")]
    (embeddings,) = chain.forward("embeddings", lambda: [network.embed(semantic)])
    return ICMoEOutput(fused, expert_logits, votes, embeddings)


def losses_of(
    loss: ICMoELoss, output: ICMoEOutput, probabilities: Tensor, label: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """Return what computes each of the loss's terms of labelled images, by its name.

    Args:
        loss: The loss.
        output: The network's output in training mode.
        probabilities: The experts' probabilities, (B, E, K, H, W), without a graph.
        label: Class map, (B, 1, H, W).
    """
    logits, expert_logits, votes, embeddings = output

    def of_experts() -> Tensor:
        weights = torch.ones_like(probabilities[:, :, 0])
        if loss.pixel_weights is not None:
            weights = loss.pixel_weights(probabilities, label)
        each = [loss.segmentation(expert_logits[:, e], label, weights[:, e]) for e in range(votes.shape[1])]
        return torch.stack(each).mean()

    terms: dict[str, Callable[[], Tensor]] = {
        "contrast": lambda: loss.contrast(embeddings, label, to_probabilities(logits), disagreement(probabilities)),
        "fused": lambda: loss.segmentation(logits, label),
        "experts": of_experts,
        "mutual": lambda: loss.mutual(expert_logits, probabilities),
        "vote": lambda: loss.vote(votes, probabilities, label),
        "balance": lambda: loss.balance(votes),
    }
    return {name: terms[name] for name in terms if name != "mutual" or loss.mutual is not None}


def take_step(row: Row, image: Tensor, label: Tensor, watch: Watch) -> None:
    """Take one training step part by part.

    Args:
        row: The default network, its loss and its optimizer.
        image: Normalised RGB, (B, 3, H, W).
        label: Class map, (B, 1, H, W), known for all images.
        watch: Told every part.
    """
    network, loss = row.network.train(), row.loss
    chain = Chain(watch)
    output = run_network(network, image, chain)
    probabilities = watch("loss: probabilities, forward", lambda: to_probabilities(output.expert_logits.detach()))
    for name, term in losses_of(loss, output, probabilities, label).items():
        value = watch(f"loss: {name}, forward", term)
        watch(f"loss: {name}, backward", (loss.weights[name] * value).backward)
    chain.backward()
    watch("clipping and update", lambda: update(row.network, row.optimizer))


@torch.no_grad()
def segment(network: ICMoE, image: Tensor, watch: Watch) -> Tensor:
    """Segment windows (B, 3, H, W) part by part, and return the voted logits (B, K, H, W)."""
    return run_network(network.eval(), image, Chain(watch)).logits
