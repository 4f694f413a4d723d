from __future__ import annotations

import json
import logging
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from slide_files import save_dicom_slide

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image
from icmoe_monai.inference import inputs
from icmoe_monai.inference.inputs import find_inputs


def put(path: Path, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def dicom_slice(path: Path, position: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.4"
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "CT", "MONOCHROME2", 1
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 16, 20, 8, 8, 7
    data.PixelRepresentation = 0
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, position]
    data.PixelData = bytes(16 * 20)
    data.save_as(path, enforce_file_format=True)


def cases_in(folder: Path, output_dir: Path | None = None) -> list[dict]:
    return find_inputs(str(folder), output_dir=str(output_dir or folder / "output")).cases


def names_in(folder: Path, output_dir: Path | None = None) -> list[str]:
    return [case["name"] for case in cases_in(folder, output_dir)]


def failures_in(folder: Path) -> dict[str, str]:
    return {case["name"]: case["failure"] for case in cases_in(folder) if case["failure"]}


def test_folder_is_searched_with_subfolders_and_sorted(tmp_path: Path) -> None:
    names = ["-dash.bmp", "Müller/日本.webp", "a b/c d.JPG", "a b/e.jpeg", "b.PNG", "c.tif", "d.Tiff"]
    for name in reversed(names):
        put(tmp_path / name)
    items = cases_in(tmp_path)
    assert [item["name"] for item in items] == sorted(names)
    assert [item["image"] for item in items] == [str(tmp_path / name) for name in sorted(names)]


def test_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(put(tmp_path / "in/a.png"))
    monkeypatch.chdir(tmp_path)
    (case,) = find_inputs("in", output_dir="out").cases
    stamp = case.pop("stamp")
    told = dict.fromkeys(("group", "failure", "failure_code"), "")
    assert case == {"image": path, "source": path, "frame": 0, "name": "a.png"} | told
    put(tmp_path / "in/a.png", (30, 30))
    assert find_inputs("in", output_dir="out").cases[0]["stamp"] != stamp


def test_single_file(tmp_path: Path) -> None:
    path = put(tmp_path / "x" / "a b.jpg")
    (case,) = find_inputs(str(path), output_dir=str(tmp_path)).cases
    assert (case["image"], case["name"]) == (str(path), "a b.jpg")
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.txt is no image of a kind that is read here \(\.png, \.jpg"):
        find_inputs(str(tmp_path / "a.txt"), output_dir=str(tmp_path))


def test_results_and_hidden_files_are_not_searched(tmp_path: Path) -> None:
    for name in ("a.png", "output/masks/a.png", "output2/b.png", ".cache/c.png", ".d.png"):
        put(tmp_path / name)
    assert names_in(tmp_path) == ["a.png", "output2/b.png"]


def test_results_of_other_runs_are_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "first/masks/a.png", "second/masks/a.png", "second/b.png"):
        put(tmp_path / name)
    for name in ("cases.jsonl", "report.json"):
        (tmp_path / "first" / name).touch()
    found = find_inputs(str(tmp_path), output_dir=str(tmp_path / "third"))
    assert [case["name"] for case in found.cases] == ["a.png", "second/b.png", "second/masks/a.png"]
    assert found.left_out == [{"name": "first/", "reason": "results of an inference run"}]


def test_training_layout_takes_the_images_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("images/a.png", "images/x/b.png", "masks/a.png", "extra/c.png"):
        put(tmp_path / name)
    with caplog.at_level(logging.INFO, "icmoe_monai.inference.inputs"):
        assert names_in(tmp_path) == ["images/a.png", "images/x/b.png"]
    assert "has the training layout: images/ is segmented" in caplog.text


def test_files_that_are_no_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.png")
    for index in range(7):
        (tmp_path / f"n{index}.txt").write_text("notes")
    found = find_inputs(str(tmp_path), output_dir=str(tmp_path / "output"))
    assert [case["name"] for case in found.cases] == ["a.png"]
    assert found.left_out[0] == {"name": "n0.txt", "reason": "no image of a kind that is read here"}
    assert len(found.left_out) == 7
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("7 files are left out, as they are no images.")
    assert warning.endswith("n0.txt, n1.txt, n2.txt, n3.txt, n4.txt and 2 more.")


@pytest.mark.parametrize("name", ["2024", "77", "0"])
def test_folder_may_be_called_by_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Image.new("RGB", (40, 30)).save(Path(name, "a.png"))
    found = find_inputs(int(name), output_dir=str(tmp_path / "out"))  # as MONAI's command line reads it
    assert [case["name"] for case in found.cases] == ["a.png"]
    with pytest.raises(InputError, match=r"dataset_dir was read as 78, and nothing is called so"):
        find_inputs(78, output_dir=str(tmp_path / "out"))


def test_missing_or_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset_dir .*nowhere does not exist"):
        find_inputs(str(tmp_path / "nowhere"), output_dir=str(tmp_path))
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"No images in .*in or its subfolders: put files with \.png, .*\.gz or DICOM"):
        names_in(tmp_path / "in")


