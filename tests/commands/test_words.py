"""The command line: its words, its errors in a sentence, and its exit status."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from icmoe_monai import __main__ as command_line
from icmoe_monai.__main__ import main
from icmoe_monai.commands.words import read_words
from icmoe_monai.errors import InputError, Terminated
from icmoe_monai.version import __version__

PACKS = ("breast", "skin")
ROOT = Path(__file__).parents[2]


def read(line: str) -> tuple[dict, dict]:
    given, overrides = read_words(line.split(), PACKS)
    return vars(given), overrides


def test_a_commands_own_options_are_told_from_overrides_of_the_config():
    given, overrides = read("evaluate D O --checkpoint b.pt --split val --config x.yaml --config=y.yaml --overlap=0.25")
    assert (given["data"], given["output"], given["checkpoint"]) == ("D", "O", "b.pt")
    assert given["config"] == ["x.yaml", "y.yaml"]
    assert overrides == {"split": "val", "overlap": 0.25}


def test_an_option_of_one_command_is_a_setting_of_another():
    given, overrides = read("predict IN OUT --experts skin,breast")
    assert (given["experts"], overrides) == ("skin,breast", {})
    _, overrides = read("train D O --experts ['basic','adaptive']")
    assert overrides == {"experts": ["basic", "adaptive"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("True", True), ("true", True), ("None", None), ("null", None), ("none", "none"),
        ("[a,b]", ["a", "b"]), ("runs/mine", "runs/mine"), ("@image_size", "@image_size"), ("2026-01-01", "2026-01-01"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_monais_command_reads_it(text, value):
    assert read(f"train D O --setting {text}")[1] == {"setting": value}


def test_a_salt_keeps_what_a_config_would_read_as_its_syntax():
    _, overrides = read("predict --anonymous=$a#b in out")
    assert ConfigParser(overrides).get_parsed_content("anonymous") == "$a#b"


def test_a_salt_is_a_text_and_names_may_begin_with_a_dash():
    given, overrides = read("predict --anonymous=1 -- -in -out")
    assert (given["input"], given["output"], overrides) == ("-in", "-out", {"anonymous": "1"})


@pytest.mark.parametrize("value", [" True", "=True", " true", ""])
def test_a_flag_may_have_the_value_that_messages_and_pages_tell(value):
    for line in (
        f"predict IN OUT --overwrite{value} --anonymous{value}",
        f"predict --anonymous{value} IN OUT --overwrite{value}",
    ):
        given, overrides = read(line)
        assert (given["input"], given["output"], given["overwrite"], given["anonymous"]) == ("IN", "OUT", True, True)
        assert overrides == {}
    assert read(f"plan D O --no_timing{value}")[0]["no_timing"]


@pytest.mark.parametrize("value", [" False", "=False", " false"])
def test_a_flag_may_be_set_off_as_a_config_may_have_set_it_on(value):
    given, overrides = read(f"suggest --overwrite{value} POOL --output OUT")
    assert (given["pool"], given["overwrite"], overrides) == ("POOL", False, {"overwrite": False})
    given, overrides = read(f"plan D O --no_timing{value}")  # of the command alone
    assert (given["no_timing"], overrides) == (False, {})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("predict IN OUT --overwrite yes", "unrecognized arguments: yes"),
        ("", "the following arguments are required: COMMAND: see icmoe --help"),
        ("segment IN OUT", "invalid choice: 'segment'"),
        ("train D", r"the following arguments are required: OUT: see icmoe train --help\.$"),
        ("calibrate D", "the following arguments are required: --checkpoint"),
        ("train D O --max_epochs", r"--max_epochs needs a value: --max_epochs VALUE\.$"),
        ("info a.pt --further 1", "unrecognized arguments: --further 1"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(line, sentence, capsys):
    with pytest.raises(InputError, match=sentence):
        read(line)
    assert main(line.split()) == 1
    assert capsys.readouterr().err.startswith("\nerror: ")


def test_a_working_folder_that_was_removed_is_told(monkeypatch, capsys):
    def fail() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", fail)
    assert main(["predict", "IN", "OUT"]) == 1
    assert "The working folder is gone: change into another" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["predict", "", "OUT"], ["predict", "IN", " "], ["train", "", "OUT"],
                                   ["calibrate", "", "--checkpoint", "b.pt"]])  # fmt: skip
def test_an_unset_variable_is_not_the_working_directory(words):
    with pytest.raises(InputError, match=r"argument (IN|OUT|DATA): it is empty, as an unset variable of a script"):
        read_words(words, PACKS)


def test_help_names_every_command_and_the_packs(capsys):
    for line in ("--help", "predict --help", "--version"):
        with pytest.raises(SystemExit) as raised:
            read(line)
        assert raised.value.code == 0
    told = capsys.readouterr().out
    for command in ("predict", "train", "evaluate", "calibrate", "quantize", "analyze", "prepare", "info"):
        assert f"\n    {command}" in told, command
    assert "such as breast,skin, runs all" in " ".join(told.split())
    assert told.endswith(f"icmoe_monai {__version__}\n")


def test_the_program_reads_its_own_words(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["icmoe", "info", "nowhere.pt"])
    assert main() == 1
    assert capsys.readouterr().err == "\nerror: There is no file nowhere.pt.\n"


@pytest.mark.parametrize(("stopped", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_stopping_says_how_to_go_on(stopped, status, monkeypatch, capsys):
    def stop(*_):
        raise stopped

    monkeypatch.setattr(command_line, "run_on_data", stop)
    assert main(["train", "D", "O"]) == status
    assert capsys.readouterr().err.startswith("\nstopped: add --checkpoint OUT/last.pt")


def test_a_package_without_its_bundle_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("icmoe_monai.settings._SHIPPED", tmp_path)
    monkeypatch.setattr("icmoe_monai.settings._PACKAGE", Path(tmp_path / "icmoe_monai"))
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "IN", "OUT"]) == 1
    assert "The bundle's configs/ and models/ came neither with this package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "config", "names"),
    [("suggest", "suggest.yaml", ("number", "by")), ("quantize", None, ())],
)
def test_the_help_tells_the_defaults_that_hold(command, config, names, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    held = {} if config is None else ConfigParser.load_config_file(ROOT / "configs" / config)
    for name in names:
        assert f"(default: {held[name]})" in told.split(f"--{name} ")[-1].split(" --")[0]
    if command == "quantize":  # int8 is for CPUs, and so are the masks by which it is judged
        assert "cpu, the default" in told
        assert "CUDA where there is one" not in told
