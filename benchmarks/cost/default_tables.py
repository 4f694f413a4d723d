"""The tables of docs/cost.md that are of the default network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cost.wanted import wanted_of_default
from benchmarks.document import table

_THINGS = {
    "side": "side of the image, pixels",
    "overlap": "overlap of windows",
    "experts": "experts",
    "out_channels": "output channels",
    "folds": "folds",
    "images": "images of a folder",
}
_UNITS = {"side": (" a window", " a megapixel"), "overlap": (" a window", "")}
TASKS = ("step", "window", "image")


def tables_of_default(folder: Path) -> dict[str, str]:
    """Return every table of the default network by its name in the page.

    Args:
        folder: Folder of the files.
    """
    rivals, roofline, runtimes = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("rivals_cost", "roofline", "runtimes_cost")
    )
    growth = json.loads((folder / "growth.json").read_text())
    return {
        "growth_default": table_of_growth(growth),
        "wanted_default": table(("wanted", "found", "holds"), wanted_of_default(rivals)),
        "rivals": _rivals(rivals),
        "machine": _machine(roofline),
        **{f"roofline_{task}": _roofline(roofline[task]) for task in TASKS},
        "runtimes": _runtimes(runtimes),
    }


def table_of_growth(content: Mapping[str, Any]) -> str:
    """Return the table of how time and memory grow, of the content of `growth.json`."""
    rows = []
    for thing, lines in content["lines"].items():
        own = [point for point in content["points"] if point["thing"] == thing]
        columns = [[point[name] for point in own] for name in ("value", "seconds", "peak_above_start_mb")]
        cells = [", ".join(f"{value:.0f}" if value > 100 else f"{value:.3g}" for value in column) for column in columns]
        rows.append((_THINGS[thing], *cells, _further(lines, *_UNITS.get(thing, ("", "")))))
    return table(("what grows", "values", "seconds", "MB", "each further"), rows)


def _further(lines: Mapping[str, Mapping[str, float]], of_time: str, of_memory: str) -> str:
    told = f"{1000 * lines['seconds']['slope']:.0f} ms{of_time}"
    return f"{told}, {lines['mb']['slope']:.1f} MB{of_memory}" if "mb" in lines else told


def _rivals(content: Mapping[str, Any]) -> str:
    results, trained = content["results"], content["trained_parameters"]
    names = dict.fromkeys(name for result in results.values() for name in result["rows"])
    rows = []
    for name in names:
        cells = []
        for result in results.values():
            takes = result["takes_times"]
            cells += [f"{result['rows'][name]['seconds']:.3f}", *(f"{takes[one][name]:.2f}" for one in takes)]
        rows.append((name, f"{trained[name] / 1e6:.1f}" if name in trained else "", *cells))
    takes = next(iter(results.values()))["takes_times"]
    head = ("network", "million trained weights")
    for setting in results:
        head += (f"{setting}: seconds", *(f"{one} takes, times" for one in takes))
    return table(head, rows)


def _machine(content: Mapping[str, Any]) -> str:
    reached, hardware = content["machine"], content["hardware"]
    rates = [f"{reached[name] / 1e9:.0f}" for name in ("flops_per_second", "bytes_per_second")]
    where = f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} thread(s), PyTorch {hardware['torch']}"
    side, number = content["step_setting"]
    seen = f"a step of {number} images of {side} pixels, a window of {content['window_side']}"
    seen += f", an image of {content['image_side']}"
    return table(
        ("measured on", "what", "rounds", "matrix product, GFLOP/s", "copy, GB/s"),
        [(where, seen, str(content["repeats"]), *rates)],
    )


def _roofline(parts: Mapping[str, Mapping[str, float]]) -> str:
    total = sum(part["seconds"] for part in parts.values())
    limit = sum(part["limit_seconds"] for part in parts.values())
    rows = [
        (
            name, f"{1000 * part['seconds']:.2f}", f"{part['seconds'] / total:.0%}", f"{part['flops'] / 1e9:.2f}",
            f"{part['bytes'] / 1e6:.1f}", f"{part['gflops_per_second']:.1f}", f"{part['gb_per_second']:.1f}",
            f"{1000 * part['limit_seconds']:.2f}", f"{part['of_limit']:.0%}",
        )
        for name, part in parts.items()
    ]  # fmt: skip
    flops, size = (sum(part[key] for part in parts.values()) for key in ("flops", "bytes"))
    rates = (f"{flops / total / 1e9:.1f}", f"{size / total / 1e9:.1f}")
    whole = ("all", f"{1000 * total:.2f}", "100%", f"{flops / 1e9:.2f}", f"{size / 1e6:.1f}", *rates)
    rows.append((*whole, f"{1000 * limit:.2f}", f"{limit / total:.0%}"))
    return table(("part", "ms", "share", "GFLOP", "MB", "GFLOP/s", "GB/s", "limit, ms", "limit of time"), rows)


def _runtimes(content: Mapping[str, Any]) -> str:
    names = list(content["masks"]["differing"])
    rows = []
    for windows in content["windows"]:
        cells = []
        for name in names:
            seconds, faster = (windows[key][f"icmoe by {name}"] for key in ("rows", "times_as_fast_as_torch"))
            cells.append(f"{1000 * seconds['seconds']:.0f} ms ({faster:.2f} times as fast)")
        rows.append((f"{windows['batch']} windows of {windows['side']} pixels at a time", *cells))
    differing = [f"{content['masks']['differing'][name]:,}" for name in names]
    said = f"pixels of masks that differ from PyTorch's, of {content['masks']['pixels']:,}"
    rows.append((f"{said} in {content['masks']['images']} drawn images", *differing))
    return table(("", *names), rows)
