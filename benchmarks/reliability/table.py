"""Write the table of docs/reliability.md from docs/results/reliability_SET.json and risk_control_SET.json.

python -m benchmarks.reliability.table            # write the table
python -m benchmarks.reliability.table --check    # exit status 1 if docs/reliability.md has another table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.document import between_marks, in_brackets, why_no_interval, write_or_check


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the table.

    Args:
        arguments: Words of the command line; by default those of this process.
    """
    return write_or_check("reliability", "reliability.table", _with_table, __doc__, arguments)


def _with_table(text: str, results: Path) -> str:
    return between_marks(text, "reliability", table(results))


def table(folder: Path) -> str:
    """Return the table in Markdown, with a column per data set.

    Args:
        folder: Folder of the files.
    """
    names = sorted(path.stem.removeprefix("reliability_") for path in folder.glob("reliability_*.json"))
    files = [[json.loads((folder / f"{kind}_{name}.json").read_text()) for kind in _KINDS] for name in names]
    columns = [_column(*of_set) for of_set in files]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    lines += ["| " + " | ".join([key, *(column[key] for column in columns)]) + " |" for key in columns[0]]
    why = why_no_interval([name for name, (found, _) in zip(names, files, strict=True) if found.get("num_groups") == 1])
    return "\n".join([*lines, *(["", why] if why else [])]) + "\n"


_KINDS = ("reliability", "risk_control")


def _column(found: Mapping[str, Any], splits: Mapping[str, Any]) -> dict[str, str]:
    error, quality, area, control = (found[key] for key in ("calibration_error", "predicted_dice", "aurc", "control"))
    random = splits["alphas"][f"{control['alpha']:g}"]
    digits = {"spearman_interval": 2, "gain_interval": 3}
    ends = {name: in_brackets(quality[name], f".{digit}f") for name, digit in digits.items()}
    rate_ends = in_brackets(control["interval"], ".3f")
    answers = [_shown(found["no_lesion"][key]) for key in ("sensitivity", "specificity")]
    return {
        "test images": str(found["num_cases"]),
        "calibration error, before": f"{error['before']:.3f}",
        "calibration error, after": f"{error['after']:.3f}",
        "predicted with true Dice, Spearman": f"{quality['spearman']:.2f} {ends['spearman_interval']}",
        "predicted Dice, mean absolute error": f"{quality['mean_absolute_error']:.3f}",
        "mean Dice of all": f"{quality['mean_dice']:.3f}",
        "mean Dice of the 80 % best predicted": f"{quality['mean_dice_of_the_rest']:.3f}",
        "gain": f"{quality['gain']:+.3f} {ends['gain_interval']}",
        "AURC of predicted Dice": f"{area['predicted_dice']:.3f}",
        "AURC of naive confidence": f"{area['naive_confidence']:.3f}",
        "AURC of the mean vote's entropy": f"{area['mean_vote_confidence']:.3f}",
        "AURC of the optimum": f"{area['optimal']:.3f}",
        "false-negative rate of the default masks": f"{control['default_rate']:.3f}",
        f"of the controlled masks, alpha {control['alpha']:g}": f"{control['rate']:.3f} {rate_ends}",
        "share of the image, default and controlled masks": f"{control['default_share']:.3f}, {control['share']:.3f}",
        "mean rate over random splits of validation and test images": f"{random['mean_rate']:.3f}",
        "splits whose interval reaches down to alpha": f"{random['num_holding']} of {len(random['splits'])}",
        "no lesion, sensitivity and specificity": ", ".join(answers),
        "areas that lie in their interval": _share_of(found.get("area"), "coverage"),
        "median of its upper end over its lower one": _shown((found.get("area") or {}).get("median_ratio")),
        "called out of distribution": _share_of(found.get("out_of_distribution"), "share"),
    }


def _share_of(part: Mapping[str, Any] | None, name: str) -> str:
    return "not measured" if part is None else f"{part[name]:.3f} {in_brackets(part['interval'], '.3f')}"


def _shown(value: float | None) -> str:
    return "not fitted" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
