from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from folders import HEIGHT, WIDTH, put_image, put_mask, put_plain
from PIL import Image

from icmoe_monai.data.cases import MIN_SIDE, find_cases
from icmoe_monai.data.splits import cut_missing_splits, describe_training, take_evenly
from icmoe_monai.errors import InputError
from icmoe_monai.networks.sam import PATCH_SIZE
from icmoe_monai.transforms.load import LoadImage2Dd


def names(splits: dict[str, list[dict]]) -> dict[str, list[str]]:
    return {split: [case["name"] for case in cases] for split, cases in splits.items()}


def test_plain_folder_is_split_by_seed(tmp_path: Path) -> None:
    folder = str(put_plain(tmp_path / "set"))
    splits = names(find_cases(folder))
    assert {split: len(listed) for split, listed in splits.items()} == {"train": 7, "val": 1, "test": 2}
    assert sorted(chain.from_iterable(splits.values())) == [f"case_{i}" for i in range(10)]
    assert all(listed == sorted(listed) for listed in splits.values())
    assert names(find_cases(folder)) == splits
    assert names(find_cases(str(tmp_path))) == splits  # the parent
    assert any(names(find_cases(folder, seed=seed)) != splits for seed in range(1, 4))


def test_case_of_a_plain_folder(tmp_path: Path) -> None:
    case = find_cases(str(put_plain(tmp_path)))["train"][0]
    assert case == {
        "image": str(tmp_path / "images" / f"{case['name']}.jpg"),
        "label": str(tmp_path / "masks" / f"{case['name']}.png"),
        "name": case["name"],
    }


def test_order_does_not_follow_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = names(find_cases(str(put_plain(tmp_path))))
    listdir = __import__("os").listdir
    monkeypatch.setattr("os.listdir", lambda folder: sorted(listdir(folder), reverse=True))
    assert names(find_cases(str(tmp_path))) == splits


def test_splits_json_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = {"train": ["case_3", "case_1"], "val": ["case_0"], "test": ["case_2"], "unlabelled": ["bare"]}
    folder = put_plain(tmp_path, 6, listed)
    put_image(folder / "images" / "bare.png")
    splits = find_cases(str(folder))
    assert names(splits) == {**listed, "train": ["case_1", "case_3"]}
    assert "label" not in splits["unlabelled"][0]
    assert "splits.json does not list 2 of the 7 images" in caplog.text
    assert set(find_cases(str(put_plain(tmp_path / "b", 3, {"train": ["case_0"], "val": ["case_1"]})))) == {
        "train",
        "val",
        "test",
    }


def test_clutter_is_ignored_and_other_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = put_plain(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "._case_0.jpg"):
        (folder / "images" / name).write_text("x")
    find_cases(str(folder))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    (folder / "images" / "notes.txt").write_text("x")
    (folder / "images" / "case_0.xcf").write_text("x")
    find_cases(str(folder))
    assert "images: 2 entries are no pictures and not used: case_0.xcf, notes.txt." in caplog.text


