"""`icmoe train --folds`: which trainings it starts, what it goes on with, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.__main__ import main
from icmoe_monai.calibration.file import read_calibration
from icmoe_monai.commands import experts, folds, out_of_fold
from icmoe_monai.commands.out_of_fold import FoldedSet, find_set
from icmoe_monai.commands.words import read_words
from icmoe_monai.data.splits import checksum
from icmoe_monai.errors import InputError
from icmoe_monai.predictor import Predictor
from icmoe_monai.utils.children import Children
from icmoe_monai.weights.tensor_files import save_checkpoint

ROOT = Path(__file__).parents[2]


class Trainings:
    """Stand in for the processes that train: note their commands, and write what a training leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: Path) -> None:
        self.output = output
        self.commands: list[list[str]] = []
        self.failing: set[str] = set()
        self.joined: list[list[str]] = []
        self.decoder = "light"  # what the set's masks choose
        monkeypatch.setattr(Children, "execute", lambda children, command, *further: self.train(command))
        monkeypatch.setattr(folds, "make_ensemble", self.join)
        monkeypatch.setattr(folds, "find_set", self.find)

    def train(self, command: list[str]) -> int:
        self.commands.append(command)
        folder = Path(command[5])
        assert folder.is_dir()
        if folder.name in self.failing:
            return 1
        for name in ("best.pt", "last.pt"):
            (folder / name).write_text(" ".join(command))
        return 0

    def find(self, root, configs, overrides, folders) -> FoldedSet:
        return FoldedSet({}, [], overrides.get("decoder", self.decoder))

    def join(self, root, configs, overrides, output, folders) -> None:
        self.joined.append([folder.name for folder in folders])

    def run(self, *further: str) -> None:
        given, overrides = read_words(["train", "D", str(self.output), *further], ("skin",))
        experts.run_on_data(ROOT, given, overrides)


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    return Trainings(monkeypatch, tmp_path / "out")


def option(command: list[str], name: str) -> str | None:
    words = [word.partition("=")[2] for word in command if word.startswith(f"{name}=")]
    return words[0] if words else command[command.index(name) + 1] if name in command else None


def test_each_fold_is_the_command_that_a_user_would_give(trainings):
    trainings.run("--folds", "3", "--max_epochs", "7", "--config", "backbones/vit_t.yaml", "--labels=['a b']")
    assert [option(command, "--fold") for command in trainings.commands] == ["1", "2", "3"]
    first = trainings.commands[0]
    assert first[:4] == [sys.executable, "-m", "icmoe_monai", "train"]
    assert first[5] == str(trainings.output / "fold_1")
    assert (option(first, "--folds"), option(first, "--max_epochs"), option(first, "--labels")) == ("3", "7", "['a b']")
    # the overlay comes last, so that nothing decides an epoch by the fold that is left out
    configs = [first[i + 1] for i, word in enumerate(first) if word == "--config"]
    assert configs[-1] == str(ROOT / "configs" / "folds.yaml")
    assert "--checkpoint" not in first
    assert trainings.joined == [["fold_1", "fold_2", "fold_3"]]
    read_words(first[3:], ("skin",))


def test_the_same_command_trains_only_what_is_not_trained(trainings):
    trainings.failing = {"fold_2"}
    with pytest.raises(InputError, match="fold_2 could not be trained, and the other folds are"):
        trainings.run("--folds", "3")
    assert trainings.joined == []
    trainings.failing, trainings.commands = set(), []
    trainings.run("--folds", "3")
    assert [option(command, "--fold") for command in trainings.commands] == ["2"]
    assert option(trainings.commands[0], "--overwrite") == "True"  # it had saved nothing to go on from
    trainings.commands = []
    trainings.run("--folds", "3")
    assert trainings.commands == []
    assert len(trainings.joined) == 2


def test_a_fold_that_was_stopped_goes_on_and_one_at_its_end_is_not_trained_again(trainings):
    trainings.failing = {"fold_1", "fold_2"}
    with pytest.raises(InputError, match="fold_1, fold_2 could not be trained"):
        trainings.run("--folds", "2")
    for path in ("fold_1/last.pt", "fold_2/last.pt", "fold_2/best.pt"):  # which its one validation, the last, writes
        (trainings.output / path).touch()
    trainings.failing, trainings.commands = set(), []
    trainings.run("--folds", "2")
    (command,) = trainings.commands
    assert option(command, "--checkpoint") == str(trainings.output / "fold_1" / "last.pt")
    assert option(command, "--overwrite") is None


def test_all_folds_have_the_decoders_that_are_chosen_once(trainings):
    trainings.decoder = "full"
    trainings.run("--folds", "2")
    assert [option(command, "--decoder") for command in trainings.commands] == ["full"] * 2


