from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.decoder import DECODERS, DetailStem, ExpertDecoder, NoDetail, PyramidContext, decoder_size

LEVELS = (2, 4, 8, 16)
CHANNELS = (4, 8, 5, 7)  # of an image's levels, at these strides


def build(kind: str, out_channels: int = 1, size: str = "light") -> ExpertDecoder:
    return ExpertDecoder(
        in_channels=12,
        out_channels=out_channels,
        size=decoder_size(size)._replace(width=16),
        level_channels={"levels": CHANNELS, "stem": DetailStem.channels}.get(kind, NoDetail.channels),
        context=PyramidContext(channels=12) if kind == "context" else None,
    )


def levels_of(kind: str, image: Tensor) -> list[Tensor]:
    if kind == "levels":
        B, _, H, W = image.shape
        return [torch.randn(B, channels, H // s, W // s) for channels, s in zip(CHANNELS, LEVELS, strict=True)]
    return (DetailStem() if kind == "stem" else NoDetail())(image)


@pytest.mark.parametrize("kind", ["plain", "context", "stem", "levels"])
@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("size", DECODERS)
def test_shapes_on_a_grid_that_is_not_square(kind: str, out_channels: int, size: str) -> None:
    decoder = build(kind, out_channels, size)
    at4, logits = decoder(torch.randn(2, 12, 3, 5), levels_of(kind, torch.randn(2, 3, 48, 80)))
    assert at4.shape == (2, 16, 12, 20)
    assert logits.shape == (2, out_channels, 48, 80)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("size", "is_drawn"), [("full", True), ("light", False)])
def test_a_full_decoder_can_draw_what_two_pixels_blur(size: str, is_drawn: bool) -> None:
    torch.manual_seed(0)
    decoder, checks = build("plain", size=size), torch.zeros(1, 1, 32, 32)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = 1  # alternates from pixel to pixel
    features, optimizer = torch.randn(1, 12, 2, 2), torch.optim.Adam(decoder.parameters(), lr=0.02)
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(decoder(features, [])[1], checks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (loss.item() < 0.65) == is_drawn  # log 2 is that of one half everywhere


def test_another_decoder_is_one_sentence() -> None:
    with pytest.raises(InputError, match="decoder must be one of light, full, got 'heavy'"):
        build("plain", size="heavy")


def test_a_full_decoder_is_of_twice_the_width_with_two_convolutions_at_each_stride() -> None:
    def convolutions(size: str) -> list[tuple[int, int]]:
        decoder = ExpertDecoder(in_channels=12, out_channels=1, size=decoder_size(size))
        named = ((name, part) for name, part in decoder.named_modules() if isinstance(part, nn.Conv2d))
        return [part.weight.shape[:2] for name, part in named if name.startswith(("fuse8", "fuse4", "fuse2", "fuse1."))]

    assert convolutions("light") == [(64, 64), (32, 32), (16, 16)]
    assert convolutions("full") == [(128, 128)] * 2 + [(64, 64)] * 2 + [(32, 32)] * 2 + [(16, 16)] * 2


def test_detail_stem_keeps_what_a_patch_embedding_averages() -> None:
    stem = DetailStem()
    at2, at4 = stem(torch.zeros(1, 3, 32, 48))
    assert at4.shape == (1, 32, 8, 12)
    assert at2.shape == (1, 16, 16, 24)
    stripes = torch.zeros(1, 3, 32, 48)
    stripes[..., ::2, :] = 1
    assert (stem(stripes)[0] - stem(1 - stripes)[0]).abs().max() > 0.01


def test_context_reaches_across_the_map_and_a_plain_decoder_does_not() -> None:
    here, elsewhere = torch.randn(1, 12, 12, 12), torch.zeros(1, 12, 12, 12)
    elsewhere[..., 11, 11] = 5.0
    context = PyramidContext(channels=12)
    assert (context(here + elsewhere) - context(here))[..., 0, 0].abs().max() > 1e-3
    plain = build("plain")
    for part in [module for module in plain.modules() if isinstance(module, nn.Sequential)]:
        part[1] = nn.Identity()  # a batch's statistics reach everywhere, too
    difference = (plain(here + elsewhere, [])[1] - plain(here, [])[1]).abs()
    assert difference[..., -16:, -16:].max() > 1e-4
    assert difference[..., :112, :112].max() == 0


def test_context_keeps_the_shape_of_maps_smaller_than_its_bins() -> None:
    assert PyramidContext(channels=12)(torch.randn(1, 12, 1, 2)).shape == (1, 12, 1, 2)


@pytest.mark.parametrize("i", range(4), ids=lambda i: f"stride {LEVELS[i]}")
def test_every_level_changes_the_result(i: int) -> None:
    decoder = build("levels")
    features, levels = torch.randn(1, 12, 2, 2), levels_of("levels", torch.randn(1, 3, 32, 32))
    other = [*levels[:i], torch.randn_like(levels[i]), *levels[i + 1 :]]
    assert (decoder(features, levels)[1] - decoder(features, other)[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["plain", "context", "stem", "levels"])
def test_every_weight_gets_a_gradient(kind: str) -> None:
    decoder, stem = build(kind), DetailStem()
    image = torch.randn(2, 3, 64, 96)
    decoder(torch.randn(2, 12, 4, 6), stem(image) if kind == "stem" else levels_of(kind, image))[
        1
    ].square().sum().backward()
    modules = [decoder, stem] if kind == "stem" else [decoder]
    for name, parameter in (item for module in modules for item in module.named_parameters()):
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
