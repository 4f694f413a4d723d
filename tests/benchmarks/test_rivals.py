"""Rows of a study that are made of other rows' runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.study.rivals.ensemble import join
from icmoe_monai.networks.baselines import Baseline, Ensemble
from icmoe_monai.utils.files import read_csv, write_csv
from icmoe_monai.weights.checkpoint import load_network, read_weights, save_weights


def put_run(folder: Path, seed: int) -> nn.Module:
    """Leave what a run of a row leaves; return its network."""
    torch.manual_seed(seed)
    network = nn.Conv2d(3, 1, 1)
    save_weights(Baseline(network=network), folder / "best.pt")
    epochs = [(1, ""), (2, 0.5 + 0.1 * seed)]
    write_csv(
        folder / "metrics.csv",
        [{"epoch": epoch, "iteration": 10 * epoch, "seconds": 2, "step_seconds": 0.25, "peak_mb": 700 + seed,
          "val_mean_dice": dice} for epoch, dice in epochs],
    )  # fmt: skip
    return network


def test_an_ensemble_holds_the_runs_networks_and_costs_what_they_cost_together(tmp_path):
    runs = [put_run(tmp_path / "unet" / f"seed_{seed}", seed) for seed in (0, 1, 2)]
    output = tmp_path / "of_three" / "seed_0"
    join(Ensemble(networks=[nn.Conv2d(3, 1, 1) for _ in runs], out_channels=1), row="unet", seeds=[0, 1, 2],
         output_dir=str(output))  # fmt: skip
    found = Ensemble(networks=[nn.Conv2d(3, 1, 1) for _ in runs], out_channels=1).eval()
    load_network(found, read_weights(output / "best.pt"), output / "best.pt")
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack([network(image).sigmoid() for network in runs]).mean(0)
        torch.testing.assert_close(found(image).sigmoid(), expected)
    first, last = read_csv(output / "metrics.csv")
    assert (first["val_mean_dice"], last["iteration"]) == ("", "20")
    assert [float(last[name]) for name in ("seconds", "step_seconds", "peak_mb", "val_mean_dice")] == pytest.approx(
        [6, 0.75, 702, 0.7]
    )
