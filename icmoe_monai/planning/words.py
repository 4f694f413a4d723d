"""A plan in words: its facts, times and summary, for the page and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icmoe_monai.planning.faults import FAULT
from icmoe_monai.planning.plan import Plan
from icmoe_monai.training.progress import duration

_GB = 1e9
_FINDINGS_TOLD = 3


def told_facts(facts: Mapping[str, Any], longest_side: int) -> list[tuple[str, str]]:
    """Return the facts as titles and texts.

    Args:
        facts: The facts.
        longest_side: Longest side of the images at the planned size, in pixels.
    """
    spacing = facts["spacing_mm"]
    shares = ", ".join(f"{name}: {100 * share:.2f} %" for name, share in facts["class_shares"].items())
    rows = [
        ("Images", _counts(facts["splits"])),
        ("Groups", f"{facts['num_groups']}" if facts["num_groups"] else "none are told (groups.csv, groups.json)"),
        ("Height (pixels)", _range(facts["height"])),
        ("Width (pixels)", _range(facts["width"])),
        ("Files", _counts(facts["files"])),
        ("Modes", f"{_counts(facts['modes'])}; {facts['num_grey']} images hold greys only"),
        ("Pixel spacing (mm)", f"{_range(spacing)}, of {facts['num_with_spacing']} files" if spacing else "not told"),
        ("Dark end of the values (0 to 255)", _range(facts["low"])),
        ("Bright end", f"{_range(facts['high'])}; {facts['num_cut_white']} images reach white"),
        ("Mean value", _range(facts["mean"])),
        ("Masks", f"{facts['num_masks']}, of which {facts['num_empty_masks']} are empty"),
        ("Share of the classes", shares or "no masks"),
        ("Targets in an image", _range(facts["targets_of_image"])),
        (f"Width of targets (pixels at {longest_side})", _range(facts["target_diameter"])),
        (
            f"Thickness of targets (pixels at {longest_side})",
            "-" if facts["target_thickness"] is None else f"{facts['target_thickness']:.1f} in a quarter of the images",
        ),
    ]
    return [(title, text) for title, text in rows if text]


def told_times(times: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the times as titles and texts.

    Args:
        times: The times of a plan.
    """
    peak = times["peak_bytes"]
    rows = [
        ("A training, at most", duration(times["training"])),
        ("An epoch with its validation", duration(times["epoch"])),
        ("A step", f"{times['step']:.2f} s (mean of {times['num_steps']} steps and less)"),
        ("Preparation", duration(times["preparation"])),
        ("Validation of an image", f"{times['validated_image']:.2f} s"),
    ]
    if times["predicted_image"] is not None:
        rows.append(("A prediction, from file to files", f"{times['predicted_image']:.2f} s"))
    if peak is not None:
        rows.append(("Memory of a training", f"{peak / _GB:.2f} GB with the images that it keeps"))
    return rows


def told_plan(plan: Plan) -> list[str]:
    """Return a plan as lines for a terminal: what was found, the first faults, what is chosen, and times.

    Args:
        plan: The plan.
    """
    lines = [f"{plan.facts['num_images']} images: {_counts(plan.facts['splits'])}."]
    for fault in plan.faults:
        many = len(fault.findings)
        lines.append(f"{fault.level}: {fault.title} ({many}). {fault.remedy}")
        told = _FINDINGS_TOLD if fault.level == FAULT else 1
        lines += [f"  {finding.sentence}" for finding in fault.findings[:told]]
        lines += [f"  ... and {many - told} more" for _ in (0,) if many > told]
    if not plan.num_faults:
        lines.append("No fault was found.")
    for choice in plan.choices:
        settings = ", ".join(f"{name} {value}" for name, value in choice.settings.items())
        lines.append(f"{settings or choice.title}: {choice.reason}")
    lines.append(plan.folds[1])
    if plan.times is not None:
        lines += [f"{title}: {text}" for title, text in told_times(plan.times)]
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _range(values: Mapping[str, float] | None) -> str:
    if values is None:
        return ""
    low, median, high = (f"{values[name]:.4g}" for name in ("min", "median", "max"))
    return low if low == high else f"{low} to {high}, median {median}"
