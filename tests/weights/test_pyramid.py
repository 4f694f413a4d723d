from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.networks.pyramid import ImagePyramid, stages_of
from icmoe_monai.weights.pyramid import fold_efficientnet, load_pyramid_weights, save_pyramid_weights

SHIPPED = Path(__file__).parents[2] / "models" / "efficientnet_lite0_imagenet.safetensors"


class Reference(nn.Module):
    """EfficientNet-Lite0 as published: batch normalisation, TensorFlow's padding, names of `efficientnet_pytorch`."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, bias=False), norm(32)
        blocks, c = [], 32
        for repeats, kernel, stride, expansion, out in stages_of("lite0"):
            for i in range(repeats):
                blocks.append(ReferenceBlock(c, out, kernel, stride if i == 0 else 1, expansion))
                c = out
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self._bn0(same(self._conv_stem, x, 2)))
        levels = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in (0, 2, 4, 10, 15):
                levels.append(x)
        return levels


class ReferenceBlock(nn.Module):
    def __init__(self, c: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.stride, self.residual, width = stride, stride == 1 and c == out, c * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(c, width, 1, bias=False), norm(width)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, groups=width, bias=False)
        self._bn1, self._project_conv, self._bn2 = norm(width), nn.Conv2d(width, out, 1, bias=False), norm(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = F.relu6(self._bn1(same(self._depthwise_conv, y, self.stride)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels, eps=1e-3)
    for value, low, high in ((layer.running_mean, -1, 1), (layer.running_var, 0.5, 2)):
        value.uniform_(low, high)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    nn.init.uniform_(layer.bias, -1, 1)
    return layer


def same(convolution: nn.Conv2d, x: Tensor, stride: int) -> Tensor:
    """Convolve with TensorFlow's "same" padding."""
    kernel = convolution.kernel_size[0]
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), convolution.weight, stride=stride, groups=convolution.groups)


@pytest.fixture(scope="module")
def reference() -> Reference:
    torch.manual_seed(0)
    return Reference().eval()


@torch.no_grad()
@pytest.mark.parametrize("wrapped", ["torch", "head"])
def test_the_levels_are_those_of_the_published_network(wrapped: str, reference: Reference, tmp_path: Path) -> None:
    head = {"_conv_head.weight": torch.ones(2), "_fc.bias": torch.ones(2), "_bn1.weight": torch.ones(2)}
    torch.save(reference.state_dict() | (head if wrapped == "head" else {}), tmp_path / "lite0.pth")
    pyramid = ImagePyramid()
    load_pyramid_weights(tmp_path / "lite0.pth", pyramid)
    pixels = torch.rand(2, 3, 128, 96) * 255
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    found = pyramid((pixels - mean[:, None, None]) / std[:, None, None])
    *expected, at16, at32 = reference((pixels - 127) / 128)
    enlarged = F.interpolate(at32, size=at16.shape[-2:], mode="bilinear", align_corners=False)
    for level, other in zip(found, [*expected, torch.cat([at16, enlarged], dim=1)], strict=True):
        assert other.std() > 0.01
        torch.testing.assert_close(level, other, rtol=0, atol=1e-4 * float(other.std()))


def test_a_pyramid_comes_back_from_its_file(tmp_path: Path) -> None:
    pyramid, other = ImagePyramid(), ImagePyramid()
    save_pyramid_weights(pyramid, tmp_path / "a.safetensors")
    load_pyramid_weights(tmp_path / "a.safetensors", other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in pyramid.state_dict().items())


def test_the_shipped_file_is_a_pyramid_of_half_precision() -> None:
    pyramid = ImagePyramid()
    load_pyramid_weights(SHIPPED, pyramid)
    assert all(torch.equal(weight, weight.half().float()) for weight in pyramid.parameters())
    assert SHIPPED.stat().st_size < 6e6
    edges = pyramid(torch.eye(64).repeat(1, 3, 1, 1))
    assert all(level.std() > 0.1 for level in edges)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("to4.0.narrow.bias"), r"it lacks to4\.0\.narrow\.bias"),
        (lambda state: state.update(extra=torch.ones(1)), r"it has extra, which it has not"),
        (lambda state: state.update({"to4.0.narrow.bias": torch.ones(3)}), r"narrow\.bias is \(3,\) in it and \(24,\)"),
        (lambda state: state["to4.0.narrow.bias"].fill_(torch.nan), r"in to4\.0\.narrow\.bias that are not finite"),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_a_file_of_something_else_is_refused_and_nothing_is_loaded(change, sentence: str, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in ImagePyramid().state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "a.pt")
    pyramid = ImagePyramid()
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    with pytest.raises(InputError, match=sentence):
        load_pyramid_weights(tmp_path / "a.pt", pyramid)
    assert all(torch.equal(value, before[name]) for name, value in pyramid.state_dict().items())


def test_a_published_network_that_is_not_whole_is_refused(reference: Reference) -> None:
    state = reference.state_dict()
    del state["_blocks.3._bn1.running_var"]
    with pytest.raises(InputError, match=r"x\.pth lacks _blocks\.3\._bn1\.running_var of EfficientNet-lite0"):
        fold_efficientnet(state, "x.pth")
