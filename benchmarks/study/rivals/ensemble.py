"""An ensemble of networks that a study has trained already, one for each seed of another of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from icmoe_monai.networks.baselines import Baseline, Ensemble
from icmoe_monai.utils.files import read_csv, write_csv
from icmoe_monai.weights.checkpoint import load_network, read_weights, save_weights


def join(network: Ensemble, *, row: str, seeds: Sequence[int], output_dir: str) -> None:
    """Write the `best.pt` of an ensemble, and as its `metrics.csv` what its members cost together.

    Args:
        network: The ensemble, whose networks are given the members' weights in their order.
        row: Row of the same study whose runs the members are, each of a `Baseline`.
        seeds: Seeds of the members.
        output_dir: Folder of the ensemble's own run in the study.
    """
    output = Path(output_dir)
    members = [output.parents[1] / row / f"seed_{seed}" for seed in seeds]
    logs = [read_csv(Path(member, "metrics.csv")) for member in members]
    for part, member in zip(network.networks, members, strict=True):
        path = Path(member, "best.pt")
        load_network(_as_trained(part), read_weights(path), path)
    save_weights(network, output / "best.pt")
    lines = []
    for epoch in zip(*logs, strict=True):
        seconds = {name: sum(float(line[name]) for line in epoch) for name in ("seconds", "step_seconds")}
        best = {"val_mean_dice": epoch[0]["val_mean_dice"] and max(float(line["val_mean_dice"]) for line in epoch)}
        peak = {"peak_mb": max(float(line["peak_mb"]) for line in epoch)}  # one is trained after the other
        lines.append({name: epoch[0][name] for name in ("epoch", "iteration")} | seconds | peak | best)
    write_csv(output / "metrics.csv", lines)


def _as_trained(part: nn.Module) -> Baseline:
    return Baseline(network=part)