def test_names_of_other_systems_are_the_same_names(tmp_path: Path) -> None:
    """Systems spell an é as one letter, or as an e and an accent, as macOS does."""
    folder = put_plain(tmp_path, 3)
    put_image(folder / "images" / "caf\u00e9.png")
    put_mask(folder / "masks" / "cafe\u0301.png")
    put_image(folder / "images" / "the\u0301.png")
    put_mask(folder / "masks" / "the\u0301.png")
    (folder / "groups.csv").write_text("name,group\nth\u00e9,a\ncafe\u0301,a\n")
    listed = {"train": ["cafe\u0301", "th\u00e9", "case_0"], "val": ["case_1"]}
    (folder / "splits.json").write_text(json.dumps(listed))
    train = find_cases(str(folder))["train"]
    assert {case["name"]: case["group"] for case in train} == {
        "case_0": "case_0", "caf\u00e9": "caf\u00e9", "th\u00e9": "caf\u00e9"
    }  # fmt: skip
    put_image(folder / "images" / "cafe\u0301.png")
    with pytest.raises(InputError, match="have one name: rename or remove one of the two"):
        find_cases(str(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are no text")
def test_names_that_are_no_text_are_used(tmp_path: Path) -> None:
    folder = put_plain(tmp_path, 3)
    name = os.fsdecode(b"caf\xe9")
    put_image(folder / "images" / f"{name}.png")
    put_mask(folder / "masks" / f"{name}.png")
    splits = find_cases(str(folder), folds=2, fold=1)
    assert name in {case["name"] for cases in splits.values() for case in cases}
    assert len(describe_training(splits)["set_sha256"]) == 64


def test_a_folder_within_its_namesake_is_read_where_that_holds_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put_plain(tmp_path)
    put_image(folder / "images" / "images" / "copy.png")
    put_mask(folder / "masks" / "masks" / "copy.png")
    assert sum(map(len, find_cases(str(folder)).values())) == 10
    assert "images: 1 entries are no pictures and not used: images." in caplog.text


def empty_file(folder: Path) -> None:
    (folder / "images" / "case_0.jpg").write_bytes(b"")


def truncated_mask(folder: Path) -> None:
    path = folder / "masks" / "case_0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def splits_text(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "splits.json").write_text(text) and None


def splits_of(**stems: list[str]) -> Callable[[Path], None]:
    return splits_text(json.dumps(stems))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "masks" / "case_0.png").unlink(), r"images.case_0.jpg has no mask: add it, remove the image"),
        (lambda f: (f / "images" / "case_0.jpg").unlink(), r"masks.case_0.png is a mask without an image: add the im"),
        (lambda f: put_mask(f / "masks" / "case_0.png", width=30), r"case_0.png is 30x20 and .*case_0.jpg is 24x20:"),
        (lambda f: put_mask(f / "masks" / "case_0.png", height=24, width=20),
         r"case_0.png is 20x24 and .*case_0.jpg is 24x20, both upright as their EXIF orientations say: image and mask"),
        (empty_file, r"images.case_0.jpg is empty \(0 bytes\): copy it again"),
        (truncated_mask, r"masks.case_0.png cannot be decoded \(.*\): copy it again"),
        (lambda f: Image.fromarray(np.arange(480).reshape(20, 24).astype(np.uint8)).save(f / "masks" / "case_0.png"),
         r"case_0.png holds 256 values \(0, 1, 2, 3, 4, 5, ...\), and a binary mask .*: set out_channels"),
        (lambda f: put_image(f / "images" / "case_0.png"), r"case_0.jpg and case_0.png have one name: rename or remov"),
        (lambda f: put_image(f / "images" / "case_0.jpg", height=15), r"case_0.jpg is 24x15, and the least is 16x16: "),
        (splits_of(train=["case_0"], val=["case_0", "case_1"]), r'lists "case_0" in train and in val: remove one of'),
        (splits_of(train=["case_0"], val=["case_77"]), r'lists "case_77", and images/ has no file of that stem: add'),
        (splits_of(train=["case_0"], val=["case_1.jpg"]), r'lists "case_1.jpg", and images/ has no file of that stem'),
        (splits_of(train=["case_0"], validation=["case_1"]), r'has the split "validation": name the splits train, val'),
        (splits_of(train=["case_0"], val=[]), r"The val split of .* is empty: list cases for it in splits.json"),
        (splits_of(train=[], val=["case_0"]), r"The train split of .* is empty: list cases for it in splits.json"),
        (splits_text("{"), r"splits.json is not JSON \(.*\): correct it, or remove it for a split by seed"),
        (splits_text('["case_0"]'), r"splits.json must be an object of lists of names"),
        (splits_text('{"train": "case_0"}'), r"splits.json must be an object of lists of names"),
    ],
    ids=["no-mask", "no-image", "sizes", "turned", "empty", "truncated", "values", "same-stem", "small", "two-splits",
         "no-file", "suffix", "split-name", "no-val", "no-train", "not-json", "not-object", "not-lists"],
)  # fmt: skip
def test_problems_of_a_plain_folder(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(put_plain(tmp_path))
    with pytest.raises(InputError, match=message):
        find_cases(str(tmp_path))


def test_all_problems_are_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = put_plain(tmp_path)
    (folder / "masks" / "case_0.png").unlink()
    (folder / "images" / "case_1.jpg").write_bytes(b"")
    put_mask(folder / "masks" / "case_2.png", height=30)
    with pytest.raises(InputError, match=r"case_0.jpg has no mask: .* \(and 2 more, see the lines above\)$"):
        find_cases(str(folder))
    assert all(name in caplog.text for name in ("case_1", "case_2"))
    assert "case_0" not in caplog.text  # which the error names


def test_unchecked_files_are_not_opened(tmp_path: Path) -> None:
    empty_file(put_plain(tmp_path))
    assert len(find_cases(str(tmp_path), check=False)["train"]) == 7


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset folder .*nowhere does not exist: correct its path"):
        find_cases(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"No images were found in .*Layouts understood: images/ and masks/ .*\.webp"):
        find_cases(str(tmp_path))
    (tmp_path / "one" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"No images were found in .*Layouts understood"):
        find_cases(str(tmp_path))
    put_plain(tmp_path / "one")
    put_plain(tmp_path / "two")
    with pytest.raises(InputError, match=r"holds several datasets \(one, two\): give one of them"):
        find_cases(str(tmp_path))
    for nothing in (None, ""):
        with pytest.raises(
            InputError, match=r"dataset_dir is not set: give .* or --dataset_dir demo for computer-made"
        ):
            find_cases(nothing, demo_dir=str(tmp_path / "demo"))
    with pytest.raises(InputError, match=r"The val split of .* is empty"):
        find_cases(str(put_plain(tmp_path / "three", 1)))


def put_isic(home: Path, pairs: dict[str, str], *, num_cases: int = 10) -> None:
    for number, (images, masks) in enumerate(pairs.items()):
        for i in range(num_cases if not number else 3):
            stem = f"ISIC_{number}00000{i}"
            put_image(home / images / f"{stem}.jpg")
            put_image(home / images / f"{stem}_superpixels.png")
            put_mask(home / masks / f"{stem}_segmentation.png")


ISIC_2017 = {
    "ISIC-2017_Training_Data": "ISIC-2017_Training_Part1_GroundTruth",
    "ISIC-2017_Validation_Data": "ISIC-2017_Validation_Part1_GroundTruth",
    "ISIC-2017_Test_v2_Data": "ISIC-2017_Test_v2_Part1_GroundTruth",
}
ISIC_2018 = {
    "ISIC2018_Task1-2_Training_Input": "ISIC2018_Task1_Training_GroundTruth",
    "ISIC2018_Task1-2_Validation_Input": "ISIC2018_Task1_Validation_GroundTruth",
    "ISIC2018_Task1-2_Test_Input": "ISIC2018_Task1_Test_GroundTruth",
}


@pytest.mark.parametrize("pairs", [ISIC_2017, ISIC_2018], ids=["2017", "2018"])
def test_isic_archives_keep_their_splits(tmp_path: Path, pairs: dict[str, str]) -> None:
    put_isic(tmp_path, pairs)
    put_mask(tmp_path / "ISIC-2017_Training_Part2_GroundTruth" / "ISIC_0000000.png")
    put_mask(tmp_path / "ISIC2018_Task3_Training_GroundTruth" / "ISIC_0000000.png")
    splits = find_cases(str(tmp_path))
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 10, "val": 3, "test": 3}
    assert splits["val"][0]["name"] == "ISIC_1000000"
    assert splits["test"][0]["image"].endswith("ISIC_2000000.jpg")
    assert splits["test"][0]["label"].endswith("ISIC_2000000_segmentation.png")
    assert names(find_cases(str(tmp_path / next(iter(pairs))))) == names(splits)  # one of the archive's folders


