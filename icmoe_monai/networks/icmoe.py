"""The IC-MoE network: what is frozen, up to three experts over it or with networks of their own, and a vote.

After arXiv 2510.17684, of which only the abstract was available: every size and equation is ours (docs/method.md).

Letters: B batch; H W image; h w = H/16, W/16; C encoder width; E experts; K output channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import recorded
from icmoe_monai.networks.decoder import DecoderSize, DetailStem, ExpertDecoder, NoDetail, PyramidContext, decoder_size
from icmoe_monai.networks.experts import AdaptiveExpert, ExpertCommunication, SemanticExpert
from icmoe_monai.networks.pyramid import ImagePyramid, OwnNetwork, OwnStages, SharedLevels
from icmoe_monai.networks.sam import BACKBONES, PATCH_SIZE, build_sam_encoder
from icmoe_monai.networks.voting import PixelVoting, VoteGate, to_probabilities
from icmoe_monai.utils.precision import at_least_float32

EXPERTS = ("basic", "semantic", "adaptive")


class ICMoEOutput(NamedTuple):
    """Output of the network in training mode.

    Attributes:
        logits: Fused logits, (B, K, H, W).
        expert_logits: Logits of every expert, (B, E, K, H, W).
        votes: Expert weights, (B, E, H, W), summing to 1 over E.
        embeddings: Pixel embeddings of the semantic expert for the contrastive loss, (B, D, H/4, W/4), not normalised;
            (B, D, 0, 0) without that expert.
    """

    logits: Tensor
    expert_logits: Tensor
    votes: Tensor
    embeddings: Tensor


@recorded
class ICMoE(nn.Module):
    """Mixture of experts over a foundation encoder for 2-D segmentation.

    Args:
        backbone: Size of SAM's encoder, one of `icmoe_monai.networks.sam.BACKBONES`; None for none, so that the
            `detail` and the experts' own networks are all that sees the image.
        out_channels: K: 1 for one foreground (sigmoid), else the number of classes with background (softmax).
        experts: Names of the experts: some of "basic", "semantic", "adaptive", in this order. They name the results.
        expert_depth: T, the number of the encoder's last blocks that each expert runs separately.
        rank: Rank of the experts' low-rank updates.
        num_updates: R, the number of low-rank updates that the adaptive expert mixes.
        communicate: Whether the experts attend to each other's features.
        detail: Module that gives the decoders levels of the image, beside the encoder: an `ImagePyramid`, frozen; a
            `DetailStem`, which is trained and the default (None); or `NoDetail`.
        own_from: Stride from which an expert has trained copies of the pyramid's stages, by the expert's name.
        own_network: Size of a trained image pyramid that an expert has to itself, in place of `detail`, one of
            `icmoe_monai.networks.pyramid.SIZES`, by the expert's name.
        decoder: Size of the experts' decoders, one of `icmoe_monai.networks.decoder.DECODERS`.
        hear_vote: Let the fused mask's gradient reach the experts, so that one may leave to the others what they do
            better; otherwise each learns from its own loss alone, and the vote from what they say.
        voting: One of `icmoe_monai.networks.voting.STRATEGIES`.
        best_expert: Index of the expert that voting "best" returns.
        deference: How far the basic expert, whose network is frozen, leaves to the others what they disagree about;
            0: it is heard there as they are.
        train_trunk: Train the encoder too, as is sensible if its weights are not pretrained.
        embedding_channels: D, the channels of the pixel embeddings.

    Raises:
        InputError: If an argument is out of its range.

    Example:
        >>> network = ICMoE(backbone="vit_t", out_channels=1).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1, 64, 64])
        >>> network.train()(torch.zeros(1, 3, 64, 64)).votes.shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(  # noqa: PLR0913 (each is a choice that a study varies)
        self,
        *,
        backbone: str | None = "vit_t",
        out_channels: int = 1,
        experts: tuple[str, ...] | list[str] = EXPERTS,
        expert_depth: int = 2,
        rank: int = 8,
        num_updates: int = 4,
        communicate: bool = True,
        detail: ImagePyramid | DetailStem | NoDetail | None = None,
        own_from: Mapping[str, int] | None = None,
        own_network: Mapping[str, str] | None = None,
        decoder: str = "light",
        hear_vote: bool = True,
        voting: str = "adaptive",
        best_expert: int = 0,
        deference: float = 0.0,
        train_trunk: bool = False,
        embedding_channels: int = 32,
    ) -> None:
        super().__init__()
        _check(experts, out_channels)
        size = decoder_size(decoder)
        self.out_channels = out_channels
        self.expert_names = [name for name in EXPERTS if name in experts]
        self.has_basic = "basic" in self.expert_names
        self.hear_vote = hear_vote
        adapted: dict[str, nn.Module] = {}
        if backbone is None:
            self.encoder: nn.Module = NoEncoder()
            channels, self.split = 0, 0
        else:
            self.encoder = build_sam_encoder(backbone)
            vit = BACKBONES[backbone]
            channels, self.split = vit["neck_channels"], _split(vit["depth"], expert_depth)
            shape = {"num_blocks": expert_depth, "width": vit["width"], "rank": rank}
            if "semantic" in self.expert_names:
                adapted["semantic"] = SemanticExpert(**shape)
            if "adaptive" in self.expert_names:
                adapted["adaptive"] = AdaptiveExpert(**shape, num_updates=num_updates)
        self.adapted = nn.ModuleDict(adapted)
        self.communication = (
            ExpertCommunication(channels=channels, num_silent=int(self.has_basic))
            if communicate and adapted and len(self.expert_names) > 1
            else nn.Identity()
        )
        self.detail = DetailStem() if detail is None else detail
        views = _build_views(self.expert_names, self.detail, own_from or {}, own_network or {})
        self.views = nn.ModuleDict(views)
        self.needs_image = any(isinstance(view, OwnNetwork) for view in views.values())
        self.decoders = nn.ModuleDict(
            {
                name: _build_decoder(name, channels, out_channels, views[name].channels, size)
                for name in self.expert_names
            }
        )
        self.embedding_channels = embedding_channels
        self.embed = nn.Conv2d(size.width, embedding_channels, 1) if "semantic" in self.expert_names else None
        num_experts = len(self.expert_names)
        self.gate = VoteGate(num_experts=num_experts, channels=size.width)
        gamma = [float(deference) if name == "basic" else 0.0 for name in self.expert_names]
        self.voting = PixelVoting(num_experts=num_experts, strategy=voting, best_expert=best_expert, deference=gamma)
        self.encoder.requires_grad_(train_trunk)
        self.gate.requires_grad_(self.voting.alpha.requires_grad)

    def forward(self, image: Tensor) -> Tensor | ICMoEOutput:
        """Segment an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Fused logits, (B, K, H, W), in eval mode; an `ICMoEOutput` in training mode.
        """
        return self.segment(self.trunk(image), self.levels(image))

    def segment(self, tokens: Tensor, levels: list[Tensor]) -> Tensor | ICMoEOutput:
        """Segment an image from what all experts share.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
            levels: Output of `levels`.

        Returns:
            Logits or an `ICMoEOutput`, as from `forward`.
        """
        decoded, expert_logits, probabilities, gate = self._run_experts(tokens, levels)
        logits, votes = self.voting(probabilities if self.hear_vote else probabilities.detach(), gate)
        if torch.jit.is_scripting() or not self.training:
            return logits
        return ICMoEOutput(logits, expert_logits, votes, self._embed(decoded))

    @torch.jit.export
    def expert_maps(self, image: Tensor) -> Tensor:
        """Return the maps that a vote needs, as one tensor that a sliding window can stitch.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Expert probabilities, expert by expert, then gate logits, (B, E K + E, H, W).
        """
        return self.maps_of(self.trunk(image), self.levels(image))

    def maps_of(self, tokens: Tensor, levels: list[Tensor], basic: Tensor | None = None) -> Tensor:
        """Return the result of `expert_maps` from tokens and levels; arguments as in `segment`, `expert_features`."""
        _, _, probabilities, gate = self._run_experts(tokens, levels, basic)
        return torch.cat([probabilities.flatten(1, 2), at_least_float32(gate)], dim=1)

    def _run_experts(
        self, tokens: Tensor, levels: list[Tensor], basic: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Return all that precedes the vote: decoder features, expert logits and probabilities, gate logits."""
        decoded, expert_logits = self.decode(self.expert_features(tokens, basic), levels)
        probabilities = to_probabilities(at_least_float32(expert_logits))
        heard = decoded if self.hear_vote else [features.detach() for features in decoded]
        return decoded, expert_logits, probabilities, self.gate(heard, expert_logits.shape[-2:])

    @torch.jit.unused
    def _embed(self, decoded: list[Tensor]) -> Tensor:
        if self.embed is None:
            return decoded[0].new_zeros(len(decoded[0]), self.embedding_channels, 0, 0)
        return self.embed(decoded[self.expert_names.index("semantic")])

    def trunk(self, image: Tensor) -> Tensor:
        """Run the blocks that all experts share: map an image (B, 3, H, W) to tokens t (B, h, w, C).

        A frozen trunk leaves no autograd graph, since neither its weights nor the image require a gradient.
        """
        return self.encoder.trunk(image, self.split)

    def levels(self, image: Tensor) -> list[Tensor]:
        """Return what decoders see of the image beside the trunk's tokens.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            The detail's features at strides 2, 4, 8 and 16, (B, c, H/s, W/s), then the image itself if an expert has a
            network of its own.
        """
        levels: list[Tensor] = self.detail(image)
        if self.needs_image:
            levels.append(image)
        return levels

    @torch.jit.unused
    def start_own_stages(self) -> None:
        """Set the experts' own stages to the weights that the pyramid has now."""
        for view in self.views.values():
            if isinstance(view, OwnStages) and isinstance(self.detail, ImagePyramid):
                view.start_from(self.detail)

    def basic_features(self, tokens: Tensor) -> Tensor:
        """Return what the basic expert sees: the encoder's own last blocks and neck, (B, neck_channels, h, w)."""
        return self.encoder.tail(tokens, self.split)

    def expert_features(self, tokens: Tensor, basic: Tensor | None = None) -> Tensor:
        """Run each expert's blocks and the frozen neck, and let the experts communicate.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
            basic: Output of `basic_features`, where it is known already.

        Returns:
            Feature maps, (B, E, neck_channels, h, w); without an encoder they have no channels.
        """
        if tokens.shape[-1] == 0:
            return tokens.permute(0, 3, 1, 2)[:, None].expand(-1, len(self.expert_names), -1, -1, -1)
        features: list[Tensor] = []
        if self.has_basic:
            features.append(self.basic_features(tokens) if basic is None else basic)
        for expert in self.adapted.values():
            features.append(self.encoder.tail(tokens, self.split, expert(tokens)))
        return self.communication(torch.stack(features, dim=1))

    def decode(self, features: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode every expert's features.

        Args:
            features: Feature maps, (B, E, neck_channels, h, w).
            levels: Output of `levels`.

        Returns:
            Decoder features at stride 4, E maps (B, D, H/4, W/4), and expert logits, (B, E, K, H, W).
        """
        decoded: list[Tensor] = []
        logits: list[Tensor] = []
        parts = zip(self.views.values(), self.decoders.values())  # noqa: B905 (TorchScript knows no `strict`)
        for i, (view, decoder) in enumerate(parts):
            at4, expert_logits = decoder(features[:, i], view(levels))
            decoded.append(at4)
            logits.append(expert_logits)
        return decoded, torch.stack(logits, dim=1)


class NoEncoder(nn.Module):
    """Encoder that sees nothing: its tokens and feature maps have no channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size = PATCH_SIZE

    def trunk(self, image: Tensor, split: int) -> Tensor:
        """Return tokens (B, h, w, 0) of an image (B, 3, H, W)."""
        return image.new_zeros(image.shape[0], image.shape[2] // self.patch_size, image.shape[3] // self.patch_size, 0)

    def tail(self, tokens: Tensor, split: int) -> Tensor:
        """Return feature maps (B, 0, h, w) of tokens (B, h, w, 0)."""
        return tokens.permute(0, 3, 1, 2)


def unwrapped(part: Any) -> Any:
    """Return the module inside a DistributedDataParallel wrapper, or the argument itself if it is not wrapped."""
    return getattr(part, "module", part)


def _build_views(
    experts: list[str],
    detail: nn.Module,
    own_from: Mapping[str, int],
    own_network: Mapping[str, str],
) -> dict[str, nn.Module]:
    """Build, for each expert, the module that turns the shared levels into those that its decoder sees."""
    for setting, named in (("own_from", own_from), ("own_network", own_network)):
        unknown = [name for name in named if name not in EXPERTS]
        if unknown:
            raise InputError(f"{setting} is by the names {', '.join(EXPERTS)}, got {', '.join(unknown)}.")
    views: dict[str, nn.Module] = {}
    for name in experts:
        if name in own_from and name in own_network:
            raise InputError(f"The {name} expert has own_from and own_network: leave one out.")
        if name in own_network:
            views[name] = OwnNetwork(ImagePyramid(size=own_network[name], train=True), normalised_as=detail)
        elif name in own_from:
            if not isinstance(detail, ImagePyramid):
                raise InputError(f"own_from copies an image pyramid, and {name} has none: set own_from to null.")
            views[name] = OwnStages(detail, stride=own_from[name])
        else:
            views[name] = SharedLevels(detail.channels)
    return views


def _build_decoder(
    name: str, channels: int, out_channels: int, seen: tuple[int, int, int, int], size: DecoderSize
) -> ExpertDecoder:
    return ExpertDecoder(
        in_channels=channels,
        out_channels=out_channels,
        size=size,
        level_channels=seen,
        context=PyramidContext(channels=channels or 4 * size.width) if name == "semantic" else None,
    )


def _split(depth: int, expert_depth: int) -> int:
    if not 1 <= expert_depth <= depth:
        raise InputError(f"expert_depth must be in 1..{depth} for this backbone, got {expert_depth}.")
    return depth - expert_depth


def _check(experts: tuple[str, ...] | list[str], out_channels: int) -> None:
    if not experts or list(experts) != [name for name in EXPERTS if name in experts]:
        raise InputError(
            f"experts must be some of {', '.join(EXPERTS)}, each once, in this order, got {list(experts)}."
        )
    if out_channels < 1:
        raise InputError(f"out_channels must be at least 1, got {out_channels}.")
