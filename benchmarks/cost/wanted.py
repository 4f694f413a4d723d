"""Comparison of the goals for the cost of training and inference with the measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.cost.rows import DEFAULT, FULL_DECODERS, LITE2, SMP, THREE

SINGLE = (LITE2, SMP)  # the single networks that the default is to be measured by
FULL, CACHED = "full fine-tuning", "icmoe, cached"
_SPEEDUPS = {"vit_t": 3.0, "vit_b": 5.0}
_MEMORY, _THROUGHPUT, _R2 = 0.25, 0.75, 0.99
_STEP, _WINDOW, _OF_THREE = 1.6, 2.2, 0.6
Row = tuple[str, str, str]


def wanted(training: Mapping[str, Any], inference: Mapping[str, Any], two_readers: Mapping[str, Any]) -> list[Row]:
    """Return for each goal its name, the measurement, and "yes" or "**no**".

    Args:
        training: `results` of training_cost.json.
        inference: inference_cost.json.
        two_readers: inference.json, measured with two processes that read images.
    """
    found = [*_speedups(training), *_memory(training), *_throughput(inference, two_readers), *_growth(inference)]
    return [(name, said, "yes" if holds else "**no**") for name, said, holds in found]


def wanted_of_default(rivals: Mapping[str, Any]) -> list[Row]:
    """Return for each goal of the default network its name, the measurement, and "yes" or "**no**".

    Args:
        rivals: rivals_cost.json.
    """
    found = [*_beside_one(rivals), *_beside_three(rivals)]
    return [(name, said, "yes" if holds else "**no**") for name, said, holds in found]


def highest_speedup(parts: Mapping[str, float]) -> float:
    """Return how many times faster a step could be if all that the cache replaces cost only the reading of features."""
    step = sum(parts.values()) - parts["reading features"]
    return step / (sum(parts.values()) - sum(parts[part] for part in ("trunk", "pyramid", "reading images")))


def setting_of(result: Mapping[str, Any]) -> str:
    """Describe the setting of a result in words."""
    return f"{result['backbone']}, {result['image_size']} pixels, batch {result['batch_size']}"


def _beside_one(rivals: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for setting, result in rivals["results"].items():
        aim = _STEP if "step" in setting else _WINDOW
        for name in SINGLE:
            if name in result["rows"]:
                takes, full = (result["takes_times"][one][name] for one in (DEFAULT, FULL_DECODERS))
                said = f"{takes:.2f} times; with full decoders {full:.2f}"
                yield f"{setting}: at most {aim} times as long as {name}", said, takes <= aim


def _beside_three(rivals: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    three = THREE + rivals["best"]
    for setting, result in rivals["results"].items():
        takes, full = (result["takes_times"][one][three] for one in (DEFAULT, FULL_DECODERS))
        said = f"{takes:.0%}; with full decoders {full:.0%}"
        yield f"{setting}: at most {_OF_THREE:.0%} of {three}", said, takes <= _OF_THREE


def _speedups(training: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for result in training.values():
        rows, aim = result["trainings"], _SPEEDUPS[result["backbone"]]
        speedup = rows["icmoe"]["step_seconds"] / rows[CACHED]["step_seconds"]
        name = f"a cached step is {aim:.0f} times as fast as an uncached one, {setting_of(result)}"
        yield name, f"{speedup:.2f} times", speedup >= aim


def _memory(training: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for result in training.values():
        cached, full = (result["trainings"][name] for name in (CACHED, FULL))
        share, above = (cached[key] / full[key] for key in ("peak_mb", "peak_above_start_mb"))
        name = f"peak memory with the cache is at most 25 % of full fine-tuning's, {setting_of(result)}"
        yield name, f"{share:.0%}; without Python and its libraries {above:.0%}", share <= _MEMORY


def _throughput(inference: Mapping[str, Any], two_readers: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    begin = "throughput from file to files is at least 75 % of the network's"
    for run in inference["workflows"]:
        share = run["parts"]["network"] / run["seconds"]
        name = f"{begin}, {run['num_images']} images at {run['longest_side']} pixels, one process"
        yield name, f"{share:.0%}", share >= _THROUGHPUT
    share = 1 / two_readers["ratio"]
    name = f"{begin}, {two_readers['num_images']} images at {two_readers['longest_side']} pixels, "
    yield name + f"{two_readers['num_workers']} readers beside it, wall clock", f"{share:.0%}", share >= _THROUGHPUT


def _growth(inference: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    fit = inference["growth"]["fit"]
    line, memory = fit["seconds_per_megapixel"], fit["peak_mb_per_megapixel"]
    said = f"{line['slope']:.1f} s a megapixel, R² {line['r2']:.4f}; time ~ pixels^{fit['exponent']:.2f}"
    yield "time grows linearly with the pixels", said, line["r2"] >= _R2
    said = f"{memory['slope']:.0f} MB a megapixel, R² {memory['r2']:.4f}"
    yield "memory does not grow with the pixels", said, memory["slope"] < 1