def test_isic_splits_that_are_missing_are_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = dict([next(iter(ISIC_2017.items()))])
    put_isic(tmp_path, train)
    put_image(tmp_path / "ISIC-2017_Test_v2_Data" / "ISIC_9.jpg")  # its ground truth was not downloaded
    splits = find_cases(str(tmp_path))
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 7, "val": 1, "test": 2}
    assert "ISIC-2017_Test_v2_Data is not used: its counterpart is missing" in caplog.text
    put_isic(tmp_path, ISIC_2018)
    with pytest.raises(InputError, match="holds ISIC 2017 and 2018, which share images: give one"):
        find_cases(str(tmp_path))


def test_archive_unzipped_into_a_folder_of_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_isic(tmp_path, dict([next(iter(ISIC_2017.items()))]), num_cases=4)
    folder = tmp_path / "ISIC-2017_Training_Data"
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    (tmp_path / "moved").rename(folder / "ISIC-2017_Training_Data")
    monkeypatch.chdir(folder)
    assert names(find_cases("..")) == names(find_cases(str(tmp_path)))
    assert len(find_cases("..")["train"]) == 2


def test_isic_without_training_masks(tmp_path: Path) -> None:
    put_image(tmp_path / "ISIC-2017_Training_Data" / "ISIC_0.jpg")
    with pytest.raises(InputError, match="lacks ISIC's training images or their Part1/Task1 ground truth"):
        find_cases(str(tmp_path))


