"""Networks that were trained on parts of one set, as one network: one pass of what is frozen, a vote in each fold.

  P = 1/F sum_f P_f      P_f: the vote of fold f, over its own experts

The folds' experts stand side by side, fold by fold, as if they were F E experts of one mixture, so that windows are
stitched as for any other. Afterwards `split_folds` gives each fold its part again, and `merge_folds` an expert the mean
of what it says in the folds.

Letters: B batch; F folds; E experts of a fold; K output channels; H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.voting import VotedMaps, to_logits, to_probabilities


class FoldEnsemble(nn.Module):
    """Vote in every fold, and take the mean of the folds' masks.

    What is frozen is one module for all folds, and runs once. A fold of another class than `ICMoE`, or whose encoder is
    trained, runs by itself.

    Args:
        folds: The folds' networks, built alike; those after the first are given its frozen parts.

    Raises:
        InputError: If there is no fold, one is a plain network without a vote, or they have unlike experts or channels.

    Example:
        >>> network = FoldEnsemble([ICMoE(experts=["basic", "adaptive"]) for _ in range(3)]).eval()
        >>> network(torch.zeros(1, 3, 32, 32)).shape, network.expert_maps(torch.zeros(1, 3, 32, 32)).shape
        (torch.Size([1, 1, 32, 32]), torch.Size([1, 12, 32, 32]))
    """

    __constants__: ClassVar = ["shares"]  # so that TorchScript compiles one way of the two

    def __init__(self, folds: Sequence[Any]) -> None:
        super().__init__()
        if not all(hasattr(fold, "voting") for fold in folds):
            raise InputError("A plain network has no vote: give it as the network of an icmoe_monai.networks.Baseline.")
        shapes = {(type(fold), fold.out_channels, fold.voting.num_experts) for fold in folds}
        if len(shapes) != 1:
            raise InputError(f"The folds of an ensemble are networks of one kind, got {len(shapes)} kinds.")
        first = folds[0]
        self.shares = isinstance(first, ICMoE) and not _trains(first.encoder) and not _trains(first.detail)
        if self.shares:
            for fold in folds[1:]:
                fold.encoder, fold.detail = first.encoder, first.detail
        self.folds: Any = nn.ModuleList(folds)
        self.voting = FoldVoting([fold.voting for fold in folds])
        self.out_channels: int = first.out_channels
        self.needs_image: bool = self.shares and first.needs_image

    def forward(self, image: Tensor) -> Tensor:
        """Segment an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Logits of the mean over the folds, (B, K, H, W).
        """
        maps = self.expert_maps(image)
        E = self.voting.num_experts
        return self.voting(maps[:, :-E].unflatten(1, (E, -1)), maps[:, -E:])[0]

    @torch.jit.export
    def expert_maps(self, image: Tensor) -> Tensor:
        """Return the maps that a vote needs, fold by fold, as `ICMoE.expert_maps` does expert by expert.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Probabilities of every fold's experts, then every fold's gate logits, (B, F E K + F E, H, W).
        """
        if self.shares:
            return self.maps_of(self.trunk(image), self.levels(image))
        return self._joined([fold.expert_maps(image) for fold in self.folds])

    def trunk(self, image: Tensor) -> Tensor:
        """Run the encoder's blocks that all folds share, as `ICMoE.trunk` does."""
        return self.folds[0].trunk(image)

    def levels(self, image: Tensor) -> list[Tensor]:
        """Return what the decoders of all folds see beside the trunk's tokens, as `ICMoE.levels` does."""
        return self.folds[0].levels(image)

    def maps_of(self, tokens: Tensor, levels: list[Tensor]) -> Tensor:
        """Return the result of `expert_maps` from tokens and levels, of folds that share their frozen parts."""
        basic = self.folds[0].basic_features(tokens)
        return self._joined([fold.maps_of(tokens, levels, basic) for fold in self.folds])

    def _joined(self, maps: list[Tensor]) -> Tensor:
        E = self.voting.num_experts // self.voting.num_folds
        probabilities, gates = [one[:, :-E] for one in maps], [one[:, -E:] for one in maps]
        return torch.cat(probabilities + gates, dim=1)


