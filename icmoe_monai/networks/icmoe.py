"""The IC-MoE network: a frozen foundation encoder, three communicating experts, and a vote at every pixel.

After arXiv 2510.17684, of which only the abstract was available: every size and equation is ours (docs/method.md).

Letters: B batch; H W image; h w = H/16, W/16; C encoder width; E experts; K output channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import recorded
from icmoe_monai.networks.decoder import DetailStem, ExpertDecoder, NoDetail, PyramidContext
from icmoe_monai.networks.experts import AdaptiveExpert, ExpertCommunication, SemanticExpert
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.sam import BACKBONES, build_sam_encoder
from icmoe_monai.networks.voting import PixelVoting, VoteGate, to_probabilities
from icmoe_monai.utils.precision import at_least_float32

EXPERTS = ("basic", "semantic", "adaptive")
DECODER_WIDTH = 32  # channels of every decoder at stride 4


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
        backbone: Size of the encoder, one of `icmoe_monai.networks.sam.BACKBONES`.
        out_channels: K: 1 for one foreground (sigmoid), else the number of classes with background (softmax).
        experts: Names of the experts: some of "basic", "semantic", "adaptive", in this order. They name the results.
        expert_depth: T, the number of the encoder's last blocks that each expert runs separately.
        rank: Rank of the experts' low-rank updates.
        num_updates: R, the number of low-rank updates that the adaptive expert mixes.
        communicate: Whether the experts attend to each other's features.
        detail: Module that gives the decoders levels of the image, beside the encoder: an `ImagePyramid`, frozen; a
            `DetailStem`, which is trained and the default (None); or `NoDetail`.
        voting: One of `icmoe_monai.networks.voting.STRATEGIES`.
        best_expert: Index of the expert that voting "best" returns.
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

    def __init__(
        self,
        *,
        backbone: str = "vit_t",
        out_channels: int = 1,
        experts: tuple[str, ...] | list[str] = EXPERTS,
        expert_depth: int = 2,
        rank: int = 8,
        num_updates: int = 4,
        communicate: bool = True,
        detail: ImagePyramid | DetailStem | NoDetail | None = None,
        voting: str = "adaptive",
        best_expert: int = 0,
        train_trunk: bool = False,
        embedding_channels: int = 32,
    ) -> None:
        super().__init__()
        self.encoder = build_sam_encoder(backbone)
        size = BACKBONES[backbone]
        width, depth, channels = size["width"], size["depth"], size["neck_channels"]
        _check(experts, expert_depth, depth, out_channels)
        self.out_channels = out_channels
        self.expert_names = [name for name in EXPERTS if name in experts]
        self.split = depth - expert_depth
        self.has_basic = "basic" in self.expert_names
        adapted: dict[str, nn.Module] = {}
        if "semantic" in self.expert_names:
            adapted["semantic"] = SemanticExpert(num_blocks=expert_depth, width=width, rank=rank)
        if "adaptive" in self.expert_names:
            adapted["adaptive"] = AdaptiveExpert(
                num_blocks=expert_depth, width=width, rank=rank, num_updates=num_updates
            )
        self.adapted = nn.ModuleDict(adapted)
        self.communication = (
            ExpertCommunication(channels=channels, num_silent=int(self.has_basic))
            if communicate and adapted and len(self.expert_names) > 1
            else nn.Identity()
        )
        self.detail = DetailStem() if detail is None else detail
        self.decoders = nn.ModuleDict(
            {name: _build_decoder(name, channels, out_channels, self.detail) for name in self.expert_names}
        )
        self.embedding_channels = embedding_channels
        self.embed = nn.Conv2d(DECODER_WIDTH, embedding_channels, 1) if "semantic" in self.expert_names else None
        num_experts = len(self.expert_names)
        self.gate = VoteGate(num_experts=num_experts, channels=DECODER_WIDTH)
        self.voting = PixelVoting(num_experts=num_experts, strategy=voting, best_expert=best_expert)
        self.encoder.requires_grad_(train_trunk)
        self.gate.requires_grad_(self.voting.alpha.requires_grad)

    def forward(self, image: Tensor) -> Tensor | ICMoEOutput:
        """Segment an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Fused logits, (B, K, H, W), in eval mode; an `ICMoEOutput` in training mode.
        """
        return self.segment(self.trunk(image), self.detail(image))

    def segment(self, tokens: Tensor, levels: list[Tensor]) -> Tensor | ICMoEOutput:
        """Segment an image from the trunk's tokens and the detail module's levels.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).
            levels: The detail's features at strides 2, 4, 8 and 16, (B, c, H/s, W/s).

        Returns:
            Logits or an `ICMoEOutput`, as from `forward`.
        """
        decoded, expert_logits, probabilities, gate = self._run_experts(tokens, levels)
        logits, votes = self.voting(probabilities, gate)
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
        return self.maps_of(self.trunk(image), self.detail(image))

    def maps_of(self, tokens: Tensor, levels: list[Tensor]) -> Tensor:
        """Return the result of `expert_maps` from tokens and levels; arguments as in `segment`."""
        _, _, probabilities, gate = self._run_experts(tokens, levels)
        return torch.cat([probabilities.flatten(1, 2), at_least_float32(gate)], dim=1)

    def _run_experts(self, tokens: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Return all that precedes the vote: decoder features, expert logits and probabilities, gate logits."""
        decoded, expert_logits = self.decode(self.expert_features(tokens), levels)
        probabilities = to_probabilities(at_least_float32(expert_logits))
        return decoded, expert_logits, probabilities, self.gate(decoded, expert_logits.shape[-2:])

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

    def expert_features(self, tokens: Tensor) -> Tensor:
        """Run each expert's blocks and the frozen neck, and let the experts communicate.

        Args:
            tokens: Output t of the trunk, (B, h, w, C).

        Returns:
            Feature maps, (B, E, neck_channels, h, w).
        """
        features: list[Tensor] = []
        if self.has_basic:
            features.append(self.encoder.tail(tokens, self.split))
        for expert in self.adapted.values():
            features.append(self.encoder.tail(tokens, self.split, expert(tokens)))
        return self.communication(torch.stack(features, dim=1))

    def decode(self, features: Tensor, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Decode every expert's features.

        Args:
            features: Feature maps, (B, E, neck_channels, h, w).
            levels: The detail's features at strides 2, 4, 8 and 16, (B, c, H/s, W/s).

        Returns:
            Decoder features at stride 4, E maps (B, D, H/4, W/4), and expert logits, (B, E, K, H, W).
        """
        decoded: list[Tensor] = []
        logits: list[Tensor] = []
        for i, decoder in enumerate(self.decoders.values()):
            at4, expert_logits = decoder(features[:, i], levels)
            decoded.append(at4)
            logits.append(expert_logits)
        return decoded, torch.stack(logits, dim=1)


def unwrapped(part: Any) -> Any:
    """Return the module inside a DistributedDataParallel wrapper, or the argument itself if it is not wrapped."""
    return getattr(part, "module", part)


def _build_decoder(
    name: str, channels: int, out_channels: int, detail: ImagePyramid | DetailStem | NoDetail
) -> ExpertDecoder:
    return ExpertDecoder(
        in_channels=channels,
        out_channels=out_channels,
        width=DECODER_WIDTH,
        level_channels=detail.channels,
        context=PyramidContext(channels=channels) if name == "semantic" else None,
    )


def _check(
    experts: tuple[str, ...] | list[str],
    expert_depth: int,
    depth: int,
    out_channels: int,
) -> None:
    if not experts or list(experts) != [name for name in EXPERTS if name in experts]:
        raise InputError(
            f"experts must be some of {', '.join(EXPERTS)}, each once, in this order, got {list(experts)}."
        )
    if not 1 <= expert_depth <= depth:
        raise InputError(f"expert_depth must be in 1..{depth} for this backbone, got {expert_depth}.")
    if out_channels < 1:
        raise InputError(f"out_channels must be at least 1, got {out_channels}.")