def test_busi_merges_masks_and_splits_by_class(tmp_path: Path) -> None:
    home = tmp_path / "Dataset_BUSI_with_GT"
    for group, num_cases in (("benign", 20), ("malignant", 10), ("normal", 10)):
        for i in range(1, num_cases + 1):
            put_image(home / group / f"{group} ({i}).png")
            put_mask(home / group / f"{group} ({i})_mask.png", value=0 if group == "normal" else 255)
    for i in (1, 2):
        put_mask(home / "benign" / f"benign (4)_mask_{i}.png", top=4 * i + 4)
    splits = find_cases(str(tmp_path))
    for split, counts in {"train": [14, 7, 7], "val": [2, 1, 1], "test": [4, 2, 2]}.items():
        groups = [case["class"] for case in splits[split]]
        assert [groups.count(group) for group in ("benign", "malignant", "normal")] == counts
    cases = {case["name"]: case for case in chain.from_iterable(splits.values())}
    assert [Path(path).name for path in cases["benign (4)"]["label"]] == [
        "benign (4)_mask.png",
        "benign (4)_mask_1.png",
        "benign (4)_mask_2.png",
    ]
    assert isinstance(cases["benign (5)"]["label"], str)
    load = LoadImage2Dd()
    assert load(cases["benign (4)"])["label"].sum() == 9 * WIDTH
    assert load(cases["normal (1)"])["label"].sum() == 0


def test_busi_without_normals(tmp_path: Path) -> None:
    for i in range(4):
        put_image(tmp_path / "benign" / f"benign ({i}).png")
        put_mask(tmp_path / "benign" / f"benign ({i})_mask.png")
    assert {split: len(cases) for split, cases in find_cases(str(tmp_path)).items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


def test_glas_instances_become_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "Warwick QU Dataset (Released 2016_07_08)"
    stems = [f"train_{i}" for i in range(1, 11)] + ["testA_1", "testA_2", "testB_1"]
    for stem in stems:
        put_image(home / f"{stem}.bmp")
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[2:5], mask[8:11], mask[14:17] = 1, 2, 3
        Image.fromarray(mask).save(home / f"{stem}_anno.bmp")
    (home / "Grade.csv").write_text("name, patient ID")
    put_image(home / "overview.png")
    splits = find_cases(str(tmp_path))
    assert "1 pictures have no name of GlaS and are not used" in caplog.text
    assert names(splits)["test"] == ["testA_1", "testA_2", "testB_1"]
    assert [len(splits["train"]), len(splits["val"])] == [9, 1]
    label = LoadImage2Dd()(splits["train"][0])["label"]
    assert label.unique().tolist() == [0, 1]
    assert label.sum() == 9 * WIDTH


@pytest.mark.parametrize(
    ("num_cases", "counts"),
    [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (100, (70, 10, 20))],
)
def test_sizes_of_cut_splits(num_cases: int, counts: tuple[int, int, int]) -> None:
    cut = cut_missing_splits({"train": [{"name": str(i)} for i in range(num_cases)]}, seed=3)
    assert tuple(len(cut[split]) for split in ("train", "val", "test")) == counts


def test_a_split_does_not_change_where_others_stay() -> None:
    given = [{"name": "given"}]
    cut = cut_missing_splits({"train": [{"name": str(i)} for i in range(20)], "test": given}, seed=0)
    assert cut["test"] == given
    assert len(cut["val"]) == 2
    assert take_evenly([1, 2, 3], 3) == ([1, 2, 3], [])
    assert take_evenly([1, 2, 3], 0) == ([], [1, 2, 3])


def test_the_smallest_image_is_one_patch_of_the_encoder():
    assert MIN_SIDE == PATCH_SIZE


def put_values(folder: Path, values: dict[str, int]) -> Path:
    """Make a plain set whose masks hold a value, and a splits.json by the first letters: t training, v validation."""
    splits = {"train": [name for name in values if name[0] == "t"], "val": [name for name in values if name[0] == "v"]}
    put_plain(folder, 0, {**splits, "test": []})
    for name, value in values.items():
        put_image(folder / "images" / f"{name}.png")
        put_mask(folder / "masks" / f"{name}.png", value=value)
    return folder


@pytest.mark.parametrize("out_channels", [1, 3])
def test_a_training_set_of_empty_masks_is_refused(out_channels: int, tmp_path: Path) -> None:
    folder = put_values(tmp_path, {"t1": 0, "t2": 0, "v1": 1})
    with pytest.raises(InputError, match="All 2 masks of the training images are empty"):
        find_cases(str(folder), out_channels=out_channels)
    find_cases(str(folder), out_channels=out_channels, needed=["val"])  # nothing is trained


@pytest.mark.parametrize(
    ("values", "out_channels", "told"),
    [
        ({"t1": 1, "v1": 1}, 1, []),
        ({"t1": 1, "v1": 0}, 1, ["No mask of the val images has class 1 (the foreground)"]),
        ({"t1": 1, "t2": 2, "v1": 1}, 3, ["No mask of the val images has class 2"]),
        ({"t1": 1, "v1": 1, "v2": 2}, 3, ["No mask of the train images has class 2: it cannot be learnt"]),
    ],
    ids=["all there", "no foreground", "not validated", "not trained"],
)
def test_a_class_that_a_split_lacks_is_told(
    values: dict, out_channels: int, told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_cases(str(put_values(tmp_path, values)), out_channels=out_channels)
    lines = [line for line in caplog.messages if line.startswith("No mask")]
    assert len(lines) == len(told)
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))


