"""Strips of a large image are what the whole image gives in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stand_ins import COLOURS, SIDE, InMemory, Windowed, noise, whole
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.slides.background import is_background
from icmoe_monai.slides.streaming import StreamingVotingInferer


@pytest.fixture(params=[1, 3], ids=["K=1", "K=3"])
def network(request: pytest.FixtureRequest) -> Windowed:
    return Windowed(request.param).requires_grad_(False).eval()


def inferers(overlap: float, **settings: object) -> tuple[SlidingWindowVotingInferer, StreamingVotingInferer]:
    windows = SlidingWindowVotingInferer(roi_size=SIDE, overlap=overlap, sw_batch_size=4, with_experts=True)
    return windows, StreamingVotingInferer(windows=windows, **COLOURS, **settings)


def joined(strips: list) -> Tensor:
    tops = np.cumsum([0] + [strip.prediction.shape[1] for strip in strips])
    assert [strip.top for strip in strips] == tops[:-1].tolist()
    return torch.cat([strip.prediction for strip in strips], dim=1)


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """Compare probabilities to some of float32's last bits: threads and vectors end elsewhere in strips."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


SIZES = [(100, 90), (32, 32), (20, 130), (131, 17), (25, 30), (97, 171), (33, 65)]


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_strips_are_equal_to_the_image_in_memory(network: Windowed, size: tuple[int, int], overlap: float) -> None:
    windows, inferer = inferers(overlap, skip_background=False)
    pixels = noise(*size)
    image = InMemory(pixels)
    found = joined(list(inferer(image, network)))
    expected = whole(pixels, network, windows)
    assert_alike(found, expected)
    assert expected[0].std() > 0.01
    assert image.most_rows <= SIDE
    assert inferer.num_run == network.num_windows / 2
    assert inferer.num_skipped == 0


def test_a_network_gives_the_same_too() -> None:
    torch.manual_seed(1)
    network = ICMoE().requires_grad_(False).eval()
    for name, parameter in network.named_parameters():
        if "updates" in name or name.startswith(("communication.out", "gate.out")):
            nn.init.normal_(parameter, std=0.1)
    windows, inferer = inferers(0.25, skip_background=False)
    pixels = noise(75, 61)
    assert_alike(joined(list(inferer(InMemory(pixels), network))), whole(pixels, network, windows))


def test_strips_come_before_the_image_is_read(network: Windowed) -> None:
    """What is in memory does not depend on the image's height."""
    _, inferer = inferers(0.5, skip_background=False)
    image = InMemory(noise(400, 40))
    strips = inferer(image, network)
    num_read = [(strip.top + strip.prediction.shape[1], network.num_windows) for strip in strips]
    assert num_read[0][1] <= 8 < num_read[-1][1]
    assert all(rows >= 16 * (windows // 2 - 3) for rows, windows in num_read)


def test_background_counts_as_no_foreground_and_equal_votes(network: Windowed) -> None:
    _, inferer = inferers(0.25)
    pixels = np.full((120, 128, 3), 240, dtype=np.uint8)
    pixels[:40, :40] = noise(40, 40)
    found = joined(list(inferer(InMemory(pixels), network)))
    assert (inferer.num_run, inferer.num_skipped) == (4, 21)
    assert network.num_windows == 4
    far = found[:, 70:, 70:]
    K = network.out_channels
    torch.testing.assert_close(far[-3:], torch.full_like(far[-3:], 1 / 3))
    expected = torch.zeros(K) if K == 1 else torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(far[:K].amax(dim=(1, 2)), expected, rtol=0, atol=1e-5)
    _, complete = inferers(0.25, skip_background=False)
    everything = joined(list(complete(InMemory(pixels), network)))
    assert_alike(found[:, :24, :24], everything[:, :24, :24])  # which only windows that were run cover
    assert (found - everything).abs().max() > 0.01


def test_an_image_of_glass_alone_needs_no_network() -> None:
    network = Windowed(1).requires_grad_(False)
    _, inferer = inferers(0.25)
    found = joined(list(inferer(InMemory(np.full((50, 70, 3), 250, np.uint8)), network)))
    assert network.num_windows == 0
    assert found[0].max() < 1e-5


def coloured(*parts: tuple[tuple[int, int, int], float]) -> np.ndarray:
    """Return a window of which shares have colours, the first one fills the rest."""
    window = np.empty((100 * 100, 3), dtype=np.uint8)
    window[:] = parts[0][0]
    first = 0
    for colour, share in parts[1:]:
        count = round(share * len(window))
        window[first : first + count] = colour
        first += count
    return window.reshape(100, 100, 3)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (coloured(((240, 240, 240), 1)), True),
        (coloured(((245, 235, 230), 1)), True),
        (coloured(((0, 0, 0), 1)), True),
        (coloured(((240, 240, 240), 1), ((0, 0, 0), 0.5)), True),
        (coloured(((240, 240, 240), 1), ((90, 60, 90), 0.0010)), True),
        (coloured(((240, 240, 240), 1), ((90, 60, 90), 0.0011)), False),
        (coloured(((250, 228, 240), 1)), False),
        (coloured(((220, 220, 220), 1)), False),
        (coloured(((30, 12, 12), 1)), False),
    ],
    ids=["glass", "warm glass", "unscanned", "both", "dust", "a thread", "pale pink", "grey", "dark"],
)
def test_what_is_background(window: np.ndarray, expected: bool) -> None:
    assert is_background(window) is expected


def test_the_brightness_of_glass_can_be_set() -> None:
    grey = coloured(((200, 200, 200), 1))
    assert not is_background(grey)
    assert is_background(grey, white=190)


@pytest.mark.parametrize("white", [5, 256, 200.5, True, None])
def test_a_brightness_that_cannot_be_is_refused_before_a_slide_is_read(white: object) -> None:
    with pytest.raises(InputError, match="white_level must be a whole number of 11 to 255, got"):
        inferers(0.25, white_level=white)
