"""Groups of images (patients): read from a file of every layout, kept together, and told of where they are divided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import put_image, put_mask, put_plain

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.groups import find_groups, read_groups, table_of_groups
from icmoe_monai.data.splits import cut_missing_splits
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_csv

NAMES = ["case_0", "case_1", "case_2", "case_3"]
EXPECTED = {"case_0": "case_0", "case_1": "case_1", "case_2": "case_0", "case_3": "case_3"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("groups.csv", "name,group\ncase_2,Miller\ncase_0,Miller\ncase_3,Smith\n"),
        ("groups.csv", '\ufeffage,group,name\r\n70, Miller ,case_2\r\n\r\n"1,5",Miller,case_0,more\r\n,,\r\n'),
        ("groups.csv", "name,group\n , \ncase_2,Miller\ncase_0,Miller\n"),
        ("Groups.CSV", "name,group\ncase_2,Miller\ncase_0,Miller\n"),
        ("groups.json", '{"case_2": "Miller", "case_0": "Miller"}'),
        ("groups.json", '{"case_2": 7, "case_0": 7, "case_1": 8}'),
        ("groups.json", '{"Miller": ["case_2", "case_0"], "Smith": ["case_1"], "Doe": []}'),
    ],
    ids=["table", "a spreadsheet's", "blanks", "Windows'", "by name", "numbers", "by group"],
)
def test_files_of_groups(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(text.encode())
    problems: list[str] = []
    assert find_groups(str(tmp_path), NAMES, problems) == EXPECTED
    assert not problems


def test_a_folder_without_a_file_and_a_file_without_a_name_tell_nothing(tmp_path: Path) -> None:
    problems: list[str] = []
    assert find_groups(str(tmp_path), NAMES, problems) == {}
    for text in ("{}", '{"Miller": []}'):
        (tmp_path / "groups.json").write_text(text)
        assert find_groups(str(tmp_path), NAMES, problems) == {}
    assert not problems


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    groups = {"-1": "-1", "=a": "-1", "'b": "'b", "a,b": "'b", "c": "c"}
    write_csv(tmp_path / "groups.csv", table_of_groups(groups))
    assert find_groups(str(tmp_path), groups, []) == groups


WRONG = {
    "no image": ("groups.csv", "name,group\ncase_0,a\ncase_99,a\n", r"lists 'case_99', and no image has that name"),
    "suffix": ("groups.csv", "name,group\ncase_0.png,a\n", r"lists 'case_0.png', .* a file's without its suffix"),
    "twice": ("groups.csv", "name,group\ncase_0,a\ncase_0,a\n", r"lists 'case_0' 2 times: leave one of them"),
    "twice in JSON": ("groups.json", '{"case_0": "a", "case_0": "b"}', r"lists 'case_0' 2 times"),
    "in two groups": ("groups.json", '{"a": ["case_0"], "b": ["case_0"]}', r"lists 'case_0' 2 times"),
    "no group": ("groups.csv", "name,group\ncase_0,\n", r"lists 'case_0' without a group: give it one"),
    "short line": ("groups.csv", "name,group\ncase_0\n", r"lists 'case_0' without a group: give it one"),
    "no header": ("groups.csv", "case_0,a\n", r"must be a table whose first line names its columns, name and group"),
    "column twice": ("groups.csv", "name,group,group\ncase_0,a,b\n", r"must be a table whose first line names"),
    "semicolons": ("groups.csv", "name;group\ncase_0;a\n", r"with a comma between two columns"),
    "empty": ("groups.csv", "", r"must be a table"),
    "not UTF-8": ("groups.csv", "name,group\ncase_0,M\xfcller\n".encode("latin-1"), r"it is not text in UTF-8"),
    "UTF-16": ("groups.json", '{"case_0": "a"}'.encode("utf-16"), r"it is not text in UTF-8"),
    "a picture": ("groups.csv", b"\x89PNG\r\n\x1a\n\x00\x00", r"it is not text in UTF-8"),
    "open quote": ("groups.csv", 'name,group\n"case_0,a\ncase_1,a\n', r"a quote is not closed"),
    "huge cell": ("groups.csv", f"name,group\ncase_0,{'a' * 200_000}\n", r"a cell is very long"),
    "huge name": ("groups.json", json.dumps({"a" * 10**6: "a"}), r"lists 'a{70,80}\.\.\., and no image"),
    "control": ("groups.json", json.dumps({"a\nb\x1b[31m": "a"}), r"lists 'a\\nb\\x1b\[31m', and no image"),
    "deep": ("groups.json", '{"a": ' * 100_000, r"it is nested too deeply"),
    "huge number": ("groups.json", '{"case_99": ' + "9" * 10_000 + "}", r"lists 'case_99', and no image"),
    "not JSON": ("groups.json", "{", r"cannot be read \(line 1, column 2\): correct or remove it"),
    "a list": ("groups.json", '["case_0"]', r"must be an object of names and groups, such as"),
    "a number": ("groups.json", "5", r"must be an object of names and groups"),
    "mixed": ("groups.json", '{"case_0": "a", "b": ["case_1"]}', r"must be an object of names and groups"),
    "null": ("groups.json", '{"case_0": null}', r"must be an object of names and groups"),
    "fraction": ("groups.json", '{"case_0": 1.5}', r"must be an object of names and groups"),
    "switch": ("groups.json", '{"case_0": true}', r"must be an object of names and groups"),
    "objects": ("groups.json", '{"case_0": {"group": "a"}}', r"must be an object of names and groups"),
    "numbers in lists": ("groups.json", '{"a": [[1]]}', r"must be an object of names and groups"),
}


@pytest.mark.parametrize(("file", "content", "message"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_is_one_sentence(file: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    put_plain(tmp_path)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as raised:
        find_cases(str(tmp_path))
    assert str(tmp_path / file) in str(raised.value)
    assert len(str(raised.value).replace(str(tmp_path), "")) < 300
    assert "\n" not in str(raised.value)


def test_other_faults_of_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_plain(tmp_path / "set")
    (folder / "groups.csv").mkdir()
    with pytest.raises(InputError, match=r"groups\.csv cannot be read \(Is a directory\): correct or remove it"):
        find_cases(str(folder))
    (folder / "groups.json").write_text("{}")
    with pytest.raises(InputError, match=r"set holds both groups\.csv and groups\.json: remove one of the two"):
        find_cases(str(folder))
    (folder / "groups.csv").rmdir()
    (tmp_path / "groups.csv").write_text("name,group\ncase_0,a\n")
    with pytest.raises(InputError, match=r"groups\.csv is not in the data set's folder: move it to .*set\."):
        find_cases(str(tmp_path))
    (folder / "masks" / "Groups.csv").write_text("name,group\ncase_0,a\n")
    with pytest.raises(InputError, match=r"Groups\.csv is not in the data set's folder: move it to .*set\."):
        find_cases(str(folder))
    (folder / "masks" / "Groups.csv").unlink()
    (folder / "raw").mkdir()
    (folder / "raw" / "groups.csv").write_text("name,group\ncase_0,a\n")  # of something else
    find_cases(str(folder))
    monkeypatch.setattr("icmoe_monai.data.groups._LARGEST", 1)
    with pytest.raises(InputError, match="it should hold names and groups only"):
        find_cases(str(folder))


def test_a_split_that_groups_leave_empty_is_told_with_its_reason(tmp_path: Path) -> None:
    folder = put_plain(tmp_path, 4)
    (folder / "groups.json").write_text(json.dumps({"Miller": NAMES}))
    with pytest.raises(InputError, match=r"The val split of .* is empty, as groups are not divided and .* has 1:"):
        find_cases(str(folder))


def test_each_fault_is_a_problem_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("name,group\ncase_7,a\ncase_8,a\ncase_0,\ncase_1,a\ncase_1,b\n")
    problems: list[str] = []
    read_groups(str(path), NAMES, problems)
    assert [problem.split("lists ")[1][:8] for problem in problems] == ["'case_7'", "'case_8'", "'case_0'", "'case_1'"]
    problems.clear()
    read_groups(str(path), NAMES, problems, may_be_partial=True)
    assert len(problems) == 2


def put_isic(home: Path) -> list[str]:
    for i in range(10):
        put_image(home / "ISIC-2017_Training_Data" / f"ISIC_{i}.jpg")
        put_mask(home / "ISIC-2017_Training_Part1_GroundTruth" / f"ISIC_{i}_segmentation.png")
    put_image(home / "ISIC-2017_Test_v2_Data" / "ISIC_99.jpg")  # without its ground truth
    return [*(f"ISIC_{i}" for i in range(10)), "ISIC_99"]


def put_busi(home: Path) -> list[str]:
    for i in range(10):
        put_image(home / "benign" / f"benign ({i}).png")
        put_mask(home / "benign" / f"benign ({i})_mask.png")
    return [f"benign ({i})" for i in range(10)]


def put_glas(home: Path) -> list[str]:
    for i in range(10):
        put_image(home / f"train_{i}.bmp")
        put_mask(home / f"train_{i}_anno.bmp", value=1)
    (home / "Grade.csv").write_text("name,patient ID\n" + "".join(f"train_{i},7\n" for i in range(10)))
    return [f"train_{i}" for i in range(10)]


def put_listed(home: Path) -> list[str]:
    put_plain(home, 11, {"train": [f"case_{i}" for i in range(8)], "val": ["case_8", "case_9"]})
    return [f"case_{i}" for i in range(11)]  # of the last nothing is listed


@pytest.mark.parametrize("file", ["groups.csv", "groups.json"])
@pytest.mark.parametrize(
    "put",
    [lambda home: [f"case_{i}" for i in range(10) if put_plain(home)], put_listed, put_isic, put_busi, put_glas],
    ids=["plain", "listed", "isic", "busi", "glas"],
)
def test_every_layout_has_groups(
    put: Callable[[Path], list[str]], file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = put(tmp_path)
    patients = {name: f"patient {number // 3}" for number, name in enumerate(names)}
    lines = "".join(f"{name},{patient}\n" for name, patient in patients.items())
    (tmp_path / file).write_text(json.dumps(patients) if file.endswith("json") else f"name,group\n{lines}")
    splits = find_cases(str(tmp_path), folds=2, fold=1)
    cases = [case for cases in splits.values() for case in cases]
    assert len(cases) == 10
    for case in cases:
        assert case["group"] == min(name for name in names if patients[name] == patients[case["name"]])
    groups = [{case["group"] for case in splits[split]} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert "are no pictures" not in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_cut_splits_keep_groups_and_about_their_shares(seed: int) -> None:
    cases = [{"name": f"case_{i}", "group": f"case_{i // 4 * 4}", "class": "ab"[i // 4 % 2]} for i in range(200)]
    cut = cut_missing_splits({"train": cases}, seed=seed)
    groups = [{case["group"] for case in cut[split]} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == 50
    assert [len(cut[split]) for split in ("train", "val", "test")] == [144, 16, 40]
    assert {split: {case["class"] for case in cut[split]} for split in cut} == {split: {"a", "b"} for split in cut}


def test_few_large_groups_leave_no_split_empty() -> None:
    cases = [{"name": f"case_{i}", "group": f"case_{i // 10 * 10}"} for i in range(30)]
    cut = cut_missing_splits({"train": cases}, seed=0)
    assert {split: len(cut[split]) for split in cut} == {"train": 10, "val": 10, "test": 10}
    cut = cut_missing_splits({"train": cases[:20]}, seed=0)
    assert {split: len(cut[split]) for split in cut} == {"train": 10, "val": 10, "test": 0}


def test_a_group_that_a_list_divides_is_told_once_without_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_plain(tmp_path, 6, {"train": ["case_0", "case_1", "case_2"], "val": ["case_3"], "test": ["case_4", "case_5"]})
    groups = {"case_0": "Miller", "case_1": "Miller", "case_4": "Miller", "case_2": "Smith", "case_3": "Smith"}
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    find_cases(str(tmp_path))
    told = [record.getMessage() for record in caplog.records if "groups have images" in record.getMessage()]
    assert len(told) == 1
    assert (
        "2 of 3 groups have images in several splits; of the first, 2 in train (case_0.jpg) and 1 in test (" in told[0]
    )
    assert "Miller" not in caplog.text
    caplog.clear()
    find_cases(str(tmp_path), folds=2, fold=1)  # which pool what is not the test's
    assert "1 of 3 groups have images in several splits" in caplog.text
    caplog.clear()
    (tmp_path / "groups.json").write_text('{"case_0": "Miller", "case_1": "Miller", "case_4": "Doe"}')
    find_cases(str(tmp_path))
    assert "in several splits" not in caplog.text
