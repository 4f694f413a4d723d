"""What is reported of shifted images: the numbers by hand, the files, and the workflow from its config."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import put_demo_set
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from PIL import Image
from scipy.stats import spearmanr

from icmoe_monai.analysis.shift_metrics import ShiftMetrics, case_quality, summarise
from icmoe_monai.analysis.shifts import SHIFTS, STRENGTHS
from icmoe_monai.calibration.file import Calibration
from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.transforms.votes import SplitVotesd
from icmoe_monai.utils.statistics import rank_correlation
from icmoe_monai.weights.checkpoint import save_weights

ROOT = Path(__file__).parents[2]
CONFIGS = [str(ROOT / "configs" / name) for name in ("train.json", "evaluate.json", "evaluate_shift.yaml")]


def assert_drawn(path: Path) -> None:
    """A figure is wide enough to be read and neither blank nor of one kind of mark."""
    with Image.open(path) as image:
        assert image.width == 1440
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels != 255).any(2).mean() > 0.02
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def rows_of(dice: dict[tuple[str, int], list[float]]) -> list[dict]:
    return [
        {"case": f"case {i}", "shift": shift, "strength": strength, "dice": value, "confidence": value / 2}
        for i in range(2)
        for (shift, strength), column in dice.items()
        for value in [column[i]]
    ]


def test_summary_by_hand():
    dice = {("none", 0): [0.9, 0.7], ("blur", 1): [0.9, 0.6], ("blur", 2): [0.5, 0.5], ("blur", 3): [0.1, 0.4]}
    summary = summarise(rows_of(dice), num_bootstrap=500)
    assert summary["num_cases"] == 2
    clean, *_, worst = summary["conditions"]
    assert (clean["dice"], clean["interval"], clean["amount"]) == (0.8, [0.7, 0.9], None)
    assert (worst["dice"], worst["minus_clean"], worst["amount"]) == (0.25, -0.55, 4.0)
    assert worst["minus_clean_interval"] == pytest.approx([-0.8, -0.3])  # paired by case
    assert worst["quality"] == {"confidence": 0.125}
    rho = summary["spearman"]["confidence"]
    assert (rho["expected_sign"], rho["over_conditions"], rho["over_cases_and_conditions"]) == (1, 1.0, 1.0)
    assert (rho["within_cases"], rho["num_cases_within"]) == (1.0, 2)


def test_intervals_are_over_groups_where_these_are_known():
    rows = rows_of({("none", 0): [0.9, 0.7], ("blur", 1): [0.9, 0.6]})
    alike = [
        {"case": f"{row['case']} {copy}", "group": row["case"], **{key: row[key] for key in list(row)[1:]}}
        for copy in range(8)
        for row in rows
    ]
    known = summarise(alike, num_bootstrap=500)
    unknown = summarise([{**row, "group": None} for row in alike], num_bootstrap=500)
    assert (known["num_groups"], unknown["num_groups"]) == (2, None)
    assert known["conditions"][0]["interval"] == [0.7, 0.9]
    assert unknown["conditions"][0]["interval"][0] > 0.72
    assert list(known["spearman"]) == ["confidence"]


def test_correlations_are_over_conditions_over_all_and_within():
    rows = rows_of({("none", 0): [0.9, 0.3], ("blur", 1): [0.8, 0.2], ("blur", 2): [0.7, 0.1], ("blur", 3): [0.6, 0.0]})
    falling = [0.1, 0.2, 0.3, 0.4]
    for row, figure in zip(rows, [*falling, *falling[::-1]], strict=True):
        row["confidence"] = figure
    rho = summarise(rows)["spearman"]["confidence"]
    assert (rho["over_conditions"], rho["within_cases"]) == (None, 0.0)  # means 0.25 throughout; -1 and 1
    expected = spearmanr([row["dice"] for row in rows], [row["confidence"] for row in rows]).statistic
    assert rho["over_cases_and_conditions"] == pytest.approx(expected, abs=1e-6)
    assert rank_correlation(np.array([1.0]), np.array([2.0])) is None


def item_of(label: torch.Tensor, found: torch.Tensor, K: int = 1, **fields: object) -> dict:
    """A case of two experts of which the second finds nothing; the first has all votes."""
    if K == 1:
        experts = torch.stack([found[None] * 0.98 + 0.01, torch.full_like(found[None], 0.01)])
    else:
        certain = torch.nn.functional.one_hot(found.long(), K).permute(2, 0, 1).float()
        nothing = torch.nn.functional.one_hot(torch.zeros_like(found).long(), K).permute(2, 0, 1).float()
        experts = torch.stack([certain, nothing])
    votes = torch.stack([torch.ones_like(found), torch.zeros_like(found)])
    pred = torch.cat([experts[0], experts.flatten(0, 1), votes])
    item = {"pred": pred, "label": label[None].to(torch.uint8), "name": "a", "shift": "none", "strength": 0, **fields}
    return SplitVotesd(out_channels=K, expert_names=("first", "second"))(item)


def test_quality_is_that_of_a_run_without_labels():
    square = torch.zeros(8, 8)
    square[2:6, 2:6] = 1
    item = item_of(square, square)
    quality = case_quality(item)
    assert quality == {
        "confidence": pytest.approx(0.99),
        "disagreement": pytest.approx(0.9802),  # 1 - 0.99 * 0.01 - 0.01 * 0.99
        "vote_entropy": 0.0,
        "expert_agreement": 0.0,
    }
    told = {"confidence": 0.8, "disagreement": 0.1, "vote_entropy": 0.5, "expert_agreement": 0.7}
    features = {**told, "peak": 0.9}
    assert case_quality({**item, "vote_features": features}) == told  # as inference tells them


def test_a_calibration_predicts_the_dice_of_a_shifted_case():
    class Predicts(Calibration):
        def predict_dice(self, features):
            return features["peak"] / 2

    item = {
        "vote_features": {"confidence": 0.8, "disagreement": 0, "vote_entropy": 0, "expert_agreement": 0, "peak": 0.9}
    }
    assert case_quality(item, Predicts(reason="a test"))["predicted_dice"] == 0.45
    assert "predicted_dice" not in case_quality(item, Calibration(reason="none"))


def run_handler(folder: Path, items: list[dict], **arguments: object) -> ShiftMetrics:
    handler = ShiftMetrics(output_dir=folder, **arguments)
    evaluator = Engine(lambda engine, batch: [batch])
    handler.attach(evaluator)
    evaluator.run(items)
    return handler


@pytest.mark.parametrize("K", [1, pytest.param(3, marks=pytest.mark.slow)], ids=["binary", "classes"])
def test_handler_writes_scores_and_figures(tmp_path, K):
    Image.fromarray(np.tile(np.arange(0, 250, 5, dtype=np.uint8), (40, 1))).save(tmp_path / "a.png")
    image = MetaTensor(torch.zeros(3, 32, 32), meta={"filename_or_obj": str(tmp_path / "a.png")})
    label = torch.zeros(8, 8)
    label[2:6, 2:6] = 1
    label[0] = 2 if K == 3 else 0
    items = []
    for i, (shift, strength) in enumerate([("none", 0), *(("blur", strength) for strength in STRENGTHS)]):
        found = label.clone()
        found[2 : 2 + i, 2:6] = 0  # a row of the square is lost at each strength
        items.append(item_of(label, found, K, image=image, shift=shift, strength=strength))
    run_handler(tmp_path / "out", items, out_channels=K, bundle_info={"checkpoint": "/home/me/best.pt"})
    with (tmp_path / "out" / "shifts.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [2 * (16 - 4 * i) / (32 - 4 * i) for i in range(4)]  # the other class, where there is one, has 1
    assert [float(row["dice"]) for row in rows] == pytest.approx([(d + K // 3) / (1 + K // 3) for d in expected])
    content = json.loads((tmp_path / "out" / "shifts.json").read_text())
    assert content["settings"]["checkpoint"] == "best.pt"
    assert content["conditions"][0]["interval"] is None  # of a single case
    for name in ("shifts", "shift_quality", "shift_examples"):
        assert_drawn(tmp_path / "out" / f"{name}.png")


def test_a_case_without_a_label_is_refused(tmp_path):
    item = {**item_of(torch.zeros(8, 8), torch.zeros(8, 8)), "label": None}
    with pytest.raises(InputError, match="a has no label"):
        run_handler(tmp_path, [item])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_workflow_evaluates_all_shifts(tmp_path):
    put_demo_set(tmp_path / "set")
    save_weights(ICMoE(train_trunk=True, detail=ImagePyramid()), tmp_path / "best.pt")
    flow = ConfigWorkflow(
        config_file=CONFIGS, workflow_type="train", logging_file=False, run_id="evaluating", pretrained=None,
        dataset_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "out"), checkpoint=str(tmp_path / "best.pt"),
        image_size=64, num_workers=0, device="cpu", num_cases=2, shifts=["marker", "jpeg"], num_bootstrap=50,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    flow.finalize()
    content = json.loads((tmp_path / "out" / "shifts.json").read_text())
    assert content["num_cases"] == 2
    assert len(content["conditions"]) == 7
    assert set(content["spearman"]) == {"confidence", "disagreement", "vote_entropy", "expert_agreement"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "shifts.csv", "shifts.json", "shifts.png", "shift_quality.png", "shift_examples.png",
    }  # fmt: skip


def test_config_names_every_shift():
    assert ConfigParser.load_config_file(CONFIGS[-1])["shifts"] == list(SHIFTS)
