from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from records import volume

from icmoe_monai.errors import InputError
from icmoe_monai.inference.anonymity import NamedResults, Renamer, read_anonymous
from icmoe_monai.inference.inputs import find_inputs
from icmoe_monai.inference.journal import CASE, VOLUME, Journal

SECRET = "a long secret of ours"
CASES = [{"name": "Miller/a.png"}, {"name": "b.nii.gz"}]
UNCLEAR = ["", " ", "0", "1", "yes", "no", "on", "off", "None", "none", "null", "YES", "Off", "y", "n", None, 0, 1, 0.0]
WEAK = ["salt", "a salt", "fifteen chars..", "aaaaaaaaaaaaaaaaaaaa", "abababababababababab", "12345678901234567890",
        "1234567890.1234567890", "   a salt    " + " " * 9, "$a long secret of ours", "@a long secret of ours",
        "%a long secret of ours"]  # fmt: skip


def test_true_false_and_a_secret_are_what_they_say() -> None:
    assert [read_anonymous(value) for value in (True, False, "True", "FALSE", " true ")] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert read_anonymous(SECRET) == SECRET
    assert read_anonymous("0f" * 8 + "3a7b") == "0f" * 8 + "3a7b"


@pytest.mark.parametrize("value", UNCLEAR, ids=repr)
def test_what_is_no_clear_yes_or_no_is_refused_and_told(value: Any) -> None:
    with pytest.raises(
        InputError, match=r"anonymous must be True, False or a secret .*: write True or False, or a secret"
    ):
        read_anonymous(value)


@pytest.mark.parametrize("value", WEAK, ids=repr)
def test_a_salt_that_is_guessed_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(
        InputError, match=r"of at least 16 characters, 6 of them different, that is no number"
    ) as raised:
        read_anonymous(value)
    assert value not in str(raised.value)


@pytest.mark.parametrize(
    "value", [["a long secret of ours"], {"a": 1}, 12345678901234567890], ids=["list", "dict", "number"]
)
def test_no_other_kind_of_value_is_a_salt(value: Any) -> None:
    with pytest.raises(InputError, match="anonymous must be True, False or a secret of your own, got a ") as raised:
        read_anonymous(value)
    assert "secret of ours" not in str(raised.value)
    assert "123456789" not in str(raised.value)


@pytest.mark.parametrize("value", ["", "yes", "0", 0, None], ids=repr)
def test_no_search_runs_named_by_mistake(value: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="anonymous must be True, False"):
        find_inputs(str(tmp_path), output_dir=str(tmp_path / "out"), anonymous=value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "\n", "yes", "short"], ids=["empty", "line", "word", "short"])
def test_a_file_without_a_salt_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / ".salt").write_text(text)
    with pytest.raises(InputError, match=r"\.salt holds no safe salt: .* remove it for a new one"):
        Renamer(True, tmp_path)


def test_a_salt_of_ones_own_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / ".salt").write_text(SECRET + "\n")
    assert Renamer(True, tmp_path)("a.png") == Renamer(SECRET, tmp_path)("a.png")


def named(folder: Path) -> Journal:
    """Write the results of a named run, and return its journal."""
    journal = Journal(output_dir=folder)
    journal.missing(CASES)
    journal.begin()
    for path in ("masks/Miller/a.png", "overlays/Miller/a.png", "probabilities/Miller/a_class1.png", "masks/b.png",
                 "volumes/b.nii.gz", "segmentations/Miller/a_series.dcm", "report.html", "report.csv",
                 "report.json"):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("Miller")
    for case in CASES:
        journal.add(CASE, {"name": case["name"], "status": "failed"})
    journal.add(VOLUME, volume("b.nii.gz", "volumes/b.nii.gz"))
    journal.add(VOLUME, volume("Miller/a.png", "segmentations/Miller/a_series.dcm"))
    return journal


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_anonymous_run_does_not_begin_over_a_named_one(tmp_path: Path) -> None:
    named(tmp_path)
    before = files_in(tmp_path)
    with pytest.raises(InputError, match=r"holds 6 results that tell names, .* or remove them with --overwrite True"):
        Journal(output_dir=tmp_path, anonymous=True).missing([])
    assert files_in(tmp_path) == before


def test_named_results_are_removed_on_request_once_the_run_begins(tmp_path: Path) -> None:
    named(tmp_path)
    before = files_in(tmp_path)
    kept = [".hidden", ".salt", "notes.txt"]
    unfinished = [".0123456789ab.csv", "masks/.0123456789ab.png", "segmentations/Miller/.0123456789ab.dcm"]
    (tmp_path / "overlays" / "Miller" / "Anna").mkdir()
    before.append("overlays/Miller/Anna")
    for path in (*kept, *unfinished):
        (tmp_path / path).write_text("Miller")
    journal = Journal(output_dir=tmp_path, anonymous=True, overwrite=True)
    journal.missing([{"name": "case_0123456789abcdef.png"}])
    assert files_in(tmp_path) == sorted([*before, *kept, *unfinished])
    journal.begin()
    assert files_in(tmp_path) == [".hidden", ".salt", "cases.jsonl", "notes.txt"]
    assert "Miller" not in journal.path.read_text()


@pytest.mark.parametrize(
    "path", ["masks/Miller/a_corrected.png", "overlays/other.png", "segmentations/case_0123456789abcdef.dcm"]
)
def test_a_file_that_no_journal_knows_is_not_removed(path: str, tmp_path: Path) -> None:
    named(tmp_path)
    (tmp_path / path).write_text("mine")
    with pytest.raises(
        InputError, match=r"holds 1 files that tell names, in .* are of no run that its journal knows: take them out"
    ) as raised:
        Journal(output_dir=tmp_path, anonymous=True, overwrite=True).missing([])
    assert "Miller" not in str(raised.value)
    assert (tmp_path / path).read_text() == "mine"


def test_an_anonymous_run_goes_on_over_anonymous_results(tmp_path: Path) -> None:
    for folder, suffix in (
        ("masks", ".png"),
        ("volumes", ".nii.gz"),
        ("probabilities", "_class1.png"),
        ("votes", ".tif"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"case_0123456789abcdef{suffix}").touch()
    (tmp_path / "masks" / "case_0123456789abcdef_frame0001.png").touch()
    NamedResults(tmp_path).check()
    Journal(output_dir=tmp_path, anonymous=SECRET).missing([])


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    named(output)
    (output / "masks").rename(elsewhere)
    (output / "masks").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"holds 2 files that tell names, in masks/ for example, .*: take them out"):
        Journal(output_dir=output, anonymous=True, overwrite=True).missing([])
    assert files_in(elsewhere) == ["Miller", "Miller/a.png", "b.png"]


@pytest.mark.parametrize("path", ["masks/case_0123456789abcdef/a.png", "masks/case_0123456789abcdefMiller.png",
                                  "masks/case_miller.png"])  # fmt: skip
def test_only_whole_hashes_are_anonymous(path: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    with pytest.raises(InputError, match="holds 1 results that tell names"):
        NamedResults(tmp_path).check()
