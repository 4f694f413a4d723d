"""The encoder against Hugging Face's of the same weights, and through torch's ways to record a network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from modes import randomise
from torch import Tensor, nn

from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.sam import LayerNorm2d, SamImageEncoder, build_sam_encoder
from icmoe_monai.weights.formats import to_hugging_face

os.environ["HF_HUB_OFFLINE"] = "1"
from benchmarks.cost.peers import HuggingFaceEncoder


def small_encoder() -> SamImageEncoder:
    """A SAM encoder with every kind of block, of heads so narrow that its global blocks go row by row."""
    return SamImageEncoder(
        image_size=128, width=24, depth=4, num_heads=3, window_size=3, global_blocks=(1, 3), neck_channels=8
    ).eval()


def spread(encoder: SamImageEncoder) -> None:
    """Draw all weights so that every term, relative positions included, moves a result of about unit scale."""
    randomise(encoder, std=0.02)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name or name.startswith(("neck.1", "neck.3")):
                parameter.add_(1.0) if name.endswith("weight") else None
            elif "rel_pos" in name or name == "pos_embed":
                parameter.normal_(std=0.3)
            elif parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)


def compare(encoder: SamImageEncoder, height: int, width: int) -> None:
    """Compare results and the gradients of the image and of every weight."""
    spread(encoder)
    peer = HuggingFaceEncoder(encoder, image_size=(height, width), attention="eager").eval()
    image = torch.randn(1, 3, height, width, requires_grad=True)
    peer_image = image.detach().clone().requires_grad_()
    expected = peer(peer_image)
    assert 0.5 < expected.std() < 2
    assert expected.std(dim=(0, 2, 3)).min() > 0.05  # and it varies over the image in every channel
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), expected, rtol=0, atol=2e-5)
    found = encoder(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)

    weight = torch.randn_like(expected) / expected.numel() ** 0.5
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    theirs = dict(peer.named_parameters())
    pairs = {name: (parameter.grad, theirs[_peer_name(name)].grad) for name, parameter in encoder.named_parameters()}
    pairs["image"] = (image.grad, peer_image.grad)
    for name, (ours, their) in pairs.items():
        if ours.shape == their.shape:  # else the position table, which the peer holds resized
            assert their.abs().max() > 0, name
            assert (ours - their).abs().max() <= 1e-4 * their.abs().max(), name


def _peer_name(name: str) -> str:
    (renamed,) = to_hugging_face({name: torch.zeros(1)})
    return renamed.replace("vision_encoder.", "encoder.")


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 48), (256, 128)], ids=str)
def test_small_encoder_is_hugging_faces(height: int, width: int) -> None:
    compare(small_encoder(), height, width)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (512, 256)], ids=str)
def test_vit_b_is_hugging_faces(height: int, width: int) -> None:
    compare(build_sam_encoder("vit_b").eval(), height, width)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("build", [small_encoder, lambda: ICMoE().train()], ids=["encoder", "network"])
def test_norms_get_float32_under_autocast(build: type[nn.Module], dtype: torch.dtype) -> None:
    network = build()
    seen: dict[str, list[torch.dtype]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, x, y, name=name: seen.update({name: [x[0].dtype, y.dtype]}))
    with torch.autocast("cpu", dtype):
        network(torch.randn(1, 3, 64, 64))
    assert len(seen) >= 8
    assert {dtype for dtypes in seen.values() for dtype in dtypes} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_necks_norm_computes_in_float32(dtype: torch.dtype) -> None:
    norm = LayerNorm2d(16)
    x = (100 + torch.randn(1, 16, 3, 4)).to(dtype)
    expected = norm(x.float())
    with torch.autocast("cpu", dtype):
        assert torch.equal(norm(x), expected)
    assert norm.to(dtype)(x).dtype == dtype  # a network that is in half precision throughout stays in it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    encoder = small_encoder()
    spread(encoder)
    image = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        exact = encoder(image)
        with torch.autocast("cpu", dtype):
            rounded = encoder(image)
    error = (rounded.float() - exact).square().mean().sqrt() / exact.std()
    assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_flow_in_half_precision(dtype: torch.dtype) -> None:
    encoder = small_encoder()
    spread(encoder)
    image = torch.randn(1, 3, 128, 96)
    encoder(image).square().mean().backward()
    exact = encoder.blocks[0].attn.qkv.weight.grad.clone()
    encoder.zero_grad()
    with torch.autocast("cpu", dtype):
        encoder(image).square().mean().backward()
    rounded = encoder.blocks[0].attn.qkv.weight.grad
    assert (rounded - exact).norm() < 16 * torch.finfo(dtype).eps * exact.norm()


def test_export_keeps_the_batch_free() -> None:
    encoder = small_encoder()
    spread(encoder)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    program = torch.export.export(encoder, (torch.randn(2, 3, 128, 96),), dynamic_shapes=(batch,))
    image = torch.randn(3, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), encoder(image), rtol=0, atol=1e-5)


@pytest.mark.slow
# torch's exporter asks itself in a way that its own tree library deprecates
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_onnx_runs_what_torch_does(tmp_path: Path) -> None:
    encoder = small_encoder()
    spread(encoder)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(encoder, (torch.randn(2, 3, 128, 96),), path, dynamo=True, dynamic_shapes=(batch,), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = torch.randn(3, 3, 128, 96)
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, encoder(image).numpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compile_does_not_change_it() -> None:
    size = {"image_size": 128, "width": 24, "num_heads": 3, "window_size": 3, "neck_channels": 8}
    encoder = SamImageEncoder(depth=2, global_blocks=(1,), **size).eval()
    spread(encoder)
    compiled = torch.compile(encoder, fullgraph=True)
    image = torch.randn(1, 3, 128, 96)

    def gradient(network: nn.Module | Tensor) -> tuple[Tensor, Tensor]:
        encoder.zero_grad()
        result = network(image)
        result.square().mean().backward()
        return result.detach(), encoder.blocks[0].attn.qkv.weight.grad.clone()

    for found, expected in zip(gradient(compiled), gradient(encoder), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), encoder(image), rtol=0, atol=1e-5)