def test_decoders_that_are_given_stay(trainings):
    trainings.run("--folds", "2", "--decoder", "full")
    for command in trainings.commands:
        assert read_words(command[3:], ("skin",))[1]["decoder"] == "full"


def test_a_training_that_ends_without_weights_is_told(trainings, monkeypatch):
    monkeypatch.setattr(Children, "execute", lambda *_: 0)
    with pytest.raises(InputError, match="fold_1, fold_2 could not be trained"):
        trainings.run("--folds", "2")


def test_a_mistaken_command_binds_no_later_one(trainings):
    with pytest.raises(InputError, match="No setting is called max_epoch"):
        trainings.run("--folds", "2", "--max_epoch", "3")
    trainings.failing = {"fold_1", "fold_2"}
    with pytest.raises(InputError, match="could not be trained"):
        trainings.run("--folds", "2", "--batch_size", "1000")
    trainings.failing = set()
    trainings.run("--folds", "2", "--max_epochs", "3")
    assert trainings.joined


def test_another_command_in_the_same_folder_is_refused_or_begins_anew(trainings):
    trainings.run("--folds", "2", "--max_epochs", "3")
    for further in (["--folds", "2"], ["--folds", "3", "--max_epochs", "3"], ["--folds", "2", "--max_epochs", "4"],
                    ["--folds", "2", "--max_epochs", "3", "--config", "demo"]):  # fmt: skip
        with pytest.raises(InputError, match=r"were begun with .*, and here it is .*: give the same command"):
            trainings.run(*further)
    trainings.commands = []
    results = ("ensemble.pt", "ensemble.calibration.json", "folds.json")
    for name in results:
        (trainings.output / name).touch()
    trainings.run("--folds", "2", "--max_epochs", "4", "--overwrite", "True")
    assert [option(command, "--max_epochs") for command in trainings.commands] == ["4", "4"]
    assert [option(command, "--checkpoint") for command in trainings.commands] == [None, None]
    assert not any((trainings.output / name).exists() for name in results)
    trainings.commands = []
    trainings.run("--folds", "2", "--max_epochs", "4")
    assert trainings.commands == []


@pytest.mark.parametrize("word", ["no", "0", "yes"])
def test_nothing_is_removed_by_a_word_that_is_no_switch(trainings, word):
    trainings.run("--folds", "2")
    with pytest.raises(InputError, match="overwrite must be True or False, got"):
        trainings.run("--folds", "2", "--overwrite", word)
    assert (trainings.output / "fold_1" / "best.pt").is_file()
    assert (trainings.output / folds.BEGUN).is_file()


def test_a_damaged_note_is_told_in_a_sentence(trainings):
    trainings.run("--folds", "2")
    for text in ("{", "[]", "7", '{"folds": 2}', ""):
        (trainings.output / folds.BEGUN).write_text(text)
        with pytest.raises(InputError):
            trainings.run("--folds", "2")


def test_folds_of_an_unknown_command_are_not_taken(trainings):
    trainings.run("--folds", "2")
    (trainings.output / folds.BEGUN).unlink()
    with pytest.raises(InputError, match="were begun with folds None, and here it is 2"):
        trainings.run("--folds", "2")


@pytest.mark.parametrize("devices", ["cuda:0,cuda:1", "cuda:0, cuda:1,"])
def test_folds_are_shared_out_among_devices_and_joined_on_one(trainings, monkeypatch, devices):
    joined = []
    monkeypatch.setattr(folds, "make_ensemble", lambda root, configs, overrides, *further: joined.append(overrides))
    trainings.run("--folds", "4", "--device", devices)
    assert joined[0]["device"] == "cuda:0"
    assert {option(command, "--device") for command in trainings.commands} == {"cuda:0", "cuda:1"}
    assert len(trainings.commands) == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folds", "1"], "--folds must be from 2 to 20, got 1"),
        (["--folds", "21"], "--folds must be from 2 to 20, got 21"),
        (["--folds", "2", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--folds", "2", "--checkpoint", "a.pt"], "--checkpoint belongs to one training"),
        (["--folds", "2", "--val_interval", "1"], "--val_interval is decided by --folds: leave it out"),
        (["--folds", "2", "--tta", "flips"], "--tta is decided by --folds"),
        (["--folds", "2", "--demo_dir", "demo"], "--demo_dir is decided by --folds"),
    ],
)
def test_what_does_not_go_together_is_refused(trainings, words, sentence):
    with pytest.raises(InputError, match=sentence):
        trainings.run(*words)
    assert trainings.commands == []


@pytest.mark.parametrize("setting", [{"checkpoint": "a.pt"}, {"fold": 2}, {"split": "test"}, {"tta": "flips"}])
def test_a_config_may_not_decide_what_the_folds_do(trainings, tmp_path, setting):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"max_epochs": 2} | setting))
    with pytest.raises(InputError, match=rf"mine\.json sets {next(iter(setting))}, which is of one training"):
        trainings.run("--folds", "2", "--config", str(mine))
    assert trainings.commands == []


