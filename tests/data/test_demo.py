from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.demo import _names, _split, make_demo_set
from icmoe_monai.data.phantoms import draw_dermoscopy, draw_glands, draw_ultrasound
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image, read_label


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    make_demo_set(str(folder), num_images=6, seed=5)
    return folder


def copy_of(demo_set: Path, folder: Path) -> Path:
    for name, data in contents(demo_set).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_demo_set_is_a_plain_set_of_three_looks(demo_set: Path) -> None:
    splits = find_cases(str(demo_set))
    assert {split: len(cases) for split, cases in splits.items()} == {"train": 4, "val": 1, "test": 1}
    looks = [case["name"].split("_")[0] for cases in splits.values() for case in cases]
    assert sorted(looks) == sorted(["dermoscopy", "gland", "ultrasound"] * 2)
    assert "computer-made phantoms" in (demo_set / "README.txt").read_text()
    sizes = {read_label(case["label"]).shape for cases in splits.values() for case in cases}
    assert len(sizes) > 3
    assert all(min(size) >= 160 and max(size) < 240 and size[0] != size[1] for size in sizes)


def test_default_split_has_equal_shares() -> None:
    splits = _split(_names(72))
    assert {split: len(listed) for split, listed in splits.items()} == {"train": 48, "val": 12, "test": 12}
    for listed in splits.values():
        assert len({sum(look in name for name in listed) for look in ("dermoscopy", "gland", "ultrasound")}) == 1


def test_same_seed_gives_the_same_bytes(demo_set: Path, tmp_path: Path) -> None:
    make_demo_set(str(tmp_path / "again"), num_images=6, seed=5)
    assert contents(tmp_path / "again") == contents(demo_set)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]  # no workshop is left behind


def test_complete_set_is_left_alone(demo_set: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_set.rglob("*")}
    make_demo_set(str(demo_set), num_images=6, seed=5)
    assert {path: path.stat().st_mtime_ns for path in demo_set.rglob("*")} == before


@pytest.mark.parametrize("lost", ["images/gland_002.png", "demo_set.json", "splits.json"])
def test_half_written_set_is_rebuilt(demo_set: Path, tmp_path: Path, lost: str) -> None:
    folder = copy_of(demo_set, tmp_path / "half")
    (folder / lost).unlink()
    make_demo_set(str(folder), num_images=6, seed=5)
    assert contents(folder) == contents(demo_set)


def test_set_of_another_seed_is_replaced(demo_set: Path, tmp_path: Path) -> None:
    folder = copy_of(demo_set, tmp_path / "other")
    make_demo_set(str(folder), num_images=6, seed=6)
    assert json.loads((folder / "demo_set.json").read_text())["seed"] == 6
    assert contents(folder)["images/gland_002.png"] != contents(demo_set)["images/gland_002.png"]


@pytest.mark.parametrize("foreign", ["images/patient.png", "notes.txt", "images/gland_002.png.bak"])
def test_foreign_files_are_never_overwritten(demo_set: Path, tmp_path: Path, foreign: str) -> None:
    folder = copy_of(demo_set, tmp_path / "own")
    (folder / foreign).write_text("mine")
    (folder / "splits.json").unlink()
    before = contents(folder)
    with pytest.raises(InputError, match=rf"own holds {foreign}, which is not of the demo set: give the demo set"):
        make_demo_set(str(folder), num_images=6, seed=5)
    assert contents(folder) == before


def test_places_where_no_set_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is a file: give the demo set a folder of its own"):
        make_demo_set(str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written to .*inside \(.*\): set another folder"):
        make_demo_set(str(tmp_path / "file" / "inside"))
    with pytest.raises(ValueError, match="num_images must be at least 6, got 5"):
        make_demo_set(str(tmp_path / "few"), num_images=5)


def test_the_word_demo_means_the_demo_set_where_no_folder_is_called_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("icmoe_monai.data.cases.make_demo_set", lambda folder: make_demo_set(folder, num_images=6))
    splits = find_cases("demo", demo_dir=str(tmp_path / "phantoms"))
    assert len(splits["train"]) == 4
    assert "These are computer-made phantoms, no patient data: " in caplog.text
    (tmp_path / "demo").mkdir()
    with pytest.raises(InputError, match="No images were found in demo"):
        find_cases("demo", demo_dir=str(tmp_path / "phantoms"))


@pytest.mark.parametrize("draw", [draw_dermoscopy, draw_ultrasound, draw_glands])
def test_object_differs_from_background_and_its_brightness_overlaps(draw) -> None:
    image, mask = draw(np.random.default_rng(1), (120, 150))
    assert image.shape == (120, 150, 3)
    assert 0.02 < mask.mean() < 0.8
    grey = image.mean(axis=2)
    low, high = np.percentile(grey[mask], [5, 95])
    assert ((grey[~mask] > low) & (grey[~mask] < high)).mean() > 0.05  # no threshold tells them apart


def test_ultrasound_is_grey_and_sections_are_not(demo_set: Path) -> None:
    ultrasound = read_image(str(demo_set / "images" / "ultrasound_001.png"))
    section = read_image(str(demo_set / "images" / "gland_002.png"))
    assert (ultrasound[..., 0] == ultrasound[..., 2]).all()
    assert np.abs(section[..., 0] - section[..., 1]).mean() > 20
