"""The command that makes a model of 8 bits: kept where masks of validation images stay as good."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from icmoe_monai.__main__ import main
from icmoe_monai.commands import quantize as command
from icmoe_monai.commands.words import read_words
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_csv

ROOT = Path(__file__).parents[2]


class Evaluations:
    """Stand in for evaluations of 50 images, each of a pass of windows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dice = {"onnx": 0.9, "int8": 0.9}
        self.overrides: list[dict] = []
        self.ranges: list[int] = []  # the windows that ranges were taken from

    def __call__(self, root, configs, overrides, *, workflow_type):
        self.overrides.append(overrides)
        runtime = SimpleNamespace(watch=None, write_int8=self.write)

        def run() -> None:
            for number in range(50):
                runtime.watch("module", number)
            dice = self.dice[overrides["runtime"]]
            lines = [{"case": f"{n}", "method": "voted", "dsc": dice} for n in range(50)]
            write_csv(Path(overrides["output_dir"]) / "cases.csv", lines)

        parser = SimpleNamespace(get_parsed_content=lambda name: SimpleNamespace(runtime=runtime))
        return SimpleNamespace(parser=parser, run=run, finalize=lambda: None)

    def write(self, module: str, windows: list[int]) -> Path:
        assert module == "module"
        self.ranges = windows
        path = self.folder / "best.0123.int8.onnx"
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
