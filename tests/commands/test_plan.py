"""Command `icmoe plan`: its files, what a training makes of them, and its errors in a sentence."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import planted
import pytest
import yaml
from folders import put_demo
from monai.bundle import ConfigParser

from icmoe_monai.__main__ import main
from icmoe_monai.planning.schema import PLAN
from icmoe_monai.utils.schema import find_fault

ROOT = Path(__file__).parents[2]
COMMON = ["--device", "cpu", "--memory", "4GB"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return the folder of a plan of a set with two faults."""
    folder = tmp_path_factory.mktemp("plan")
    dataset = planted.put_phantoms(folder / "of a patient" / "set", num_images=14)
    planted.put(dataset, "train_03", None, 0 * planted.read(dataset, "masks", "train_03") + 255)
    planted.put(
        dataset, "val_11", planted.read(dataset, "images", "train_04"), planted.read(dataset, "masks", "train_04")
    )
    given = ["--longest_side", "128", "--split_seed", "3", "--augmentation#affine#prob", "0.5", "--overwrite", "True"]
    with redirect_stdout(StringIO()) as told:
        assert main(["plan", str(dataset), str(folder / "out"), "--no_timing", *given, *COMMON]) == 0
    (folder / "told.txt").write_text(told.getvalue())
    return folder


def test_the_files_are_there_and_no_other(folder):
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["plan.html", "plan.json", "plan.yaml"]


def test_the_values_are_as_their_schema_says(folder):
    content = json.loads((folder / "out" / "plan.json").read_text())
    assert find_fault(PLAN, content) is None
    assert content["facts"]["splits"] == {"train": 11, "val": 2, "test": 1}
    assert content["settings"]["longest_side"] == 128
    faults = {fault["kind"]: fault for fault in content["faults"] if fault["level"] == "fault"}
    assert list(faults) == ["duplicate_across_splits", "full_mask"]
    assert faults["full_mask"]["findings"][0]["files"] == ["masks/train_03.png"]
    assert content["times"] is None


def test_the_overlay_has_the_settings_and_a_comment_for_each_choice(folder):
    text = (folder / "out" / "plan.yaml").read_text()
    content = json.loads((folder / "out" / "plan.json").read_text())
    assert yaml.safe_load(text) == content["settings"]
    assert "overwrite" not in content["settings"]  # else each training by the plan would replace another unasked
    comments = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    assert all(choice["reason"] in comments for choice in content["choices"])
    config = ConfigParser.load_config_files([str(ROOT / "configs" / "train.json"), str(folder / "out" / "plan.yaml")])
    assert (config["longest_side"], config["split_seed"]) == (128, 3)  # chosen by the plan, and kept by it
    assert config["augmentation"]["affine"]["prob"] == 0.5


def test_the_next_command_can_be_pasted(folder):
    command = shlex.split((folder / "told.txt").read_text().splitlines()[-1].partition("then: ")[2])
    assert command == [
        *("icmoe", "train", str(folder / "of a patient" / "set"), "OUT"),
        *("--config", str(folder / "out" / "plan.yaml")),
    ]


def test_the_page_shows_faults_with_pictures_and_loads_nothing(folder):
    page = (folder / "out" / "plan.html").read_text()
    for told in ("2 faults to mend", "masks/train_03.png", "images/val_11.png", "One image in two splits", "--config"):
        assert told in page, told
    assert page.count('src="data:image/jpeg;base64,') >= 3
    assert page.count("<svg") == 3
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)


def test_nothing_but_file_names_is_told_of_the_set(folder):
    for name in ("plan.json", "plan.html", "plan.yaml"):
        text = (folder / "out" / name).read_text()
        assert "of a patient" not in text, name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "OUT"], "The dataset folder .*nowhere does not exist"),
        (["DATA", "OUT", "--memory", "much"], "memory must be a number with MB or GB, such as 4GB, got 'much'"),
        (["DATA", "OUT", "--memory", "100MB"], "The memory of 0.1 GB is too small"),
        (["DATA", "OUT", "--hours", "-1"], "--hours must be a number above 0, got '-1'"),
        (["DATA", "OUT", "--longest_sid", "64"], "No setting is called longest_sid: did you mean longest_side?"),
        (["DATA", "OUT", "--longest_side", "big"], "longest_side must be a whole number from 16 to 65536, got 'big'"),
        (["DATA", "OUT", "--no_timing", "--image_size", "33"], "image_size must be .* a multiple of 16, got 33"),
        (["DATA"], "the following arguments are required: OUT"),
    ],
)
def test_a_mistake_is_a_sentence(words, sentence, folder, tmp_path, capsys):
    places = {"DATA": str(folder / "of a patient" / "set"), "OUT": str(tmp_path / "out")}
    assert main(["plan", *(places.get(word, word) for word in words)]) == 1
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.slow
def test_a_plan_with_times_is_taken_by_a_training(tmp_path, capsys):
    dataset = put_demo(tmp_path / "set", train=4, val=2, test=2)
    small = ["--image_size", "64", "--longest_side", "64", "--num_workers", "0"]
    assert main(["plan", str(dataset), str(tmp_path / "out"), "--hours", "1", *small, *COMMON]) == 0
    told = capsys.readouterr().out
    assert "A training, at most:" in told
    content = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert find_fault(PLAN, content) is None
    times = content["times"]
    assert times["step"] > 0
    assert times["predicted_image"] > 0
    assert times["training"] <= 3600 or content["settings"]["max_epochs"] == 5
    run = tmp_path / "run"
    plan = ["--config", str(tmp_path / "out" / "plan.yaml"), "--max_epochs", "1", "--epoch_length", "1"]
    assert main(["train", str(dataset), str(run), *plan, "--device", "cpu"]) == 0
    assert (run / "best.pt").is_file()
