"""The command that makes a model of 8 bits: kept where masks of validation images stay as good."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from icmoe_monai.__main__ import main
from icmoe_monai.commands import quantize as command
from icmoe_monai.commands.words import read_words
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_csv

ROOT = Path(__file__).parents[2]
GRAPH = "best.0123.int8.onnx"


class Evaluations:
    """Stand in for evaluations of 50 images, each of a pass of windows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dice = {"onnx": 0.9, "int8": 0.9}
        self.overrides: list[dict] = []
        self.ranges: list[int] = []  # the windows that ranges were taken from
        self.stops = False

    def __call__(self, root, configs, overrides, *, workflow_type):
        self.overrides.append(overrides)
        runtime = SimpleNamespace(watch=None, write_int8=self.write)
        if overrides["runtime"] == "int8":
            assert not list(self.folder.glob("*.int8.onnx"))  # others find it once it is known to be good
            assert Path(overrides["validate#inferer#runtime#checkpoint"]).with_name(GRAPH).is_file()
            if self.stops:
                raise KeyboardInterrupt

        def run() -> None:
            for number in range(50 if runtime.watch else 0):
                runtime.watch("module", number)
            dice = self.dice[overrides["runtime"]]
            lines = [{"case": f"{n}", "method": "voted", "dsc": dice} for n in range(50)]
            write_csv(Path(overrides["output_dir"]) / "cases.csv", lines)

        parser = SimpleNamespace(get_parsed_content=lambda name: SimpleNamespace(runtime=runtime))
        return SimpleNamespace(parser=parser, run=run, finalize=lambda: None)

    def write(self, module: str, windows: list[int], *, folder: Path) -> Path:
        assert module == "module"
        self.ranges = windows
        path = folder / GRAPH
        path.touch()
        return path


@pytest.fixture
def evaluations(monkeypatch, tmp_path):
    found = Evaluations(tmp_path)
    monkeypatch.setattr(command, "build_workflow", found)
    return found


def run(folder: Path, *further: str) -> None:
    given, settings = read_words(["quantize", "D", "--checkpoint", str(folder / "best.pt"), *further], ("skin",))
    command.quantize(ROOT, given, settings)


def test_it_is_kept_where_masks_are_as_good_and_told(evaluations, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    evaluations.dice["int8"] = 0.8985
    run(tmp_path, "--overlap", "0.25")
    assert (tmp_path / "best.0123.int8.onnx").is_file()
    assert "Dice of 50 images is 0.8985 in 8 bits and 0.9000 in 32, -0.0015" in caplog.text
    told = json.loads((tmp_path / "best.0123.int8.json").read_text())
    assert (told["images"], told["difference"], told["largest_change"]) == (50, -0.0015, 0.0015)
    assert len(evaluations.ranges) == 32
    assert (evaluations.ranges[0], evaluations.ranges[-1]) == (0, 49)  # from the whole set
    assert [each["runtime"] for each in evaluations.overrides] == ["onnx", "int8"]
    for each in evaluations.overrides:
        assert (each["split"], each["device"], each["overlap"]) == ("val", "cpu", 0.25)
        assert not Path(each["output_dir"]).exists()  # what names patients' files is gone


def test_it_is_removed_where_they_are_not(evaluations, tmp_path):
    evaluations.dice["int8"] = 0.8975
    with pytest.raises(InputError, match=r"lose too much .* is 0.8975 in 8 bits and 0.9000 in 32, -0.0025"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_that_lost_too_much_leaves_no_figures_of_an_earlier_one(evaluations, tmp_path, monkeypatch):
    def fail(*_args, **_named):
        for path in (tmp_path / GRAPH, tmp_path / "best.0123.int8.json"):
            path.touch()  # as if an earlier run had kept them
        raise InputError("8 bits lose too much")

    monkeypatch.setattr(command, "_compare", fail)
    with pytest.raises(InputError, match="lose too much"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_that_was_not_judged_is_not_kept(evaluations, tmp_path):
    evaluations.stops = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_few_windows_are_held_of_any_number():
    spread = command.SpreadWindows(4)
    for number in range(1000):
        spread.take(torch.tensor(number))
        assert len(spread.kept) < 8
    assert [int(windows) for windows in spread.kept] == [0, 256, 512, 768]


@pytest.mark.parametrize("name", ["runtime", "output_dir"])
def test_what_the_command_decides_is_refused(evaluations, tmp_path, name):
    with pytest.raises(InputError, match=f"--{name} is decided by icmoe quantize"):
        run(tmp_path, f"--{name}", "onnx")
    assert evaluations.overrides == []


@pytest.mark.slow
def test_a_trained_model_is_made_and_used(tmp_path, capsys):
    small = ["--image_size", "32", "--max_epochs", "1", "--min_steps", "2", "--batch_size", "2", "--num_workers", "0"]
    out = tmp_path / "run"
    assert main(["train", "demo", str(out), *small, "--device", "cpu"]) == 0
    checkpoint = ["--checkpoint", str(out / "best.pt"), "--num_workers", "0"]
    predict = ["predict", str(out / "demo" / "images"), str(tmp_path / "found"), *checkpoint, "--device", "cpu"]
    status = main(["quantize", str(out / "demo"), *checkpoint])
    kept = list(out.glob("best.*.int8.onnx"))
    if status:  # of a network that has learnt nothing yet, masks may change by more than 0.002
        assert "lose too much" in capsys.readouterr().err
        assert not kept
        assert main([*predict, "--runtime", "int8"]) == 1
        assert "icmoe quantize DATA" in capsys.readouterr().err
    else:
        assert len(kept) == 1
        assert main([*predict, "--runtime", "int8"]) == 0
