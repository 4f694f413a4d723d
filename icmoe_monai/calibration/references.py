"""The images that an out-of-distribution score is fitted to: the training's, and views of these and the validation's.

A view is an image as another device or program might have given it: of another shape, softer or sharper, lighter or of
another tint. Without views the score would call images strange that differ in nothing but their export. Labels are not
read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.transforms import Compose
from torch import Tensor

from icmoe_monai.calibration.shares import check_share
from icmoe_monai.data.splits import OUT_OF_FOLD, take_evenly

_MOST_IMAGES = 600  # of the training, taken at even steps; more change the density little


class References(NamedTuple):
    """Hold the pooled features of the images.

    Attributes:
        training: Of training images and of views of them, (N, F), the mean over an image's windows; None: of an
            ensemble of folds, whose training images are the validation's.
        views: Of a view of each validation image, (windows, F) each, by the image's name.
    """

    training: np.ndarray | None
    views: dict[str, np.ndarray]


class ReferenceImages:
    """Look at training images and views by a network's frozen parts.

    Args:
        cases: The images by split, as `data.find_cases` lists them.
        split: Name of the split that a calibration is fitted on.
        load: Transform that reads an item's `image`.
        views: Random transforms that make a view of what was read.
        prepare: Transforms that make the network's input of it.
        network: The network, with its weights when it is asked.
        inferer: The inferer that cuts images into windows.
        false_alarms: The share of views like the validation images' that may be called out of distribution.
        device: Where the network runs.
        num_workers: Processes that read images.
        seed: Seed of the views.

    Raises:
        InputError: If `false_alarms` is no share between 0 and 1.
    """

    def __init__(
        self,
        *,
        cases: Mapping[str, Sequence[Mapping[str, Any]]],
        split: str,
        load: Callable[[Any], Any],
        views: Sequence[Callable[[Any], Any]],
        prepare: Sequence[Callable[[Any], Any]],
        network: Any,
        inferer: Any,
        false_alarms: float = 0.05,
        device: torch.device | str = "cpu",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        self.training = [] if split == OUT_OF_FOLD else _some(cases["train"])
        self.others = list(cases[split])
        self.is_out_of_fold = split == OUT_OF_FOLD
        self._plain = [load, *prepare]
        self._varied = [load, *views, *prepare]
        check_share("false_alarms", false_alarms)
        self.network, self.inferer, self.false_alarms = network, inferer, float(false_alarms)
        self.device, self.num_workers, self.seed = device, num_workers, seed

    def look(self) -> References | None:
        """Return the features of all images, or None if the network has none, or there are no training images."""
        views = self._features(self.others, self._varied)
        if not views or not (self.training or self.is_out_of_fold):
            return None
        if self.is_out_of_fold:
            return References(None, views)
        seen = [self._features(self.training, transforms) for transforms in (self._plain, self._varied)]
        return References(np.stack([windows.mean(0) for one in seen for windows in one.values()]), views)

    @torch.no_grad()
    def _features(
        self, cases: Sequence[Mapping[str, Any]], transforms: Sequence[Callable[[Any], Any]]
    ) -> dict[str, np.ndarray]:
        """Return the features of images by name; of a network that has none, nothing."""
        self.network.eval()
        found: dict[str, np.ndarray] = {}
        dataset = _Seeded(cases, Compose(transforms), self.seed)
        for batch in DataLoader(dataset, batch_size=1, num_workers=self.num_workers):
            image: Tensor = batch["image"].to(self.device)
            features = self.inferer.look(image, self.network)
            if features is None:
                break
            found[batch["name"][0]] = features[0].double().cpu().numpy()
        return found


class _Seeded(Dataset):
    """Images whose random transforms follow from the seed and the image's place alone, whoever reads it."""

    def __init__(self, cases: Sequence[Mapping[str, Any]], transform: Compose, seed: int) -> None:
        super().__init__([{"image": case["image"], "name": case["name"]} for case in cases], transform)
        self.seed = seed

    def _transform(self, index: int) -> Any:
        self.transform.set_random_state(seed=(self.seed + index) % 2**32)
        return super()._transform(index)


def _some(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list(cases) if len(cases) <= _MOST_IMAGES else take_evenly(cases, _MOST_IMAGES)[0]
