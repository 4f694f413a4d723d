"""The images that a calibration is fitted to beside the validation's: the training's, and views of both.

A view is an image as another device or program might have given it: of another shape, softer or sharper, lighter or of
another tint. Without views the out-of-distribution score would call images strange that differ in nothing but their
export. Of a training image's label it is read whether it is empty, and nothing else: a network knows the images that it
was trained on by heart, and its frozen parts do not.
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

from icmoe_monai.calibration.appearance import LabelledFeatures
from icmoe_monai.calibration.shares import check_share
from icmoe_monai.data.splits import OUT_OF_FOLD, take_evenly
from icmoe_monai.imageio.read import read_label

_MOST_IMAGES = 600  # of the training, taken at even steps; more change the density little


class References(NamedTuple):
    """Hold the pooled features of the images.

    Attributes:
        training: Of training images, the mean over an image's windows; None: of an ensemble of folds, whose training
            images are the validation's.
        training_views: Of a view of each of these, (N, F).
        views: Of a view of each validation image, (windows, F) each, by the image's name.
    """

    training: LabelledFeatures | None
    training_views: np.ndarray | None
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
        out_channels: Channels of the network's output, by which labels are read.

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
        out_channels: int = 1,
    ) -> None:
        self.training = [] if split == OUT_OF_FOLD else _some(cases["train"])
        self.others = list(cases[split])
        self.is_out_of_fold = split == OUT_OF_FOLD
        self._plain = [load, *prepare]
        self._varied = [load, *views, *prepare]
        check_share("false_alarms", false_alarms)
        self.network, self.inferer, self.false_alarms = network, inferer, float(false_alarms)
        self.device, self.num_workers, self.seed, self.out_channels = device, num_workers, seed, out_channels

    def look(self) -> References | None:
        """Return the features of all images, or None if the network has none, or there are no training images."""
        views = self._features(self.others, self._varied)
        if not views or not (self.training or self.is_out_of_fold):
            return None
        if self.is_out_of_fold:
            return References(None, None, views)
        seen = [self._features(self.training, transforms) for transforms in (self._plain, self._varied)]
        plain, varied = (np.stack([windows.mean(0) for windows in one.values()]) for one in seen)
        is_empty = [not shows_lesion(case, self.out_channels) for case in self.training]
        groups = [str(case.get("group", case["name"])) for case in self.training]
        return References(LabelledFeatures(plain, np.array(is_empty), np.array(groups)), varied, views)

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


def shows_lesion(case: Mapping[str, Any], out_channels: int) -> bool:
    """Tell whether the label of a case, as `data.find_cases` lists it, has any foreground.

    Args:
        case: The case.
        out_channels: Channels of the network's output.
    """
    instances = case.get("label_kind") == "instances"
    return bool(read_label(case["label"], out_channels=out_channels, instances=instances).any())


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
