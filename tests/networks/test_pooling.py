"""Pooled features: of the pass that makes the maps, without padding, and none where nothing is frozen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.baselines import Baseline
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pooling import FEATURES, Frame, PooledWindows, pool
from icmoe_monai.networks.pyramid import ImagePyramid


def pyramid_network() -> ICMoE:
    return ICMoE(backbone=None, detail=ImagePyramid(), own_network={"semantic": "lite0"}, experts=["basic", "semantic"])


NETWORKS = {
    "pyramid": (pyramid_network, 640),
    "encoder": (lambda: ICMoE(detail=NoDetail()), 2 * 192),
    "folds": (lambda: FoldEnsemble([pyramid_network(), pyramid_network()]), 640),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_maps_are_the_networks_own_and_the_frozen_parts_run_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, num_features = NETWORKS[kind]
    network, windows = make().eval(), torch.randn(2, 3, 64, 64)
    runs: list[int] = []
    for part in (ICMoE, FoldEnsemble):
        levels = part.levels
        monkeypatch.setattr(part, "levels", lambda self, image, of=levels: runs.append(1) or of(self, image))
    with torch.no_grad():
        expected = network.expert_maps(windows)
        once = len(runs)
        runs.clear()
        pooled = PooledWindows(network)
        assert torch.equal(pooled(windows), expected)
    assert len(runs) == once
    features = pooled.features(num_images=2)
    assert features is not None
    assert features.shape == (2, 1, num_features)
    assert pooled.take() is None


def own_networks_alone() -> ICMoE:
    return ICMoE(backbone=None, detail=NoDetail(), experts=["semantic"], own_network={"semantic": "lite0"})


@pytest.mark.parametrize("make", [lambda: Baseline(network=nn.Conv2d(3, 1, 1)), own_networks_alone])
def test_a_network_with_nothing_frozen_has_no_features(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    pooled, windows = PooledWindows(network), torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(pooled(windows), network.expert_maps(windows))
    assert pooled.features(1) is None


def test_padding_is_left_out() -> None:
    grid = torch.randn(2, 3, 8, 8)
    inside = grid[:, :, 2:6, 3:8].numpy()  # cells of 16 pixels that lie in rows 25 to 104 and columns 48 to 127
    found = pool(grid, (128, 128), Frame(top=25, left=48, height=80, width=80)).numpy()
    expected = np.concatenate([inside.mean((2, 3)), inside.std((2, 3))], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_image_smaller_than_a_cell_has_the_cell_in_its_middle() -> None:
    grid = torch.arange(4.0).reshape(1, 1, 1, 4)
    assert pool(grid, (16, 64), Frame(top=3, left=34, height=4, width=5)).tolist() == [[2.0, 0.0]]


def test_images_of_a_batch_have_their_own_features_and_views_change_none() -> None:
    network, images = pyramid_network().eval(), torch.randn(2, 3, 64, 150)
    inferer = SlidingWindowVotingInferer(roi_size=64, sw_batch_size=3)
    with torch.no_grad():
        _, both = inferer.segment(images, network)
        alone = [inferer.look(image[None], network) for image in images]
        flipped = SlidingWindowVotingInferer(roi_size=64, tta="flips_scales").segment(images, network)[1]
    assert both is not None
    assert both.shape[:2] == (2, 4)
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, flipped, rtol=1e-4, atol=1e-5)


def test_an_image_below_a_window_is_judged_by_its_own_cells_and_noted_on_its_maps() -> None:
    network = pyramid_network().eval()
    image = MetaTensor(torch.randn(1, 3, 96, 160))
    inferer = SlidingWindowVotingInferer(roi_size=160, with_experts=True)
    with torch.no_grad():
        pred = inferer(image, network)
        padded = torch.nn.functional.pad(image.as_tensor(), (0, 0, 32, 32))
        at32 = network.levels(padded)[3][:, 112:, 2:8]
    torch.testing.assert_close(pred.meta[FEATURES][0, 0, :320], at32.mean((2, 3))[0], rtol=1e-4, atol=1e-5)
