from __future__ import annotations

import csv
import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import as_path, read_csv, write_atomically, write_csv, write_json


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("error", [ValueError("half"), KeyboardInterrupt("half")], ids=["error", "ctrl-c"])
def test_failed_write_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_text("before")

    def fail_midway(temporary: Path) -> None:
        temporary.write_text("half of it")
        raise error

    with pytest.raises(type(error), match="half"):
        write_atomically(path, fail_midway)
    assert (files_in(tmp_path), path.read_text()) == (["a.bin"], "before")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "read-only"), (errno.EIO, "something else lies in its place")],
    ids=["full", "read-only", "other"],
)
def test_refusal_of_the_system_names_folder_and_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_text("half of it")
        raise OSError(number, "the system says no")

    with pytest.raises(InputError, match=rf"Cannot write a\.bin in .*new: the system says no\. .*{remedy}"):
        write_atomically(tmp_path / "new" / "a.bin", fail)
    assert files_in(tmp_path) == []


def test_file_in_place_of_the_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "masks").write_text("a file")
    with pytest.raises(InputError, match=r"Cannot write a\.png in .*masks.*something else lies in its place"):
        write_json(tmp_path / "masks" / "a.png", {})
    assert files_in(tmp_path) == ["masks"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b.json").write_text("{}")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


def test_json_holds_no_nan_and_any_name(tmp_path: Path) -> None:
    # A name in Latin-1 reaches Python as a surrogate.
    content = {"nan": float("nan"), "inf": [np.float32("inf")], "n": np.int64(3), "p": Path("a/b"), "ü": "a\udcfc.png"}
    write_json(tmp_path / "a.json", content)
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "nan": None,
        "inf": [None],
        "n": 3,
        "p": "a/b",
        "ü": "a\udcfc.png",
    }


HOSTILE = {
    "equals": "=cmd|' /C calc'!A0.png",
    "at": "@SUM(1+1).png",
    "plus": "+1+cmd.png",
    "minus": "-2+3.png",
    "wide": "\uff1d1+1.png",
    "spaces": "  =1+1.png",
    "tab": "\ta.png",
    "tabs and a formula": "\t\t=1+1.png",
    "carriage return": "a\r=1+1.png",
    "only a return": "\ra.png",
    "line end": "a\n=1+1.png",
    "windows line end": "a\r\n@SUM(1).png",
    "apostrophe": "'=1+1.png",
    "two apostrophes": "''@a.png",
    "escape": "a\x1b[31mb.png",
    "quote": 'a","=1+1.png',
    "separator": "a\u2028=1+1.png",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_text_is_a_formula_or_a_row_of_its_own(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"name": text, "n": 1}, {"name": "b", "n": 2, text: 3}])
    data = (tmp_path / "a.csv").read_bytes()
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [len(row) for row in rows] == [3, 3, 3]
    assert not [cell for row in rows for cell in row if cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))]
    assert not [cell for row in rows for cell in row if cell[:1] in ("\t", "\r", "\n")]
    # whoever splits lines before looking for quotes finds these open
    unquoted = re.sub(rb'"(?:[^"]|"")*"', b"", data)
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", unquoted)
    assert unquoted.count(b"\n") == 3
    assert read_csv(tmp_path / "a.csv") == [{"name": text, "n": "1", text: ""}, {"name": "b", "n": "2", text: "3"}]


@pytest.mark.parametrize("text", ["-0.5", "+3", "1e-05", "-1.5E+3", "a.png", "a-b", "'quoted'", "", "a=b", "ü"])
def test_numbers_and_plain_texts_are_written_as_they_are(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"value": text, "other": "x"}])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == f"value,other\n{text},x\n"
    assert read_csv(tmp_path / "a.csv") == [{"value": text, "other": "x"}]


def test_there_is_one_writer_of_csv_files() -> None:
    root = Path(__file__).parents[2]
    code = [path for folder in ("icmoe_monai", "benchmarks", "bundle") for path in (root / folder).rglob("*.py")]
    assert len(code) > 100
    writers = [path.name for path in code if re.search(r"csv\.(Dict)?[wW]riter|to_csv|savetxt", path.read_text())]
    assert writers == ["files.py"]


def test_number_is_the_path_that_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "1.5"):
        Path(name).mkdir()
    assert [as_path(value, "x") for value in (2024, 1.5, "2024", Path("a"))] == ["2024", "1.5", "2024", "a"]
    for value in (77, 0, 1.1, True, ["a"]):
        with pytest.raises(InputError, match=r"dataset_dir was read as .*, and nothing is called so: write ./NAME"):
            as_path(value, "dataset_dir")