def test_second_input_for_one_mask_fails(tmp_path: Path) -> None:
    put(tmp_path / "x/a.jpg")
    put(tmp_path / "x/a.png")
    assert failures_in(tmp_path) == {
        "x/a.png": "x/a.jpg and x/a.png would both write the mask x/a: rename one of them."
    }


@pytest.mark.parametrize("size", [(15, 40), (40, 15)], ids=["narrow", "low"])
def test_image_smaller_than_a_patch_fails(tmp_path: Path, size: tuple[int, int]) -> None:
    put(tmp_path / "a.png", size)
    put(tmp_path / "b.png", (16, 16))
    (sentence,) = failures_in(tmp_path).values()
    assert sentence.startswith(f"a.png has {size[0]} x {size[1]} pixels, fewer than a patch of 16 x 16")


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n\x00\x00", b"<!DOCTYPE html><html>"], ids=["zero bytes", "cut", "html"]
)
def test_unreadable_header_fails_and_the_others_go_on(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "a.png")
    for name in ("bad.png", "bad too.png"):
        (tmp_path / name).write_bytes(content)
    failures = failures_in(tmp_path)
    assert names_in(tmp_path) == ["a.png", "bad too.png", "bad.png"]
    assert list(failures) == ["bad too.png", "bad.png"]
    assert all(sentence.startswith(f"{name} ") for name, sentence in failures.items())
    assert str(tmp_path) not in "".join(failures.values())


