"""The benchmark of plan and folds: its commands, that it goes on, and its comparison, with handmade evaluations."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.study import folds
from benchmarks.study.run import RunFailedError
from icmoe_monai.commands.words import read_words
from icmoe_monai.utils.files import write_csv

SETTINGS = {"max_epochs": "3", "val_interval": "3"}
DICE = {
    "default": {"a": (0.5, 0.7), "b": (0.8, 0.6)},
    "plan": {"a": (0.6, 0.7), "b": (0.8, 0.7)},
    "folds": {"a": (0.7, 0.8), "b": (0.9, 0.7)},
}


def put_evaluations(home: Path) -> dict[str, list[Path]]:
    for name, of_set in DICE.items():
        for part in of_set:
            folder = home / part / "seed_0" / name / "evaluation"
            lines = [
                {"case": f"{i}", "group": f"patient {i}" if part == "a" else "", "method": method, "dsc": dice}
                for i, voted in enumerate(of_set[part])
                for method, dice in (("voted", voted), ("oracle", 1.0))
            ]
            folder.mkdir(parents=True)
            write_csv(folder / "cases.csv", lines)
    return {part: [home / part / "seed_0"] for part in ("a", "b")}


def put_notes(home: Path) -> None:
    (home / "plan").mkdir(exist_ok=True)
    (home / "plan" / "plan.yaml").write_text("image_size: 128\naugmentation#affine#prob: 0.9\nnum_workers: 0\n")
    reliability = {"calibration_error": {"after": 0.02}, "predicted_dice": {"spearman": 0.5, "aurc": 0.1}}
    (home / "folds" / "evaluation" / "reliability.json").write_text(json.dumps(reliability))
    (home / "folds" / "folds.json").write_text(json.dumps({"dice": {"mean": 0.75}}))


def test_each_command_is_one_that_a_user_may_give(tmp_path):
    commands = folds.commands_of(Path("busi"), tmp_path, SETTINGS, 5)
    assert [words[0] for _, words in commands] == ["plan", *["train", "evaluate"] * 3]
    read = [read_words(words, ("skin",)) for _, words in commands]
    plan = str(tmp_path / "plan" / "plan.yaml")
    assert [given.config for given, _ in read if given.command == "train"] == [[], [plan], [plan]]
    default, planned, of_folds = (further for given, further in read if given.command == "train")
    assert default == planned == {"max_epochs": 3, "val_interval": 3}
    assert of_folds == {"max_epochs": 3}  # the folds look once, by themselves
    assert [given.folds for given, _ in read if given.command == "train"] == [None, None, 5]


def test_it_goes_on_and_tells_what_failed(tmp_path, monkeypatch):
    done = []

    def run(command, stdout, **_):
        done.append(command[3])
        Path(command[5]).mkdir(parents=True, exist_ok=True)
        stdout.write("busi holds no images\n")
        return subprocess.CompletedProcess(command, 1 if len(done) == 3 else 0)

    monkeypatch.setattr(folds.subprocess, "run", run)
    (tmp_path / "busi" / "plan").mkdir(parents=True)
    (tmp_path / "busi" / "plan" / "plan.yaml").touch()
    with pytest.raises(RunFailedError, match=r"3_train.log: busi holds no images"):
        folds.run_set(Path("busi"), tmp_path / "busi", SETTINGS, 5)
    assert done == ["train", "evaluate", "train"]
    (tmp_path / "busi" / "default" / "evaluation" / "summary.json").touch()
    folds.run_set(Path("busi"), tmp_path / "busi", SETTINGS, 5)
    assert done[3:] == ["train", "evaluate", "train", "evaluate"]


def test_differences_are_of_the_same_images_and_each_set_counts_alike(tmp_path):
    homes = put_evaluations(tmp_path)
    scores = folds.read_scores(homes)
    assert scores.groups == {"a": ["patient 0", "patient 1"], "b": None}
    assert scores.lines[0] == {
        "set": "a", "seed": 0, "case": "0", "group": "patient 0", "default": 0.5, "plan": 0.6, "folds": 0.7,
    }  # fmt: skip
    found = folds.compare(scores)
    assert found["sets"]["a"]["dice"] == pytest.approx({"default": 0.6, "plan": 0.65, "folds": 0.75})
    assert found["sets"]["b"]["folds_minus_plan"]["mean"] == pytest.approx(0.05)
    assert found["pooled"]["folds_minus_default"]["mean"] == pytest.approx((0.15 + 0.1) / 2)
    low, high = found["pooled"]["folds_minus_default"]["interval"]
    assert (low, high) == pytest.approx(((0.1 + 0.1) / 2, (0.2 + 0.1) / 2))


def test_the_table_tells_what_was_compared(tmp_path):
    homes = put_evaluations(tmp_path)
    found = folds.compare(folds.read_scores(homes))
    for name, (home,) in homes.items():
        put_notes(home)
        found["sets"][name]["seeds"] = [folds.describe(home)]
    found["sets"]["a"]["seeds"] *= 2
    lines = folds.table_of(found).splitlines()
    assert lines[2].startswith("| a | 2 | 2 | 0.600 | 0.650 | 0.750 | +0.0500 (+0.0000 to +0.1000) | +0.1000 ")
    assert lines[2].endswith("| 0.020, 0.020 | 0.50, 0.50 |")
    assert lines[-1].startswith("| pooled |  |  |  |  |  | +0.0500 ")


def test_an_image_counts_with_its_mean_over_the_seeds(tmp_path):
    put_evaluations(tmp_path)
    other = tmp_path / "a" / "seed_1" / "folds" / "evaluation"
    shutil.copytree(tmp_path / "a" / "seed_0", tmp_path / "a" / "seed_1")
    lines = [{"case": case, "method": "voted", "dsc": dice} for case, dice in (("0", 0.9), ("1", 0.4))]
    write_csv(other / "cases.csv", lines)
    scores = folds.read_scores({"a": [tmp_path / "a" / f"seed_{seed}" for seed in (0, 1)]})
    assert [(line["seed"], line["case"], line["folds"]) for line in scores.lines] == [
        (0, "0", 0.7), (0, "1", 0.8), (1, "0", 0.9), (1, "1", 0.4),
    ]  # fmt: skip
    assert scores.dice["a"]["folds"] == pytest.approx([0.8, 0.6])
    assert folds.compare(scores)["sets"]["a"]["folds_minus_plan"]["mean"] == pytest.approx(0.05)


def test_each_set_may_have_its_number_of_seeds(tmp_path):
    homes = folds.homes_of(tmp_path, ["a", "b"], [2, 1])
    assert homes == {"a": [tmp_path / "a" / "seed_0", tmp_path / "a" / "seed_1"], "b": [tmp_path / "b" / "seed_0"]}
    assert folds.homes_of(tmp_path, ["a", "b"], [1]) == {name: seeds[:1] for name, seeds in homes.items()}


def test_what_is_told_of_a_set_is_what_its_commands_have_written(tmp_path):
    put_evaluations(tmp_path)
    put_notes(tmp_path / "a" / "seed_0")
    assert folds.describe(tmp_path / "a" / "seed_0") == {
        "seed": 0,
        "plan": {"image_size": 128, "augmentation#affine#prob": 0.9},
        "out_of_fold": {"dice": {"mean": 0.75}},
        "calibration_error": {"after": 0.02},
        "predicted_dice": {"spearman": 0.5, "spearman_interval": None, "mean_absolute_error": None},
    }
