"""A network compiled by another library, everywhere where images are segmented: the masks are PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from shipped import NETWORK, NETWORK_WORDS, write_restless
from stand_ins import COLOURS, InMemory, noise
from torch import Tensor, nn

from icmoe_monai import InputError, Predictor
from icmoe_monai.__main__ import main
from icmoe_monai.inference.packs import ExpertPacks, _predict
from icmoe_monai.inferers import runtimes
from icmoe_monai.inferers.runtimes import Runtime
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.voting import PixelVoting
from icmoe_monai.slides.streaming import StreamingVotingInferer

SMALL = {"image_size": 64, "longest_side": 96, "recipe": "none", "calibration": "none", **NETWORK}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Plain(nn.Module):
    """A network that votes over maps of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out_channels = 1
        self.voting = PixelVoting(num_experts=2)
        self.maps = nn.Conv2d(3, 4, 5, padding=2)

    def expert_maps(self, windows: Tensor) -> Tensor:
        maps = self.maps(windows)
        return torch.cat([maps[:, :2].sigmoid(), maps[:, 2:]], dim=1)


def mixture(seed: int = 0) -> ICMoE:
    torch.manual_seed(0)
    pyramid = ImagePyramid()
    torch.manual_seed(seed)
    return ICMoE(backbone=None, detail=pyramid, own_network={"semantic": "lite0"}).eval()


def inferer(runtime: str, tta: str = "none") -> SlidingWindowVotingInferer:
    return SlidingWindowVotingInferer(roi_size=64, with_experts=True, tta=tta, runtime=Runtime(runtime))


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def assert_alike(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("tta", ["none", "flips_scales"])
def test_windows_of_an_image_and_their_views(tta):
    network = Plain().eval()
    with torch.no_grad():
        ours, theirs = (inferer(name, tta).segment(image(80, 100), network)[0] for name in ("onnx", "torch"))
    assert_alike(ours, theirs)


def test_a_plain_network_is_compiled_once_for_all_images(monkeypatch):
    made = []
    export = runtimes._onnx_of
    monkeypatch.setattr(runtimes, "_onnx_of", lambda *of: made.append(of) or export(*of))
    torch.manual_seed(0)
    network, one, other = nn.Conv2d(3, 1, 5, padding=2).eval(), inferer("onnx"), inferer("torch")
    with torch.no_grad():
        for _ in range(2):
            assert_alike(one.segment(image(64, 64), network)[0], other.segment(image(64, 64), network)[0])
    assert len(made) == 1


@pytest.mark.slow
def test_a_mixture_and_its_pooled_features():
    network = mixture()
    with torch.no_grad():
        ours, theirs = (inferer(name).segment(image(80, 100), network) for name in ("onnx", "torch"))
    for found, expected in zip(ours, theirs, strict=True):
        assert_alike(found, expected)


@pytest.mark.slow
def test_an_ensemble_of_folds():
    network = FoldEnsemble([mixture(1), mixture(2)]).eval()
    with torch.no_grad():
        ours, theirs = (inferer(name).segment(image(64, 64), network)[0] for name in ("onnx", "torch"))
    assert_alike(ours, theirs)


@pytest.mark.slow
def test_packs_share_one_graph():
    packs = ExpertPacks({"skin": mixture(1), "breast": mixture(2)})
    ours = _predict(image(70, 64), packs, ["breast"], inferer("onnx"))
    theirs = _predict(image(70, 64), packs, ["breast"], inferer("torch"))
    assert list(ours) == ["breast"]
    for found, expected in zip(ours["breast"], theirs["breast"], strict=True):
        assert_alike(found, expected)


def test_strips_of_a_large_image():
    network = Plain().requires_grad_(False).eval()
    pixels = noise(90, 130)
    found = {}
    for name in ("torch", "onnx"):
        streaming = StreamingVotingInferer(windows=inferer(name), **COLOURS, skip_background=False)
        found[name] = torch.cat([strip.prediction for strip in streaming(InMemory(pixels), network)], dim=1)
    assert_alike(found["onnx"], found["torch"])


@pytest.mark.slow
def test_a_predictor_and_the_command_take_it(tmp_path, caplog):
    weights = write_restless(tmp_path / "restless.pt")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    blots = np.random.default_rng(0).integers(0, 255, (12, 12, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    Image.fromarray(blots).save(pictures / "a.png")
    masks = {
        name: Predictor(weights, device="cpu", settings=SMALL | {"runtime": name})(pictures / "a.png").mask
        for name in ("torch", "onnx")
    }
    assert 0 < masks["torch"].mean() < masks["torch"].max()
    assert (masks["torch"] != masks["onnx"]).sum() <= 1
    assert len(list(tmp_path.glob("restless.*.onnx"))) == 1
    words = ["predict", str(pictures), str(tmp_path / "out"), "--checkpoint", str(weights), "--device", "cpu"]
    words += ["--runtime", "onnx", "--image_size", "64", "--longest_side", "96", "--recipe", "none"]
    assert main([*words, "--num_workers", "0", *NETWORK_WORDS]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")) > 0, masks["onnx"] > 0)
    assert len(list(tmp_path.glob("restless.*.onnx"))) == 1


def test_what_cannot_work_is_told_before_anything_runs(tmp_path):
    weights = write_restless(tmp_path / "restless.pt")
    with pytest.raises(InputError, match="runtime must be one of torch, onnx, openvino"):
        Predictor(weights, device="cpu", settings=SMALL | {"runtime": "tensorrt"})
    with pytest.raises(InputError, match="amp is bfloat16"):
        Predictor(weights, device="cpu", settings=SMALL | {"runtime": "onnx", "amp": True})
