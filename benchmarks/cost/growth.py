"""Measure how time and memory grow: a prediction of the default network, with one thing changed at a time.

    python -m benchmarks.cost.growth --output docs/results/growth.json

`side`, `overlap`, `experts`, `out_channels` and `folds` change a segmentation of one image in memory, by windows, with
random weights, which do not change the cost; `images` is the number of phantoms of a folder that the inference workflow
reads, segments and writes with the shipped model. Each runs in a process of its own, for its peak memory; `lines` tell
what each further unit adds, by least squares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import tell
from benchmarks.cost.measure import fit_line, give, hardware, in_own_process, now, peak_memory
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid

EXPERTS = ("basic", "semantic", "adaptive")
BASE: dict[str, Any] = {"side": 1024, "overlap": 0.5, "experts": 3, "out_channels": 1, "folds": 1}
VALUES: dict[str, Sequence[float]] = {
    "side": (256, 512, 1024, 2048, 4096),
    "overlap": (0, 0.25, 0.5, 0.75),
    "experts": (1, 2, 3),
    "out_channels": (1, 2, 4, 8, 16),
    "folds": (1, 2, 5),
    "images": (5, 20, 80),
}
# what time, and what memory, grows with
_UNITS = {"side": ("windows", "megapixels"), "overlap": ("windows", None)}
_WINDOW, _AT_ONCE = 256, 4
_OWN = {"semantic": "lite1", "adaptive": "lite2"}


def measure_point(point: Mapping[str, Any], device: str) -> dict[str, float]:
    """Segment one image, and return its seconds, its windows and the peak memory.

    Args:
        point: Values of the things in `BASE`.
        device: Where it runs.
    """
    windows: list[int] = []
    network = _build(point).to(device)
    inferer = SlidingWindowVotingInferer(
        roi_size=_WINDOW, overlap=point["overlap"], sw_batch_size=_AT_ONCE, with_experts=True
    )
    inferer(torch.zeros(1, 3, _WINDOW, _WINDOW, device=device), network)  # what the first use loads is no image's
    image = torch.randn(1, 3, point["side"], point["side"], device=device)
    frozen = getattr(network, "folds", [network])[0].detail  # which runs once for all folds
    frozen.register_forward_pre_hook(lambda _, inputs: windows.append(len(inputs[0])))
    start = now(device)
    found = peak_memory(lambda: inferer(image, network), device)
    seconds = now(device) - start
    return found | {"seconds": round(seconds, 4), "windows": sum(windows), "megapixels": point["side"] ** 2 / 1e6}


def measure(values: Mapping[str, Sequence[float]], base: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    """Measure every point, each in a process of its own.

    Args:
        values: For each thing its values.
        base: Values of the others.
        device: Where they run.
    """
    points = []
    for thing, its_values in values.items():
        for value in its_values:
            tell(f"{thing} {value}")
            if thing == "images":
                words = ["--num_images", str(value), "--device", device]
                found = in_own_process("benchmarks.cost.workflow", words)
                found = {name: found[name] for name in ("seconds", "peak_mb", "peak_above_start_mb")}
            else:
                words = ["--point", json.dumps({**base, thing: value}), "--device", device]
                found = in_own_process("benchmarks.cost.growth", words)
            points.append({"thing": thing, "value": value, **found})
    return points


def lines_of(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each thing how seconds and memory grow with each unit, as lines.

    Args:
        points: What `measure` returned.
    """
    lines: dict[str, dict[str, dict[str, float]]] = {}
    for thing in dict.fromkeys(point["thing"] for point in points):
        own = [point for point in points if point["thing"] == thing]
        of_time, of_memory = _UNITS.get(thing, ("value", "value"))
        lines[thing] = {"seconds": fit_line([point[of_time] for point in own], [point["seconds"] for point in own])}
        if of_memory is not None:
            memory = [point["peak_above_start_mb"] for point in own]
            lines[thing]["mb"] = fit_line([point[of_memory] for point in own], memory)
    return lines


def _build(point: Mapping[str, Any]) -> Any:
    experts = EXPERTS[: point["experts"]]
    networks = [
        ICMoE(
            experts=experts,
            out_channels=point["out_channels"],
            backbone=None,
            detail=ImagePyramid(),
            own_network={name: size for name, size in _OWN.items() if name in experts},
            deference=5.0,
        ).eval()
        for _ in range(point["folds"])
    ]
    return FoldEnsemble(networks).eval() if len(networks) > 1 else networks[0]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--things", nargs="+", choices=list(VALUES), default=list(VALUES))
    parser.add_argument("--side", type=int, default=BASE["side"], help="of the image, where another thing changes")
    parser.add_argument("--point", type=json.loads, help="measure this one alone, in this process")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.point is not None:
        with torch.no_grad():
            give(measure_point(options.point, options.device), options.output)
        return
    base = BASE | {"side": options.side}
    points = measure({thing: VALUES[thing] for thing in options.things}, base, options.device)
    setting = {"base": base, "window": _WINDOW, "windows_at_once": _AT_ONCE}
    give({"hardware": hardware(options.device), **setting, "points": points, "lines": lines_of(points)}, options.output)


if __name__ == "__main__":
    main()
