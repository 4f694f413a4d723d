"""What is known to a model, and what the images of a pool look like to its frozen parts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.utils.enums import CommonKeys

from icmoe_monai.data.cases import find_cases
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image, read_size, split_suffix
from icmoe_monai.utils.distributed import by_first

_logger = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """Hold what a dataset folder holds.

    Attributes:
        training: A case for each training image, which the model knows, as `find_inputs` lists them.
        images: The file of every image with a label, of whatever split.
        stems: Stems of all its files, of which a draft beside them must be none.
    """

    training: list[dict[str, Any]]
    images: list[str]
    stems: frozenset[str]


def find_labelled(dataset_dir: str | None, *, split_seed: int | None = None) -> Labelled | None:
    """List the images of a dataset folder: those that a model knows, and all that have a label.

    Args:
        dataset_dir: The folder; None: it is not told.
        split_seed: Seed of the splits that the folder does not name.

    Returns:
        What the folder holds, or None if no folder was given.

    Raises:
        InputError: If the folder cannot be used.
    """
    if dataset_dir is None:
        return None
    splits = find_cases(dataset_dir, needed=("train",), check=False, seed=split_seed or 0)
    training = [{"image": case["image"], "name": case["name"], "frame": 0, "failure": "", "failure_code": ""}
                for case in splits["train"]]  # fmt: skip
    cases = [case for split in splits.values() for case in split]
    # also what is unlisted
    beside = [
        file
        for part in ("images", "masks")
        for place in (part, f"*/{part}")  # of a folder that holds the set, too
        for file in Path(dataset_dir).glob(f"{place}/*")
    ]
    stems = {case["name"] for case in cases} | {split_suffix(file.name)[0] for file in beside}
    return Labelled(training, [case["image"] for case in cases if "label" in case], frozenset(stems))


@by_first
def leave_out_labelled(cases: Sequence[Mapping[str, Any]], labelled: Labelled | None) -> list[Mapping[str, Any]]:
    """Leave out the images of a pool whose picture, pixel for pixel as a draft holds it, is that of a labelled image.

    Args:
        cases: The images of the pool, each with its `source` and `frame`; those that cannot be read stay.
        labelled: The labelled images, of which those that cannot be read are passed over; None: all cases stay.

    Raises:
        InputError: If none is left.
    """
    if labelled is None:
        return list(cases)
    sizes, pictures = set(), set()
    for image in labelled.images:
        with suppress(InputError):
            pictures.add(digest_of_picture(image, 0))
            sizes.add(read_size(image))

    def is_labelled(case: Mapping[str, Any]) -> bool:
        with suppress(InputError):
            return read_size(case["source"]) in sizes and digest_of_picture(case["source"], case["frame"]) in pictures
        return False

    left = [case for case in cases if not is_labelled(case)]
    if not left:
        raise InputError("All images of the pool are labelled already, so none is suggested: give other images.")
    if len(left) < len(cases):
        _logger.info("%d images of the pool are labelled already and are left out.", len(cases) - len(left))
    return left


def as_picture(path: str, frame: int) -> np.ndarray:
    """Read an image as the network sees it, in whole values: upright RGB, uint8 (H, W, 3)."""
    return np.asarray(read_image(path, frame=frame).round().astype(np.uint8))


def digest_of_picture(path: str, frame: int) -> bytes:
    """Return the digest of an image as the network sees it, by which it is known again pixel for pixel."""
    picture = as_picture(path, frame)
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()


def mean_features(image: torch.Tensor, inferer: Any, network: Any) -> np.ndarray | None:
    """Return the pooled features of an image, the mean over its windows, (F,), or None of a network without any.

    Args:
        image: The network's input, (1, 3, H, W).
        inferer: The inferer that cuts it into windows.
        network: The network.
    """
    features = inferer.look(image, network)
    return None if features is None else features[0].double().mean(0).cpu().numpy()


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
            features = mean_features(batch[CommonKeys.IMAGE].to(self.device), self.inferer, self.network)
            if features is None:
                raise InputError(
                    "--by suggest needs a network with frozen parts, which see how unlike images are, and this one has "
                    "none: choose --by disagreement."
                )
            found[str(batch["name"][0])] = features
        return found
