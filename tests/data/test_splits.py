"""Lists of splits as strangers' files hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import put_plain

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.splits import find_lock_problems, lock, read_splits
from icmoe_monai.errors import InputError

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text", ["", "{", "5", "[]", "null", DEEP, '{"train": ' + DEEP, '{"train": "a"}', '{"train": [5]}'],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_splits_that_are_none_are_one_problem(text: str, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(text)
    problems: list[str] = []
    splits = read_splits(str(tmp_path / "splits.json"), {"a": "images/a.png"}, problems)
    assert len(problems) == 1
    assert not any(splits.values())


@pytest.mark.parametrize(
    "text", ["", "{", "5", "{}", '{"splits": 5}', DEEP, '{"splits": ' + DEEP], ids=lambda text: text[:12]
)
def test_a_lock_that_is_none_is_one_problem(text: str, tmp_path: Path) -> None:
    (tmp_path / "protocol.json").write_text(text)
    assert len(find_lock_problems(str(tmp_path), {"train": ["a"]})) == 1


def test_a_lock_of_names_as_macos_spells_them_still_holds(tmp_path: Path) -> None:
    (tmp_path / "protocol.json").write_text(json.dumps({"splits": lock({"train": ["cafe\u0301", "a"]})}))
    assert not find_lock_problems(str(tmp_path), {"train": ["caf\u00e9", "a"]})
    assert find_lock_problems(str(tmp_path), {"train": ["cafe", "a"]})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_splits_may_come_from_any_editor(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text('{"train": ["a"]}', encoding=encoding)
    problems: list[str] = []
    assert read_splits(str(tmp_path / "splits.json"), {"a": "images/a.png"}, problems)["train"] == ["a"]
    assert not problems


def test_a_split_that_is_listed_twice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text('{"train": ["a"], "val": [], "train": ["b"]}')
    problems: list[str] = []
    splits = read_splits(str(tmp_path / "splits.json"), {"a": "images/a.png", "b": "images/b.png"}, problems)
    assert problems == [f'{tmp_path / "splits.json"} has "train" twice: put its names into one list.']
    assert not any(splits.values())


def test_lists_are_never_passed_over(tmp_path: Path) -> None:
    folder = put_plain(tmp_path)
    (folder / "Splits.JSON").write_text('{"train": ["case_0"], "val": ["case_1"]}')  # as Windows may spell it
    assert [case["name"] for case in find_cases(str(folder))["train"]] == ["case_0"]
    (folder / "Splits.JSON").write_text("{}")
    with pytest.raises(InputError, match=r"Splits\.JSON lists no image: list cases for train and val, or remove it"):
        find_cases(str(folder))
    (folder / "Splits.JSON").unlink()
    (folder / "splits.json").symlink_to("nowhere.json")
    with pytest.raises(InputError, match=r"splits\.json is not JSON \(No such file or directory\)"):
        find_cases(str(folder))
    (folder / "splits.json").unlink()
    (folder / "protocol.json").symlink_to("nowhere.json")
    with pytest.raises(InputError, match=r"protocol\.json is not what prepare wrote \(No such file or directory\)"):
        find_cases(str(folder))
