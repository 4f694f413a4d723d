"""`icmoe suggest` as a user runs it: a pool in; list, page and drafts out, and every mistake in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from shipped import NETWORK_WORDS, write_restless

from icmoe_monai.__main__ import main
from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.suggestion.looking import as_picture
from icmoe_monai.utils.files import read_csv

# MONAI warns of configs being code at every workflow
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
SMALL = [
    "--image_size", "64", "--recipe", "none", *NETWORK_WORDS, "--num_workers", "0", "--device", "cpu",
    "--calibration", "none",
]  # fmt: skip


def lesion(seed: int) -> np.ndarray:
    return draw_dermoscopy(np.random.default_rng(seed), (64, 80))[0]


def stripes(pixels: int) -> np.ndarray:
    rows = np.where(np.arange(64) // pixels % 2, 250, 5).astype(np.uint8)
    return np.repeat(rows[:, None], 80, 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Labelled: three phantoms. Pool: almost their copies, two near-duplicates of another kind, and a broken file."""
    root = tmp_path_factory.mktemp("place")
    for folder in ("labelled/images", "labelled/masks", "pool/patient Miller"):
        (root / folder).mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(lesion(seed)).save(root / "labelled" / "images" / f"{seed}.png")
        Image.fromarray(np.eye(64, 80, dtype=np.uint8) * 255).save(root / "labelled" / "masks" / f"{seed}.png")
        Image.fromarray(lesion(seed) // 2 * 2).save(root / "pool" / f"copy_{seed}.png")  # not pixel for pixel
    (root / "labelled" / "splits.json").write_text(json.dumps({"train": ["0", "1", "2"], "val": [], "test": []}))
    exif = Image.Exif()
    exif[0x010E] = "patient Miller"
    Image.fromarray(stripes(4)).save(root / "pool" / "patient Miller" / "stripes.jpg", quality=60, exif=exif)
    Image.fromarray(stripes(4)).save(root / "pool" / "stripes.png")
    (root / "pool" / "broken.png").write_bytes(b"none")
    write_restless(root / "model.pt")
    return root


def suggest(place: Path, output: Path, *words: str) -> int:
    return main(["suggest", str(place / "pool"), "--output", str(output), "--checkpoint", str(place / "model.pt"),
                 *SMALL, *words])  # fmt: skip


@pytest.fixture(scope="module")
def results(place: Path, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("out")
    status = suggest(place, output, "--labelled", str(place / "labelled"), "--number", "2", "--by", "suggest")
    assert status == 3  # one file of the pool is broken, and the suggestion is made all the same
    return output


def images_of(output: Path) -> list[dict]:
    return json.loads((output / "suggestions.json").read_text())["images"]


def test_what_is_unlike_the_labelled_images_comes_first_and_its_near_duplicate_does_not_follow(results):
    names = [image["name"] for image in images_of(results)]
    assert names[0] in ("patient Miller/stripes.jpg", "stripes.png")
    content = json.loads((results / "suggestions.json").read_text())
    assert (content["num_pool"], content["num_known"], content["by"]) == (5, 3, "suggest")
    first = content["images"][0]
    assert first["score"] == pytest.approx(first["among_all"] - first["among_labelled"])
    assert first["distance_percentile"] >= 60  # the two of its kind, and three copies nearer


def test_list_and_table_are_one(results):
    rows = read_csv(results / "suggestions.csv")
    for row, image in zip(rows, images_of(results), strict=True):
        assert (int(row["rank"]), row["name"], row["mask"]) == (image["rank"], image["name"], image["mask"])
        assert float(row["score"]) == pytest.approx(image["score"])


def test_the_drafts_are_a_data_set_with_the_runs_masks_and_nothing_else_of_the_files(results):
    cases = find_cases(str(results / "drafts"), needed=("train",))
    assert sum(map(len, cases.values())) == 2
    for image in images_of(results):
        with Image.open(results / image["image"]) as picture, Image.open(results / image["mask"]) as mask:
            assert picture.size == mask.size == (80, 64)
            assert picture.format == mask.format == "PNG"
            assert not picture.info
            assert not picture.getexif()
            stem = image["name"].rpartition(".")[0]
            assert mask.tobytes() == Image.open(results / "masks" / f"{stem}.png").tobytes()
        assert Path(image["image"]).parent.as_posix() == "drafts/images"


def test_the_page_stands_alone_and_shows_every_draft(results):
    page = (results / "suggestions.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("Its like are") == 2
    targets = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert all(target.startswith(("data:image/jpeg;base64,", "./drafts/")) for target in targets)
    assert sum(target.startswith("./drafts/") for target in targets) == 4


def test_corrected_drafts_are_never_replaced(place, results, capsys):
    before = {path: path.read_bytes() for path in (results / "drafts").rglob("*.png")}
    assert suggest(place, results, "--overwrite") == 1
    assert "holds the drafts of an earlier suggestion, which may have been corrected since" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (results / "drafts").rglob("*.png")} == before


def test_without_the_drafts_the_same_folder_is_gone_on_with_by_another_figure(place, results, tmp_path, capsys):
    (results / "drafts").rename(tmp_path / "drafts")
    made = {path: path.stat().st_mtime_ns for path in (results / "masks").rglob("*.png")}
    try:
        assert suggest(place, results, "--number", "9", "--by", "disagreement") == 3
        images = images_of(results)
        assert len(images) == 5
        assert [image["disagreement"] for image in images] == sorted((i["disagreement"] for i in images), reverse=True)
        assert images[0]["among_all"] is images[0]["distance"] is None
        assert {path: path.stat().st_mtime_ns for path in (results / "masks").rglob("*.png")} == made
    finally:
        (results / "drafts").rename(tmp_path / "others")
        (tmp_path / "drafts").rename(results / "drafts")


def test_an_anonymous_suggestion_tells_no_name(place, tmp_path):
    assert suggest(place, tmp_path, "--anonymous", "a long secret of ours", "--number", "5") == 3
    told = "".join(path.name for path in tmp_path.rglob("*"))
    told += "".join((tmp_path / f"suggestions.{kind}").read_text() for kind in ("json", "csv", "html"))
    assert "Miller" not in told
    assert "stripes" not in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--by", "predicted_dice"], "--by predicted_dice needs a calibration that predicts the Dice score"),
        (["--by", "luck"], "by must be one of suggest, disagreement, predicted_dice, random"),
        (["--number", "0"], "number must be a whole number of at least 1"),
        (["--labelled", "nowhere"], "does not exist: correct its path"),
        (["--number"], "expected one argument"),
        (["--config", "inference_large"], "are chosen whole, not of slides: leave out --config inference_large"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_before_anything_is_segmented(words, sentence, place, tmp_path, capsys):
    assert suggest(place, tmp_path / "out", *words) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_a_pool_of_which_nothing_can_be_read_ends_in_a_sentence(place, tmp_path, capsys):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "broken.png").write_bytes(b"none")
    words = ["suggest", str(tmp_path / "pool"), "--output", str(tmp_path / "out"), "--checkpoint"]
    assert main([*words, str(place / "model.pt"), *SMALL]) == 1
    assert "No image of the pool could be segmented" in capsys.readouterr().err


def test_an_output_is_asked_for(capsys):
    assert main(["suggest", "pool"]) == 1
    assert "--output" in capsys.readouterr().err


def labelled_set(folder: Path, stems: list[str]) -> Path:
    """Write a data set of phantoms, the last of which is a test image."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed, stem in enumerate(stems):
        Image.fromarray(lesion(seed)).save(folder / "images" / f"{stem}.png")
        Image.fromarray(np.eye(64, 80, dtype=np.uint8) * 255).save(folder / "masks" / f"{stem}.png")
    (folder / "splits.json").write_text(json.dumps({"train": stems[:-1], "val": [], "test": stems[-1:]}))
    return folder


@pytest.mark.parametrize("by", ["suggest", "disagreement", "random"])
def test_what_is_labelled_is_never_suggested_whatever_its_split_name_and_kind_of_file(by, place, tmp_path, capsys):
    labelled = labelled_set(tmp_path / "labelled", ["0", "1", "2"])
    (tmp_path / "pool").mkdir()
    Image.fromarray(lesion(0)).save(tmp_path / "pool" / "other name.bmp")
    Image.fromarray(lesion(2)).save(tmp_path / "pool" / "of the test images.tif")
    Image.fromarray(lesion(3)).save(tmp_path / "pool" / "new.png")
    (tmp_path / "pool" / "broken.png").write_bytes(b"none")  # whether it is labelled cannot be known
    words = ["--labelled", str(labelled), "--by", by, "--checkpoint", str(place / "model.pt"), *SMALL]
    assert main(["suggest", str(tmp_path / "pool"), "--output", str(tmp_path / "out"), *words]) == 3
    assert [image["name"] for image in images_of(tmp_path / "out")] == ["new.png"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [case["name"] for case in report["cases"]] == ["broken.png", "new.png"]  # no labelled one was segmented
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["new.png"]
    assert main(["suggest", str(labelled), "--output", str(tmp_path / "none"), *words]) == 1
    assert "All images of the pool are labelled already" in capsys.readouterr().err
    assert not list((tmp_path / "none").rglob("*.png"))


def test_an_image_that_the_pool_holds_twice_is_suggested_once(place, tmp_path):
    (tmp_path / "pool").mkdir()
    for name, seed in (("a.png", 3), ("copy of a.bmp", 3), ("b.png", 4), ("copy of b.tif", 4)):
        Image.fromarray(lesion(seed)).save(tmp_path / "pool" / name)
    words = ["--number", "3", "--checkpoint", str(place / "model.pt"), *SMALL]
    assert main(["suggest", str(tmp_path / "pool"), "--output", str(tmp_path / "out"), *words]) == 0
    assert sorted(image["name"][-5] for image in images_of(tmp_path / "out")) == ["a", "b"]
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4  # all are segmented


def test_a_stack_of_which_a_slice_is_labelled_is_written_as_no_volume(place, tmp_path):
    labelled = labelled_set(tmp_path / "labelled", ["0", "1"])
    (tmp_path / "pool").mkdir()
    stack = tmp_path / "pool" / "stack.nii.gz"
    slices = np.stack([stripes(pixels).T for pixels in (4, 8, 16)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(slices, np.eye(4)), stack)
    Image.fromarray(as_picture(str(stack), 1)).save(labelled / "images" / "1.png")
    words = ["--labelled", str(labelled), "--checkpoint", str(place / "model.pt"), *SMALL]
    assert main(["suggest", str(tmp_path / "pool"), "--output", str(tmp_path / "out"), *words]) == 0
    assert len(images_of(tmp_path / "out")) == 2
    assert not list((tmp_path / "out" / "volumes").rglob("*"))


def test_drafts_put_beside_the_labelled_images_replace_none_of_them(place, tmp_path):
    labelled = labelled_set(tmp_path / "labelled", ["new", "NEW_2", "2"])
    (tmp_path / "pool").mkdir()
    Image.fromarray(lesion(3)).save(tmp_path / "pool" / "new.jpg")
    words = ["--labelled", str(labelled), "--checkpoint", str(place / "model.pt"), *SMALL]
    assert main(["suggest", str(tmp_path / "pool"), "--output", str(tmp_path / "out"), *words]) == 0
    [image] = images_of(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "suggestions.json").read_text())["by"] == "random"  # the default
    assert (image["image"], image["mask"]) == ("drafts/images/new_3.png", "drafts/masks/new_3.png")
