"""The comparison of environments: every pixel of every mask counts, and masks that are missing are no equality."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import environments
from benchmarks.study.file import ROOT
from icmoe_monai.errors import InputError


def put(folder: Path, *masks: str, changed: int = 0) -> Path:
    (folder / "masks").mkdir(parents=True)
    for name in masks:
        mask = np.zeros((8, 10), np.uint8)
        mask.flat[:changed] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return folder


def test_pixels_that_differ_are_counted(tmp_path):
    folders = {"pinned": put(tmp_path / "p", "a", "b"), "lowest": put(tmp_path / "l", "a", "b", changed=3)}
    folders["newest"] = put(tmp_path / "n", "a", "b")
    found = environments.compare(folders, reference="pinned")
    assert found == {
        "lowest": {"num_masks": 2, "num_pixels": 160, "num_differing_pixels": 6},
        "newest": {"num_masks": 2, "num_pixels": 160, "num_differing_pixels": 0},
    }


@pytest.mark.parametrize("others", [("a",), ("a", "c"), ()], ids=["fewer", "another", "none"])
def test_other_masks_are_no_comparison(others, tmp_path):
    folders = {"pinned": put(tmp_path / "p", "a", "b"), "lowest": put(tmp_path / "l", *others)}
    with pytest.raises(InputError, match=rf"lowest has {len(others)} masks, pinned has 2"):
        environments.compare(folders, reference="pinned")


def test_no_masks_at_all_are_no_equality(tmp_path):
    folders = {"pinned": put(tmp_path / "p"), "lowest": put(tmp_path / "l")}
    with pytest.raises(InputError, match="lowest has 0 masks, pinned has 0"):
        environments.compare(folders, reference="pinned")


def test_a_command_that_fails_is_told_with_its_words(tmp_path):
    with pytest.raises(InputError, match="has failed: no such thing"):
        environments._run(["bash", "-c", "echo no such thing >&2; exit 3"], tmp_path)


def test_what_contributing_says_of_the_environments_is_what_was_found():
    content = json.loads((ROOT / "docs" / "results" / "environments.json").read_text())
    page = " ".join((ROOT / "docs" / "CONTRIBUTING.md").read_text().split())
    assert "The masks of ten dermoscopy images were equal in all pixels" in page
    assert {content[name]["num_masks"] for name in environments.RESOLUTIONS} == {10}
    assert {content[name]["num_differing_pixels"] for name in environments.RESOLUTIONS} == {0}
