"""Planted faults are found and named, and a set without faults raises none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import planted
import pytest
from PIL import Image

from icmoe_monai.planning import make_plan
from icmoe_monai.planning.classes import Classes
from icmoe_monai.planning.faults import FAULT, NOTE, Known, find_faults
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


def plan_of_masks(folder: Path, change):
    """Plan a set of phantoms whose masks were changed, each by its place."""
    planted.put_phantoms(folder)
    for n, path in enumerate(sorted((folder / "masks").iterdir())):
        mask = planted.read(folder, "masks", path.stem)
        planted.put(folder, path.stem, None, change(n, mask > 0).astype(np.uint8))
    return plan_of(folder)


def test_an_image_below_a_patch_is_named_since_a_training_refuses_it(tmp_path):
    folder = planted.put_phantoms(tmp_path / "set")
    planted.put(folder, "train_03", *(planted.read(folder, kind, "train_03")[:12] for kind in ("images", "masks")))
    (fault,) = [fault for fault in plan_of(folder).faults if fault.level == FAULT]
    assert (fault.kind, fault.findings[0].files) == ("unreadable", ("images/train_03.png",))
    assert fault.findings[0].sentence == "images/train_03.png is 96x12, and the least is 16x16: remove it."


def test_an_image_that_exif_turns_otherwise_than_its_mask_is_a_note(tmp_path):
    folder = planted.put_phantoms(tmp_path / "set")
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("train_03", "train_04"):
        Image.fromarray(planted.read(folder, "images", name)).save(folder / "images" / f"{name}.png", exif=exif)
    Image.fromarray(planted.read(folder, "masks", "train_04")).save(folder / "masks" / "train_04.png", exif=exif)
    (fault,) = [fault for fault in plan_of(folder).faults if fault.kind == "turned"]
    (finding,) = fault.findings
    assert (fault.level, finding.files) == (NOTE, ("images/train_03.png", "masks/train_03.png"))


def test_a_set_of_which_all_images_are_blank_teaches_nothing(tmp_path):
    folder = planted.put_phantoms(tmp_path / "set")
    for path in (folder / "images").glob("train_*"):
        planted.put(folder, path.stem, np.zeros((planted.HEIGHT, planted.WIDTH, 3), np.uint8), None)
    found = {fault.kind: fault for fault in plan_of(folder).faults}
    assert found["nothing_to_learn"].findings[0].sentence == "There is nothing to see in all 18 training images."


def test_a_class_of_one_mask_alone_is_told_with_its_file(tmp_path):
    def change(n, is_target):
        mask = is_target.astype(np.uint8)
        mask[:, :48] *= 2
        mask[:5, :5] = 7 if n == 9 else 0
        return mask

    (fault,) = [fault for fault in plan_of_masks(tmp_path / "set", change).faults if fault.kind == "rare_class"]
    (finding,) = fault.findings
    (name,) = finding.files
    assert fault.level == NOTE
    assert finding.sentence == f"Of 24 masks, {name} alone has class 7."


def test_the_few_masks_of_another_kind_are_named_and_not_the_many(tmp_path):
    """Two of one target, and one that was smoothed, among masks of three classes."""

    def change(n, is_target):
        if n == 5:
            return np.linspace(0, 255, is_target.size).reshape(is_target.shape) * is_target
        return is_target * (255 if n < 2 else 1 + (np.arange(planted.WIDTH) < 48))

    plan = plan_of_masks(tmp_path / "set", change)
    assert plan.settings["out_channels"] == 3
    (fault,) = [fault for fault in plan.faults if fault.kind == "values"]
    assert len(fault.findings) == 3
    assert "not the class numbers 0 to 2" in fault.findings[0].sentence
    smoothed = sorted((tmp_path / "set" / "masks").iterdir())[5].stem
    specks = [finding for fault in plan.faults if fault.kind == "specks" for finding in fault.findings]
    assert not [finding for finding in specks if smoothed in finding.sentence]  # greys are no pieces


def test_masks_around_the_image_are_told_also_where_all_are_inverted(tmp_path):
    plan = plan_of_masks(tmp_path / "set", lambda n, is_target: 255 * ~is_target)
    (fault,) = [fault for fault in plan.faults if fault.kind == "around"]
    assert (fault.level, plan.num_faults) == (NOTE, 0)
    assert len(fault.findings) == sum(look.mask.at_border >= 0.99 for look in plan.looks) > 0


def test_numbers_of_objects_are_no_classes(tmp_path):
    """Also where most masks have few of them."""

    def change(n, is_target):
        count = 40 if n == 5 else 3
        return is_target * (1 + np.cumsum(is_target).reshape(is_target.shape) * count // (is_target.sum() + 1))

    assert plan_of_masks(tmp_path / "set", change).settings["out_channels"] == 1
