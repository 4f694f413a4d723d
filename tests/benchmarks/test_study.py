"""The runner of studies, with commands that are faked but for one real study."""

from __future__ import annotations

import _thread
import csv
import json
import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from benchmarks.study import __main__ as study_command
from benchmarks.study import run as study_run
from benchmarks.study.collect import METHODS, rate_of
from benchmarks.study.file import Run, read_study, runs_of, settings_of, trials_of
from benchmarks.study.plan import Place, commands_of, configs_of
from benchmarks.study.run import last_line
from icmoe_monai.data.demo import make_demo_set
from icmoe_monai.errors import InputError
from icmoe_monai.utils import children
from icmoe_monai.utils.files import read_csv, write_csv, write_json
from icmoe_monai.weights.tensor_files import save_checkpoint

ROOT = Path(__file__).parents[2]
STUDY = {
    "base": "configs/backbones/vit_t.yaml",
    "seeds": [0, 1],
    "datasets": {"first": {}, "second": {"longest_side": 96}},
    "settings": {"image_size": 64, "batch_size": 4, "epoch_length": 2, "max_epochs": 2, "patience": 99},
    "rows": {"icmoe": None, "unet": "configs/baselines/unet.yaml", "depth_1": "configs/ablations/encoder/depth_1.yaml"},
    "tuning": {"dataset": "second", "seed": 1, "learning_rates": [0.003, 0.001], "rows": ["icmoe", "unet"]},
}
TRAINER = {"epoch_length": 2, "max_epochs": 2}  # of the state of a training


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("first", "second")):
        make_demo_set(str(folder / name), num_images=12, seed=seed)
    return folder


class Bench:
    """A study in a folder of its own, whose commands are faked: what they are given, and what they write."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.study_file, self.runs, self.results = folder / "tiny.yaml", folder / "runs", folder / "results"
        self.trunk = folder / "trunk.safetensors"
        self.trunk.write_bytes(b"weights")
        self.write_study(STUDY)
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.failing: set[tuple[str, str]] = set()  # entry and part of its output_dir

    def write_study(self, content: dict) -> None:
        self.study_file.write_text(yaml.safe_dump(content, sort_keys=False))

    def main(self, *arguments: str) -> int:
        folders = [
            "--data_dir",
            self.data,
            "--runs_dir",
            self.runs,
            "--results_dir",
            self.results,
            "--trunk",
            self.trunk,
        ]
        return study_command.main([str(self.study_file), *map(str, folders), *arguments], self.execute)

    def execute(self, command: list[str], log: Path, environment) -> int:
        self.commands.append(command)
        self.environments.append(dict(environment))
        entry, output = command[4], Path(option(command, "--output_dir"))
        for failing, part in self.failing:
            if entry == failing and part in str(output):
                log.write_text("step 1\rstep 2\nInputError: the disk is full.\n\n")
                return 1
        log.write_text("done\n")
        getattr(self, entry)(command, output)
        return 0

    def training(self, command: list[str], output: Path) -> None:
        rate = float(option(command, "--learning_rate") or 0.5)
        columns = "epoch,iteration,step_seconds,peak_mb,val_mean_dice"
        lines = [columns, f"1,2,0.5,500.5,{0.9 - rate}", "2,4,0.25,512.2,0.1"]
        (output / "metrics.csv").write_text("\n".join(lines) + "\n")
        (output / "best.pt").write_bytes(b"")
        save_checkpoint({"model": {}, "trainer": TRAINER | {"iteration": 4}}, output / "last.pt")

    def evaluating(self, command: list[str], output: Path) -> None:
        methods = METHODS if "/icmoe/" in str(output) else ("voted", "mean_vote", "basic", "oracle")
        seed = int(option(command, "--seed"))
        scores = {
            name: {"mean": round(0.5 + 0.1 * seed, 6)} for name in ("dsc", "iou", "hd95_detected", "hd95_penalised")
        }
        votes = {"disagreement": 0.1, "hard_disagreement": 0.2, "vote_entropy": 0.3, "load_basic": 1.0}
        gain = {"over": "basic", "mean": 0.01, "interval": None}
        summary = {"num_cases": 2, "methods": dict.fromkeys(methods, scores), "voting_gain": gain, "votes": votes}
        write_json(output / "summary.json", summary)
        write_json(output / "timing.json", {"inference_seconds": 0.125})
        lines = [f"{case},{method},{0.25 + seed}" for case in ("b", "a") for method in methods]
        (output / "cases.csv").write_text("\n".join(["case,method,dsc", *lines]) + "\n")

    def run_of(self, dataset: str, row: str, seed: int) -> dict:
        return json.loads((self.runs / "tiny" / dataset / row / f"seed_{seed}" / "run.json").read_text())


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1] if name in command else ""


@pytest.fixture(scope="module")
def networks() -> dict[tuple[str, ...], dict]:
    return {}


@pytest.fixture
def bench(tmp_path, data, networks, monkeypatch) -> Bench:
    of_network, known = study_run._of_network, {}

    def once(study, run, place):
        """Building a network takes longer than the rest of a faked run, and equal configs build equal networks."""
        if run.row not in known:
            texts = [(ROOT / file).read_text() for file in configs_of(study, run, place)]
            key = tuple(text.replace(str(tmp_path), "") for text in texts)
            if key not in networks:
                networks[key] = of_network(study, run, place)
            known[run.row] = networks[key]
        return known[run.row]

    monkeypatch.setattr(study_run, "_of_network", once)
    return Bench(tmp_path, data)


def entries(bench: Bench) -> list[tuple[str, str]]:
    """Return what was run: the entry, and the run's folder."""
    outputs = [(c[4], Path(option(c, "--output_dir"))) for c in bench.commands]
    runs = bench.runs / "tiny"
    return [(entry, str(path.relative_to(runs)).removesuffix("/evaluation")) for entry, path in outputs]


