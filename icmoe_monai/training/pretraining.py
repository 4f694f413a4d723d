"""Pretraining of a trunk on several labelled sets at once, each with a foreground of its own.

The network is the encoder with the basic expert's decoder (`configs/pretrain.yaml`), so that the encoder learns the
features that a basic expert reads. Every set keeps its own splits, and only training cases are trained on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.splits import Case
from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.utils.files import as_path
from icmoe_monai.weights.sam import save_sam_weights


def find_sets(
    dataset_dir: str | None,
    *,
    repeats: Mapping[str, int],
    seed: int = 0,
    needed: Sequence[str] = ("train", "val"),
    folds: int | None = None,
    fold: int | None = None,
) -> dict[str, list[Case]]:
    """List the cases of several sets of binary masks as one set.

    A case does not say what its foreground is; the network must tell it from the image.

    Args:
        dataset_dir: The folder that holds the sets' folders.
        repeats: Folder name of every set, and how often an epoch passes through its training cases (small sets would be
            drowned by large ones).
        seed: Seed of the splits, for a set that names none.
        needed: Splits of which every set must have a case.
        folds: Number of folds into which the training and validation cases of each set are dealt; None: none.
        fold: The fold of each set that is validated on, from 1.

    Returns:
        Cases by split, as `find_cases` returns them, with names "set/stem".

    Raises:
        InputError: A set cannot be used, or `dataset_dir` or `repeats` names none.
    """
    if dataset_dir is None or dataset_dir == "":
        raise InputError(f"dataset_dir is not set: set it to the folder that holds {', '.join(repeats)}.")
    if not repeats or any(times < 1 for times in repeats.values()):
        raise InputError(f"sets must name folders, each with a number of at least 1, got {dict(repeats)}.")
    dataset_dir = as_path(dataset_dir, "dataset_dir")
    found: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for name, times in repeats.items():
        splits = find_cases(os.path.join(dataset_dir, name), seed=seed, needed=needed, folds=folds, fold=fold)
        for split, cases in found.items():
            named = [{**case, "name": f"{name}/{case['name']}"} for case in splits[split]]
            cases += named * (times if split == "train" else 1)
    return found


def export_trunk(network: nn.Module, path: str, *, half: bool = True) -> None:
    """Write a network's encoder as a file of foundation-encoder weights, by `save_sam_weights`.

    Args:
        network: A pretrained `ICMoE`.
        path: The safetensors file.
        half: Whether to round the weights to float16, which halves the file.

    Raises:
        InputError: If a weight is not finite in float16, or the file cannot be written.
    """
    save_sam_weights(unwrapped(network).encoder, path, dtype=torch.float16 if half else None)
