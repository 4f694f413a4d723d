"""Small imitations of the official releases, prepared, checked, tampered with and found by a training."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import icmoe_monai.data.releases
from icmoe_monai.data import prepare as module
from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.prepare import check, main, prepare
from icmoe_monai.data.releases import OFFICIAL, Official, by_part, find_difference, find_part
from icmoe_monai.data.splits import checksum, cut_missing_splits
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_size

HEIGHT, WIDTH = 60, 80
ISIC = {
    "isic2017": {
        "ISIC-2017_Training_Data": "ISIC-2017_Training_Part1_GroundTruth",
        "ISIC-2017_Validation_Data": "ISIC-2017_Validation_Part1_GroundTruth",
        "ISIC-2017_Test_v2_Data": "ISIC-2017_Test_v2_Part1_GroundTruth",
    },
    "isic2018": {
        "ISIC2018_Task1-2_Training_Input": "ISIC2018_Task1_Training_GroundTruth",
        "ISIC2018_Task1-2_Validation_Input": "ISIC2018_Task1_Validation_GroundTruth",
        "ISIC2018_Task1-2_Test_Input": "ISIC2018_Task1_Test_GroundTruth",
    },
}
SMALL = {
    "isic2017": {"train": 6, "val": 2, "test": 3},
    "isic2018": {"train": 6, "val": 2, "test": 3},
    "busi": {"benign": 10, "malignant": 10, "normal": 5},
    "glas": {"train": 10, "testA": 3, "testB": 2},
}


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def band(value: int, top: int = 10, left: int = 20) -> np.ndarray:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[top : top + 20, left : left + 30] = value
    return values


def put_isic(home: Path, protocol: str) -> None:
    for part, ((images, masks), count) in enumerate(zip(ISIC[protocol].items(), SMALL[protocol].values(), strict=True)):
        for i in range(count):
            stem = f"ISIC_00{part}000{i}"
            put(home / images / f"{stem}.jpg", picture(i))
            put(home / masks / f"{stem}_segmentation.png", band(255))


def put_busi(home: Path) -> None:
    for group, count in SMALL["busi"].items():
        for i in range(1, count + 1):
            put(home / group / f"{group} ({i}).png", picture(i))
            put(home / group / f"{group} ({i})_mask.png", band(0 if group == "normal" else 255))
    put(home / "benign" / "benign (3)_mask_1.png", band(255, top=35))


def put_glas(home: Path) -> None:
    for part, count in SMALL["glas"].items():
        for i in range(1, count + 1):
            put(home / f"{part}_{i}.bmp", picture(i))
            put(home / f"{part}_{i}_anno.bmp", band(1) + band(2, top=32) + band(3, left=50))
    header = "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"
    rows = [f"train_{i},{i // 2}, benign, healthy" for i in range(1, 11)] + ["testA_1,0, benign, adenomatous"]
    (home / "Grade.csv").write_bytes("\r".join([header, *rows]).encode())  # lines end as in the release


@pytest.fixture(params=["isic2017", "isic2018", "busi", "glas"])
def release(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """An imitation of a release, and official counts to match."""
    return make_release(request.param, tmp_path, monkeypatch)


def make_release(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    home = tmp_path / "release"
    if protocol == "busi":
        put_busi(home)
    elif protocol == "glas":
        put_glas(home)
    else:
        put_isic(home, protocol)
    small = {name: Official(OFFICIAL[name].layout, counts, {}) for name, counts in SMALL.items()}
    for name in ("busi", "glas"):
        for part, count in SMALL[name].items():
            small[name].checksums[part] = checksum(f"{part}_{i}" for i in range(1, count + 1))
    monkeypatch.setattr(icmoe_monai.data.releases, "OFFICIAL", small)
    monkeypatch.setattr(module, "OFFICIAL", small)
    return protocol, home


@pytest.fixture
def busi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_release("busi", tmp_path, monkeypatch)[1]


@pytest.fixture
def glas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_release("glas", tmp_path, monkeypatch)[1]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def names(folder: Path) -> dict[str, list[str]]:
    return {split: [case["name"] for case in cases] for split, cases in find_cases(str(folder)).items()}


EXPECTED = {
    "isic2017": {"train": 6, "val": 2, "test": 3},
    "isic2018": {"train": 6, "val": 2, "test": 3},
    "busi": {"train": 18, "val": 2, "test": 5},
    "glas": {"train": 9, "val": 1, "test": 5},
}


def test_a_release_becomes_a_set_that_a_training_finds(release: tuple[str, Path], tmp_path: Path) -> None:
    protocol, home = release
    out = tmp_path / "made" / "set"
    content = prepare(protocol, str(home), str(out), longest_side=40)
    check(str(out))
    found = names(out)
    assert {split: len(listed) for split, listed in found.items()} == EXPECTED[protocol]
    assert found == read(out / "splits.json")
    assert content == read(out / "protocol.json")
    assert (content["partial"], content["source_images"]) == (False, SMALL[protocol])
    assert content["splits"]["test"] == {"cases": len(found["test"]), "sha256": checksum(found["test"])}
    for case in (case for cases in find_cases(str(out)).values() for case in cases):
        assert read_size(case["image"]) == read_size(case["label"]) == (30, 40)
    assert {path.name for path in out.parent.iterdir()} == {"set"}
    kinds = {"images", "masks", "splits.json", "protocol.json"}
    assert {path.name for path in out.iterdir()} == kinds | (
        {"instances", "groups.csv"} if protocol == "glas" else set()
    )


def test_official_splits_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, home = make_release("isic2018", tmp_path, monkeypatch)
    prepare("isic2018", str(home), str(tmp_path / "set"))
    assert names(tmp_path / "set")["val"] == ["ISIC_0010000", "ISIC_0010001"]
    assert names(tmp_path / "set")["test"] == [f"ISIC_002000{i}" for i in range(3)]


def test_what_keeps_its_size_keeps_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, home = make_release("isic2017", tmp_path, monkeypatch)
    for longest_side in (0, WIDTH, 512):
        out = tmp_path / f"set {longest_side}"
        prepare("isic2017", str(home), str(out), longest_side=longest_side)
        source = home / "ISIC-2017_Training_Data" / "ISIC_0000000.jpg"
        assert (out / "images" / "ISIC_0000000.jpg").read_bytes() == source.read_bytes()
        assert np.array_equal(np.asarray(Image.open(out / "masks" / "ISIC_0000000.png")), band(255))


def test_images_are_filtered_and_masks_are_not(tmp_path: Path, busi: Path) -> None:
    put(busi / "benign" / "benign (1).png", np.repeat(band(200)[..., None], 3, axis=2))
    prepare("busi", str(busi), str(tmp_path / "set"), longest_side=37)
    image = np.asarray(Image.open(tmp_path / "set" / "images" / "benign_1.png"))[..., 0]
    mask = np.asarray(Image.open(tmp_path / "set" / "masks" / "benign_1.png"))
    assert image.shape == mask.shape == (28, 37)
    assert np.unique(mask).tolist() == [0, 255]
    assert len(np.unique(image)) > 4
    assert ((image > 100) != (mask > 0)).mean() < 0.02


def test_masks_of_one_image_become_one_and_normals_stay_empty(tmp_path: Path, busi: Path) -> None:
    prepare("busi", str(busi), str(tmp_path / "set"))
    masks = tmp_path / "set" / "masks"
    assert np.asarray(Image.open(masks / "benign_3.png")).astype(bool).sum() == 2 * 20 * 30
    assert not np.asarray(Image.open(masks / "normal_1.png")).any()


def test_instances_keep_their_numbers(tmp_path: Path, glas: Path) -> None:
    prepare("glas", str(glas), str(tmp_path / "set"), longest_side=40)
    instances = np.asarray(Image.open(tmp_path / "set" / "instances" / "testA_1.png"))
    assert np.unique(instances).tolist() == [0, 1, 2, 3]
    mask = np.asarray(Image.open(tmp_path / "set" / "masks" / "testA_1.png"))
    assert np.array_equal(mask > 0, instances > 0)


def test_numbers_above_255_are_kept(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint16)
    values[5:10, 5:10] = 300
    module._save_numbers(tmp_path / "a.png", values, (30, 20))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), values)


def test_the_same_release_gives_the_same_set(tmp_path: Path, busi: Path) -> None:
    for out in ("first", "second"):
        prepare("busi", str(busi), str(tmp_path / out), longest_side=40)
    files = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (tmp_path / "first", tmp_path / "second")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 2 * 25 + 2
    prepare("busi", str(busi), str(tmp_path / "third"), longest_side=40, seed=1)
    assert names(tmp_path / "third") != names(tmp_path / "first")


# Groups --------------------------------------------------------------------------------------------------------------


def put_groups(path: Path, groups: dict[str, str]) -> str:
    rows = "".join(f"{name},{group}\n" for name, group in groups.items())
    path.write_text(json.dumps(groups) if path.suffix == ".json" else f"name,group\n{rows}")
    return str(path)


@pytest.mark.parametrize("file", ["groups.json", "duplicates.csv"])
def test_groups_stay_on_one_side_and_classes_keep_their_shares(file: str, tmp_path: Path, busi: Path) -> None:
    groups = {f"{kind}_{i}": f"{kind} {i // 2}" for kind in ("benign", "malignant") for i in range(1, 11)}
    content = prepare("busi", str(busi), str(tmp_path / "set"), groups_file=put_groups(tmp_path / file, groups))
    assert content["groups"] == 12 + 5  # a normal image is a group by itself
    found = names(tmp_path / "set")
    for case in (case for cases in find_cases(str(tmp_path / "set")).values() for case in cases):
        assert groups.get(case["group"]) == groups.get(case["name"])
    assert "benign 3" not in (tmp_path / "set" / "groups.csv").read_text()  # it may be a patient
    sides: dict[str, set[str]] = {}
    for split, listed in found.items():
        for name in listed:
            sides.setdefault(groups.get(name, name), set()).add(split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert {kind: sum(name.startswith(kind) for name in found["test"]) for kind in SMALL["busi"]} == {
        "benign": 2,
        "malignant": 2,
        "normal": 1,
    }


def test_glas_is_grouped_by_its_patients(tmp_path: Path, glas: Path) -> None:
    content = prepare("glas", str(glas), str(tmp_path / "set"))
    assert content["groups"] == 6 + 4  # of testA_1 the patient is train_1's, and of the other test images none is told
    patients = {f"train_{i}": i // 2 for i in range(1, 11)}
    found = names(tmp_path / "set")
    assert found == names(glas)  # which a training may also take as it is
    assert not {patients[name] for name in found["train"]} & {patients[name] for name in found["val"]}
    (glas / "Grade.csv").unlink()
    assert prepare("glas", str(glas), str(tmp_path / "without"))["groups"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", r"groups\.json cannot be read \(line 1, column 3\): correct or remove it"),
        ('["benign_1"]', r"groups\.json must be an object of names and groups, such as \{\"case1\": \"patient 1\"\}"),
        ('{"benign (1)": "a"}', r"groups\.json lists 'benign \(1\)', and no image has that name"),
    ],
    ids=["not JSON", "list", "other names"],
)
def test_groups_that_cannot_be_used(text: str, message: str, tmp_path: Path, busi: Path) -> None:
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(InputError, match=message):
        prepare("busi", str(busi), str(tmp_path / "set"), groups_file=str(tmp_path / "groups.json"))


def test_drawn_splits_are_the_same_everywhere() -> None:
    """BUSI's at seed 0, as docs/data.md gives them."""
    cases = [
        {"name": f"{kind}_{i}", "class": kind}
        for kind, count in OFFICIAL["busi"].counts.items()
        for i in range(1, count + 1)
    ]
    cut = cut_missing_splits({"train": cases}, seed=0)
    found = {split: (len(listed), checksum(case["name"] for case in listed)[:12]) for split, listed in cut.items()}
    document = (Path(module.__file__).parents[2] / "docs" / "data.md").read_text()
    assert all(start in document for _, start in found.values())
    assert found == {
        "train": (546, "196ac720c89c"),
        "val": (78, "9e636558765b"),
        "test": (156, "6452b1a05eef"),
    }


