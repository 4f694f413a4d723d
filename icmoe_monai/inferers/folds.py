"""Segmentation of each image by the network that has not seen it, of an ensemble of folds.

Letters: B images; K output channels; E experts; H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import unwrapped

FOLD = "fold"  # key of a case: the number, from 1, of the fold that was kept out while its network was trained


class OutOfFoldInferer(SlidingWindowVotingInferer):
    """Segment images of any size by the network of their fold alone; arguments as of `SlidingWindowVotingInferer`."""

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: Any) -> Tensor:
        """Segment images of one fold.

        Args:
            inputs: Normalised RGB, (B, 3, H, W).
            network: An ensemble of folds.
            args: Ignored.
            kwargs: `fold`, the images' fold as `PrepareFold` hands it on, (B,).

        Returns:
            As `SlidingWindowVotingInferer` returns it, of one network.

        Raises:
            InputError: If the network is no ensemble of folds, or the images are of several folds or of none of it.
        """
        ensemble = unwrapped(network)
        if not isinstance(ensemble, FoldEnsemble):
            raise InputError("Only an ensemble of folds has masks of images that it has not seen: give ensemble.pt.")
        found = {int(fold) for fold in kwargs.get(FOLD, ())}
        if len(found) != 1 or not found <= set(range(1, len(ensemble.folds) + 1)):
            raise InputError(
                f"The images of a batch are of one fold, 1 to {len(ensemble.folds)}, got {sorted(found) or 'none'}: "
                "use batches of one image, and the folds of the training."
            )
        return super().__call__(inputs, ensemble.folds[found.pop() - 1])


class PrepareFold(PrepareBatch):
    """Prepare a batch for MONAI's evaluator: images, labels, and the images' fold for the inferer."""

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Move a batch to the device.

        Returns:
            (image, label, (), {"fold": fold}), of which MONAI hands the last two to the inferer.
        """
        image, label = (
            batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs) for key in ("image", "label")
        )
        return image, label, (), {FOLD: batchdata[FOLD]}
