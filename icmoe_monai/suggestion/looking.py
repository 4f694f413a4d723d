"""What is known to a model, and what the images of a pool look like to its frozen parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.utils.enums import CommonKeys

from icmoe_monai.data.cases import find_cases
from icmoe_monai.errors import InputError


def find_labelled(dataset_dir: str | None, *, split_seed: int | None = None) -> list[dict[str, Any]] | None:
    """List the labelled images that a model knows: the training images of a dataset folder.

    Args:
        dataset_dir: The folder; None: it is not told.
        split_seed: Seed of the splits that the folder does not name.

    Returns:
        A case for each image, as `find_inputs` lists them, or None if no folder was given.

    Raises:
        InputError: If the folder cannot be used.
    """
    if dataset_dir is None:
        return None
    cases = find_cases(dataset_dir, needed=("train",), check=False, seed=split_seed or 0)["train"]
    return [{"image": case["image"], "name": case["name"], "frame": 0, "failure": "", "failure_code": ""}
            for case in cases]  # fmt: skip


class FrozenLook:
    """Look at images by a network's frozen parts, without running the experts.

    Args:
        preprocessing: What makes the network's input of a case, as in inference.
        network: The network, with its weights when it is asked.
        inferer: The inferer that cuts images into windows.
        device: Where the network runs.
        num_workers: Processes that read images.
    """

    def __init__(
        self, *, preprocessing: Any, network: Any, inferer: Any, device: torch.device | str, num_workers: int = 0
    ) -> None:
        self.preprocessing, self.network, self.inferer = preprocessing, network, inferer
        self.device, self.num_workers = device, num_workers

    @torch.no_grad()
    def __call__(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Return the pooled features of images, (F,) each, the mean over its windows, by their names.

        Args:
            cases: The images, each with its `name`; those that cannot be read are left out.

        Raises:
            InputError: If the network has no frozen parts.
        """
        self.network.eval()
        dataset = Dataset(cases, self.preprocessing)
        found: dict[str, np.ndarray] = {}
        for batch in DataLoader(dataset, batch_size=1, num_workers=self.num_workers):
            if batch["failure"][0]:
                continue
            features = self.inferer.look(batch[CommonKeys.IMAGE].to(self.device), self.network)
            if features is None:
                raise InputError(
                    "--by suggest needs a network with frozen parts, which see how unlike images are, and this one has "
                    "none: choose --by disagreement."
                )
            found[str(batch["name"][0])] = features[0].double().mean(0).cpu().numpy()
        return found
