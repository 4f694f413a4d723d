"""Scores of single masks against NumPy, the conventions for empty masks, and whole evaluations with MONAI's engine."""

from __future__ import annotations

import csv
import errno
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle.config_parser import ConfigParser
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.spatial.dictionary import Resized
from scipy.spatial.distance import cdist
from skimage.draw import disk, ellipse

from icmoe_monai.errors import InputError
from icmoe_monai.evaluation.cases import CaseMetrics, MaskScores, mask_scores
from icmoe_monai.transforms.votes import SplitVotesd, voting_methods

EXPERTS = ("plain", "shifted", "blank")
# The engine as a bundle's config describes it; image and label have different sizes, as in the cases below.
CONFIG: dict[str, Any] = {
    "imports": ["$import monai"],
    "out_channels": 1,
    "expert_names": list(EXPERTS),
    "evaluator": {
        "_target_": "monai.engines.SupervisedEvaluator",
        "device": "cpu",
        "val_data_loader": "@loader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {
                    "_target_": "monai.transforms.Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {
                    "_target_": "icmoe_monai.transforms.SplitVotesd",
                    "keys": "pred",
                    "out_channels": "@out_channels",
                    "expert_names": "@expert_names",
                },
            ],
        },
        "key_val_metric": {
            "val_dice_voted": {
                "_target_": "monai.handlers.IgniteMetricHandler",
                "metric_fn": {
                    "_target_": "monai.metrics.DiceMetric",
                    "include_background": False,
                    "ignore_empty": False,
                    "num_classes": "@out_channels",
                },
                "output_transform": "$monai.handlers.from_engine(['voted', 'label'])",
            }
        },
        "val_handlers": [
            {
                "_target_": "icmoe_monai.evaluation.VoteStatistics",
                "expert_names": "@expert_names",
                "prefix": "val_",
            },
            {
                "_target_": "icmoe_monai.evaluation.CaseMetrics",
                "output_dir": "@output_dir",
                "out_channels": "@out_channels",
                "expert_names": "@expert_names",
                "num_bootstrap": 100,
                "bundle_info": {"checkpoint": "/home/me/model.pt", "rate": float("nan")},
            },
        ],
    },
}


def _numpy_scores(predicted: np.ndarray, label: np.ndarray) -> list[float]:
    """Return DSC, IoU, HD95, precision, recall, specificity of two non-empty masks from their definitions."""

    def border(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(mask & ~inside)

    distances = cdist(border(predicted), border(label))
    hd95 = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    tp, fp = (predicted & label).sum(), (predicted & ~label).sum()
    fn, tn = (~predicted & label).sum(), (~predicted & ~label).sum()
    return [2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn), hd95, tp / (tp + fp), tp / (tp + fn), tn / (tn + fp)]


def test_scores_equal_their_definitions_also_at_the_image_border() -> None:
    label, predicted = np.zeros((61, 47), bool), np.zeros((61, 47), bool)
    label[disk((20, 18), 12, shape=label.shape)] = True
    predicted[ellipse(24, 12, 17, 9, shape=label.shape, rotation=0.4)] = True
    predicted[0:5, 40:47] = True
    scores = mask_scores(torch.from_numpy(predicted), torch.from_numpy(label))
    assert scores[:6] == pytest.approx(_numpy_scores(predicted, label), rel=1e-6)
    assert scores[6:] == (label.sum(), predicted.sum(), 61, 47, 0, 0)
    assert scores.hd95 is not None
    assert 5 < scores.hd95 < 40


