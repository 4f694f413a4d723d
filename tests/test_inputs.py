from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from icmoe_monai import inputs
from icmoe_monai.errors import InputError
from icmoe_monai.inputs import find_images


def put(path: Path, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def names_in(folder: Path, output_dir: Path | None = None) -> list[str]:
    return [item["name"] for item in find_images(str(folder), output_dir=str(output_dir or folder / "output"))]


def test_folder_is_searched_with_subfolders_and_sorted(tmp_path: Path) -> None:
    names = ["-dash.bmp", "Müller/日本.webp", "a b/c d.JPG", "a b/e.jpeg", "b.PNG", "c.tif", "d.Tiff"]
    for name in reversed(names):
        put(tmp_path / name)
    items = find_images(str(tmp_path), output_dir=str(tmp_path / "output"))
    assert [item["name"] for item in items] == sorted(names)
    assert [item["image"] for item in items] == [str(tmp_path / name) for name in sorted(names)]


def test_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in/a.png")
    monkeypatch.chdir(tmp_path)
    assert find_images("in", output_dir="out") == [{"image": str(tmp_path / "in/a.png"), "name": "a.png"}]


def test_single_file(tmp_path: Path) -> None:
    path = put(tmp_path / "x" / "a b.jpg")
    assert find_images(str(path), output_dir=str(tmp_path)) == [{"image": str(path), "name": "a b.jpg"}]
    (tmp_path / "a.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.dcm is no image of a kind that is read here \(\.png, \.jpg"):
        find_images(str(tmp_path / "a.dcm"), output_dir=str(tmp_path))


def test_results_and_hidden_files_are_not_searched(tmp_path: Path) -> None:
    for name in ("a.png", "output/masks/a.png", "output2/b.png", ".cache/c.png", ".d.png"):
        put(tmp_path / name)
    assert names_in(tmp_path) == ["a.png", "output2/b.png"]


def test_training_layout_takes_the_images_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("images/a.png", "images/x/b.png", "masks/a.png", "extra/c.png"):
        put(tmp_path / name)
    with caplog.at_level(logging.INFO, "icmoe_monai.inputs"):
        assert names_in(tmp_path) == ["images/a.png", "images/x/b.png"]
    assert "has the training layout: images/ is segmented" in caplog.text


def test_unsupported_files_are_named_in_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.png")
    for index in range(7):
        (tmp_path / f"n{index}.txt").write_text("notes")
    assert names_in(tmp_path) == ["a.png"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("7 files are no images")
    assert warnings[0].endswith("n0.txt, n1.txt, n2.txt, n3.txt, n4.txt and 2 more.")


def test_missing_or_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset_dir .*nowhere does not exist"):
        find_images(str(tmp_path / "nowhere"), output_dir=str(tmp_path))
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=r"No images in .*in or its subfolders: put files with \.png, .*\.webp there"):
        names_in(tmp_path / "in")


def test_two_inputs_for_one_mask(tmp_path: Path) -> None:
    put(tmp_path / "x/a.jpg")
    put(tmp_path / "x/a.png")
    with pytest.raises(InputError, match=r"x/a\.jpg and x/a\.png would both write the mask x/a\.png: rename"):
        names_in(tmp_path)


@pytest.mark.parametrize("size", [(15, 40), (40, 15)], ids=["narrow", "low"])
def test_image_smaller_than_a_patch(tmp_path: Path, size: tuple[int, int]) -> None:
    put(tmp_path / "a.png", size)
    put(tmp_path / "b.png", (16, 16))
    with pytest.raises(InputError, match=rf"a\.png has {size[0]} x {size[1]} pixels, fewer than a patch of 16 x 16"):
        names_in(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n\x00\x00", b"<!DOCTYPE html><html>"], ids=["zero bytes", "cut", "html"]
)
def test_unreadable_header(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "a.png")
    for name in ("bad.png", "bad too.png"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"bad too\.png .*: .* 1 more images cannot be used: bad\.png\."):
        names_in(tmp_path)


@pytest.mark.parametrize("target", ["outside/a.png", "outside", "outside/missing.png"], ids=["file", "folder", "none"])
def test_link_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    put(tmp_path / "outside/a.png")
    put(tmp_path / "in/b.png")
    (tmp_path / "in/link.png").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match=r"The link .*link\.png leads out of dataset_dir"):
        names_in(tmp_path / "in")


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
    items = find_images(None, output_dir=str(tmp_path / "out"))
    demo = tmp_path / "out" / "demo"
    assert made == [str(demo)]
    assert items == [{"image": str(demo / "images" / f"{s}.png"), "name": f"images/{s}.png"} for s in ("d2", "d3")]
    find_images(None, output_dir=str(tmp_path / "out"), demo_dir=str(tmp_path / "own"))
    assert made[1:] == [str(tmp_path / "own")]