def test_a_row_made_of_all_seeds_is_run_once(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"once": ["unet"]}))
    runs = runs_of(read_study(path))
    assert [run.seed for run in runs if run.row == "unet"] == [0, 0]
    assert [run.seed for run in runs if run.row == "icmoe"] == [0, 0, 1, 1]
    path.write_text(yaml.safe_dump(STUDY | {"once": ["vnet"]}))
    with pytest.raises(InputError, match=r"row must be one of .*, got vnet"):
        read_study(path)


def test_runs_come_seed_by_seed_and_in_a_seed_row_by_row(bench):
    runs = runs_of(read_study(bench.study_file), rows=["unet", "icmoe"])
    assert [(run.seed, run.row, run.dataset) for run in runs] == [
        (seed, row, dataset) for seed in (0, 1) for row in ("icmoe", "unet") for dataset in ("first", "second")
    ]
    assert len(runs_of(read_study(bench.study_file), ["unet"], ["second"], [1])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {}}, "must hold seeds, datasets, settings, rows.*wrong.*rows"),
        ({"row": {}}, r"wrong: \['row'\]"),
        (
            {"rows": {"icmoe": None, "x": "configs/ablations/x.yaml"}},
            "an overlay that is not there: configs/ablations/x",
        ),
        ({"tuning": {**STUDY["tuning"], "rows": ["y"]}}, "row must be one of icmoe, unet, depth_1, got y"),
        ({"tuning": {**STUDY["tuning"], "dataset": "y"}}, "data set must be one of first, second, got y"),
    ],
    ids=["empty", "unknown", "overlay", "tuned-row", "tuned-set"],
)
def test_a_study_that_cannot_be_run_is_refused(bench, change, message):
    bench.write_study(STUDY | change)
    with pytest.raises(InputError, match=message):
        read_study(bench.study_file)


def test_what_is_asked_for_must_be_in_the_study(bench):
    with pytest.raises(InputError, match="row must be one of icmoe, unet, depth_1, got vnet"):
        bench.main("--rows", "vnet")
    with pytest.raises(InputError, match="seed must be one of 0, 1, got 7"):
        bench.main("--seeds", "7")
    with pytest.raises(InputError, match="There is no study at"):
        read_study(bench.folder / "other.yaml")


def test_folders_and_weights_must_be_there(bench):
    with pytest.raises(InputError, match=r"There is no folder .*nowhere: set --data_dir"):
        bench.main("--data_dir", str(bench.folder / "nowhere"))
    with pytest.raises(InputError, match=r"There are no weights at .*other\.safetensors: set --trunk"):
        bench.main("--trunk", str(bench.folder / "other.safetensors"))