# The official lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["busi", "glas"])
def test_known_names_have_the_known_checksums(protocol: str) -> None:
    official = OFFICIAL[protocol]
    for part, count in official.counts.items():
        listed = [f"{part}_{i}" for i in range(1, count + 1)]
        assert checksum(listed) == official.checksums[part]
        assert find_part(protocol, listed) == part
        assert find_part(protocol, listed[1:]) is None


def test_a_release_of_the_right_size_with_other_names_is_refused(tmp_path: Path, glas: Path) -> None:
    for suffix in (".bmp", "_anno.bmp"):
        (glas / f"train_10{suffix}").rename(glas / f"train_11{suffix}")
    with pytest.raises(
        InputError, match="release holds 10 train images whose names are not those of the release: compl"
    ):
        prepare("glas", str(glas), str(tmp_path / "set"))
    assert prepare("glas", str(glas), str(tmp_path / "set"), partial_set=True)["partial"] is True


def test_differences_name_what_is_found_and_expected() -> None:
    assert find_difference("glas", by_part("glas", {"train": ["train_1"]})) == (
        "holds 1 train, 0 testA and 0 testB images, and the release has 85 train, 60 testA and 20 testB images"
    )
    assert find_difference("busi", {"other": ["a"]}) is not None


# What is refused -----------------------------------------------------------------------------------------------------


