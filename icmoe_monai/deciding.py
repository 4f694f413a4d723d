"""From probabilities to a mask: above a threshold where there is one foreground, else the most probable class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform
from torch import Tensor


def decide(probabilities: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the mask of probabilities.

    Args:
        probabilities: (K, H, W) in 0..1.
        threshold: A pixel is foreground if its probability is above this; K = 1 only.

    Returns:
        uint8 (1, H, W): 0 and 1 (K = 1), or class indices.
    """
    if len(probabilities) == 1:
        return (probabilities > threshold).to(torch.uint8)
    return probabilities.argmax(dim=0, keepdim=True).to(torch.uint8)


class DecideMaskd(MapTransform):
    """Put the mask in the place of the probabilities, for programs that write it themselves (MONAI Label, Deploy).

    Args:
        keys: Keys of probabilities, (K, H, W); items without them, which failed, are left as they are.
        threshold: As for `decide`.

    Example:
        >>> DecideMaskd("pred")({"pred": torch.tensor([[[0.2, 0.7]]])})["pred"]
        tensor([[[0, 1]]], dtype=torch.uint8)
    """

    def __init__(self, keys: KeysCollection, *, threshold: float = 0.5) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Return a copy of the item with masks, uint8 (1, H, W)."""
        item = dict(data)
        if not item.get("failure"):
            for key in self.key_iterator(item):
                item[key] = decide(item[key], self.threshold)
        return item