def test_a_run_is_the_plain_commands_of_a_user(bench):
    assert bench.main("--rows", "unet", "--datasets", "second", "--seeds", "1") == 0
    training, evaluating = bench.commands
    folder = bench.runs / "tiny" / "second" / "unet" / "seed_1"
    assert training[1:5] == ["-m", "monai.bundle", "run", "training"]
    files = ["configs/train.json", STUDY["base"], str(folder / "settings.yaml"), "configs/baselines/unet.yaml"]
    assert training[5:7] == ["--config_file", "[" + ",".join(f"'{file}'" for file in files) + "]"]
    assert option(training, "--dataset_dir") == str(bench.data / "second")
    assert (option(training, "--seed"), option(training, "--output_dir")) == ("1", str(folder))
    assert "--checkpoint" not in training
    assert "--learning_rate" not in training
    assert "--pretrained" not in training + evaluating  # it would win over a row's own
    assert evaluating[4] == "evaluating"
    assert option(evaluating, "--config_file").endswith("unet.yaml','configs/evaluate.json']")
    assert option(evaluating, "--checkpoint") == str(folder / "best.pt")
    assert (option(evaluating, "--split"), option(evaluating, "--output_dir")) == ("test", str(folder / "evaluation"))


@pytest.mark.parametrize(("row", "is_pretrained"), [("icmoe", True), ("unet", False)])
def test_the_configs_of_a_run_say_what_the_study_says(bench, row, is_pretrained):
    bench.main("--rows", row, "--datasets", "second", "--seeds", "0")
    files = [str(ROOT / file) for file in json.loads(option(bench.commands[0], "--config_file").replace("'", '"'))]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    assert parser["pretrained"] == (str(bench.trunk) if is_pretrained else None)
    assert (parser["image_size"], parser["max_epochs"], parser["num_workers"]) == (64, 2, 0)
    assert parser["longest_side"] == 96
    assert parser["cases"]["check"] is False
    assert parser["train"]["dataset"]["_target_"] == "PersistentDataset"


def test_a_rows_settings_hold_before_the_sets_and_those_before_the_studys(bench):
    overlay = ROOT / "configs" / "ablations" / "encoder" / "depth_1.yaml"
    bench.write_study(STUDY | {"settings": STUDY["settings"] | {"expert_depth": 3, "longest_side": 64}})
    bench.main("--rows", "depth_1", "--datasets", "second", "--seeds", "0")
    settings = bench.runs / "tiny" / "second" / "depth_1" / "seed_0" / "settings.yaml"
    train = ROOT / "configs" / "train.json"
    parser = ConfigParser(ConfigParser.load_config_files([str(train), str(settings), str(overlay)]))
    assert (parser["expert_depth"], parser["longest_side"]) == (1, 96)
    files = json.loads(option(bench.commands[0], "--config_file").replace("'", '"'))
    assert files == ["configs/train.json", STUDY["base"], str(settings), str(overlay.relative_to(ROOT))]


def test_processes_share_the_cores(bench):
    bench.main("--rows", "unet", "--datasets", "first", "--jobs", "1")
    cores = len(os.sched_getaffinity(0))
    assert {e["OMP_NUM_THREADS"] for e in bench.environments} == {str(cores)}
    assert {e["OMP_WAIT_POLICY"] for e in bench.environments} == {"PASSIVE"}
    assert Place(bench.data, bench.runs, None, jobs=2 * cores).threads == 1


def test_a_run_tells_all_about_itself_but_nothing_of_this_machines_folders(bench):
    bench.main("--rows", "unet", "--datasets", "first", "--seeds", "0", "--commit", "abc")
    text = (bench.runs / "tiny" / "first" / "unet" / "seed_0" / "run.json").read_text()
    found = json.loads(text)
    assert str(bench.folder) not in text
    assert str(bench.data) not in text
    assert str(ROOT) not in text
    assert found["commands"]["training"].startswith("python -m monai.bundle run training --config_file \"['configs/")
    assert "--dataset_dir DATA/first --seed 0 --output_dir RUNS/tiny/first/unet/seed_0" in found["commands"]["training"]
    assert (found["row"], found["dataset"], found["seed"], found["commit"]) == ("unet", "first", 0, "abc")
    assert (found["steps"], found["step_seconds"], found["inference_seconds"]) == (4, 0.375, 0.125)
    assert (found["peak_mb"], found["peak_gpu_mb"], found["best_val_dice"]) == (512.2, None, 0.4)
    assert 6e6 < found["trainable_parameters"] < found["parameters"] + 1 < 7e6
    assert found["learning_rate"] == 0.001  # train.json's
    assert {"cpu", "gpu", "cores", "threads", "jobs"} == found["hardware"].keys()
    assert {"icmoe_monai", "monai", "torch", "python"} == found["versions"].keys()