def test_an_incomplete_release_is_refused_unless_it_may_be_partial(
    tmp_path: Path, busi: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (busi / "normal").iterdir():
        path.unlink()
    (busi / "more.zip").write_bytes(b"")
    expected = (
        r"release holds 10 benign, 10 malignant and 0 normal images, and the release has 10 benign, 10 malignant and 5 "
        r"normal images: complete or correct it, or go on by --partial\. Unpack more\.zip first\?$"
    )
    with pytest.raises(InputError, match=expected):
        prepare("busi", str(busi), str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()
    content = prepare("busi", str(busi), str(tmp_path / "set"), partial_set=True)
    assert (content["partial"], content["source_images"]) == (True, {"benign": 10, "malignant": 10})
    assert "A partial set: " in caplog.text
    check(str(tmp_path / "set"))
    assert len(names(tmp_path / "set")["test"]) == 4


def test_splits_that_a_partial_release_lacks_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, home = make_release("isic2017", tmp_path, monkeypatch)
    for folder in home.glob("*Test*"):
        folder.rename(tmp_path / folder.name)
    with pytest.raises(
        InputError, match="6 train, 2 val and 0 test images, and the release has 6 train, 2 val and 3 t"
    ):
        prepare("isic2017", str(home), str(tmp_path / "set"))
    prepare("isic2017", str(home), str(tmp_path / "set"), partial_set=True)
    assert {split: len(listed) for split, listed in names(tmp_path / "set").items()} == {
        "train": 5,
        "val": 2,
        "test": 1,
    }


def test_an_image_without_mask_is_refused_or_left_out(
    tmp_path: Path, busi: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (busi / "benign" / "benign (1)_mask.png").unlink()
    with pytest.raises(InputError, match=r"benign \(1\)\.png has no mask: .* Or leave such cases out by --partial"):
        prepare("busi", str(busi), str(tmp_path / "set"))
    prepare("busi", str(busi), str(tmp_path / "set"), partial_set=True)
    assert "Left out: " in caplog.text
    assert not list((tmp_path / "set" / "images").glob("benign_1.*"))


@pytest.mark.parametrize(
    ("protocol", "arguments", "message"),
    [
        ("isic", {}, "protocol must be one of isic2017, isic2018, busi, glas, got 'isic'"),
        ("glas", {}, "release has the layout BUSI, not that of GlaS: correct it"),
        ("busi", {"longest_side": 8}, "longest_side must be 0 or at least 16, got 8"),
        ("busi", {"longest_side": -1}, "longest_side must be 0 or at least 16, got -1"),
    ],
    ids=["protocol", "layout", "small", "negative"],
)
def test_what_cannot_be_prepared(protocol: str, arguments: dict, message: str, tmp_path: Path, busi: Path) -> None:
    with pytest.raises(InputError, match=message):
        prepare(protocol, str(busi), str(tmp_path / "set"), **arguments)
    assert not (tmp_path / "set").exists()


def test_packed_releases_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "Warwick QU Dataset.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"No images were found .* Unpack Warwick QU Dataset\.zip first\?"):
        prepare("glas", str(tmp_path), str(tmp_path / "set"))


def test_a_mask_of_another_size_is_named(tmp_path: Path, busi: Path) -> None:
    put(busi / "benign" / "benign (2).png", picture(1)[:50])
    with pytest.raises(
        InputError, match=r"The mask of .*benign \(2\)\.png is 80x60 and the image 80x50: download both"
    ):
        prepare("busi", str(busi), str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, busi: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="set is there already: name a folder that is not, or remove it first"):
        prepare("busi", str(busi), str(tmp_path / "set"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is there already"):
        prepare("busi", str(busi), str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    prepare("busi", str(busi), str(tmp_path / "empty"))
    check(str(tmp_path / "empty"))
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "full"])
def test_nothing_is_left_of_what_was_stopped(
    error: BaseException, tmp_path: Path, busi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module._write_case

    def stop(made: Path, longest_side: int, case: dict) -> None:
        if case["name"] == "malignant_3":
            raise error
        write(made, longest_side, case)

    monkeypatch.setattr(module, "_write_case", stop)
    expected = {
        KeyboardInterrupt: "",
        OSError: r"set cannot be written \(.*No space left on device.*\): free some space",
    }
    kind = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(kind, match=expected[type(error)] or None):
        prepare("busi", str(busi), str(tmp_path / "set"))
    assert {path.name for path in tmp_path.iterdir()} == {"release"}
    monkeypatch.undo()


# The lock ------------------------------------------------------------------------------------------------------------


def change(folder: Path, **lists: list[str]) -> None:
    content = read(folder / "splits.json")
    (folder / "splits.json").write_text(json.dumps({**content, **lists}))


def move_one(folder: Path) -> None:
    content = read(folder / "splits.json")
    change(folder, train=content["train"][1:], test=[*content["test"], content["train"][0]])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (
            move_one,
            r"The lists of train, test in .*splits\.json are not those that protocol\.json locks: prepare the",
        ),
        (
            lambda f: change(f, val=read(f / "splits.json")["val"][1:]),
            r"The lists of val in .*splits\.json are not those",
        ),
        (lambda f: (f / "splits.json").unlink(), r"The lists of train, val, test in .*splits\.json are not"),
        (
            lambda f: (f / "protocol.json").write_text("{}"),
            r"protocol\.json is not what prepare wrote \(KeyError\)",
        ),
        (lambda f: (f / "protocol.json").write_text("[]"), r"protocol\.json is not what prepare wrote"),
        (lambda f: (f / "protocol.json").write_text('{"splits": 1}'), r"protocol\.json is not what prepare wrote"),
    ],
    ids=["moved", "left out", "no lists", "no lock", "no object", "no splits"],
)
def test_changed_lists_are_refused_by_a_training_and_a_check(tamper, message: str, tmp_path: Path, busi: Path) -> None:
    folder = tmp_path / "set"
    prepare("busi", str(busi), str(folder), longest_side=40)
    tamper(folder)
    with pytest.raises(InputError, match=message):
        find_cases(str(folder))
    with pytest.raises(InputError, match=rf"{message}|has no protocol\.json that prepare wrote"):
        check(str(folder))


def test_lists_may_be_written_otherwise_and_unlocked(tmp_path: Path, busi: Path) -> None:
    folder = tmp_path / "set"
    prepare("busi", str(busi), str(folder), longest_side=40)
    before = names(folder)
    (folder / "splits.json").write_text(json.dumps({split: listed[::-1] for split, listed in before.items()}))
    assert names(folder) == before
    move_one(folder)
    (folder / "protocol.json").unlink()
    assert names(folder) != before
    with pytest.raises(InputError, match=r"set has no protocol\.json that prepare wrote"):
        check(str(folder))


def test_lists_changed_together_with_their_lock_are_not_the_releases(tmp_path: Path, busi: Path) -> None:
    folder = tmp_path / "set"
    prepare("busi", str(busi), str(folder), longest_side=40)
    lists = read(folder / "splits.json")
    lists["test"] = lists["test"][1:]
    (folder / "splits.json").write_text(json.dumps(lists))
    content = read(folder / "protocol.json")
    content["splits"]["test"] = {"cases": len(lists["test"]), "sha256": checksum(lists["test"])}
    (folder / "protocol.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"set holds .* images, and the release has .* images: prepare the set again"):
        check(str(folder))


def test_a_missing_image_is_told_as_such(tmp_path: Path, busi: Path) -> None:
    folder = tmp_path / "set"
    prepare("busi", str(busi), str(folder), longest_side=40)
    (folder / "images" / "benign_1.png").unlink()
    with pytest.raises(InputError, match=r'lists "benign_1", and images/ has no file of that stem'):
        check(str(folder))


# The command line ----------------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, glas: Path, caplog: pytest.LogCaptureFixture, capsys) -> None:
    out = str(tmp_path / "set")
    with caplog.at_level(logging.INFO):
        main(["glas", str(glas), out, "--longest_side", "40"])
        main(["--check", out])
    assert "set holds glas: 9 train, 1 val, 5 test" in caplog.text
    assert "set holds glas, its lists as they were locked: 9 train, 1 val, 5 test" in caplog.text
    with pytest.raises(SystemExit, match="1"):
        main(["glas", str(glas), out])
    told = f"\nerror: {out} is there already: name a folder that is not, or remove it first.\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    "arguments", [[], ["glas"], ["glas", "in"], ["--check", "a", "glas"], ["glas", "in", "out", "--check", "a"]]
)
def test_command_lines_that_do_not_say_enough(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "or --check and a prepared folder" in capsys.readouterr().err


def test_ctrl_c_on_the_command_line(tmp_path: Path, busi: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_case", stop)
    with pytest.raises(SystemExit, match="130"):
        main(["busi", str(busi), str(tmp_path / "set")])
    assert capsys.readouterr().err.endswith("stopped: nothing was written\n")
    assert {path.name for path in tmp_path.iterdir()} == {"release"}


@pytest.mark.slow
@pytest.mark.parametrize("command", [["icmoe_monai.prepare"], ["icmoe_monai", "prepare"]])
def test_module_is_a_command(command: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *command, "glas", str(tmp_path), str(tmp_path / "set")]
    root = Path(icmoe_monai.__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: No images were found in ")
