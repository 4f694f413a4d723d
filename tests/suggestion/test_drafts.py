"""Drafts: pixels of any kind of file as PNG, masks as they were written, stems that do not collide, never half."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from icmoe_monai.data.cases import find_cases
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image, read_label
from icmoe_monai.inference.writing import mask_picture, write_png
from icmoe_monai.suggestion.drafts import DRAFTS, check_no_drafts, stems_of, write_drafts
from icmoe_monai.suggestion.looking import find_labelled


def drafted(folder: Path, name: str, source: str, frame: int, classes: np.ndarray, out_channels: int):
    """Return the case and record of an image whose mask an inference run has written."""
    path = f"masks/{name.rpartition('.')[0] or name}.png"
    write_png(folder / path, mask_picture(classes, out_channels))
    return {"name": name, "source": source, "frame": frame}, {"mask": path}


def write(folder: Path, *entries):
    cases = [case for case, _ in entries]
    return write_drafts(cases, {case["name"]: record for case, record in entries}, folder)


def test_classes_are_read_again_by_a_training_as_they_were_found(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    classes = rng.integers(0, 3, (40, 30), dtype=np.uint8)
    [(picture, drawn, stem)] = write(tmp_path, drafted(tmp_path, "a.png", str(tmp_path / "a.png"), 0, classes, 3))
    assert np.array_equal(drawn, classes)
    assert np.array_equal(picture, np.asarray(Image.open(tmp_path / "a.png")))
    assert np.array_equal(read_label(str(tmp_path / DRAFTS / "masks" / f"{stem}.png"), out_channels=3), classes)


def test_frames_and_dicom_become_pictures_that_a_training_reads(tmp_path):
    pages = [Image.new("L", (40, 30), grey) for grey in (10, 200)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    dicom = get_testdata_file("CT_small.dcm", download=False)
    height, width = read_image(dicom).shape[:2]
    found = write(
        tmp_path,
        drafted(tmp_path, "pages_frame0002.tif", str(tmp_path / "pages.tif"), 1, np.eye(30, 40, dtype=np.uint8), 1),
        drafted(tmp_path, "ct/1.2.840", dicom, 0, np.ones((height, width), dtype=np.uint8), 1),
    )
    assert [stem for _, _, stem in found] == ["pages_frame0002", "ct_1.2.840"]
    assert found[0][0].min() == found[0][0].max() == 200
    assert found[0][1].max() == 1
    cases = find_cases(str(tmp_path / DRAFTS), needed=("train",))
    assert sorted(case["name"] for split in cases.values() for case in split) == ["ct_1.2.840", "pages_frame0002"]
    header = (tmp_path / DRAFTS / "images" / "ct_1.2.840.png").read_bytes()
    assert b"CompressedSamples" not in header  # the patient's name in that file


def test_no_two_stems_are_one_file_whatever_folders_and_capitals(tmp_path):
    names = ["a/b.png", "a_b.jpg", "A_B.dcm", "a_b_2.png", "c.png"]
    stems = stems_of(names)
    assert len({stem.lower() for stem in stems}) == len(names)
    assert stems[0] == "a_b"
    assert stems_of(["cafe\u0301.png"], taken=["caf\u00e9"]) == ["caf\u00e9_2"]


def test_a_stem_of_many_folders_stays_a_files_name_and_keeps_its_end():
    stems = stems_of([f"{'ö' * 100}/{'b' * 100}/{end}.png" for end in ("one", "two", "two")], taken=["c"])
    assert all(len(stem.encode()) <= 210 for stem in stems)
    assert [stem[-5:] for stem in stems] == ["b_one", "b_two", "two_2"]


def test_a_mask_that_is_gone_leaves_no_half_a_data_set_and_the_next_try_is_whole(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    entries = [drafted(tmp_path, f"{name}.png", str(tmp_path / "a.png"), 0, np.eye(30, 40, dtype=np.uint8), 1)
               for name in "xy"]  # fmt: skip
    mask = tmp_path / "masks" / "y.png"
    kept = mask.read_bytes()
    mask.unlink()
    with pytest.raises(InputError, match=r"The mask of y\.png is gone"):
        write(tmp_path, *entries)
    check_no_drafts(tmp_path)
    mask.write_bytes(kept)
    write(tmp_path, *entries)
    assert sorted(path.name for path in (tmp_path / DRAFTS / "masks").iterdir()) == ["x.png", "y.png"]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match="never replaced: move that folder away"):
        check_no_drafts(tmp_path)


def test_a_mask_outside_of_the_folder_is_not_read(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    case = {"name": "a.png", "source": str(tmp_path / "a.png"), "frame": 0}
    with pytest.raises(InputError, match="is gone"):
        write_drafts([case], {"a.png": {"mask": "../a.png"}}, tmp_path / "out")


@pytest.mark.parametrize("part", ["", "inner"], ids=["folder", "parent"])
def test_a_labelled_folder_may_be_given_by_its_parent(part, tmp_path):
    """As for a training; or a draft may have the name of an image that splits.json does not list."""
    for folder in ("images", "masks"):
        (tmp_path / part / folder).mkdir(parents=True)
        for stem in "abc":
            Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / part / folder / f"{stem}.png")
    (tmp_path / part / "splits.json").write_text(json.dumps({"train": ["a", "b"]}))
    labelled = find_labelled(str(tmp_path))
    assert labelled is not None
    assert labelled.stems == {"a", "b", "c"}
