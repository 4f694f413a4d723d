"""The benchmark of growth: what it counts, its lines and its table, with numbers made by hand."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.cost import growth
from benchmarks.cost.default_tables import table_of_growth


def test_windows_are_counted_once_whatever_the_folds(monkeypatch):
    monkeypatch.setattr(growth, "peak_memory", lambda run, device: {"peak_mb": 0.0 if run() is None else 9.0})
    point = growth.BASE | {"side": 260, "overlap": 0, "folds": 2}
    with torch.no_grad():
        found = growth.measure_point(point, "cpu")
    assert found["windows"] == 4
    assert found["megapixels"] == pytest.approx(0.0676)
    assert found["seconds"] > 0
    assert found["peak_mb"] == 9


def test_one_thing_is_changed_at_a_time(monkeypatch):
    asked = []

    def run(module, words):
        asked.append((module, words))
        return {"seconds": 2.0, "peak_mb": 500.0, "peak_above_start_mb": 50.0, "windows": 9, "parts": {}}

    monkeypatch.setattr(growth, "in_own_process", run)
    points = growth.measure({"folds": (1, 2), "images": (5,)}, growth.BASE, "cpu")
    assert [json.loads(words[1]) for module, words in asked if module == "benchmarks.cost.growth"] == [
        growth.BASE | {"folds": 1},
        growth.BASE | {"folds": 2},
    ]
    assert asked[-1] == ("benchmarks.cost.workflow", ["--num_images", "5", "--device", "cpu"])
    assert [(point["thing"], point["value"], point["seconds"]) for point in points] == [
        ("folds", 1, 2.0), ("folds", 2, 2.0), ("images", 5, 2.0),
    ]  # fmt: skip


def test_lines_and_table_tell_what_each_further_unit_adds():
    points = [
        {
            "thing": "side",
            "value": side,
            "windows": windows,
            "megapixels": pixels,
            "seconds": seconds,
            "peak_above_start_mb": mb,
        }
        for side, windows, pixels, seconds, mb in ((256, 1, 1.0, 0.3, 40.0), (512, 9, 4.0, 1.1, 100.0))
    ] + [{"thing": "folds", "value": n, "seconds": 1.0 + n, "peak_above_start_mb": 10.0 * n} for n in (1, 2, 5)]
    lines = growth.lines_of(points)
    assert lines["side"]["seconds"] == pytest.approx({"slope": 0.1, "intercept": 0.2, "r2": 1})
    assert lines["side"]["mb"]["slope"] == pytest.approx(20)
    text = table_of_growth({"points": points, "lines": lines}).splitlines()
    assert (
        text[2]
        == "| side of the image, pixels | 256, 512 | 0.3, 1.1 | 40, 100 | 100 ms a window, 20.0 MB a megapixel |"
    )
    assert text[3] == "| folds | 1, 2, 5 | 2, 3, 6 | 10, 20, 50 | 1000 ms, 10.0 MB |"
