from __future__ import annotations

import re

import pytest
import torch
from modes import randomise
from torch import Tensor

from icmoe_monai.networks.low_rank import ExpertUpdates
from icmoe_monai.networks.sam import BACKBONES, SamImageEncoder, build_sam_encoder

# torch calls its own TorchScript deprecated; the Model Zoo still asks for it. Tracing warns of every size it fixes.
jit = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")


def small_encoder() -> SamImageEncoder:
    encoder = SamImageEncoder(
        image_size=64, width=16, depth=2, num_heads=4, window_size=3, global_blocks=(1,), neck_channels=8
    )
    randomise(encoder, std=0.2)
    return encoder.eval()


def test_parameter_names_are_metas() -> None:
    # names in segment_anything's ImageEncoderViT, which the published checkpoints hold behind "image_encoder."
    block = r"blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.lin1|mlp\.lin2)\.(weight|bias)"
    tables = r"blocks\.\d+\.attn\.rel_pos_[hw]"
    neck = r"neck\.([02]\.weight|[13]\.(weight|bias))"
    names = list(build_sam_encoder("vit_t").state_dict())
    for name in names:
        assert re.fullmatch(rf"pos_embed|patch_embed\.proj\.(weight|bias)|{block}|{tables}|{neck}", name), name
    depth = BACKBONES["vit_t"]["depth"]
    assert len(names) == 3 + depth * (12 + 2) + 6


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    # the published models hold 93.7, 312.3 and 641.1 million, 4.06 of them in prompt encoder and mask decoder
    [("vit_b", 89.7), ("vit_l", 308.3), ("vit_h", 637.0)],
)
def test_official_sizes(name: str, num_parameters: float) -> None:
    with torch.device("meta"):
        encoder = build_sam_encoder(name)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(num_parameters, abs=0.05)
    grid = BACKBONES[name]["image_size"] // 16
    first_global = BACKBONES[name]["global_blocks"][0]
    assert encoder.blocks[first_global].attn.rel_pos_h.shape[0] == 2 * grid - 1
    assert encoder.blocks[0].attn.rel_pos_h.shape[0] == 2 * 14 - 1


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match=r"one of vit_t, vit_b, vit_l, vit_h, got 'vit_x'\."):
        build_sam_encoder("vit_x")


def test_other_sizes_are_refused_with_the_padding() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16, got \(H, W\) = \(60, 97\): pad to \(64, 112\)\."):
        small_encoder()(torch.zeros(1, 3, 60, 97))


def test_whole_encoder_is_finite_on_any_grid() -> None:
    encoder = build_sam_encoder("vit_t").eval()
    for size in [(64, 96), (16, 16)]:
        with torch.no_grad():
            features = encoder(torch.randn(1, 3, *size))
        assert features.shape == (1, 128, size[0] // 16, size[1] // 16)
        assert torch.isfinite(features).all()
        assert features.std() > 0.1


def test_position_table_is_used_as_it_is_on_its_own_grid() -> None:
    encoder = small_encoder()
    tokens = encoder.trunk(torch.zeros(1, 3, 64, 64), 0)
    torch.testing.assert_close(tokens, encoder.patch_embed.proj.bias + encoder.pos_embed)
    with torch.no_grad():
        encoder.pos_embed.fill_(0.3)
    wide = encoder.trunk(torch.zeros(1, 3, 64, 96), 0)
    torch.testing.assert_close(wide, (encoder.patch_embed.proj.bias + 0.3).expand(1, 4, 6, 16))


def test_trunk_and_tail_make_the_whole() -> None:
    encoder = small_encoder()
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(encoder.tail(encoder.trunk(image, 1), 1), encoder(image))


def test_a_band_of_windows_at_a_time_changes_nothing() -> None:
    block = small_encoder().blocks[0]
    tokens = torch.randn(2, 10, 7, 16)  # windows of 3: bands of 3, 3, 3 and 1 rows
    with torch.no_grad():
        in_bands = block(tokens)
    torch.testing.assert_close(in_bands, block(tokens.requires_grad_()).detach(), rtol=0, atol=1e-5)


def test_a_band_takes_its_own_part_of_an_update() -> None:
    block = small_encoder().blocks[0]
    updates = ExpertUpdates(num_blocks=1, width=16, rank=2).requires_grad_(False)
    for kind in (updates.qkv, updates.lin1, updates.lin2):
        kind.up.normal_()
    tokens = torch.randn(2, 20, 7, 16)  # windows of 3, and 16 rows a band of the MLP
    (update,) = updates(torch.rand(2, 20, 7, 2))
    with torch.no_grad():
        in_bands = block(tokens, update)
        assert (in_bands - block(tokens)).abs().mean() > 0.1
    torch.testing.assert_close(in_bands, block(tokens.requires_grad_(), update).detach(), rtol=0, atol=1e-5)


def test_images_of_a_batch_do_not_mix() -> None:
    encoder = small_encoder()
    image = torch.randn(3, 3, 64, 48)
    torch.testing.assert_close(encoder(image)[1:2], encoder(image[1:2]), rtol=0, atol=1e-5)


@jit
@pytest.mark.parametrize("size", [(64, 64), (80, 48)], ids=["own grid", "resized and padded"])
def test_eager_trace_and_script_agree(size: tuple[int, int]) -> None:
    encoder = small_encoder()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        eager: Tensor = encoder(image)
        assert eager.std() > 0.1
        traced = torch.jit.trace(encoder, image, check_trace=False)
        torch.testing.assert_close(traced(image), eager, rtol=0, atol=1e-6)
        torch.testing.assert_close(traced(image.repeat(3, 1, 1, 1))[2:], eager, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.jit.script(encoder)(image), eager, rtol=0, atol=1e-6)


def test_every_weight_gets_a_gradient() -> None:
    encoder = small_encoder()
    encoder(torch.randn(1, 3, 80, 48)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