def test_a_frozen_trunk_is_counted_but_not_as_trained(bench):
    bench.main("--rows", "icmoe", "--datasets", "first", "--seeds", "0")
    found = bench.run_of("first", "icmoe", 0)
    assert found["parameters"] > found["trainable_parameters"] + 3.5e6
    assert re.fullmatch(r"trunk\.safetensors [0-9a-f]{12}", found["trunk"])


def test_the_code_of_a_run_is_named_and_said_to_be_changed(bench, monkeypatch):
    answers = {"rev-parse": "0123456789abcdef", "status": " M icmoe_monai/network.py"}
    monkeypatch.setattr("benchmarks.study.run._git", lambda *arguments: answers[arguments[0]])
    bench.main("--rows", "unet", "--datasets", "first", "--seeds", "0")
    assert bench.run_of("first", "unet", 0)["commit"] == "0123456789-dirty"


def test_what_is_finished_is_not_run_again(bench):
    bench.main("--seeds", "0")
    first = len(bench.commands)
    assert first == 2 * 6
    assert bench.main("--seeds", "0") == 0
    assert len(bench.commands) == first
    bench.main()
    assert len(bench.commands) == 2 * first


def test_a_half_trained_run_goes_on_from_its_last_state(bench):
    bench.failing = {("training", "unet")}
    only = ("--rows", "unet", "--datasets", "first", "--seeds", "0")
    assert bench.main(*only) == 1
    folder = bench.runs / "tiny" / "first" / "unet" / "seed_0"
    bench.failing = set()
    bench.main(*only)  # it failed before its first epoch: it starts anew
    assert option(bench.commands[1], "--checkpoint") == ""
    for name in ("run.json", "trained.json"):
        (folder / name).unlink()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:2]))
    save_checkpoint({"model": {}, "trainer": TRAINER | {"iteration": 2}}, folder / "last.pt")
    bench.commands.clear()
    bench.main(*only)
    assert option(bench.commands[0], "--checkpoint") == str(folder / "last.pt")
    assert not folder.with_name("seed_0.replaced").exists()


def test_a_training_that_was_stopped_in_its_last_validation_is_made_anew(bench):
    """Nothing is left to train, and its last weights were not compared with the best."""
    only = ("--rows", "unet", "--datasets", "first", "--seeds", "0")
    bench.main(*only)
    folder = bench.runs / "tiny" / "first" / "unet" / "seed_0"
    for name in ("run.json", "trained.json"):
        (folder / name).unlink()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:2]))  # and last.pt is of the end of epoch 2
    bench.commands.clear()
    bench.main(*only)
    assert [command[4] for command in bench.commands] == ["training", "evaluating"]
    assert option(bench.commands[0], "--checkpoint") == ""


def test_a_run_that_was_stopped_before_its_evaluation_is_not_trained_again(bench):
    only = ("--rows", "unet", "--datasets", "first", "--seeds", "0")
    bench.failing = {("evaluating", "unet")}
    assert bench.main(*only) == 1
    bench.failing = set()
    bench.commands.clear()
    assert bench.main(*only) == 0
    assert [command[4] for command in bench.commands] == ["evaluating"]
    folder = bench.runs / "tiny" / "first" / "unet" / "seed_0"
    (folder / "run.json").unlink()
    (folder / "trained.json").unlink()  # killed between the training's last file and ours
    bench.commands.clear()
    bench.main(*only)
    assert [command[4] for command in bench.commands] == ["evaluating"]


