"""How many windows fit into a budget of memory."""

from __future__ import annotations

import pytest
import torch

from icmoe_monai.errors import InputError
from icmoe_monai.inferers import budget as module
from icmoe_monai.inferers.budget import MOST_WINDOWS, choose_window_batch, read_budget
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.utils.memory import peak_bytes

SETTINGS = {"sw_batch_size": 4, "image_size": 64, "longest_side": 64, "device": "cpu"}
MB = 1e6


@pytest.fixture
def network() -> ICMoE:
    return ICMoE(detail=NoDetail()).eval()


@pytest.fixture
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every window take 10 MB beside 500 MB."""
    sizes: list[int] = []

    def peak(run, device) -> int:
        run()
        return int(500 * MB + 10 * MB * sizes[-1])

    expert_maps = ICMoE.expert_maps

    def counting(self: ICMoE, image: torch.Tensor) -> torch.Tensor:
        sizes.append(len(image))
        return expert_maps(self, image)

    monkeypatch.setattr(module, "peak_bytes", peak)
    monkeypatch.setattr(ICMoE, "expert_maps", counting)


@pytest.mark.usefixtures("_measured")
@pytest.mark.parametrize(("budget", "windows"), [("700MB", 9), ("0.7 gb", 9), ("1GB", 34), ("40 GB", MOST_WINDOWS)])
def test_as_many_windows_as_fit_beside_the_images(network: ICMoE, budget: str, windows: int) -> None:
    # 85 % of it, less 500 MB and the maps (0.4 MB), by 10 MB
    assert choose_window_batch(network, budget=budget, **SETTINGS) == windows


@pytest.mark.usefixtures("_measured")
def test_larger_images_leave_less(network: ICMoE) -> None:
    maps = 4 * 4 * 3 * 2 * 2048**2
    expected = int((0.85e9 - 500 * MB - maps) // (10 * MB))
    assert expected < 0
    with pytest.raises(InputError, match=r"budget 1GB is too small: with one window .* 1\.07 GB would fit"):
        choose_window_batch(network, budget="1GB", **{**SETTINGS, "longest_side": 2048})


def test_what_is_chosen_stays_within_the_budget(network: ICMoE) -> None:
    held = peak_bytes(lambda: None, torch.device("cpu"))
    budget = (held + 120 * MB) / 0.85
    settings = {**SETTINGS, "image_size": 256, "longest_side": 256}
    windows = choose_window_batch(network, budget=f"{budget / MB:.0f}MB", **settings)
    assert 1 <= windows < MOST_WINDOWS
    with torch.no_grad():
        taken = peak_bytes(lambda: network.expert_maps(torch.zeros(windows, 3, 256, 256)), torch.device("cpu"))
    assert taken < budget


def test_measuring_leaves_the_network_as_it_was(network: ICMoE) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    choose_window_batch(network, budget="40GB", **SETTINGS)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_without_a_budget_nothing_is_run() -> None:
    assert choose_window_batch(None, budget=None, **SETTINGS) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", ["4", "4 TB", "much", 4, "-1GB"])
def test_a_budget_needs_a_unit(budget: object) -> None:
    with pytest.raises(InputError, match="budget must be a number with MB or GB, such as 4GB, got"):
        read_budget(budget)  # type: ignore[arg-type]
