"""Data sets of few training images for a study: parts of each other, with all validation and test images."""

from __future__ import annotations

import json

import pytest
from folders import put_plain

from benchmarks.study import subsets
from icmoe_monai.data import find_cases
from icmoe_monai.errors import InputError

SPLITS = {"train": [f"case_{i}" for i in range(8)], "val": ["case_8"], "test": ["case_9"]}


def test_smaller_sets_are_parts_of_larger_ones_and_the_other_splits_stay(tmp_path):
    data = put_plain(tmp_path / "busi", splits=SPLITS)
    (data / "groups.json").write_text(json.dumps({"patient": ["case_0", "case_1"]}))
    subsets.main(["--data_dir", str(tmp_path), "--sets", "busi", "--numbers", "2", "4"])
    found = {n: json.loads((tmp_path / f"busi_{n}" / "splits.json").read_text()) for n in (2, 4)}
    assert [len(splits["train"]) for splits in found.values()] == [2, 4]
    assert set(found[2]["train"]) < set(found[4]["train"]) < set(SPLITS["train"])
    assert all(splits[name] == SPLITS[name] for splits in found.values() for name in ("val", "test"))
    cases = find_cases(str(tmp_path / "busi_4"))
    assert [case["name"] for case in cases["train"]] == found[4]["train"]
    assert all("group" in case for case in cases["train"])


def test_another_seed_draws_others(tmp_path):
    data = put_plain(tmp_path / "busi", splits=SPLITS)
    drawn = set()
    for seed in range(5):
        subsets.make_subset(data, tmp_path / str(seed), 3, seed=seed)
        drawn.add(tuple(json.loads((tmp_path / str(seed) / "splits.json").read_text())["train"]))
    assert len(drawn) > 1


def test_more_images_than_there_are_is_told(tmp_path):
    data = put_plain(tmp_path / "busi", splits=SPLITS)
    with pytest.raises(InputError, match="has 8 training images, fewer than 9"):
        subsets.make_subset(data, tmp_path / "more", 9)


def test_groups_in_any_capitals_go_along_and_what_is_no_data_set_is_told(tmp_path):
    data = put_plain(tmp_path / "busi", splits=SPLITS)
    (data / "Groups.csv").write_text("name,group\ncase_0,a\ncase_1,a\n")
    subsets.make_subset(data, tmp_path / "few", 8)
    assert all("group" in case for case in find_cases(str(tmp_path / "few"))["train"])
    with pytest.raises(InputError, match="has no folder images: name a data set of images/ and masks/"):
        subsets.make_subset(put_plain(tmp_path / "outer" / "inner", splits=SPLITS).parent, tmp_path / "other", 2)
    (data / "masks" / "case_3.png").unlink()
    with pytest.raises(InputError, match="case_3"):
        subsets.make_subset(data, tmp_path / "broken", 2)