@pytest.mark.parametrize("words", [[], ["--folds", "2", "--fold", "1"]])
def test_one_training_has_no_jobs(trainings, words):
    with pytest.raises(InputError, match="--jobs is the number of folds"):
        trainings.run("--jobs", "2", *words)


@pytest.fixture
def overrides(tmp_path):
    """A set of eight images, as `train --folds 2` hands it on."""
    for number in range(8):
        add_image(tmp_path / "data", f"case{number}")
    own = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path), "demo_dir": str(tmp_path / "demo")}
    return own | {"folds": 2, "image_size": 32, "num_workers": 0, "device": "cpu"}


def add_image(folder: Path, name: str) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[: 8 + sum(name.encode()) % 8, :16] = 255
    for kind, array in (("images", np.stack([mask // 2 + 50] * 3, axis=-1)), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
def test_no_network_is_taken_that_may_have_seen_its_fold(tmp_path, overrides, file):
    folders = [tmp_path / "fold_1", tmp_path / "fold_2"]
    cases = find_set(ROOT, [], overrides, folders).cases
    others = [case["name"] for case in cases if case["fold"] != 2]
    recipe = {"settings": {}, "training_set": {"num_images": len(others), "sha256": checksum(others)}}
    save_checkpoint({"model": {}, "recipe": recipe}, folders[1] / file)
    assert find_set(ROOT, [], overrides, folders).cases == cases
    add_image(tmp_path / "data", "added")
    with pytest.raises(InputError, match="fold_2 was not trained on what the set's other folds hold now"):
        find_set(ROOT, [], overrides, folders)
    find_set(ROOT, [], overrides, [])  # begins anew


def test_folds_that_go_on_have_the_decoders_of_those_that_are_trained(tmp_path, overrides):
    folders = [tmp_path / "fold_1", tmp_path / "fold_2"]
    _, cases, chosen = find_set(ROOT, [], overrides, folders)
    others = [case["name"] for case in cases if case["fold"] != 1]
    told = {"num_images": len(others), "sha256": checksum(others)}
    for decoder in ("light", "full"):  # one of which the masks, corrected since, do not choose
        save_checkpoint({"model": {}, "recipe": {"settings": {"decoder": decoder}, "training_set": told}},
                        folders[0] / "best.pt")  # fmt: skip
        assert find_set(ROOT, [], overrides, folders).decoder == decoder
    assert find_set(ROOT, [], overrides, []).decoder == chosen  # begins anew


def test_a_network_of_which_no_ensemble_can_be_made_is_refused_before_it_is_trained(tmp_path, overrides):
    config = tmp_path / "plain.yaml"
    config.write_text("network_def: {_target_: torch.nn.Conv2d, in_channels: 3, out_channels: 1, kernel_size: 1}\n")
    with pytest.raises(InputError, match="A plain network has no vote"):
        find_set(ROOT, [config], overrides, [])


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_folds_at_the_same_time_share_the_cores(trainings, monkeypatch, device):
    found = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(folds.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(Children, "execute", lambda children, command, log, environment: found.append(environment) or 1)
    with pytest.raises(InputError, match="could not be trained"):
        trainings.run("--folds", "2", "--jobs", "2", *device)
    assert [environment["OMP_NUM_THREADS"] for environment in found] == ["4", "4"]


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        (["--folds=5"], "the same command goes on"),
        (["--folds=5", "--fold=1"], "add --checkpoint"),
        ([], "add --checkpoint"),
    ],
)
def test_who_stops_a_training_is_told_how_it_goes_on(monkeypatch, capsys, further, sentence):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("icmoe_monai.__main__.run_on_data", stop)
    assert main(["train", "D", "OUT", *further]) == 130
    assert f"stopped: {sentence}" in capsys.readouterr().err


def test_an_ensemble_that_cannot_be_calibrated_is_told_of_all_the_same(tmp_path, monkeypatch, caplog):
    def run(root, configs, overrides, own):
        if "calibrate.yaml" in own:
            raise InputError("alpha 0.1 needs at least 9 images: give --alpha 0.13 for these.")

    cases = [{"name": name, "fold": 1 + number % 2} for number, name in enumerate("abcdefg")]
    monkeypatch.setattr(out_of_fold, "find_set", lambda *arguments: FoldedSet({}, cases, "light"))
    monkeypatch.setattr(out_of_fold, "join_folds", lambda *arguments, **further: None)
    monkeypatch.setattr(out_of_fold, "read_dice", lambda folder: dict.fromkeys("abcdefg", 0.5))
    monkeypatch.setattr(out_of_fold, "_run", run)
    caplog.set_level("INFO")
    with pytest.raises(InputError) as raised:
        out_of_fold.make_ensemble(ROOT, [], {"dataset_dir": "my set"}, tmp_path, [tmp_path / "fold_1"])
    file = tmp_path / "ensemble.pt"
    assert str(raised.value) == (
        f"{file} is made and can be used, and has no calibration: alpha 0.1 needs at least 9 images: give --alpha 0.13 "
        f"for these. The command for it alone: icmoe calibrate 'my set' --checkpoint {file} --config out_of_fold"
    )
    assert "Dice of 7 unseen images 0.500" in caplog.text
    assert (tmp_path / "folds.json").is_file()


def test_one_fold_is_a_training_of_its_own(trainings, monkeypatch):
    made = []
    monkeypatch.setattr(experts, "build_workflow", lambda root, configs, overrides, **of: made.append(overrides))
    with pytest.raises(AttributeError):  # nothing was built
        trainings.run("--folds", "5", "--fold", "2")
    assert (made[0]["folds"], made[0]["fold"]) == (5, 2)


def test_a_bad_option_is_told_by_the_parser():
    with pytest.raises(InputError, match="invalid int value: 'five'"):
        read_words(["train", "D", "O", "--folds", "five"], ("skin",))


@pytest.mark.slow
def test_from_images_to_an_ensemble_though_it_is_stopped_on_the_way(tmp_path):
    """Three real folds of phantoms; two are stopped or killed; the ensemble is used by the other commands."""
    output, data = tmp_path / "cv", tmp_path / "cv" / "demo"
    small = {"image_size": 32, "max_epochs": 2, "min_steps": 2, "batch_size": 2, "num_workers": 0, "device": "cpu"}
    words = [sys.executable, "-m", "icmoe_monai", "train", "demo", str(output), "--folds", "3"]
    words += [f"--{name}={value}" for name, value in small.items()]
    for fold, number in (("fold_1", signal.SIGKILL), ("fold_2", signal.SIGTERM)):
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            while not (output / fold / "last.pt").exists():
                assert process.poll() is None
                time.sleep(0.2)
            process.send_signal(number)
            process.communicate(timeout=600)  # until the training, which writes there too, has ended
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 143)
    assert (output / "fold_1" / "best.pt").exists()
    assert not (output / "ensemble.pt").exists()
    first = (output / "fold_1" / "best.pt").stat().st_mtime_ns
    assert subprocess.run(words, cwd=ROOT).returncode == 0
    assert (output / "fold_1" / "best.pt").stat().st_mtime_ns == first
    report = json.loads((output / "folds.json").read_text())
    assert [report["folds"][number]["images"] for number in "123"] == [20, 20, 20]
    assert report["dice"]["images"] == 60
    assert report["tta"]["chosen"] in ("none", "flips")
    calibration = read_calibration(output / "ensemble.calibration.json")
    assert (calibration["data"]["split"], calibration["data"]["num_images"]) == ("out_of_fold", 60)

    file = ["--checkpoint", str(output / "ensemble.pt"), "--num_workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(data), str(tmp_path / "test"), *file]) == 0
    assert json.loads((tmp_path / "test" / "summary.json").read_text())["num_cases"] == 12
    assert main(["evaluate", str(data), str(tmp_path / "val"), "--split", "val", *file]) == 1  # they were trained on
    image = next(iter(sorted((data / "images").iterdir())))
    assert main(["predict", str(image), str(tmp_path / "found"), *file]) == 0
    (mask,) = (tmp_path / "found" / "masks").iterdir()
    predict = Predictor(output / "ensemble.pt", device="cpu", settings={"num_workers": 0})
    found = predict(image)
    assert np.array_equal(np.asarray(Image.open(mask)) > 0, found.mask > 0)
    assert 0 <= found.measures["reliability"]["fold_agreement"] <= 1
    views = {"tta": report["tta"]["chosen"], "calibration": "none"}
    folds_found = [Predictor(output / f"fold_{f}" / "best.pt", device="cpu", settings=views)(image) for f in (1, 2, 3)]
    alone = Predictor(output / "ensemble.pt", device="cpu", settings={"calibration": "none"})(image)
    mean = np.mean([one.probabilities for one in folds_found], axis=0)
    assert np.abs(alone.probabilities - mean).max() < 0.02  # the file is in half precision
    calibrated = (output / "ensemble.calibration.json").read_bytes()
    # in a process of its own, as before: another number of threads would add in another order
    again = [sys.executable, "-m", "icmoe_monai", "calibrate", str(data), "--config", "out_of_fold", *file]
    assert subprocess.run(again, cwd=ROOT).returncode == 0
    assert (output / "ensemble.calibration.json").read_bytes() == calibrated
