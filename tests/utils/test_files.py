from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_atomically, write_json


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
