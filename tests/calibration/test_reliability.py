"""What an evaluation says of a model's own word: literal definitions, with and without a calibration, and figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from calibration_cases import cases, find, fit
from ignite.engine import Engine
from PIL import Image

from icmoe_monai.calibration.figures import draw_predicted_dice, draw_reliability, draw_risk_coverage
from icmoe_monai.calibration.file import Calibration
from icmoe_monai.calibration.reliability import ReliabilityMetrics, aurc, risk_coverage
from icmoe_monai.utils.files import read_csv

FIGURES = ["predicted_dice.png", "reliability.png", "risk_coverage.png"]


def evaluate(folder: Path, items: list[dict], calibration: Calibration | None) -> dict:
    engine = Engine(lambda engine, batch: batch)
    ReliabilityMetrics(output_dir=folder, calibration=calibration, num_bootstrap=200).attach(engine)
    engine.run([[item] for item in items])
    return json.loads((folder / "reliability.json").read_text())


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    folder = tmp_path_factory.mktemp("calibration")
    fit(folder, cases(40, empty=8))
    return find(folder)


def test_intervals_are_over_groups_where_these_are_known(calibration: Calibration, tmp_path: Path) -> None:
    items = cases(30, empty=6, seed=5)
    alike = [item | {"name": f"{item['name']} {copy}", "group": item["name"]} for item in items for copy in range(4)]
    results = {
        "once": evaluate(tmp_path, items, calibration),
        "groups": evaluate(tmp_path, alike, calibration),
        "four times": evaluate(tmp_path, [{**item, "group": None} for item in alike], calibration),
    }
    assert [result["num_groups"] for result in results.values()] == [None, 30, None]

    def width(name: str, part: str, interval: str) -> float:
        low, high = results[name][part][interval]
        return high - low

    for part, interval in (("control", "interval"), ("predicted_dice", "gain_interval")):
        assert width("groups", part, interval) == pytest.approx(width("once", part, interval), rel=0.4)
        assert width("four times", part, interval) < 0.75 * width("groups", part, interval)


def test_images_of_one_group_are_evaluated_without_intervals(calibration: Calibration, tmp_path: Path) -> None:
    result = evaluate(tmp_path, [item | {"group": "a"} for item in cases(30, empty=6, seed=5)], calibration)
    assert result["num_groups"] == 1
    quality = result["predicted_dice"]
    assert quality["spearman"] > 0.5
    assert [quality["spearman_interval"], quality["gain_interval"], result["control"]["interval"]] == [None] * 3
    assert result["area"]["interval"] is None


def test_a_calibrated_evaluation(calibration: Calibration, tmp_path: Path) -> None:
    items = cases(30, empty=6, seed=5)
    result = evaluate(tmp_path, items, calibration)
    assert result["images_of_the_calibration"] is False
    rows = read_csv(tmp_path / "reliability.csv")
    assert [row["case"] for row in rows] == [item["name"] for item in items]

    p = np.concatenate([item["probability"].numpy().ravel() for item in items])
    y = np.concatenate([item["label"].numpy().ravel() for item in items])
    expected = 0.0
    for low in range(15):
        inside = (p >= low / 15) & (p < (low + 1) / 15)
        expected += abs(p[inside].sum() - y[inside].sum()) / len(p)
    assert result["calibration_error"]["before"] == pytest.approx(expected, abs=1e-5)
    assert result["calibration_error"]["after"] < result["calibration_error"]["before"]

    found = [item["probability"].numpy() >= calibration.threshold for item in items]
    rates = [
        1 - mask[item["label"].numpy() > 0].mean()
        for mask, item in zip(found, items, strict=True)
        if item["label"].any()
    ]
    assert result["control"]["rate"] == pytest.approx(np.mean(rates), abs=1e-6)
    assert result["control"]["interval"][0] <= result["control"]["rate"] <= result["control"]["interval"][1]
    assert (result["control"]["alpha"], result["control"]["num_images"]) == (0.1, 24)
    missed = [1 - item["voted"].numpy()[item["label"].numpy() > 0].mean() for item in items if item["label"].any()]
    assert result["control"]["default_rate"] == pytest.approx(np.mean(missed), abs=0.01)

    assert result["control"]["share"] == pytest.approx(np.mean(found), abs=1e-6)
    voted = [item["voted"].numpy().mean() for item in items]
    assert result["control"]["default_share"] == pytest.approx(np.mean(voted), abs=1e-6)

    quality, dice = result["predicted_dice"], np.array([float(row["dice"]) for row in rows])
    order = np.argsort([-float(row["predicted_dice"]) for row in rows])
    assert quality["mean_dice_of_the_rest"] == pytest.approx(dice[order[:24]].mean())
    assert quality["gain"] == pytest.approx(dice[order[:24]].mean() - dice.mean())
    assert quality["spearman"] > 0.5
    assert result["aurc"]["optimal"] <= result["aurc"]["predicted_dice"] < result["aurc"]["random"]
    told = result["no_lesion"]
    assert {key: told[key] for key in ("num_with_lesion", "num_lesion_free", "specificity", "auroc", "reason")} == {
        "num_with_lesion": 24,
        "num_lesion_free": 6,
        "specificity": 1.0,
        "auroc": 1.0,
        "reason": None,
    }
    kept = [row["no_lesion"] == "False" for row in rows if row["has_lesion"] == "True"]
    assert told["sensitivity"] == pytest.approx(np.mean(kept))
    assert told["specificity_at_sensitivity"] == 1.0
    assert told["sensitivity"] > 0.75  # 0.9 was asked for, on average
    assert told["sensitivity_interval"][0] < told["sensitivity"] <= told["sensitivity_interval"][1]
    assert told["specificity_interval"] == pytest.approx([0.6097, 1.0], abs=1e-3)  # Wilson's of 6 of 6
    assert sorted(path.name for path in tmp_path.glob("*.png")) == FIGURES


def test_without_a_calibration_what_can_be_told_is(tmp_path: Path) -> None:
    result = evaluate(tmp_path, cases(6), None)
    assert list(result["calibration_error"]) == ["before"]
    assert result["predicted_dice"] is None
    assert result["images_of_the_calibration"] is None
    assert set(result["aurc"]) == {"naive_confidence", "mean_vote_confidence", "optimal", "random"}
    assert result["control"] == {
        **{key: result["control"][key] for key in ("num_images", "default_rate", "default_share")},
        **dict.fromkeys(("alpha", "threshold", "rate", "interval", "share")),
    }
    assert result["no_lesion"]["sensitivity"] is None
    assert result["no_lesion"]["reason"] == "No calibration was given."
    assert sorted(path.name for path in tmp_path.glob("*.png")) == FIGURES[1:]


def test_images_of_the_calibration_itself_are_told(calibration: Calibration, tmp_path: Path) -> None:
    assert evaluate(tmp_path, cases(40, empty=8), calibration)["images_of_the_calibration"] is True


def test_a_set_of_lesion_free_images_alone_has_no_rates_of_lesions(calibration: Calibration, tmp_path: Path) -> None:
    result = evaluate(tmp_path, cases(3, empty=3, seed=7), calibration)
    assert result["control"] is None
    assert (result["no_lesion"]["sensitivity"], result["no_lesion"]["specificity"]) == (None, 1.0)


def test_risk_and_coverage_are_their_definition() -> None:
    confidence, dice = np.array([0.2, 0.9, 0.5, 0.7]), np.array([0.0, 1.0, 0.6, 0.8])
    risks = [0.0, 0.2 / 2, 0.6 / 3, 1.6 / 4]
    assert risk_coverage(confidence, dice) == pytest.approx(risks)
    assert aurc(confidence, dice) == pytest.approx(np.mean(risks))
    assert aurc(confidence, dice) == aurc(dice, dice) < aurc(-confidence, dice)
    assert aurc(np.zeros(4), dice) == pytest.approx(1 - dice.mean())  # cases that are alike share their risk


def colours_of(path: Path) -> tuple[np.ndarray, set[tuple[int, ...]]]:
    with Image.open(path) as image:
        assert image.width == 1200
        pixels = np.asarray(image.convert("RGB"))
    coded = np.unique(pixels.astype(int) @ [65536, 256, 1])
    return pixels, {(int(code >> 16), int(code >> 8 & 255), int(code & 255)) for code in coded}


def test_the_reliability_diagram_shows_both(tmp_path: Path) -> None:
    bins = np.stack([np.arange(15.0, 0, -1), np.arange(15) / 15 * np.arange(15, 0, -1), np.arange(15) / 20.0])
    draw_reliability({"before": bins, "after": bins * [[1], [1], [2]]}, tmp_path / "figure.png")
    pixels, colours = colours_of(tmp_path / "figure.png")
    assert {(0, 114, 178), (230, 159, 0)} <= colours
    assert 0.005 < (pixels < 128).any(2).mean() < 0.3
    draw_reliability({"before": bins}, tmp_path / "one.png", is_top_class=True)
    assert (0, 114, 178) not in colours_of(tmp_path / "one.png")[1]


def test_the_curves_of_risk_and_coverage_are_all_there(tmp_path: Path) -> None:
    curves = {name: np.linspace(0.1, end, 20) for name, end in (("first", 0.3), ("second", 0.5), ("third", 0.6))}
    draw_risk_coverage(curves, tmp_path / "figure.png")
    assert {(0, 114, 178), (230, 159, 0), (204, 121, 167)} <= colours_of(tmp_path / "figure.png")[1]


def test_the_predicted_dice_is_drawn_beside_the_true(tmp_path: Path) -> None:
    predicted = np.linspace(0, 1, 9)
    draw_predicted_dice(predicted, predicted**2, tmp_path / "a.png")
    draw_predicted_dice(predicted, predicted**2, tmp_path / "b.png", review_below=0.4)
    first, second = colours_of(tmp_path / "a.png")[0], colours_of(tmp_path / "b.png")[0]
    orange = (230, 159, 0)
    assert not (first == orange).all(2).any()
    assert (second == orange).all(2).any()
