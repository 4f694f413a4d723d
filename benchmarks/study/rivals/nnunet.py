"""nnU-Net v2 as a row of a study: its planner, preprocessing, augmentation, loss, optimiser and trainer, not ours.

Only these are the study's: the images at the row's scale, the size of a window and of a batch, the number of steps, and
the split. The trained network is then scored by our evaluation, as every other row, with nnU-Net's flips at test time.

Letters: B batch; H W image.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from PIL import Image
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_csv
from icmoe_monai.utils.memory import peak_memory_mb
from icmoe_monai.weights.checkpoint import save_weights

_NAME = "Dataset001_Study"
_RAW, _PROCESSES = "nnUNet_raw", "nnUNet_n_proc_DA"  # variables of the environment that nnU-Net reads
_FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))  # nnU-Net's mirroring of the axes H and W


class NnUNet(nn.Module):
    """The network that nnU-Net plans for square windows, as a map from images normalised as ours to logits.

    Args:
        image_size: Side of a window in pixels.
        pixel_mean: Means by which the channels (0..255) of the image were normalised.
        pixel_std: Standard deviations by which they were normalised.
        out_channels: Must be 1.

    Raises:
        InputError: If `out_channels` is not 1.
    """

    def __init__(
        self, *, image_size: int, pixel_mean: Sequence[float], pixel_std: Sequence[float], out_channels: int
    ) -> None:
        super().__init__()
        if out_channels != 1:
            raise InputError(f"nnU-Net is a row for one class only, not for out_channels {out_channels}.")
        self.unet = _plan_network(image_size)
        self.scale = nn.Buffer(torch.tensor(pixel_std)[:, None, None] / 255, persistent=False)
        self.shift = nn.Buffer(torch.tensor(pixel_mean)[:, None, None] / 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised RGB (B, 3, H, W) to logits (B, 1, H, W), the mean of those of four flips."""
        scaled = image * self.scale + self.shift  # to 0..1, nnU-Net's normalisation of RGB
        logits = torch.stack([self.unet(scaled.flip(axes)).flip(axes) for axes in _FLIPS]).mean(0)
        return logits[:, 1:] - logits[:, :1]  # the sigmoid of which is the softmax