class FoldVoting(nn.Module):
    """The vote of an ensemble of folds: each fold's experts vote among themselves, and every fold counts as much.

    Args:
        votings: The folds' votes, each over as many experts.
    """

    def __init__(self, votings: Sequence[Any]) -> None:
        super().__init__()
        self.votings = nn.ModuleList(votings)
        self.num_folds = len(votings)
        self.num_experts: int = sum(voting.num_experts for voting in votings)

    def forward(self, probabilities: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Vote at every pixel.

        Args:
            probabilities: Probabilities of every fold's experts, (B, F E, K, H, W).
            gate: Gate logits, (B, F E, H, W).

        Returns:
            Fused logits, (B, K, H, W), and votes, (B, F E, H, W), which sum to 1 over all folds' experts.
        """
        E = self.num_experts // self.num_folds
        fused: list[Tensor] = []
        votes: list[Tensor] = []
        for f, voting in enumerate(self.votings):
            logits, heard = voting(probabilities[:, f * E : (f + 1) * E], gate[:, f * E : (f + 1) * E])
            fused.append(to_probabilities(logits))
            votes.append(heard / self.num_folds)
        return to_logits(torch.stack(fused).mean(dim=0)), torch.cat(votes, dim=1)


def repeated(network: nn.Module, num_folds: int) -> nn.Module:
    """Return an ensemble of copies of a network, whose weights are still to be loaded; of one fold, the network itself.

    Args:
        network: The network.
        num_folds: F.
    """
    if num_folds == 1:
        return network
    return FoldEnsemble([network, *(deepcopy(network) for _ in range(num_folds - 1))])


def first_fold(network: nn.Module) -> Any:
    """Return the first network of an ensemble of folds, and any other network as it is."""
    return network.folds[0] if isinstance(network, FoldEnsemble) else network


def joined_state(folds: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights of a `FoldEnsemble`, by the names that it has for them.

    Args:
        folds: Each fold's weights, by the names of its own network.
    """
    state = {f"folds.{f}.{name}": value for f, fold in enumerate(folds) for name, value in fold.items()}
    for f, fold in enumerate(folds):
        votes = {name.removeprefix("voting."): value for name, value in fold.items() if name.startswith("voting.")}
        state |= {f"voting.votings.{f}.{name}": value for name, value in votes.items()}
    return state


def split_folds(maps: VotedMaps, num_folds: int) -> list[VotedMaps]:
    """Return each fold's vote, of an ensemble's maps.

    Args:
        maps: P, the experts' probabilities (F E, K, H, W) and votes (F E, H, W) of an ensemble.
        num_folds: F.

    Returns:
        Of each fold P_f, (K, H, W), its experts' probabilities, (E, K, H, W), and their votes, (E, H, W).
    """
    if num_folds == 1:
        return [maps]
    parts = zip(maps.expert_probabilities.chunk(num_folds), maps.votes.chunk(num_folds), strict=True)
    return [
        VotedMaps(torch.einsum("ehw,ekhw->khw", num_folds * votes, experts), experts, num_folds * votes)
        for experts, votes in parts
    ]


def merge_folds(maps: VotedMaps, num_folds: int) -> VotedMaps:
    """Return an ensemble's maps with one expert in the place of those of the same name in all folds.

    Args:
        maps: P, the experts' probabilities (F E, K, H, W) and votes (F E, H, W) of an ensemble.
        num_folds: F.

    Returns:
        P, as it is; the mean over the folds of each expert's probabilities, (E, K, H, W); the sum of its votes,
        (E, H, W).
    """
    experts, votes = (part.unflatten(0, (num_folds, -1)) for part in (maps.expert_probabilities, maps.votes))
    return VotedMaps(maps.probabilities, experts.mean(dim=0), votes.sum(dim=0))


def _trains(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())
