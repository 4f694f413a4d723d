from __future__ import annotations

import pytest
import torch
from torch import nn

from icmoe_monai.networks.pyramid import ImagePyramid


@pytest.fixture(scope="module")
def pyramid() -> ImagePyramid:
    return ImagePyramid()


@pytest.mark.parametrize(("H", "W"), [(64, 96), (48, 80), (16, 16)], ids=["by 32", "by 16", "one patch"])
def test_levels_stand_on_the_grids_of_their_strides(H: int, W: int, pyramid: ImagePyramid) -> None:
    levels = pyramid(torch.randn(2, 3, H, W))
    expected = [(2, c, H // s, W // s) for c, s in zip(ImagePyramid().channels, (2, 4, 8, 16), strict=True)]
    assert [tuple(level.shape) for level in levels] == expected
    assert all(level.isfinite().all() for level in levels)


def test_nothing_of_it_is_trained_or_changes_in_training(pyramid: ImagePyramid) -> None:
    assert not any(weight.requires_grad for weight in pyramid.parameters())
    assert not any(isinstance(part, nn.BatchNorm2d | nn.Dropout) for part in pyramid.modules())
    image = torch.randn(1, 3, 32, 32)
    for first, second in zip(pyramid.train()(image), pyramid.eval()(image), strict=True):
        assert torch.equal(first, second)
        assert not first.requires_grad


def test_all_of_it_is_trained_where_that_is_asked_for() -> None:
    pyramid = ImagePyramid(train=True).eval()
    sum(level.square().mean() for level in pyramid(torch.randn(1, 3, 64, 64))).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in pyramid.parameters())


def test_it_has_the_weights_of_efficientnet_lite0(pyramid: ImagePyramid) -> None:
    """Parameters of the published network without head, 3.37 million, less what folding takes away, counted by hand."""
    convolutions = [part for part in pyramid.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 + 15 * 3
    assert sum(part.kernel_size[0] % 2 == 0 for part in convolutions) == 5  # the stem and four stages halve the grid


def test_an_image_normalised_otherwise_is_the_same_image() -> None:
    pixels = torch.rand(1, 3, 32, 32) * 255
    plain, medsam = (
        ImagePyramid(pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1)),
        ImagePyramid(pixel_mean=(0, 0, 0), pixel_std=(255, 255, 255)),
    )
    medsam.load_state_dict(plain.state_dict())
    for first, second in zip(plain(pixels), medsam(pixels / 255), strict=True):
        torch.testing.assert_close(first, second)


def test_eager_and_script_agree(pyramid: ImagePyramid) -> None:
    image = torch.randn(1, 3, 48, 32)
    for first, second in zip(pyramid(image), torch.jit.script(pyramid)(image), strict=True):
        torch.testing.assert_close(first, second)
