"""Planted faults are found and named, and a set without faults raises none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import planted
import pytest

from icmoe_monai.planning import make_plan
from icmoe_monai.planning.classes import Classes
from icmoe_monai.planning.faults import FAULT, Known, find_faults
from icmoe_monai.planning.looks import look_at_cases

ROOT = Path(__file__).parents[2]
PYRAMID = ROOT / "models" / "efficientnet_{size}_imagenet.safetensors"


def plan_of(folder: Path):
    return make_plan(str(folder), pyramid=PYRAMID, memory="4GB", device="cpu", progress=False)


def test_a_clean_set_raises_no_fault(tmp_path):
    plan = plan_of(planted.put_phantoms(tmp_path / "set"))
    assert [fault.kind for fault in plan.faults if fault.level == FAULT] == []
    assert plan.num_faults == 0


@pytest.mark.parametrize("kind", planted.FAULTS)
def test_a_planted_fault_is_found_and_named_and_no_other(kind, tmp_path):
    plant, names = planted.FAULTS[kind]
    plant(planted.put_phantoms(tmp_path / "set"))
    found = {fault.kind: fault for fault in plan_of(tmp_path / "set").faults if fault.level == FAULT}
    assert list(found) == [kind]
    (finding,) = found[kind].findings
    assert {Path(file).stem for file in finding.files} == names
    assert all(name in finding.sentence for name in names)
    assert found[kind].remedy.endswith(".")


def test_several_faults_are_told_apart(tmp_path):
    folder = planted.put_phantoms(tmp_path / "set")
    kinds = ["duplicate_across_splits", "swapped_masks", "tiny_target", "inverted_mask"]
    for kind in kinds:
        planted.FAULTS[kind][0](folder)
    found = {fault.kind: fault for fault in plan_of(folder).faults if fault.level == FAULT}
    assert sorted(found) == sorted(kinds)
    for kind in kinds:
        assert {Path(file).stem for finding in found[kind].findings for file in finding.files} == planted.FAULTS[kind][
            1
        ]


def test_one_patient_in_two_splits_is_found_by_the_cases_groups(tmp_path):
    planted.put_phantoms(tmp_path)
    names = {"train": ["train_00", "train_01"], "val": ["val_18"], "test": ["test_21"]}
    groups = {"train_00": "train_00", "val_18": "train_00", "train_01": "train_01", "test_21": "test_21"}
    splits = {
        split: [
            {"image": str(tmp_path / "images" / f"{name}.png"), "label": str(tmp_path / "masks" / f"{name}.png"),
             "name": name, "group": groups[name]}
            for name in listed
        ]
        for split, listed in names.items()
    }  # fmt: skip
    looks = look_at_cases(splits, progress=False)
    faults = [fault for fault in find_faults(Known(looks, [], Classes(1, "", []), 256)) if fault.level == FAULT]
    assert [fault.kind for fault in faults] == ["group_across_splits"]
    (finding,) = faults[0].findings
    assert finding.files == ("images/train_00.png", "images/val_18.png")
    assert "train and val" in finding.sentence
    apart = [dataclasses.replace(look, group=look.name) for look in looks]
    assert not [fault for fault in find_faults(Known(apart, [], Classes(1, "", []), 256)) if fault.level == FAULT]


def test_all_masks_empty_is_a_fault_and_no_exception(tmp_path):
    folder = planted.put_phantoms(tmp_path / "set")
    for path in (folder / "masks").iterdir():
        planted.put(folder, path.stem, None, 0 * planted.read(folder, "masks", path.stem))
    plan = plan_of(folder)
    assert "nothing_to_learn" in [fault.kind for fault in plan.faults]
    assert plan.facts["num_empty_masks"] == 24
    assert plan.facts["target_diameter"] is None
