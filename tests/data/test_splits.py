"""Lists of splits as strangers' files hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from icmoe_monai.data.splits import find_lock_problems, read_splits

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