def png_of(side: int) -> bytes:
    """Return a PNG whose header claims a square, and which holds one row of it."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1 + side))]
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in [*chunks, b"IEND"]]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def tiff_of(side: int) -> bytes:
    """Return a TIFF whose header claims a square of bytes, and which holds none of it."""
    entries = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, side)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)


@pytest.mark.parametrize(("suffix", "make"), [(".png", png_of), (".tif", tiff_of)])
def test_decompression_bomb_fails_by_its_header(tmp_path: Path, suffix: str, make: Callable[[int], bytes]) -> None:
    put(tmp_path / "a.png")
    (tmp_path / f"bomb{suffix}").write_bytes(make(100_000))
    tracemalloc.start()
    (sentence,) = failures_in(tmp_path).values()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"bomb{suffix} has too many pixels for one picture" in sentence
    assert peak < 20e6


@pytest.mark.parametrize("target", ["outside/a.png", "outside", "outside/missing.png"], ids=["file", "folder", "none"])
def test_link_out_of_the_folder_fails(tmp_path: Path, target: str) -> None:
    put(tmp_path / "outside/a.png")
    put(tmp_path / "in/b.png")
    (tmp_path / "in/link.png").symlink_to(tmp_path / target)
    (sentence,) = failures_in(tmp_path / "in").values()
    assert sentence == "link.png is a link that leads out of dataset_dir: put the file itself there."


def test_linked_images_of_the_training_layout_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "outside/a.png")
    (tmp_path / "in/masks").mkdir(parents=True)
    (tmp_path / "in/images").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="images is a link that leads out of dataset_dir"):
        names_in(tmp_path / "in")


def test_pages_of_a_tiff_are_cases_of_one_group(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 16), value) for value in (10, 20, 30)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    put(tmp_path / "b.png")
    cases = cases_in(tmp_path)
    assert [case["name"] for case in cases] == [f"a_frame000{k}.tif" for k in (1, 2, 3)] + ["b.png"]
    assert [case["frame"] for case in cases] == [0, 1, 2, 0]
    assert len({case["group"] for case in cases}) == 2


def test_series_stands_in_the_order_of_position_at_the_place_of_its_first_name(tmp_path: Path) -> None:
    positions = {"s/3": 0.0, "s/1": 20.0, "s/2": 10.0}
    for name, position in positions.items():
        dicom_slice(tmp_path / name, position)
    put(tmp_path / "s/0.png")
    put(tmp_path / "t.png")
    cases = cases_in(tmp_path)
    assert [case["name"] for case in cases] == ["s/0.png", "s/3", "s/2", "s/1", "t.png"]
    assert len({case["group"] for case in cases if "." not in case["name"]}) == 1


def test_dicom_is_known_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    dicom_slice(tmp_path / "a.png", 0.0)
    (case,) = cases_in(tmp_path)
    assert (case["failure"], read_image(case["image"]).shape) == ("", (16, 20, 3))


def test_one_failed_case_for_a_header_that_claims_many_frames(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((1, 1, 5000), np.uint8), np.eye(4)), tmp_path / "b.nii.gz")
    assert [case["name"] for case in cases_in(tmp_path)] == ["a.png", "b.nii.gz"]


def test_anonymous_names_are_hashes_that_a_salt_tells(tmp_path: Path) -> None:
    put(tmp_path / "Jane Doe/a.png")
    put(tmp_path / "Jane Doe/a.bmp")
    put(tmp_path / "Jane Doe/small.tif", (8, 8))
    pages = [Image.new("L", (8, 8)) for _ in range(2)]
    pages[0].save(tmp_path / "Jane Doe/Jane.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "Jane Doe/bad.png").write_bytes(b"")
    (tmp_path / "Jane Doe/note.txt").write_text("")

    def names(output: str, anonymous: bool | str) -> list[str]:
        found = find_inputs(str(tmp_path), output_dir=str(tmp_path / output), anonymous=anonymous)
        kept = [{**case, "image": "", "source": "", "group": ""} for case in found.cases]
        assert "Jane" not in json.dumps([kept, found.left_out])
        return [case["name"] for case in found.cases]

    assert names("o", True) == names("o", True) != names("o2", True)
    assert names("o", "a long secret of ours") == names("o2", "a long secret of ours")
    assert all(name.endswith((".png", ".bmp", ".tif")) for name in names("o", "a long secret of ours"))
    assert (tmp_path / "o" / ".salt").stat().st_mode & 0o77 == 0


def test_what_could_not_be_brought_to_the_folder_is_a_failed_case(tmp_path: Path) -> None:
    put(tmp_path / "in/b.png")
    failed = [{"name": "c/a.dcm", "failure": "It is too busy.", "failure_code": "busy"}]
    (tmp_path / "out").mkdir()
    cases = find_inputs(str(tmp_path / "in"), output_dir=str(tmp_path / "out"), failed=failed, trace=True).cases
    assert [case["name"] for case in cases] == ["b.png", "c/a.dcm"]
    assert cases[1]["failure"] == "c/a.dcm could not be retrieved. It is too busy."
    assert cases[1]["failure_code"] == "busy"
    assert cases[0].keys() == cases[1].keys()
    hidden = find_inputs(str(tmp_path / "in"), output_dir=str(tmp_path / "out"), failed=failed, anonymous=True).cases
    assert not any(re.search(r"\ba\.dcm", str(case["failure"]) + case["name"]) for case in hidden)  # or of a hash
    (tmp_path / "empty").mkdir()
    assert find_inputs(str(tmp_path / "empty"), output_dir=str(tmp_path / "out"), failed=[]).cases == []


def test_many_files_and_deep_folders(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*("d" for _ in range(50)))
    put(deep / "a.png")
    data = (deep / "a.png").read_bytes()
    for index in range(1000):
        (tmp_path / f"{index:05d}.png").write_bytes(data)
    assert len(cases_in(tmp_path)) == 1001


def test_links_inside_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "in/x/a.png")
    (tmp_path / "in/b.png").symlink_to("x/a.png")
    (tmp_path / "in/y").symlink_to("x")
    (tmp_path / "in/z").symlink_to(".")
    (tmp_path / "link").symlink_to("in")
    assert names_in(tmp_path / "link") == ["b.png", "x/a.png"]


def test_results_never_overwrite_the_input(tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png"):
        put(tmp_path / name)
    with pytest.raises(InputError, match="output_dir is dataset_dir itself"):
        names_in(tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"holds a labelled data set, whose masks/ would be overwritten"):
        names_in(tmp_path / "images", tmp_path)
    with pytest.raises(InputError, match="lies in the results of output_dir"):
        names_in(tmp_path / "masks", tmp_path)


def test_demo_set_is_made_and_its_test_images_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make_demo_set(folder: str) -> None:
        made.append(folder)
        for stem in ("d1", "d2", "d3"):
            put(Path(folder, "images", f"{stem}.png"))
        Path(folder, "splits.json").write_text(json.dumps({"train": ["d1"], "test": ["d3", "d2"]}))

    monkeypatch.setattr(inputs, "make_demo_set", make_demo_set)
    monkeypatch.chdir(tmp_path)  # where no folder is called demo
    with pytest.raises(InputError, match=r"dataset_dir is not set: give .* or --dataset_dir demo for computer-made"):
        find_inputs(None, output_dir=str(tmp_path / "out"))
    cases = find_inputs("demo", output_dir=str(tmp_path / "out")).cases
    demo = tmp_path / "out" / "demo"
    assert made == [str(demo)]
    found = [(case["image"], case["name"]) for case in cases]
    assert found == [(str(demo / "images" / f"{s}.png"), f"images/{s}.png") for s in ("d2", "d3")]
    find_inputs("demo", output_dir=str(tmp_path / "out"), demo_dir=str(tmp_path / "own"))
    assert made[1:] == [str(tmp_path / "own")]


def large_cases(folder: Path) -> tuple[list[dict], dict[str, str]]:
    found = find_inputs(str(folder), output_dir=str(folder / "output"), large=True)
    return found.cases, {file["name"]: file["reason"] for file in found.left_out}


def test_a_dicom_slide_is_one_case_that_changes_with_each_of_its_files(tmp_path: Path) -> None:
    pixels = np.zeros((100, 130, 3), np.uint8)
    for name in ("a", "b"):
        save_dicom_slide(tmp_path / name, pixels, num_levels=3)
    (tmp_path / "b" / "0.dcm").rename(tmp_path / "b" / "z")  # the largest, whatever it is called
    dicom_slice(tmp_path / "ct.dcm", 0)
    put(tmp_path / "c.png")
    cases, left_out = large_cases(tmp_path)
    assert [case["name"] for case in cases] == ["a/0.dcm", "b/z", "c.png"]
    assert [case["frame"] for case in cases] == [0, 0, 0]
    assert left_out == {"ct.dcm": "ct.dcm is DICOM, but no whole slide: segment it without inference_large.yaml."}
    (tmp_path / "a" / "2.dcm").write_bytes((tmp_path / "a" / "2.dcm").read_bytes() + b"\0\0")
    again, _ = large_cases(tmp_path)
    assert [old["stamp"] != new["stamp"] for old, new in zip(cases, again, strict=True)] == [True, False, False]
    (one,) = find_inputs(str(tmp_path / "a" / "1.dcm"), output_dir=str(tmp_path / "output"), large=True).cases
    assert one["name"] == "1.dcm"


def test_a_dicom_slide_in_ordinary_inference_is_one_case_that_says_what_to_do(tmp_path: Path) -> None:
    save_dicom_slide(tmp_path / "a", np.zeros((100, 130, 3), np.uint8))
    assert failures_in(tmp_path) == {
        "a/0.dcm": "a/0.dcm is a whole slide, and those are segmented in strips: add --config inference_large.yaml "
        "(docs/slides.md)."
    }


def test_pictures_of_which_a_slide_consists_are_no_cases(tmp_path: Path) -> None:
    for name in ("slide-0,0.jpg", "slide-1,0.jpg", "other.jpg"):
        put(tmp_path / name)
    (tmp_path / "slide.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=slide-0,0.jpg\nImageFile(1,0)=slide-1,0.jpg\n"
    )
    cases, left_out = large_cases(tmp_path)
    assert [case["name"] for case in cases] == ["other.jpg", "slide.vms"]
    assert left_out["slide-1,0.jpg"] == "slide-1,0.jpg is a part of slide.vms."
