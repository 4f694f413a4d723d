"""The log as JSON: one object a line, and nothing that a library read in a file."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from icmoe_monai.__main__ import main
from icmoe_monai.utils.logs import fields, json_log, silenced, tell_end, writes_json


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_record_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with json_log(stream):
        logging.getLogger("icmoe_monai.a").info("Two\nlines %d.", 7, extra=fields(study="abc", num=2))
        tell_end("error", "a sentence.")
    told, end = lines_of(stream)
    assert told.pop("time").endswith("Z")
    assert told == {"level": "info", "logger": "icmoe_monai.a", "message": "Two\nlines 7.", "study": "abc", "num": 2}
    assert (end["level"], end["message"]) == ("error", "error: a sentence.")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("logger", ["pydicom", "pynetdicom.association", "highdicom.seg.sop", "urllib3.connection"])
def test_what_libraries_say_of_files_is_not_repeated(logger: str) -> None:
    stream = io.StringIO()
    with json_log(stream):
        logging.getLogger(logger).error("PatientName is %s", "Miller")
        logging.getLogger(logger).info("Miller")
    (told,) = lines_of(stream)
    assert told["logger"] == logger
    assert told["message"].startswith("said at test_logs.py:")


def test_silence_ends_with_the_last_of_blocks_that_overlap() -> None:
    logger = logging.getLogger("a_library")
    logger.setLevel(logging.INFO)
    first, second = silenced("a_library"), silenced("a_library", "another")
    with first:
        second.__enter__()
    assert not logger.isEnabledFor(logging.CRITICAL)
    second.__exit__(None, None, None)
    assert (logger.level, logging.getLogger("another").level) == (logging.INFO, logging.NOTSET)


@pytest.mark.filterwarnings("default")
def test_warnings_and_exceptions_are_told_without_their_text() -> None:
    stream = io.StringIO()
    with json_log(stream):
        warnings.warn("Invalid value Miller", UserWarning, stacklevel=1)
        try:
            raise ValueError("Miller")
        except ValueError:
            logging.getLogger("icmoe_monai").exception("an unforeseen error")
    assert "Miller" not in stream.getvalue()
    warning, error = lines_of(stream)
    assert warning["logger"] == "py.warnings"
    assert error["exception"] == "ValueError"
    assert error["frames"][0].startswith("test_logs.py:")


def test_all_is_as_before_afterwards() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("ignite").level, warnings.showwarning)
    with json_log(io.StringIO()):
        assert writes_json()
    assert (root.handlers, root.level, logging.getLogger("ignite").level, warnings.showwarning) == before
    assert not writes_json()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["info", "none.pt"], "error: There is no file none.pt"),
        (["predict", "none", "out"], "error: dataset_dir"),
        (["listen", "out"], "error: icmoe listen takes one config"),
        (["prepare", "busi", "none", "out"], "error: "),
        (["train", "none", "out"], "error: "),
        (["none"], "error: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_every_command_writes_json(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status: Any = main([*words, "--log", "json"])
    except SystemExit as end:
        status = end.code
    assert status == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[-1]["level"] == "error"
    assert told in lines[-1]["message"]
    assert not writes_json()


def test_a_format_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "a", "--log", "xml"]) == 1
    assert "--log is one of text, json, got 'xml'" in capsys.readouterr().err
