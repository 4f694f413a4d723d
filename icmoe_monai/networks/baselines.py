"""What IC-MoE is compared with, behind its interface, so that one config trains and scores all.

`Baseline` wraps any 2-D segmentation network, one of MONAI's or the `PyramidUNet`; `Ensemble` wraps several. Where a
config has a plain network in IC-MoE's place, `as_mixture`, `as_output` and `expert_names` take it for a mixture of one.

Letters: B batch; H W image; K output channels; E experts, which are the members of an ensemble, and else one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import recorded
from icmoe_monai.networks.decoder import ExpertDecoder, decoder_size
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput, unwrapped
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.voting import PixelVoting, to_logits, to_probabilities
from icmoe_monai.utils.precision import at_least_float32


@recorded
class Baseline(nn.Module):
    """A segmentation network, such as one of MONAI's, as a mixture of one expert that has every vote.

    With one expert the vote and balance losses are constant, and there are no embeddings to contrast; with
    `expert_weight: 0` the loss is then the network's Dice and cross-entropy alone.

    Args:
        network: Maps an image (B, 3, H, W) to logits (B, K, H, W), or to a list of logits, the finest last.
        out_channels: K, which the network must have been built with; None: any.

    Example:
        >>> network = Baseline(network=nn.Conv2d(3, 1, 1), out_channels=1)
        >>> network.train()(torch.zeros(1, 3, 32, 32)).votes.unique().tolist()
        [1.0]
        >>> network.eval()(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """

    def __init__(self, *, network: nn.Module, out_channels: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.out_channels = out_channels
        self.voting = PixelVoting(num_experts=1)

    def forward(self, image: Tensor) -> Tensor | ICMoEOutput:
        """Segment an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W divisible by the network's largest stride.

        Returns:
            Logits, (B, K, H, W), in eval mode; an `ICMoEOutput` in training mode, with embeddings (B, 1, 0, 0).
        """
        logits = self._logits(image)
        if not self.training:
            return logits
        return as_output(logits)

    def expert_maps(self, image: Tensor) -> Tensor:
        """Return probabilities, then one channel of zero gate logits, (B, K + 1, H, W), of an image (B, 3, H, W)."""
        probabilities = to_probabilities(at_least_float32(self._logits(image)))
        return torch.cat([probabilities, torch.zeros_like(probabilities[:, :1])], dim=1)

    def _logits(self, image: Tensor) -> Tensor:
        """Return the network's finest logits.

        Raises:
            ValueError: If the logits are not (B, K, H, W).
        """
        output = self.network(image)
        logits: Tensor = output[-1] if isinstance(output, (list, tuple)) else output
        expected = (logits.shape[1] if self.out_channels is None else self.out_channels, *image.shape[-2:])
        if logits.ndim != 4 or tuple(logits.shape[1:]) != expected:  # a check of B would fix it in an exported graph
            wanted, found = (len(image), *expected), tuple(logits.shape)
            raise ValueError(f"The network's logits must be (B, K, H, W) {wanted}, got {found}.")
        return logits


def as_mixture(network: nn.Module) -> ICMoE:
    """Return a network that votes as it is, and any other as a mixture of one expert, which shares its weights.

    Args:
        network: An `ICMoE`, a `Baseline`, or any network of which `Baseline` can be made.

    Example:
        >>> as_mixture(nn.Conv2d(3, 1, 1)).voting.num_experts
        1
    """
    return cast(ICMoE, network if hasattr(network, "expert_maps") else Baseline(network=network))


def as_output(output: ICMoEOutput | Tensor | Any) -> ICMoEOutput:
    """Return what a network says in training as an `ICMoEOutput`, of a plain network's logits that of one expert.

    Args:
        output: An `ICMoEOutput`, or logits (B, K, H, W).

    Raises:
        InputError: If it is neither.
    """
    if isinstance(output, ICMoEOutput):
        return output
    if not isinstance(output, Tensor):
        raise InputError(
            f"The network returns a {type(output).__name__} and not logits (B, K, H, W): give it as the network of an "
            "icmoe_monai.networks.Baseline, which takes the last of several outputs."
        )
    votes = torch.ones_like(output[:, :1])
    return ICMoEOutput(output, output[:, None], votes, output.new_zeros(len(output), 1, 0, 0))


def expert_names(network: nn.Module, experts: Sequence[str]) -> list[str]:
    """Return the names of a network's experts, by which results are named.

    Args:
        network: The network, of any kind, bare or wrapped for several devices; of an ensemble of folds, whose experts
            are merged, the names in one fold.
        experts: Names of a config; they are taken where the network has as many experts and no names for them.

    Example:
        >>> expert_names(ICMoE(experts=["basic"]), ["basic"]), expert_names(nn.Conv2d(3, 1, 1), ["basic", "semantic"])
        (['basic'], ['network'])
    """
    network = unwrapped(network)
    if isinstance(network, FoldEnsemble):
        return expert_names(network.folds[0], experts)
    if isinstance(network, ICMoE):
        return list(network.expert_names)
    num_experts = as_mixture(network).voting.num_experts
    if len(experts) == num_experts:
        return list(experts)
    return ["network"] if num_experts == 1 else [f"network{e}" for e in range(1, num_experts + 1)]


@recorded
class Ensemble(nn.Module):
    """Networks that are trained side by side, each by its own loss alone; the mean of their probabilities is the mask.

    Members stand where IC-MoE has experts, so that each is scored by itself. No gradient passes through their mean. If
    `expert_weight` is their number and there are no pixel weights, each has the gradient that it would have alone. Only
    `training.GradientClipping` takes them as one, and bounds the gradient of all.

    Args:
        networks: The members, built separately; each maps an image (B, 3, H, W) to logits (B, K, H, W).
        out_channels: K, which they must have been built with.

    Example:
        >>> network = Ensemble(networks=[nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1)], out_channels=1)
        >>> network.train()(torch.zeros(1, 3, 32, 32)).expert_logits.shape
        torch.Size([1, 2, 1, 32, 32])
    """

    def __init__(self, *, networks: Sequence[nn.Module], out_channels: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.out_channels = out_channels
        self.voting = PixelVoting(num_experts=len(networks), strategy="mean")

    def forward(self, image: Tensor) -> Tensor | ICMoEOutput:
        """Segment an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), of a size that every member takes.

        Returns:
            Logits of the mean, (B, K, H, W), in eval mode; an `ICMoEOutput` in training mode, with embeddings
            (B, 1, 0, 0).
        """
        expert_logits, probabilities = self._run_members(image)
        logits = to_logits(probabilities.detach().mean(dim=1))
        if not self.training:
            return logits
        votes = torch.full_like(probabilities[:, :, 0].detach(), 1 / len(self.networks))
        return ICMoEOutput(logits, expert_logits, votes, logits.new_zeros(len(logits), 1, 0, 0))

    def expert_maps(self, image: Tensor) -> Tensor:
        """Return the members' probabilities, then gate logits of zero, (B, E K + E, H, W), of an image (B, 3, H, W)."""
        _, probabilities = self._run_members(image)
        return torch.cat([probabilities.flatten(1, 2), torch.zeros_like(probabilities[:, :, 0])], dim=1)

    def _run_members(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the members' logits and probabilities, (B, E, K, H, W).

        Raises:
            ValueError: If the members' logits are not (B, K, H, W).
        """
        logits = torch.stack([network(image) for network in self.networks], dim=1)
        expected = (len(self.networks), self.out_channels, *image.shape[-2:])
        if tuple(logits.shape[1:]) != expected:
            wanted, found = (len(image), *expected), tuple(logits.shape)
            raise ValueError(f"The members' logits must be (B, E, K, H, W) {wanted}, got {found}.")
        return logits, to_probabilities(at_least_float32(logits))


@recorded
class PyramidUNet(nn.Module):
    """The image pyramid under one of IC-MoE's decoders, without a foundation encoder, experts or a vote.

    With a pyramid that is trained it is what a user of any U-Net library does with the same ImageNet weights.

    Args:
        detail: The pyramid.
        out_channels: K.
        decoder: Size of the decoder, one of `icmoe_monai.networks.decoder.DECODERS`.

    Raises:
        InputError: If there is no such decoder.

    Example:
        >>> PyramidUNet(detail=ImagePyramid(), out_channels=1)(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 1, 32, 48])
    """

    def __init__(self, *, detail: ImagePyramid, out_channels: int, decoder: str = "light") -> None:
        super().__init__()
        self.detail = detail
        self.decoder = ExpertDecoder(
            in_channels=0,
            out_channels=out_channels,
            size=decoder_size(decoder),
            level_channels=detail.channels,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (B, 3, H, W), H and W multiples of 16, to logits (B, K, H, W)."""
        levels = self.detail(image)
        no_features = levels[-1][:, :0]
        logits: Tensor = self.decoder(no_features, levels)[1]
        return logits
