"""The experiment on suggestions: what each strategy is given, that it goes on, and its tables; commands are faked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.study import run as study_run
from benchmarks.suggest import __main__ as command
from benchmarks.suggest import table
from icmoe_monai.data.demo import make_demo_set
from icmoe_monai.errors import InputError
from icmoe_monai.suggestion.suggestion import ORDERS
from icmoe_monai.utils.files import read_csv, write_csv, write_json

START, ADDED = 5, 3
STUDY = {
    "seeds": [0, 1],
    "datasets": {"first": {}, "second": {"longest_side": 96}},
    "settings": {"image_size": 64, "epoch_length": 2, "max_epochs": 1},
    "rows": {"icmoe": None},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(STUDY["datasets"]):
        make_demo_set(str(folder / name), num_images=24, seed=seed)
    return folder


class Bench:
    """Fake the commands: note them, and write what the experiment reads of theirs."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.study = folder / "tiny.yaml"
        self.study.write_text(yaml.safe_dump(STUDY, sort_keys=False))
        self.commands: list[list[str]] = []
        self.failing = ""

    def main(self, *words: str) -> int:
        folders = {"data_dir": self.data, "study": self.study, "start": START, "added": ADDED,
                   "runs_dir": self.folder / "runs", "results_dir": self.folder / "results"}  # fmt: skip
        own = [str(word) for name, value in folders.items() for word in (f"--{name}", value)]
        return command.main([*own, *words], self.execute)

    def execute(self, words: list[str], log: Path, environment) -> int:
        assert environment["OMP_NUM_THREADS"] == "1"
        self.commands.append(words)
        log.write_text("it does not work\n")
        if self.failing and self.failing in " ".join(words):
            return 1
        {"monai.bundle": self.run, "icmoe_monai": self.icmoe}[words[2]](words)
        return 0

    def run(self, words: list[str]) -> None:
        output = Path(option(words, "--output_dir"))
        output.mkdir(parents=True, exist_ok=True)
        if words[4] == "training":
            (output / "metrics.csv").write_text("epoch,iteration,step_seconds,val_mean_dice\n1,2,0.5,0.5\n")
            (output / "best.pt").write_bytes(b"")
            return
        dataset = Path(option(words, "--dataset_dir"))
        better = {"suggest": 0.2, "start": 0.0}.get(dataset.name, 0.1)
        names = json.loads((dataset / "splits.json").read_text())["test"]
        rows = [f"{name},voted,{0.5 + better + 0.01 * place}" for place, name in enumerate(sorted(names))]
        (output / "cases.csv").write_text("\n".join(["case,method,dsc", *rows]) + "\n")
        if dataset.parents[2].name == "first":  # whose images are of one patient in twos
            lines = read_csv(output / "cases.csv")
            write_csv(output / "cases.csv", [line | {"group": i // 2} for i, line in enumerate(lines)])

    def icmoe(self, words: list[str]) -> None:
        if words[3] == "suggest":
            output = Path(option(words, "--output"))
            pool = sorted(path.name for path in Path(words[4]).iterdir())
            chosen = pool[:ADDED] if option(words, "--by") == "suggest" else pool[-ADDED:]
            (output / "drafts").mkdir(parents=True)
            write_json(output / "suggestions.json", {"images": [{"name": name} for name in chosen]})

    def splits(self, dataset: str, seed: int, name: str) -> dict[str, list[str]]:
        home = self.folder / "runs" / f"tiny_{START}_{ADDED}" / dataset / f"seed_{seed}"
        return json.loads((home / "sets" / name / "splits.json").read_text())

    def results(self, dataset: str) -> dict:
        return json.loads((self.folder / "results" / f"suggest_{dataset}.json").read_text())


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


@pytest.fixture
def bench(tmp_path, data, monkeypatch) -> Bench:
    monkeypatch.setattr(study_run, "_of_network", lambda *_: {})  # building a network takes longer than all the rest
    return Bench(tmp_path, data)


def test_each_strategy_trains_on_the_same_images_and_those_that_it_chose(bench, data):
    assert bench.main("--seeds", "0") == 0
    of_set = json.loads((data / "first" / "splits.json").read_text())
    start = bench.splits("first", 0, "start")
    assert len(start["train"]) == START
    for strategy in command.STRATEGIES:
        found = bench.splits("first", 0, strategy)
        assert (found["val"], found["test"]) == (sorted(of_set["val"]), sorted(of_set["test"]))
        assert set(start["train"]) < set(found["train"]) <= set(of_set["train"])
        assert len(found["train"]) == START + ADDED
    pools = [Path(words[4]) for words in bench.commands if words[3] == "suggest"]
    unlabelled = set(of_set["train"]) - set(start["train"])
    assert {path.stem for path in pools[0].iterdir()} == unlabelled  # neither validation nor test images


def test_another_seed_starts_from_other_images(bench):
    assert bench.main("--datasets", "first", "--strategies", "random") == 0
    assert bench.splits("first", 0, "start")["train"] != bench.splits("first", 1, "start")["train"]


def test_only_the_predicted_dice_is_given_a_calibration(bench):
    assert bench.main("--datasets", "first", "--seeds", "0") == 0
    words = {option(one, "--by"): one for one in bench.commands if one[3] == "suggest"}
    assert set(words) == set(ORDERS) == set(command.STRATEGIES)
    for strategy, one in words.items():
        assert ("--calibration" in one) == (strategy != "predicted_dice")
    calibrations = [place for place, one in enumerate(bench.commands) if one[3] == "calibrate"]
    assert len(calibrations) == 1
    assert calibrations[0] < bench.commands.index(words["predicted_dice"])


def test_it_goes_on_where_it_was_stopped_and_does_nothing_twice(bench):
    bench.failing = "sets/random"
    words = ("--datasets", "first", "--seeds", "0", "--strategies", "random,suggest")
    assert bench.main(*words) == 1
    assert set(bench.results("first")["dice"]) == {"start", "suggest"}
    bench.failing, bench.commands = "", []
    assert bench.main(*words) == 0
    assert [one[4] for one in bench.commands] == ["training", "evaluating"]
    assert all("sets/random" in " ".join(one) for one in bench.commands)
    bench.commands = []
    assert bench.main(*words) == 0
    assert bench.commands == []
    assert set(bench.results("first")["dice"]) == {"start", "random", "suggest"}


def test_an_unknown_strategy_is_told(bench):
    with pytest.raises(InputError, match="strategy must be one of random, suggest, disagreement, predicted_dice"):
        bench.main("--strategies", "luck")


def test_the_tables_tell_means_differences_and_what_they_show(bench):
    assert bench.main() == 0
    text = table.tables(bench.folder / "results")
    dice = bench.results("first")["dice"]
    assert f"| start | {np.mean(list(dice['start'].values())):.3f} (2) |" in text
    assert "| random | +0.100 (+0.100 to +0.100) | +0.100 (+0.100 to +0.100) | +0.100 (+0.100 to +0.100) | 2 |" in text
    assert "**`suggest` beats chance**" in text
    assert "nan" not in text


def test_groups_are_kept_and_their_intervals_are_of_groups(bench, tmp_path):
    assert bench.main("--strategies", "suggest", "--seeds", "0") == 0
    assert bench.results("first")["groups"] == [str(i // 2) for i in range(len(bench.results("first")["cases"]))]
    assert bench.results("second")["groups"] is None
    ours = {"suggest": {"0": [0.5, 0.5, 0.9, 0.9]}, "random": {"0": [0.5, 0.5, 0.5, 0.5]}}
    one = {"dataset": "one", "cases": list("abcd"), "dice": ours}
    folder = tmp_path / "two"
    folder.mkdir()
    write_json(folder / "suggest_one.json", one)
    assert "| random | +0.200 (+0.000 to +0.400) | +0.200 (+0.000 to +0.400) | 1 |" in table.tables(folder)
    alike = one | {"groups": ["1", "2", "1", "2"]}  # each patient gains 0.2
    write_json(folder / "suggest_one.json", alike)
    assert "| random | +0.200 (+0.200 to +0.200) | +0.200 (+0.200 to +0.200) | 1 |" in table.tables(folder)


def test_images_of_one_group_have_no_interval_and_show_nothing(tmp_path):
    dice = {"suggest": {"0": [0.5, 0.9]}, "random": {"0": [0.4, 0.8]}}
    one = {"dataset": "one", "cases": ["a", "b"], "groups": ["p", "p"], "dice": dice}
    write_json(tmp_path / "suggest_one.json", one)
    text = table.tables(tmp_path)
    assert "| random | +0.100 (-) | +0.100 (-) | 1 |" in text
    assert "(-): no interval can be given where all test images of a set are of one group (one)." in text
    assert "**It is not shown that `suggest` beats chance**: no interval can be given." in text


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([0.1, -0.1, 0.1, -0.1], "It is not shown that `suggest` beats chance**: the difference's interval is on both"),
        ([0.1, 0.11, 0.1, 0.12], "interval is below 0, it is worse."),
        (None, "**Whether `suggest` beats chance is not known yet.**"),
    ],
    ids=["unclear", "worse", "unknown"],
)  # fmt: skip
def test_the_tables_do_not_claim_what_was_not_shown(others, sentence, tmp_path):
    base = np.array([0.5, 0.6, 0.7, 0.8])
    dice = {"suggest": {"0": base.tolist()}}
    if others is not None:
        dice["random"] = {"0": (base + others).tolist()}
    write_json(tmp_path / "suggest_one.json", {"dataset": "one", "cases": list("abcd"), "dice": dice})
    assert sentence in table.tables(tmp_path)


def test_without_results_the_page_says_so(tmp_path):
    assert table.tables(tmp_path) == "Nothing has been measured yet.\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_tiny_experiment_runs_by_real_commands(tmp_path, data):
    study = {**STUDY, "datasets": {"first": {}}, "seeds": [0]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    folders = {"data_dir": data, "study": tmp_path / "tiny.yaml", "start": START, "added": ADDED,
               "runs_dir": tmp_path / "runs", "results_dir": tmp_path / "results"}  # fmt: skip
    words = [str(word) for name, value in folders.items() for word in (f"--{name}", value)]
    assert command.main([*words, "--strategies", "random,suggest"]) == 0
    dice = json.loads((tmp_path / "results" / "suggest_first.json").read_text())["dice"]
    assert set(dice) == {"start", "random", "suggest"}
