"""Write the tables of docs/suggest.md from docs/results/suggest_SET.json.

python -m benchmarks.suggest.table            # write the tables
python -m benchmarks.suggest.table --check    # exit status 1 if docs/suggest.md has others
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import between_marks, in_brackets, table, why_no_interval, write_or_check
from benchmarks.study.tables import interval, pooled_interval
from benchmarks.suggest.experiment import BEGIN, STRATEGIES
from icmoe_monai.suggestion.suggestion import RANDOM, SUGGEST
from icmoe_monai.utils.statistics import count_groups


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the tables.

    Args:
        arguments: Words of the command line; by default those of this process.
    """
    return write_or_check("suggest", "suggest.table", _with_tables, __doc__, arguments)


def _with_tables(text: str, results: Path) -> str:
    return between_marks(text, "suggest", tables(results))


def tables(folder: Path) -> str:
    """Return the tables in Markdown: the mean Dice of each strategy, and the differences of suggest and the others.

    Args:
        folder: Folder of the files.
    """
    sets = [json.loads(path.read_text()) for path in sorted(folder.glob("suggest_*.json"))]
    if not sets:
        return "Nothing has been measured yet.\n"
    heads = ["", *(f"{one['dataset']}, {len(one['cases'])} test images" for one in sets)]
    lines = [[name, *(_mean(one, name) for one in sets)] for name in (BEGIN, *STRATEGIES)]
    lines = [line for line in lines if set(line[1:]) != {"-"}]
    others = [name for name in (BEGIN, *STRATEGIES) if name != SUGGEST]
    differences = [line for other in others if (line := _difference(sets, other)) is not None]
    heads_of_pooled = ["suggest minus", *(one["dataset"] for one in sets), "all sets", "seeds"]
    parts = [table(heads, lines)] + ([table(heads_of_pooled, differences)] if differences else [])
    why = why_no_interval([one["dataset"] for one in sets if count_groups(one.get("groups") or ()) == 1])
    return "\n\n".join([*parts, *([why] if why else []), _verdict(sets)]) + "\n"


def _verdict(sets: Sequence[Mapping[str, Any]]) -> str:
    """Say whether the suggestion beats chance: whether the whole interval of the pooled difference is above 0."""
    found = _pooled(sets, RANDOM)
    if found is None:
        return "**Whether `suggest` beats chance is not known yet.**"
    ends = found[1]
    if ends is None:
        return "**It is not shown that `suggest` beats chance**: no interval can be given."
    low, high = ends
    if low > 0:
        return "**`suggest` beats chance**: the whole interval of its difference from random labels is above 0."
    end = "below 0, it is worse" if high < 0 else "on both sides of 0"
    return f"**It is not shown that `suggest` beats chance**: the difference's interval is {end}."


def _mean(one: Mapping[str, Any], name: str) -> str:
    runs = one["dice"].get(name)
    return f"{np.mean([np.mean(dice) for dice in runs.values()]):.3f} ({len(runs)})" if runs else "-"


def _shared(one: Mapping[str, Any], other: str) -> list[str]:
    return [seed for seed in one["dice"].get(SUGGEST, {}) if seed in one["dice"].get(other, {})]


def _columns(one: Mapping[str, Any], other: str) -> list[np.ndarray]:
    """Return the Dice of every image by suggest and by another strategy, as the mean over the seeds that both have."""
    seeds = _shared(one, other)
    return [np.mean([one["dice"][name][seed] for seed in seeds], axis=0) for name in (SUGGEST, other)]


def _pooled(sets: Sequence[Mapping[str, Any]], other: str) -> tuple[float, tuple[float, float] | None] | None:
    compared = [one for one in sets if _shared(one, other)]
    if not compared:
        return None
    differences = [ours - others for ours, others in (_columns(one, other) for one in compared)]
    groups = [one.get("groups") for one in compared]
    return float(np.mean([each.mean() for each in differences])), pooled_interval(differences, groups)


def _difference(sets: Sequence[Mapping[str, Any]], other: str) -> list[str] | None:
    pooled = _pooled(sets, other)
    if pooled is None:
        return None
    cells = []
    for one in sets:
        if not _shared(one, other):
            cells.append("-")
            continue
        ours, others = _columns(one, other)
        cells.append(
            _told(ours.mean() - others.mean(), interval(lambda a, b: a - b, ours, others, groups=one.get("groups")))
        )
    num_seeds = sorted({len(seeds) for one in sets if (seeds := _shared(one, other))})
    return [other, *cells, _told(*pooled), " or ".join(map(str, num_seeds))]


def _told(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:+.3f} {in_brackets(ends, '+.3f')}"


if __name__ == "__main__":
    sys.exit(main())