@pytest.mark.parametrize("layout", ["ISIC", "GlaS"])
def test_two_masks_of_one_image_are_not_the_last_of_them(layout: str, tmp_path: Path) -> None:
    image, mask = "train_1.bmp", "train_1_anno"
    if layout == "ISIC":
        image = "ISIC2018_Task1-2_Training_Input/ISIC_1.jpg"
        mask = "ISIC2018_Task1_Training_GroundTruth/ISIC_1_segmentation"
    put_image(tmp_path / image)
    for suffix in ("bmp", "png"):
        put_mask(tmp_path / f"{mask}.{suffix}")
    message = r"_1_(anno|segmentation).bmp and \w*_1_(anno|segmentation).png have one name: rename or remove one"
    with pytest.raises(InputError, match=message):
        find_cases(str(tmp_path), needed=["train"])


def test_masks_that_may_have_been_drawn_over_the_image_as_stored_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """EXIF orientations: 3 is a half turn, which keeps the size, and 6 a quarter, which does so of squares alone."""
    folder = put_plain(tmp_path, num_cases=4)
    shapes = {0: (HEIGHT, WIDTH, 1), 1: (HEIGHT, WIDTH, 3), 2: (WIDTH, HEIGHT, 6), 3: (HEIGHT, HEIGHT, 6)}
    for number, (height, width, orientation) in shapes.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.new("RGB", (width, height), (200, 120, 90))
        picture.save(folder / "images" / f"case_{number}.jpg", exif=exif)
    put_mask(folder / "masks" / "case_3.png", width=HEIGHT)
    find_cases(str(folder), needed=["train"])
    (line,) = [line for line in caplog.messages if "EXIF" in line]
    assert line.startswith("2 images are turned upright by their EXIF orientation otherwise than their masks, such as")
    caplog.clear()
    for number in (1, 3):  # turned alike
        exif = Image.Exif()
        exif[0x0112] = shapes[number][2]
        with Image.open(folder / "masks" / f"case_{number}.png") as mask:
            mask.load()
            mask.save(folder / "masks" / f"case_{number}.png", exif=exif)
    find_cases(str(folder), needed=["train"])
    assert not [line for line in caplog.messages if "EXIF" in line]


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_a_training_image_without_a_finite_value_is_refused(value: float, tmp_path: Path) -> None:
    folder = put_values(tmp_path, {"t1": 1, "t2": 1, "v1": 1})
    (folder / "images" / "t1.png").unlink()
    Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype=np.float32)).save(folder / "images" / "t1.tif")
    with pytest.raises(InputError, match=r"t1\.tif has no finite value"):
        find_cases(str(folder))


def test_a_training_set_of_images_that_show_nothing_is_refused(tmp_path: Path) -> None:
    folder = put_values(tmp_path, {"t1": 1, "t2": 1, "v1": 1})
    for name in ("t1", "t2"):
        (folder / "images" / f"{name}.png").unlink()
        Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.float32)).save(folder / "images" / f"{name}.tif")
    with pytest.raises(InputError, match="All 2 training images are black"):
        find_cases(str(folder))
    (folder / "images" / "t2.tif").unlink()
    put_image(folder / "images" / "t2.png")
    assert len(find_cases(str(folder))["train"]) == 2  # one of them shows something


def test_another_split_of_a_set_is_known_without_the_names() -> None:
    cases = [{"name": f"case_{i}"} for i in range(20)]
    first, second = (
        describe_training(cut_missing_splits({"train": cases}, seed=seed), split_seed=seed) for seed in (0, 1)
    )
    assert first["set_sha256"] == second["set_sha256"]
    assert first["sha256"] != second["sha256"]
    assert (first["num_images"], second["split_seed"]) == (14, 1)
    assert "case" not in str(first)
    assert describe_training({"train": cases[:19]})["set_sha256"] != first["set_sha256"]