def test_a_run_of_other_settings_is_made_anew_and_the_old_one_moved_aside(bench):
    only = ("--rows", "unet", "--datasets", "first", "--seeds", "0")
    bench.main(*only)
    bench.write_study(STUDY | {"settings": STUDY["settings"] | {"max_epochs": 3}})
    bench.commands.clear()
    bench.main(*only)
    assert [command[4] for command in bench.commands] == ["training", "evaluating"]
    assert option(bench.commands[0], "--checkpoint") == ""
    replaced = bench.runs / "tiny" / "first" / "unet" / "seed_0.replaced"
    assert json.loads((replaced / "run.json").read_text())["settings"]["study"]["max_epochs"] == 2


def test_another_trunk_is_another_run_of_the_rows_that_take_it(bench):
    study, run = read_study(bench.study_file), Run("unet", "first", 0)
    assert settings_of(study, run)["row"]["pretrained"] is None  # an overlay counts with its content
    only = ("--rows", "icmoe,unet", "--datasets", "first", "--seeds", "0")
    bench.main(*only)
    bench.trunk.write_bytes(b"others")
    bench.commands.clear()
    bench.main(*only)
    assert entries(bench) == [("training", "first/icmoe/seed_0"), ("evaluating", "first/icmoe/seed_0")]
    assert bench.run_of("first", "unet", 0)["trunk"] is None
    assert [line["trunk"][:6] for line in read_csv(bench.results / "tiny" / "runs.csv")] == ["trunk.", ""]


def test_a_failed_run_is_told_and_the_others_go_on(bench, capsys):
    bench.failing = {("training", "first/unet")}
    assert bench.main("--seeds", "0") == 1
    assert len(bench.commands) == 2 * 6 - 1
    told = capsys.readouterr().out
    assert "FAILED first unet seed 0: InputError: the disk is full." in told
    assert told.count("FAILED") == 1
    rows = {(line["dataset"], line["row"]) for line in read_csv(bench.results / "tiny" / "runs.csv")}
    assert len(rows) == 5
    assert ("first", "unet") not in rows
    bench.failing = set()
    assert bench.main("--seeds", "0") == 0
    assert len(read_csv(bench.results / "tiny" / "runs.csv")) == 6


def test_the_last_line_of_a_log_is_the_last_that_says_something(tmp_path):
    (tmp_path / "log").write_text("Error: first\nbar 1\rbar 2\r\n\n  \n")
    assert last_line(tmp_path / "log") == "bar 2"
    assert last_line(tmp_path / "none") == ""


def test_a_bad_image_ends_the_study_before_its_first_run(bench, tmp_path):
    data = shutil.copytree(bench.data, tmp_path / "data")
    next((data / "first" / "images").iterdir()).write_bytes(b"no picture")
    with pytest.raises(InputError):
        bench.main("--data_dir", str(data))
    assert bench.commands == []
    bench.main("--data_dir", str(data), "--datasets", "second", "--rows", "unet", "--seeds", "0")  # needs it not
    assert len(bench.commands) == 2


def test_a_dry_run_tells_the_commands_and_writes_nothing(bench, capsys):
    assert bench.main("--dry_run", "--rows", "unet", "--datasets", "first", "--seeds", "0") == 0
    told = capsys.readouterr().out
    assert "first unet seed 0: new, learning rate of the config" in told
    assert "monai.bundle run training --config_file \"['configs/train.json'" in told
    assert not bench.runs.exists()
    assert not bench.results.exists()


def test_learning_rates_are_chosen_on_the_validation_split_alone(bench):
    assert bench.main("--tune") == 0
    assert [command[4] for command in bench.commands] == ["training"] * 4
    assert {option(command, "--dataset_dir") for command in bench.commands} == {str(bench.data / "second")}
    lines = read_csv(bench.results / "tiny" / "tuning.csv")
    assert [(line["row"], line["learning_rate"], line["best_val_dice"], line["chosen"]) for line in lines] == [
        (row, rate, dice, chosen)
        for row in ("icmoe", "unet")
        for rate, dice, chosen in (("0.003", "0.897", ""), ("0.001", "0.899", "yes"))
    ]
    bench.commands.clear()
    bench.main("--tune")
    assert bench.commands == []


