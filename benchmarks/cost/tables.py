"""Write the tables of docs/cost.md from the files of costs in docs/results/.

python -m benchmarks.cost.tables            # write the tables
python -m benchmarks.cost.tables --check    # exit status 1 if docs/cost.md has other tables
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cost.default_tables import tables_of_default
from benchmarks.cost.wanted import FULL, highest_speedup, setting_of, wanted
from benchmarks.document import table, write_or_check

_PLACE = re.compile(r"(<!-- cost (\w+): begin -->\n).*?(<!-- cost \2: end -->\n)", re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the tables.

    Args:
        arguments: Words of the command line; by default those of this process.
    """
    return write_or_check("cost", "cost.tables", _with_tables, __doc__, arguments)


def _with_tables(text: str, results: Path) -> str:
    tables = make_tables(results)
    return _PLACE.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text)


def make_tables(folder: Path) -> dict[str, str]:
    """Return every table by its name in the page.

    Args:
        folder: Folder of the files.
    """
    training, inference, two_readers = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("training_cost", "inference_cost", "inference")
    )
    switches = [json.loads(path.read_text()) for path in sorted(folder.glob("switches*.json"))]
    return {
        **tables_of_default(folder),
        "wanted": table(("wanted", "found", "holds"), wanted(training["results"], inference, two_readers)),
        "training": _trainings(training["results"]),
        "steps": _steps(training["results"]),
        "parts": _parts(inference),
        "growth": _growth(inference["growth"]["rows"]),
        "variants": _variants(inference),
        "workflows": _workflows(inference["workflows"]),
        "packs": _packs(inference["packs"]),
        "switches": _switches(switches),
    }


def _trainings(results: Mapping[str, Any]) -> str:
    rows = []
    for result in results.values():
        full = result["trainings"][FULL]
        for training, row in result["trainings"].items():
            ratios = [f"{row[key] / full[key]:.2f}" for key in ("step_seconds", "peak_mb", "peak_above_start_mb")]
            weights, seconds, peak = (row[key] for key in ("trained_parameters", "step_seconds", "peak_mb"))
            name = (setting_of(result), training)
            rows.append((*name, f"{weights / 1e6:.1f}", f"{seconds:.2f}", ratios[0], f"{peak:.0f}", *ratios[1:]))
    head = (
        "setting", "training", "million trained weights", "seconds a step", "of full fine-tuning", "peak MB",
        "of full fine-tuning", "without Python and its libraries",
    )  # fmt: skip
    return table(head, rows)


def _steps(results: Mapping[str, Any]) -> str:
    found = [result["parts"] for result in results.values()]
    step = [sum(parts.values()) - parts["reading features"] for parts in found]
    rows = [
        (part, *(f"{parts[part]:.2f} s, {parts[part] / all_:.0%}" for parts, all_ in zip(found, step, strict=True)))
        for part in found[0]
    ]
    rows.append(("highest possible gain of the cache", *(f"{highest_speedup(parts):.2f} times" for parts in found)))
    return table(("part of a step", *(setting_of(result) for result in results.values())), rows)


def _parts(inference: Mapping[str, Any]) -> str:
    side = 2 * inference["window"]
    runs = [run for run in inference["workflows"] if run["longest_side"] == side]
    parts = dict(inference["parts"])
    for run in runs[-1:]:
        parts |= {part: run["parts"][part] / run["num_images"] for part in ("reading", "writing")}
    total = sum(parts.values())
    return table(
        (f"part of an image of {side} pixels", "seconds", "share"),
        [(part, f"{seconds:.3f}", f"{seconds / total:.0%}") for part, seconds in parts.items()],
    )


def _growth(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(
        ("side", "windows", "seconds", "times", "seconds a window", "peak MB", "above the start"),
        [
            (
                str(row["side"]), str(row["windows"]), f"{row['seconds']:.2f}", str(len(row["all_seconds"])),
                f"{row['seconds'] / row['windows']:.3f}", f"{row['peak_mb']:.0f}", f"{row['peak_above_start_mb']:.0f}",
            )
            for row in rows
        ],
    )  # fmt: skip


def _variants(inference: Mapping[str, Any]) -> str:
    three, half, one = inference["experts"]["3"], inference["overlaps"]["0.5"], inference["batches"]["1"]
    rows = [
        (f"{number} of 3 experts, one window", row["seconds"], row["seconds"] / three["seconds"])
        for number, row in inference["experts"].items()
    ]
    rows += [
        (
            f"{size} windows in a pass, each window",
            row["seconds"] / int(size),
            row["seconds"] / int(size) / one["seconds"],
        )
        for size, row in inference["batches"].items()
    ]
    rows += [
        (
            f"overlap {overlap}, an image of {3 * inference['window']} pixels",
            row["seconds"],
            row["seconds"] / half["seconds"],
        )
        for overlap, row in inference["overlaps"].items()
    ]
    return table(
        ("", "seconds", "of the default"), [(name, f"{seconds:.3f}", f"{ratio:.2f}") for name, seconds, ratio in rows]
    )


def _workflows(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for run in runs:
        each = [f"{run['parts'][part] / run['num_images']:.3f}" for part in ("reading", "network", "writing")]
        rate = run["num_images"] / run["seconds"]
        share = run["parts"]["network"] / run["seconds"]
        rows.append(
            (
                str(run["num_images"]), str(run["longest_side"]), *each, f"{run['parts']['once']:.2f}", f"{rate:.2f}",
                f"{share:.0%}", f"{run['peak_mb']:.0f}",
            )
        )  # fmt: skip
    head = (
        "images", "longest side", "reading", "network", "writing, seconds an image", "once a run, seconds",
        "images a second", "of the network's rate", "peak MB",
    )  # fmt: skip
    return table(head, rows)


def _packs(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in found:
        two = one["rows"]["two networks"]["seconds"]
        rows += [
            (f"{one['backbone']}, {one['side']} pixels", name, f"{row['seconds']:.3f}", f"{row['seconds'] / two:.2f}")
            for name, row in one["rows"].items()
        ]
    return table(("setting", "run", "seconds", "of two networks"), rows)


def _switches(files: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for kind, found in [(kind, found) for kind in ("inference", "training") for found in files]:
        for switch, row in found[kind].items():
            if "error" in row:
                rows.append((kind, switch, "fails", row["error"], "", ""))
            else:
                first, difference = f"{row['first_call_wall_seconds']:.0f}", f"{row['largest_difference']:.0e}"
                rows.append((kind, switch, f"{row['seconds']:.2f}", f"{row['of_float32']:.2f}", first, difference))
    head = ("", "way", "seconds", "of float32", "first call, seconds of the wall clock", "largest difference")
    return table(head, rows)


if __name__ == "__main__":
    sys.exit(main())
