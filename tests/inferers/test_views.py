"""Several views of a window: what is done to the window is undone in the maps, and the vote comes last."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.views import TTA, averaged
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.icmoe import ICMoE

NUM_VIEWS = {"none": 1, "flips": 4, "scales": 3, "flips_scales": 6}


@pytest.mark.parametrize("tta", TTA)
def test_maps_that_follow_the_window_stay_as_they_are(tta):
    seen: list[tuple[int, ...]] = []

    def same(windows: Tensor) -> Tensor:
        seen.append(tuple(windows.shape[-2:]))
        return windows

    ramp = torch.linspace(0, 1, 64).expand(1, 2, 48, 64) + torch.linspace(0, 1, 48)[:, None]
    torch.testing.assert_close(averaged(same, tta)(ramp), ramp, rtol=0, atol=0.02)  # scaled there and back
    assert len(seen) == NUM_VIEWS[tta]
    assert all(side % 16 == 0 for size in seen for side in size)
    assert (len(set(seen)) > 1) == ("scales" in tta)


def test_flips_are_the_mean_of_four_that_are_turned_back():
    weights = torch.randn(5, 4)
    image = torch.randn(1, 1, 5, 4)
    views = [image * weights.flip(axes) for axes in ((), (-1,), (-2,), (-2, -1))]  # a map that is fixed to the window
    found = averaged(lambda windows: windows * weights, "flips")(image)
    torch.testing.assert_close(found, torch.stack(views).mean(0))


def test_maps_of_several_packs_are_each_averaged():
    image = torch.randn(1, 1, 4, 4)
    both = averaged(lambda windows: {"a": windows, "b": 2 * windows}, "flips")(image)
    torch.testing.assert_close(both["a"], image)
    torch.testing.assert_close(both["b"], 2 * image)


def test_a_small_window_is_scaled_to_whole_patches():
    assert averaged(lambda windows: windows, "scales")(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)


def test_a_flipped_image_has_a_flipped_mask():
    torch.manual_seed(0)
    network = ICMoE().requires_grad_(False).eval()
    inferer = SlidingWindowVotingInferer(roi_size=32, overlap=0.5, tta="flips")
    image = torch.randn(1, 3, 64, 48)  # whose windows lie alike from either side
    found = inferer(image, network)
    for axes in ((-1,), (-2,), (-2, -1)):
        torch.testing.assert_close(inferer(image.flip(axes), network).flip(axes), found, rtol=0, atol=1e-3)
    alone = SlidingWindowVotingInferer(roi_size=32, overlap=0.5)(image, network)
    assert (alone - found).abs().max() > 1e-3


def test_another_word_is_refused():
    with pytest.raises(InputError, match="tta must be one of none, flips, scales, flips_scales, got 'both'"):
        SlidingWindowVotingInferer(roi_size=32, tta="both")