def train(
    network: nn.Module,
    *,
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
    load: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
    image_size: int,
    batch_size: int,
    epoch_length: int,
    max_epochs: int,
    seed: int,
    output_dir: str,
) -> None:
    """Train nnU-Net by its own trainer; write `best.pt`, the last epoch's weights, and `metrics.csv`.

    `val_mean_dice` in it is what nnU-Net calls pseudo Dice, of random windows of the validation images.

    Args:
        network: Holds an `NnUNet`, which is given the weights.
        cases: Images and labels of the splits train and val, as `data.find_cases` lists them.
        load: Reads a case: RGB 0..255 (3, H, W) and label (1, H, W), at the row's scale.
        image_size: Side of a window in pixels.
        batch_size: Windows in a step.
        epoch_length: Steps in an epoch.
        max_epochs: Number of epochs.
        seed: Seed of weights and augmentation.
        output_dir: Folder of the results; nnU-Net's own are in `nnunet` there.
    """
    output = Path(output_dir)
    for name in ("raw", "preprocessed", "results"):  # nnU-Net reads its folders from the environment
        os.environ[f"nnUNet_{name}"] = str(output / "nnunet" / name)
        (output / "nnunet" / name / _NAME).mkdir(parents=True, exist_ok=True)
    os.environ[_PROCESSES] = "1"
    _write_raw(output / "nnunet" / "raw" / _NAME, cases, load)
    trainer = _make_trainer(image_size, batch_size, cases)
    trainer.num_epochs, trainer.num_iterations_per_epoch = max_epochs, epoch_length
    trainer.num_val_iterations_per_epoch = max(1, len(cases["val"]) // batch_size)
    os.environ[_PROCESSES] = "0"  # augmentation in this process
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- what nnU-Net's augmentation draws from
    seconds = _timed(trainer)
    trainer.run_training()
    logged = trainer.logger.local_logger.my_fantastic_logging
    (found,) = (part for part in network.modules() if isinstance(part, NnUNet))
    found.unet.load_state_dict(trainer.network.state_dict())
    save_weights(network, output / "best.pt")
    for name in ("raw", "preprocessed"):  # copies of the images
        shutil.rmtree(output / "nnunet" / name)
    memory = peak_memory_mb()
    began, ended = (logged[f"epoch_{name}_timestamps"] for name in ("start", "end"))
    columns = {"train_loss": "train_losses", "learning_rate": "lrs", "val_mean_dice": "mean_fg_dice"}
    write_csv(
        output / "metrics.csv",
        [
            {"epoch": epoch, "iteration": epoch * epoch_length, "step_seconds": round(median(seconds), 5),
             "seconds": round(ended[epoch - 1] - began[epoch - 1], 2), "peak_mb": memory}
            | {name: round(float(logged[key][epoch - 1]), 6) for name, key in columns.items()}
            for epoch in range(1, max_epochs + 1)
        ],
    )  # fmt: skip


def _plan_network(image_size: int) -> nn.Module:
    """Build the plain convolutional U-Net of nnU-Net's plans for two dimensions and square pixels."""
    _, strides, kernels, patch, _ = get_pool_and_conv_props((1.0, 1.0), (image_size, image_size), 4, 999999)
    if list(patch) != [image_size, image_size]:
        raise InputError(f"nnU-Net's windows would be {patch[0]} pixels, not image_size {image_size}: give that.")
    stages = len(strides)
    planned = {
        "n_stages": stages,
        "features_per_stage": [min(512, 32 * 2**stage) for stage in range(stages)],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imports = ("conv_op", "norm_op", "dropout_op", "nonlin")
    architecture = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    return get_network_from_plans(architecture, planned, imports, 3, 2, deep_supervision=False)


def _write_raw(
    folder: Path,
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
    load: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
) -> None:
    """Write the images and labels of train and val as nnU-Net's raw data set."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(exist_ok=True)
    for split in ("train", "val"):
        for number, case in enumerate(cases[split]):
            read = load(case)
            image = np.asarray(read["image"]).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
            label = (np.asarray(read["label"])[0] > 0).astype(np.uint8)
            Image.fromarray(image).save(folder / "imagesTr" / f"{split}{number:05d}_0000.png")
            Image.fromarray(label).save(folder / "labelsTr" / f"{split}{number:05d}.png")
    content = {
        "channel_names": {str(channel): "rgb_to_0_1" for channel in range(3)},
        "labels": {"background": 0, "target": 1},
        "numTraining": sum(len(cases[split]) for split in ("train", "val")),
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def _make_trainer(image_size: int, batch_size: int, cases: Mapping[str, Sequence[Any]]) -> Any:
    """Plan and preprocess, and return a trainer with the windows, batches and split of the study."""
    extract_fingerprints([1], num_processes=1)
    planner = ExperimentPlanner(1)
    plan = planner.get_plans_for_configuration
    planner.get_plans_for_configuration = lambda spacing, shape, *rest: plan(spacing, [image_size] * len(shape), *rest)
    plans = planner.plan_experiment()
    plans["configurations"]["2d"]["batch_size"] = batch_size
    DefaultPreprocessor().run(1, "2d", "nnUNetPlans", num_processes=1)
    dataset = json.loads(Path(os.environ[_RAW], _NAME, "dataset.json").read_text())
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "2d", 0, dataset, torch.device("cpu"))
    names = {split: [f"{split}{number:05d}" for number in range(len(cases[split]))] for split in ("train", "val")}
    trainer.do_split = lambda: (names["train"], names["val"])
    return trainer


def _timed(trainer: Any) -> list[float]:
    """Note the time of every step of a trainer in the list that is returned."""
    seconds: list[float] = []

    def timed(step: Callable[[Any], Any], batch: Any) -> Any:
        begin = time.perf_counter()
        result = step(batch)
        seconds.append(time.perf_counter() - begin)
        return result

    trainer.train_step = partial(timed, trainer.train_step)
    return seconds