def test_a_study_takes_the_tuned_learning_rates_and_ablations_take_icmoes(bench):
    text = "row,learning_rate,chosen\nicmoe,0.003,yes\nicmoe,0.001,\nunet,0.003,\nunet,0.0001,yes\n"
    (bench.results / "tiny").mkdir(parents=True)
    (bench.results / "tiny" / "tuning.csv").write_text(text)
    bench.main("--datasets", "first", "--seeds", "0")
    rates = {option(c, "--output_dir").split("/")[-2]: option(c, "--learning_rate") for c in bench.commands[::2]}
    assert rates == {"icmoe": "0.003", "unet": "0.0001", "depth_1": "0.003"}
    assert bench.run_of("first", "depth_1", 0)["learning_rate"] == 0.003
    assert rate_of(Run("depth_1", "first", 0), {}) is None
    assert rate_of(Run("icmoe", "first", 0, 0.5), {"icmoe": 0.003}) == 0.5


def test_a_study_is_refused_while_only_some_of_its_rows_are_tuned(bench):
    (bench.results / "tiny").mkdir(parents=True)
    (bench.results / "tiny" / "tuning.csv").write_text("row,learning_rate,chosen\nicmoe,0.003,yes\nunet,0.003,\n")
    with pytest.raises(InputError, match=r"tuning.csv has no learning rate of unet yet: run --tune first"):
        bench.main("--datasets", "first", "--seeds", "0")
    assert bench.main("--datasets", "first", "--seeds", "0", "--rows", "icmoe,depth_1") == 0


def test_a_tuning_needs_to_be_in_the_file(bench):
    bench.write_study({key: value for key, value in STUDY.items() if key != "tuning"})
    with pytest.raises(InputError, match="Study tiny has no tuning"):
        trials_of(read_study(bench.study_file))


def test_results_are_collected_in_the_studys_order_whatever_the_order_of_the_runs(bench, data, tmp_path):
    bench.main()
    names = ("runs.csv", "first_dice.csv", "second_dice.csv", "study.json")
    files = {name: (bench.results / "tiny" / name).read_bytes() for name in names}
    lines = read_csv(bench.results / "tiny" / "runs.csv")
    assert [(line["dataset"], line["row"], line["seed"]) for line in lines] == [
        (dataset, row, seed) for dataset in ("first", "second") for row in STUDY["rows"] for seed in ("0", "1")
    ]
    assert (lines[0]["voted_dice"], lines[1]["semantic_dice"], lines[2]["semantic_dice"]) == ("0.5", "0.6", "")
    assert (lines[0]["load_basic"], lines[0]["inference_seconds"], lines[0]["test_cases"]) == ("1.0", "0.125", "2")
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", data)
    for seed in ("1", "0"):
        for row in ("depth_1", "unet", "icmoe"):
            other.main("--seeds", seed, "--rows", row)
    assert files == {name: (other.results / "tiny" / name).read_bytes() for name in names}


def test_the_dice_of_every_case_stands_in_a_column_of_its_run(bench):
    bench.main("--rows", "unet,icmoe")
    lines = read_csv(bench.results / "tiny" / "first_dice.csv")
    assert [line["case"] for line in lines] == ["a", "b"]
    ours = [f"icmoe/seed_{seed}/{method}" for seed in (0, 1) for method in METHODS]
    assert list(lines[0]) == ["case", *ours, "unet/seed_0/voted", "unet/seed_1/voted"]
    assert lines[0]["unet/seed_1/voted"] == "1.2500"


def test_the_group_of_every_case_is_kept_whichever_run_tells_it(bench):
    bench.main("--rows", "icmoe", "--seeds", "0", "--datasets", "first")  # made before the data set had groups
    bench.main("--rows", "unet", "--seeds", "0", "--datasets", "first")
    (cases,) = (bench.runs / "tiny" / "first" / "unet").rglob("cases.csv")
    write_csv(cases, [{"case": line["case"], "group": f"of {line['case']}", **line} for line in read_csv(cases)])
    bench.main("--collect_only")
    lines = read_csv(bench.results / "tiny" / "first_dice.csv")
    assert list(lines[0])[:3] == ["case", "group", "icmoe/seed_0/voted"]
    assert [line["group"] for line in lines] == ["of a", "of b"]
    shutil.rmtree(bench.runs / "tiny")  # as on another machine
    bench.main("--collect_only")
    assert read_csv(bench.results / "tiny" / "first_dice.csv") == lines