@pytest.mark.parametrize(
    ("predicted", "label", "expected"),
    [
        ([0, 0, 0], [0, 0, 0], MaskScores(1, 1, 0.0, 1, 1, 1, 0, 0, 1, 3, 0, 0)),
        ([0, 0, 0], [1, 0, 0], MaskScores(0, 0, None, 0, 0, 1, 1, 0, 1, 3, 1, 0)),
        ([1, 0, 0], [0, 0, 0], MaskScores(0, 0, None, 0, 0, 2 / 3, 0, 1, 1, 3, 0, 1)),
        ([1, 1, 1], [1, 1, 1], MaskScores(1, 1, 0.0, 1, 1, 1, 3, 3, 1, 3, 0, 0)),
        ([0, 0, 1], [1, 0, 0], MaskScores(0, 0, 2.0, 0, 0, 0.5, 1, 1, 1, 3, 0, 0)),
    ],
    ids=["both-empty", "missed", "false-alarm", "full", "apart"],
)
def test_conventions(predicted: list[int], label: list[int], expected: MaskScores) -> None:
    scores = mask_scores(torch.tensor([predicted]).bool(), torch.tensor([label]).bool())
    assert scores == pytest.approx(expected, abs=1e-6)


def _one_hot_pred(label_map: torch.Tensor, out_channels: int) -> torch.Tensor:
    """Return the tensor of one certain expert that decides a label map (H, W)."""
    if out_channels == 1:
        probabilities = label_map[None].float()
    else:
        probabilities = torch.stack([(label_map == k).float() for k in range(out_channels)])
    return torch.cat([probabilities, probabilities, torch.ones(1, *label_map.shape)])


