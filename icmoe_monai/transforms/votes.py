"""Transforms that turn a network's votes into label maps: of the vote alone, or of every compared method.

From a voting inferer's tensor (voted probabilities, experts' probabilities, votes; `voting.unpack`) `SplitVotesd`
derives a label map for each *method*: `voted` (pixel-probability adaptive voting), `mean_vote` (the plain mean of the
experts' probabilities), every expert alone, and `oracle`, the upper bound of any per-pixel voting: the label wherever
at least one expert decides it, else the voted decision. `voting_methods` lists the methods for configs and handlers.

Letters: E experts; K output channels (K=1: sigmoid, classes 0 and 1; K>1: softmax, class 0 is the background); H W the
size of the label, which is the image's original one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import EXPERTS
from icmoe_monai.networks.voting import VOTING_INFERERS, to_probabilities, unpack

EXPERT_NAMES = EXPERTS


class SplitVotesd(MapTransform):
    """Transform: split the voting inferer's tensor into label maps of every method, probabilities and votes.

    Adds to the item: `voted`, `mean_vote`, each expert's name and, where the item has a "label", `oracle`: label maps
    (1, H, W), uint8 (int32 above 256 classes), with the prediction's metadata; the voted `probability`
    (K, H, W); `votes` (E, H, W), summing to 1 over E; `expert_probabilities` (E, K, H, W). A decision is p > 0.5 for
    K=1 and argmax for K>1. The prediction must be at the label's size already (`Invertd` before this).

    Args:
        keys: Key of the tensor to split, (K + E*K + E, H, W): voted probabilities, experts' probabilities
            (expert-major), votes; all are probabilities, so that resampling treats them alike.
        out_channels: K.
        expert_names: The E names, in the tensor's order.

    Raises:
        ValueError: If two names are equal or one is a key that items use already.

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
            ValueError: If the label has another size.
            InputError: If the tensor has not K + E*K + E channels, or the label holds anything but the classes.
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
            raise InputError(
                f"The voted prediction must have the shape {expected}, got {tuple(pred.shape)}: {VOTING_INFERERS}."
            )
        probability, expert_probabilities, votes = unpack(pred, K)
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
    """Transform: add `voted`, the vote's label map (1, H, W), from the network's structured output in training.

    MONAI's engines take an `ICMoEOutput` apart into a list per case, of which the voted logits are the first. A plain
    network's output is the logits, (K, H, W).

    Args:
        keys: Key of the network's output.
    """

    def __init__(self, keys: str | Sequence[str] = "pred") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with `voted` added."""
        item = dict(data)
        for key in self.key_iterator(item):
            logits = item[key] if isinstance(item[key], Tensor) else item[key][0]
            item["voted"] = decide(to_probabilities(logits))
        return item


def voting_methods(expert_names: Sequence[str] = EXPERT_NAMES) -> tuple[str, ...]:
    """Return the names of the compared methods, which are also the item's keys for their label maps.

    Args:
        expert_names: The E names.

    Raises:
        ValueError: If there is no name, two are equal or one is a key that items use already.

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


def decide(probabilities: Tensor) -> Tensor:
    """Decide the class of every pixel.

    Args:
        probabilities: Probabilities, (..., K, H, W) in 0..1.

    Returns:
        Classes, (..., 1, H, W), uint8 up to 256 classes and int32 above: for K = 1 whether a pixel is above 0.5, else
            the most probable.
    """
    K = probabilities.shape[-3]
    if K == 1:
        return (probabilities > 0.5).view(torch.uint8)
    most = probabilities.max(-3, keepdim=True).indices  # as argmax, which is far slower over channels on a CPU
    return most.to(torch.uint8 if K <= 256 else torch.int32)


class DecideMaskd(MapTransform):
    """Transform: replace probabilities by the mask, for programs that write masks themselves (MONAI Label, Deploy).

    Where `SaveImage2Dd` has decided the mask already, as the item's `classes`, it is that one: MONAI Label and Deploy
    leave that transform out.

    Args:
        keys: Keys of probabilities, (K, H, W); items without them, which failed, are left as they are.

    Example:
        >>> DecideMaskd("pred")({"pred": torch.tensor([[[0.2, 0.7]]])})["pred"]
        tensor([[[0, 1]]], dtype=torch.uint8)
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return a copy of the item with masks, uint8 (1, H, W)."""
        item = dict(data)
        if not item.get("failure"):
            for key in self.key_iterator(item):
                decided = item.get("classes")
                item[key] = decide(item[key]) if decided is None else _as_mask(decided, item[key])
        return item


def _as_mask(classes: Any, like: Tensor) -> Tensor:
    """Return a class map (H, W) as a mask (1, H, W) with the metadata of the probabilities that it was decided of."""
    mask = torch.as_tensor(classes)[None]
    return convert_to_dst_type(mask, like, dtype=mask.dtype)[0]