def test_collecting_leaves_out_what_other_settings_gave(bench):
    bench.main("--rows", "unet", "--seeds", "0")
    settings = STUDY | {"datasets": {"first": {}, "second": {"longest_side": 128}}}
    bench.write_study(settings)
    bench.commands.clear()
    assert bench.main("--collect_only") == 0
    assert bench.commands == []
    assert [line["dataset"] for line in read_csv(bench.results / "tiny" / "runs.csv")] == ["first"]


def test_collecting_keeps_the_runs_of_another_machine(bench, data, tmp_path):
    bench.main("--seeds", "0")
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", data)
    shutil.copytree(bench.results, other.results)
    other.main("--seeds", "1")
    bench.main("--seeds", "1")
    for name in ("runs.csv", "first_dice.csv", "second_dice.csv", "study.json"):
        assert (other.results / "tiny" / name).read_bytes() == (bench.results / "tiny" / name).read_bytes(), name
    assert len(read_csv(other.results / "tiny" / "runs.csv")) == 12


def test_collecting_without_a_trunk_takes_the_runs_of_any(bench):
    bench.main("--rows", "icmoe", "--seeds", "0", "--datasets", "first")
    arguments = ["--data_dir", str(bench.data), "--runs_dir", str(bench.runs), "--results_dir", str(bench.results)]
    (bench.results / "tiny" / "runs.csv").unlink()
    assert study_command.main([str(bench.study_file), *arguments, "--collect_only"]) == 0
    (line,) = read_csv(bench.results / "tiny" / "runs.csv")
    assert line["trunk"].startswith(bench.trunk.name)


def test_collecting_leaves_out_what_other_learning_rates_gave(bench):
    bench.main("--rows", "unet", "--seeds", "0")
    (bench.results / "tiny" / "tuning.csv").write_text("row,learning_rate,chosen\nunet,0.0001,yes\n")
    bench.main("--rows", "unet", "--seeds", "0", "--datasets", "first")
    lines = read_csv(bench.results / "tiny" / "runs.csv")
    assert [(line["dataset"], line["learning_rate"]) for line in lines] == [("first", "0.0001")]


@pytest.mark.parametrize("is_here", [True, False], ids=["here", "elsewhere"])
def test_collecting_leaves_out_what_another_trunk_gave(bench, is_here):
    only = ("--rows", "icmoe,unet", "--seeds", "0")
    bench.main(*only)
    (old,) = {line["trunk"] for line in read_csv(bench.results / "tiny" / "runs.csv")} - {""}
    bench.trunk.write_bytes(b"others")
    if not is_here:
        shutil.rmtree(bench.runs)
    bench.main(*only, "--datasets", "first")
    lines = read_csv(bench.results / "tiny" / "runs.csv")
    assert old not in {line["trunk"] for line in lines}
    assert [(line["dataset"], line["row"]) for line in lines] == [
        ("first", "icmoe"), ("first", "unet"), ("second", "unet")  # which takes none
    ]  # fmt: skip


@pytest.mark.parametrize("case", ["elsewhere", "here-before-overlays-were-noted"])
def test_collecting_leaves_out_what_an_overlays_old_content_gave(bench, case):
    overlay, study = bench.folder / "own.yaml", bench.results / "tiny" / "study.json"
    overlay.write_text("expert_depth: 1\n")
    bench.write_study(STUDY | {"rows": {"icmoe": None, "own": str(overlay)}, "tuning": None})
    bench.main("--seeds", "0")
    overlay.write_text("expert_depth: 2\n")
    if case == "elsewhere":
        shutil.rmtree(bench.runs)
    else:
        content = json.loads(study.read_text())
        study.write_text(json.dumps({key: value for key, value in content.items() if key != "overlays"}))
    bench.main("--seeds", "0", "--datasets", "first", "--rows", "own")
    lines = read_csv(bench.results / "tiny" / "runs.csv")
    assert [(line["dataset"], line["row"]) for line in lines] == [
        ("first", "icmoe"), ("first", "own"), ("second", "icmoe")
    ]  # fmt: skip


def test_collecting_leaves_out_what_a_rate_gave_that_is_no_longer_tuned(bench):
    (bench.results / "tiny").mkdir(parents=True)
    tuning = bench.results / "tiny" / "tuning.csv"
    tuning.write_text("row,learning_rate,chosen\nunet,0.0001,yes\n")
    bench.main("--rows", "unet", "--seeds", "0")
    shutil.rmtree(bench.runs)  # they were run elsewhere
    tuning.unlink()
    bench.main("--rows", "unet", "--seeds", "0", "--datasets", "first")
    lines = read_csv(bench.results / "tiny" / "runs.csv")
    assert [(line["dataset"], line["learning_rate"]) for line in lines] == [("first", "0.001")]