def _evaluate(
    folder: Path,
    cases: list[tuple[torch.Tensor, torch.Tensor]],
    out_channels: int = 1,
    groups: Sequence[str] = (),
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Evaluate pairs of predicted and true label maps (H, W) with one expert; return `cases.csv` and `summary.json`."""
    split = SplitVotesd(expert_names=("only",), out_channels=out_channels)
    engine = Engine(lambda _, batch: [split(item) for item in batch])
    CaseMetrics(output_dir=folder, out_channels=out_channels, expert_names=("only",), num_bootstrap=200).attach(engine)
    items = [{"pred": _one_hot_pred(pred, out_channels), "label": label[None]} for pred, label in cases]
    engine.run([[item | ({"group": groups[i]} if groups else {})] for i, item in enumerate(items)])
    with open(folder / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def _row(*values: int) -> torch.Tensor:
    return torch.tensor([values])


def test_a_missed_case_is_counted_and_never_lowers_the_penalised_distance(tmp_path: Path) -> None:
    worst = (_row(0, 0, 0, 1), _row(1, 0, 0, 0))  # HD95 3, the largest that two non-empty masks can have here
    missed, alarm = (_row(0, 0, 0, 0), _row(1, 0, 0, 0)), (_row(1, 0, 0, 0), _row(0, 0, 0, 0))
    both_empty = (_row(0, 0, 0, 0), _row(0, 0, 0, 0))
    rows, summary = _evaluate(tmp_path, [worst, missed, alarm, both_empty])
    voted = summary["methods"]["voted"]
    diagonal = math.hypot(1, 4)
    assert voted["hd95_detected"] == {"cases": 1, "mean": 3, "std": None, "median": 3, "interval": None}
    assert voted["hd95_penalised"]["mean"] == pytest.approx((3 + diagonal + diagonal + 0) / 4, abs=1e-6)
    assert diagonal > 3
    assert (voted["missed_cases"], voted["false_alarms"], voted["dsc"]["mean"]) == (1, 1, 0.25)
    voted_rows = [row for row in rows if row["method"] == "voted"]
    assert [row["hd95"] for row in voted_rows] == ["3.000000", "", "", "0.000000"]
    assert [row["missed"] + row["false_alarm"] for row in voted_rows] == ["00", "10", "01", "00"]
    assert [row["case"] for row in voted_rows] == ["case 1", "case 2", "case 3", "case 4"]


def test_no_detected_case_gives_null(tmp_path: Path) -> None:
    _, summary = _evaluate(tmp_path, [(_row(0, 0), _row(1, 0))])
    detected = summary["methods"]["voted"]["hd95_detected"]
    assert detected == {"cases": 0, "mean": None, "std": None, "median": None, "interval": None}
    assert summary["methods"]["voted"]["dsc"]["interval"] is None
    assert summary["voting_gain"] == {"over": "only", "mean": 0, "interval": None}


def test_equal_cases_give_an_interval_of_no_width(tmp_path: Path) -> None:
    _, summary = _evaluate(tmp_path, [(_row(1, 1, 0), _row(1, 0, 0))] * 3)
    assert summary["methods"]["voted"]["dsc"] == {
        **{"cases": 3, "mean": 0.666667, "std": 0, "median": 0.666667, "interval": [0.666667, 0.666667]}
    }


def test_no_figure_of_an_earlier_evaluation_stays_beside_these_scores(tmp_path: Path) -> None:
    for name in ("protocol.json", "predicted_dice.png", "notes.txt"):
        (tmp_path / name).write_text("of another model")
    _evaluate(tmp_path, [(_row(1, 1, 0), _row(1, 0, 0))] * 3)
    assert {path.name for path in tmp_path.iterdir()} == {"cases.csv", "summary.json", "notes.txt"}


def test_classes_are_scored_one_by_one_and_averaged(tmp_path: Path) -> None:
    # Class 1: DSC 2/3, HD95 1 x 0.95 (distances 0 and 1). Class 2: missed. Second case: perfect, class 2 empty.
    first = (_row(1, 1, 0, 0), _row(1, 0, 0, 2))
    second = (_row(0, 1, 0, 0), _row(0, 1, 0, 0))
    rows, summary = _evaluate(tmp_path, [first, second], out_channels=3)
    cells = [(row["case"], row["class"], row["dsc"], row["hd95"], row["missed"]) for row in rows[:3]]
    assert cells == [
        ("case 1", "1", "0.666667", "0.950000", "0"),
        ("case 1", "2", "0.000000", "", "1"),
        ("case 1", "mean", "0.333333", "", "1"),
    ]
    assert list(rows[0])[:4] == ["case", "method", "class", "dsc"]
    voted = summary["methods"]["voted"]
    assert voted["dsc"]["mean"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-6)
    assert voted["hd95_detected"]["mean"] == pytest.approx((0.95 + 0) / 2, abs=1e-6)
    assert voted["hd95_detected"]["cases"] == 2
    assert voted["missed_cases"] == 1
    assert voted["classes"]["2"]["dsc"]["mean"] == 0.5
    assert voted["classes"]["2"]["hd95_penalised"]["mean"] == pytest.approx(math.hypot(1, 4) / 2, abs=1e-6)


def test_intervals_are_over_groups_where_these_are_known(tmp_path: Path) -> None:
    good, poor = (_row(1, 1, 0, 0), _row(1, 1, 0, 0)), (_row(1, 0, 0, 0), _row(1, 1, 1, 0))
    missed = (_row(0, 0, 0, 0), _row(1, 0, 0, 0))
    cases, groups = [good] * 9 + [poor] * 9 + [missed], ["a"] * 9 + ["b"] * 9 + ["b"]
    rows, summary = _evaluate(tmp_path / "with", cases, groups=groups)
    other_rows, without = _evaluate(tmp_path / "without", cases)
    assert (summary["num_groups"], without["num_groups"]) == (2, None)
    assert [row["group"] for row in rows if row["method"] == "voted"] == groups
    assert "group" not in other_rows[0]
    voted, others = summary["methods"]["voted"], without["methods"]["voted"]
    assert voted["dsc"]["interval"] == [0.45, 1]  # both of one group: 9 of 0.5 with one of 0, or 9 of 1
    assert voted["hd95_detected"]["interval"][0] == 0  # the missed case counts neither as image nor in its group
    for score in ("dsc", "hd95_detected"):
        assert voted[score]["mean"] == others[score]["mean"]
        low, high = others[score]["interval"]
        assert high - low < 0.8 * (voted[score]["interval"][1] - voted[score]["interval"][0])
    assert _evaluate(tmp_path / "one", cases, groups=["a"] * 19)[1]["methods"]["voted"]["dsc"]["interval"] is None


def test_the_gain_is_over_the_best_expert_and_its_interval_is_paired(tmp_path: Path) -> None:
    # Voted equals the better expert everywhere: though DSC varies from case to case, the paired gain is exactly 0.
    split = SplitVotesd(expert_names=("worse", "better"))
    engine = Engine(lambda _, batch: [split(item) for item in batch])
    CaseMetrics(output_dir=tmp_path, expert_names=("worse", "better"), num_bootstrap=200).attach(engine)
    batches = []
    for width in (1, 2, 3, 5):
        better = torch.zeros(1, 8)
        better[0, :width] = 1
        pred = torch.stack([better, torch.zeros(1, 8), better, torch.zeros(1, 8), torch.ones(1, 8)])
        batches.append([{"pred": pred, "label": torch.tensor([[[1, 1, 1, 0, 0, 0, 0, 0]]])}])
    engine.run(batches)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["voting_gain"] == {"over": "better", "mean": 0, "interval": [0, 0]}
    dsc = summary["methods"]["voted"]["dsc"]
    assert dsc["mean"] == pytest.approx(np.mean([2 / 4, 4 / 5, 1, 6 / 8]), abs=1e-6)
    assert dsc["interval"][0] < dsc["mean"] < dsc["interval"][1]
    gain = summary["voted_minus_mean_vote"]  # the experts' mean is 0.5, which decides nothing
    assert (gain["over"], gain["mean"]) == ("mean_vote", dsc["mean"])


class _Toy(torch.nn.Module):
    """Brightness as the plain expert, moved by four columns as the shifted one; the last sees nothing."""

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        super().__init__()
        self.seconds = list(seconds)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds.pop() if self.seconds else 0)
        plain = image.clamp(0.01, 0.99)
        shifted = plain.roll(4, dims=-1)
        blank = torch.full_like(plain, 0.01)
        votes = torch.tensor([0.6, 0.3, 0.1]).reshape(1, 3, 1, 1).expand(-1, -1, *image.shape[2:])
        return torch.cat([plain, plain, shifted, blank, votes], dim=1)


def _run_config(folder: Path, sizes: list[tuple[int, int]], seconds: Sequence[float] = ()) -> Engine:
    items = []
    for i, size in enumerate(sizes):
        mask = np.zeros(size, np.float32)
        mask[disk((size[0] / 2, size[1] / 2), min(size) / 4)] = i != 2  # the third case has nothing to find
        image = MetaTensor(torch.from_numpy(mask)[None], meta={"filename_or_obj": f"/data/{'ab'[i % 2]}/{i}.png"})
        items.append({"image": image, "label": torch.from_numpy(mask)[None].to(torch.uint8)})
    preprocessing = Compose([Resized(keys="image", spatial_size=(32, 32))])
    parts = {
        "loader": DataLoader(Dataset(items, preprocessing), batch_size=1),
        "preprocessing": preprocessing,
        "network": _Toy(seconds),
        "inferer": lambda image, network: network(image),
        "output_dir": str(folder),
    }
    parser = ConfigParser({**CONFIG, **parts})
    parser.get_parsed_content("imports")
    evaluator: Engine = parser.get_parsed_content("evaluator")
    evaluator.run()
    return evaluator


def test_an_evaluation_of_odd_sizes_end_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = [(41, 57), (64, 33), (50, 50)]
    with caplog.at_level(logging.INFO, logger="icmoe_monai"):
        evaluator = _run_config(tmp_path / "made" / "here", sizes)
    folder = tmp_path / "made" / "here"
    assert sorted(os.listdir(folder)) == ["cases.csv", "summary.json", "timing.json"]
    with open(folder / "cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["method"]) for row in rows] == [
        (case, method) for case in ("a/0.png", "b/1.png", "a/2.png") for method in voting_methods(EXPERTS)
    ]
    assert [(int(row["height"]), int(row["width"])) for row in rows[::6]] == sizes
    summary = json.loads((folder / "summary.json").read_text())
    means = {method: scores["dsc"]["mean"] for method, scores in summary["methods"].items()}
    assert means["plain"] > 0.9
    assert means["voted"] == means["plain"]
    assert means["plain"] > means["shifted"] > means["blank"]
    assert means["oracle"] >= means["voted"]
    assert means["blank"] == pytest.approx(1 / 3, abs=1e-6)
    assert summary["methods"]["blank"]["missed_cases"] == 2
    assert summary["votes"]["load_plain"] == 1
    assert evaluator.state.metrics["val_dice_voted"] == pytest.approx(means["voted"], abs=1e-6)
    assert evaluator.state.metrics["val_vote_entropy"] == pytest.approx(summary["votes"]["vote_entropy"], abs=1e-6)
    assert summary["settings"]["checkpoint"] == "model.pt"
    assert summary["settings"]["rate"] is None
    assert set(summary["settings"]["versions"]) == {"icmoe_monai", "monai", "torch"}
    assert "3 cases" in caplog.text
    assert all(method in caplog.text for method in voting_methods(EXPERTS))


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for run in ("first", "second"):
        _run_config(tmp_path / run, [(20, 31), (33, 20), (24, 24), (27, 40)])
    for name in ("cases.csv", "summary.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_time_of_the_network_is_that_of_the_median_case_and_not_in_the_summary(tmp_path: Path) -> None:
    _run_config(tmp_path, [(20, 31), (33, 20), (24, 24)], seconds=[0.3, 0.05, 0.05])
    found = json.loads((tmp_path / "timing.json").read_text())
    assert 0.05 <= found["inference_seconds"] < 0.3
    assert "seconds" not in (tmp_path / "summary.json").read_text()


def test_only_numbers_are_kept_between_cases(tmp_path: Path) -> None:
    split = SplitVotesd(expert_names=("only",))
    engine = Engine(lambda _, batch: [split(item) for item in batch])
    handler = CaseMetrics(output_dir=tmp_path, expert_names=("only",))
    handler.attach(engine)
    mask = torch.ones(6, 6)
    engine.run([[{"pred": _one_hot_pred(mask, 1), "label": mask[None], "name": f"{i}"}] for i in range(3)])
    leaves: list[Any] = [vars(handler)]
    for leaf in leaves:
        leaves.extend(leaf.values() if isinstance(leaf, dict) else leaf if isinstance(leaf, (list, tuple)) else [])
    assert not [leaf for leaf in leaves if isinstance(leaf, (torch.Tensor, np.ndarray))]
    assert sum(isinstance(leaf, MaskScores) for leaf in leaves) == 3 * 4


def test_a_folder_that_cannot_be_made_ends_the_run_before_the_first_case(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases_seen: list[int] = []
    engine = Engine(lambda _, batch: cases_seen.append(batch))
    CaseMetrics(output_dir=tmp_path / "file").attach(engine)
    with pytest.raises(InputError, match=r"Cannot write .* in .*file"):
        engine.run([1])
    assert cases_seen == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_a_disk_that_refuses_at_the_end_leaves_the_old_results_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _evaluate(tmp_path, [(_row(1, 0), _row(1, 0))])
    before = (tmp_path / "cases.csv").read_bytes()
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "cases.csv":
            raise OSError(code, os.strerror(code))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=rf"Cannot write cases\.csv in .*{os.strerror(code)}"):
        _evaluate(tmp_path, [(_row(0, 1), _row(1, 0))])
    assert (tmp_path / "cases.csv").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["cases.csv", "summary.json"]


def test_a_case_without_label_is_named(tmp_path: Path) -> None:
    split = SplitVotesd(expert_names=("only",))
    engine = Engine(lambda _, batch: [split(item) for item in batch])
    CaseMetrics(output_dir=tmp_path, expert_names=("only",)).attach(engine)
    with pytest.raises(InputError, match="a/b has no label"):
        engine.run([[{"pred": _one_hot_pred(torch.ones(2, 2), 1), "name": "a/b"}]])
