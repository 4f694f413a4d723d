"""How a command finds its configs, and what its own options stand for."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from icmoe_monai.__main__ import main
from icmoe_monai.commands import experts
from icmoe_monai.commands.workflow import (
    check_overlays,
    find_bundle,
    find_config,
    images_path,
    load_configs,
    names_of_packs,
    overrides_of,
    pack_file,
)
from icmoe_monai.errors import InputError

ROOT = Path(__file__).parents[2]


class Recorder:
    """Stand in for a workflow: note what it was built of."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, root, configs, overrides, *, workflow_type):
        self.configs = [path.relative_to(root / "configs").as_posix() for path in configs]
        self.overrides, self.workflow_type = overrides, workflow_type
        return self

    def run(self):
        self.calls.append("run")

    def finalize(self):
        self.calls.append("finalize")


@pytest.mark.parametrize("name", ["backbones/vit_b.yaml", "backbones/vit_b", "configs/backbones/vit_b.yaml"])
def test_a_shipped_config_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(find_bundle(), name) == ROOT / "configs" / "backbones" / "vit_b.yaml"


def test_a_file_of_yours_comes_first_and_one_that_is_nowhere_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text("image_size: 64")
    assert find_config(ROOT, "demo.yaml") == tmp_path / "demo.yaml"
    assert find_config(ROOT, "demo") == ROOT / "configs" / "demo.yaml"
    with pytest.raises(InputError, match="--config finds no nowhere: give a file, or the path of one in "):
        find_config(ROOT, "nowhere")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.yaml", "max_epochs: 1\n\tbatch_size: 2", r"line 2: found character '\\t'"),
        ("a.yaml", "max_epochs: 1\nmax_epochs: 2", "Duplicate key: `max_epochs`"),
        ("a.json", '{"max_epochs": 1, "max_epochs": 2}', "Duplicate key: `max_epochs`"),
        ("a.json", '{"max_epochs": 1, // so few\n}', "line 1, column 19"),
        ("a.yaml", "- 1\n- 2", "since it is no table of names and values"),
        ("a.yaml", "hello", "since it is no table of names and values"),
        ("a.yaml", "", "since it is empty"),
        ("a.yaml", "1: 2", "since 1 is no name of a setting"),
        ("a.yaml", "a: !!python/object/apply:os.getcwd []", "line 1: could not determine a constructor"),
        ("a.yaml", "a: \x00", "ReaderError"),
        ("a.toml", "max_epochs = 1", r"for its name ends in none of \.yaml, \.yml, \.json"),
    ],
)
@pytest.mark.parametrize("is_strict", ["0", "1"])
def test_a_file_that_is_no_config_is_told_in_a_sentence(name, text, sentence, is_strict, tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", is_strict)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name} cannot be used as a config, .*{sentence}.*: correct it"):
        find_config(ROOT, str(tmp_path / name))


@pytest.mark.parametrize("text", ["train#trainr#max_epochs: 2", "+max_epochs: 3", "max_epochs#a: 3"])
def test_a_config_that_does_not_fit_those_before_it_is_told(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml changes \S+, which the configs before it do not have so"):
        load_configs([ROOT / "configs" / "train.json", tmp_path / "a.yaml"])


def test_configs_are_laid_over_each_other_as_monai_does():
    files = [ROOT / "configs" / name for name in ("train.json", "evaluate.json", "calibrate.yaml", "demo.yaml")]
    assert load_configs(files) == ConfigParser.load_config_files(list(map(str, files)))


def test_a_config_of_another_workflow_does_not_run_that_one(tmp_path):
    train, evaluate, infer = ([ROOT / "configs" / f"{name}.json"] for name in ("train", "evaluate", "inference"))
    (tmp_path / "mine.json").write_bytes(train[0].read_bytes())
    mine = [tmp_path / "mine.json"]
    for bases, overlays in ((train, mine), (train, train), (train, [ROOT / "configs" / "demo.yaml"])):
        check_overlays(bases, overlays)
    for bases, overlays in ((train, infer), (train + evaluate, infer), (train + evaluate, mine), (infer, train)):
        with pytest.raises(InputError, match=r"\.json runs a workflow of its own, not this one"):
            check_overlays(bases, overlays)


def test_the_packs_are_those_of_the_bundle():
    assert names_of_packs(ROOT) == ["breast", "skin"]
    assert all(pack_file(ROOT, name).is_file() for name in names_of_packs(ROOT))


def test_files_are_absolute_and_words_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = argparse.Namespace(checkpoint="$b.pt", calibration="none", device="cpu")
    assert overrides_of(given) == {"checkpoint": str(tmp_path / "$b.pt"), "calibration": "none", "device": "cpu"}
    given = argparse.Namespace(checkpoint=None, calibration="c.json", device=None)
    assert overrides_of(given) == {"calibration": str(tmp_path / "c.json")}


@pytest.mark.parametrize(
    ("line", "configs"),
    [
        ("train D OUT", ["train.json"]),
        ("evaluate D OUT", ["train.json", "evaluate.json"]),
        ("analyze D OUT", ["train.json", "evaluate.json", "analyze.yaml"]),
        ("calibrate D", ["train.json", "evaluate.json", "calibrate.yaml"]),
    ],
)
def test_a_command_is_a_workflow_of_the_bundle(line, configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = Recorder()
    monkeypatch.setattr(experts, "build_workflow", flow)
    assert main([*line.split(), "--checkpoint", "b.pt", "--seed", "3", "--config", "demo"]) == 0
    assert (flow.configs, flow.workflow_type) == ([*configs, "demo.yaml"], "train")
    expected = {"dataset_dir": "D", "checkpoint": "b.pt"} | ({"output_dir": "OUT"} if "OUT" in line else {})
    assert flow.overrides == {"seed": 3} | {name: str(tmp_path / value) for name, value in expected.items()}
    assert flow.calls == ["run", "finalize"]


def test_demo_stands_for_phantoms_where_no_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert images_path("demo") == "demo"
    assert images_path("./demo") == str(tmp_path / "demo")
    (tmp_path / "demo").mkdir()
    assert images_path("demo") == str(tmp_path / "demo")


def test_a_config_belongs_to_one_pack(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "OUT", "--experts", "skin,breast", "--config", "demo"]) == 1
    assert "error: --config belongs to one set of experts" in capsys.readouterr().err
