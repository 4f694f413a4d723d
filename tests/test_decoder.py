from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from icmoe_monai.decoder import DetailStem, ExpertDecoder, PyramidContext


def build(kind: str, out_channels: int = 1) -> ExpertDecoder:
    return ExpertDecoder(
        in_channels=12,
        out_channels=out_channels,
        width=16,
        detail_channels=(8, 4) if kind == "detail" else (0, 0),
        context=PyramidContext(channels=12) if kind == "context" else None,
    )


def details_of(kind: str, image: Tensor) -> list[Tensor]:
    return DetailStem(channels=(8, 4))(image) if kind == "detail" else []


@pytest.mark.parametrize("kind", ["plain", "context", "detail"])
@pytest.mark.parametrize("out_channels", [1, 3])
def test_shapes_on_a_grid_that_is_not_square(kind: str, out_channels: int) -> None:
    at4, logits = build(kind, out_channels)(torch.randn(2, 12, 3, 5), details_of(kind, torch.randn(2, 3, 48, 80)))
    assert at4.shape == (2, 16, 12, 20)
    assert logits.shape == (2, out_channels, 48, 80)
    assert torch.isfinite(logits).all()


def test_detail_stem_keeps_what_a_patch_embedding_averages() -> None:
    stem = DetailStem()
    at4, at2 = stem(torch.zeros(1, 3, 32, 48))
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
    plain.up4[1], plain.fuse4[2], plain.fuse2[2] = nn.Identity(), nn.Identity(), nn.Identity()  # norms reach, too
    difference = (plain(here + elsewhere, [])[1] - plain(here, [])[1]).abs()
    assert difference[..., -16:, -16:].max() > 1e-4
    assert difference[..., :144, :144].max() == 0


def test_context_keeps_the_shape_of_maps_smaller_than_its_bins() -> None:
    assert PyramidContext(channels=12)(torch.randn(1, 12, 1, 2)).shape == (1, 12, 1, 2)


def test_details_change_the_result() -> None:
    decoder = build("detail")
    features = torch.randn(1, 12, 2, 2)
    first, second = (decoder(features, details_of("detail", torch.randn(1, 3, 32, 32)))[1] for _ in range(2))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["plain", "context", "detail"])
def test_every_weight_gets_a_gradient(kind: str) -> None:
    decoder, stem = build(kind), DetailStem(channels=(8, 4))
    details = stem(torch.randn(2, 3, 32, 48)) if kind == "detail" else []
    decoder(torch.randn(2, 12, 2, 3), details)[1].square().sum().backward()
    modules = [decoder, stem] if kind == "detail" else [decoder]
    for name, parameter in (item for module in modules for item in module.named_parameters()):
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