def test_the_study_itself_is_told_with_its_results(bench):
    bench.main("--rows", "unet", "--seeds", "0", "--datasets", "first")
    found = json.loads((bench.results / "tiny" / "study.json").read_text())
    assert {key: found[key] for key in STUDY} == STUDY
    assert found["name"] == "tiny"


class Telling(ThreadPoolExecutor):
    """Threads that tell when the study has cancelled what is not begun."""

    cancelled: threading.Event

    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        self.cancelled.set()
        super().shutdown(wait=wait)


@pytest.fixture
def cancelled(monkeypatch):
    event = threading.Event()
    monkeypatch.setattr(Telling, "cancelled", event, raising=False)
    return event


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_without_waking():
    """Be the signal that comes as the main thread begins to wait: it is noted, and the wait goes on."""
    _thread.interrupt_main(signal.SIGTERM)


@pytest.mark.parametrize("terminate", [terminate, terminate_without_waking])
def test_ctrl_c_ends_the_study_and_leaves_what_is_not_begun(bench, cancelled, capsys, monkeypatch, terminate):
    def interrupted(command, log, environment):
        bench.commands.append(command)
        terminate()
        assert cancelled.wait(60)
        return 1

    monkeypatch.setattr(children, "ThreadPoolExecutor", Telling)
    bench.execute = interrupted
    before = signal.getsignal(signal.SIGTERM)
    assert bench.main("--jobs", "1") == 130
    assert len(bench.commands) == 1
    assert "called again, the study goes on from here" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_while_runs_are_handed_out_cancels_them_too(bench, cancelled, monkeypatch):
    class Interrupted(Telling):
        num_submitted = 0

        def submit(self, *arguments, **named):
            self.num_submitted += 1
            if self.num_submitted == 4:
                raise KeyboardInterrupt
            return super().submit(*arguments, **named)

    def failing(command, log, environment):
        bench.commands.append(command)
        assert cancelled.wait(60)
        return 1

    bench.execute = failing
    monkeypatch.setattr(children, "ThreadPoolExecutor", Interrupted)
    assert bench.main("--jobs", "1") == 130
    assert len(bench.commands) <= 1


def test_commands_of_a_trial_do_not_touch_the_test_split(bench):
    study = read_study(bench.study_file)
    place = Place(bench.data, bench.runs, None, 1)
    commands = commands_of(study, trials_of(study)[0], place, 0.003)
    assert list(commands) == ["training"]
    assert option(commands["training"], "--learning_rate") == "0.003"


@pytest.mark.slow
def test_a_real_study_from_images_to_files(bench):
    small = {"image_size": 32, "batch_size": 2, "epoch_length": 1, "max_epochs": 2, "patience": 99, "device": "cpu"}
    bench.write_study(
        STUDY | {"settings": small, "datasets": {"first": {}, "second": {}}, "seeds": [0], "tuning": None}
    )
    folders = ["--data_dir", bench.data, "--runs_dir", bench.runs, "--results_dir", bench.results]
    arguments = [str(bench.study_file), *map(str, folders), "--rows", "icmoe,unet", "--datasets", "first"]
    assert study_command.main(arguments) == 0
    lines = read_csv(bench.results / "tiny" / "runs.csv")
    assert [line["row"] for line in lines] == ["icmoe", "unet"]
    for line in lines:
        assert line["steps"] == "2"
        assert float(line["step_seconds"]) > 0
        assert float(line["inference_seconds"]) > 0
        assert float(line["peak_mb"]) > 100
        assert 0 <= float(line["voted_dice"]) <= 1
    cases = list((bench.runs / "tiny" / "cache").rglob("*.pt"))
    assert len(cases) > 3
    with (bench.results / "tiny" / "first_dice.csv").open(newline="") as file:
        dice = list(csv.DictReader(file))
    mean = sum(float(line["unet/seed_0/voted"]) for line in dice) / len(dice)
    assert mean == pytest.approx(float(lines[1]["voted_dice"]), abs=1e-4)
    assert study_command.main(arguments) == 0
