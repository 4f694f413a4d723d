from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms.io.dictionary import SaveImaged
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference import writing
from icmoe_monai.inference.writing import SaveImage2Dd
from icmoe_monai.visualize.overlay import class_colour, thumbnail

# Differs from each of its mirror images and from its transpose, and H != W.
MASK = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=np.uint8)
NAMES = ["a.jpg", "patient 1/a b.jpeg", "Müller/日本 ü.PNG", "-dash.tif", "a.b/c.d.webp", "no_suffix", "1.2.840.1"]


def probabilities_of(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None] * 0.8 + 0.1


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_binary_mask_comes_back_from_disk(tmp_path: Path, name: str) -> None:
    item = SaveImage2Dd(output_dir=tmp_path)({"pred": probabilities_of(MASK), "name": name})
    with Image.open(tmp_path / item["mask_path"]) as image:
        assert (image.mode, image.size) == ("L", (5, 3))
        np.testing.assert_array_equal(np.asarray(image), MASK * 255)
    assert files_in(tmp_path) == [f"masks/{split_suffix(name)[0]}.png"] == [item["mask_path"]]
    assert (item["mask_shape"], item["foreground_pixels"]) == ((3, 5), [4])


def test_threshold_is_exclusive_as_in_the_metrics(tmp_path: Path) -> None:
    pred = torch.tensor([[[0.49, 0.5, 0.5000001, 0.71]]], dtype=torch.float64)
    item = SaveImage2Dd(output_dir=tmp_path)({"pred": pred, "name": "a.png"})
    assert item["foreground_pixels"] == [2]
    assert np.asarray(Image.open(tmp_path / "masks" / "a.png")).tolist() == [[0, 0, 255, 255]]


def test_classes_are_indices_with_visible_colours_in_eight_bits(tmp_path: Path) -> None:
    classes = MASK * 2 + (np.arange(5) == 3)
    pred = MetaTensor(torch.eye(4)[classes.astype(int)].movedim(-1, 0))
    item = SaveImage2Dd(output_dir=tmp_path, out_channels=4)({"pred": pred, "name": "a.png"})
    path = tmp_path / item["mask_path"]
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), classes)
        assert image.convert("RGB").getpixel((0, 0)) == class_colour(2)
    assert path.read_bytes()[24] == 8  # IHDR's bit depth
    assert item["foreground_pixels"] == [3, 4, 0]
    palette = np.array(writing._palette()).reshape(256, 3)
    assert len(np.unique(palette[:32], axis=0)) == 32


def test_probability_maps_have_sixteen_bits(tmp_path: Path) -> None:
    pred = torch.tensor([[[0.0, 0.25], [0.5, 1.0], [1e-5, 1.0005]]])
    SaveImage2Dd(output_dir=tmp_path, probability_maps=True)({"pred": pred, "name": "x/a.jpg"})
    assert files_in(tmp_path) == ["masks/x/a.png", "probabilities/x/a.png"]
    with Image.open(tmp_path / "probabilities/x/a.png") as image:
        assert image.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(image), [[0, 16384], [32768, 65535], [1, 65535]])


def test_each_foreground_class_has_a_probability_map(tmp_path: Path) -> None:
    pred = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)).softmax(0)
    SaveImage2Dd(output_dir=tmp_path, out_channels=3, probability_maps=True)({"pred": pred, "name": "a.jpg"})
    assert files_in(tmp_path) == ["masks/a.png", "probabilities/a_class1.png", "probabilities/a_class2.png"]
    with Image.open(tmp_path / "probabilities/a_class2.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 65535, pred[2], atol=1e-5)


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "", ".."])
def test_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"The case name {name!r} leads out of the output folder"):
        SaveImage2Dd(output_dir=tmp_path)({"pred": probabilities_of(MASK), "name": name})
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (torch.full((1, 2, 2), float("nan")), r"prediction of a\.png is not a number in places"),
        (torch.full((1, 2, 2), -4.0), "must be probabilities for a.png, got -4 to -4: put Activationsd"),
        (torch.zeros(2, 2, 2), r"must be \(1, H, W\) for a\.png, got \(2, 2, 2\)"),
        (torch.zeros(2, 2), r"must be \(1, H, W\) for a\.png, got \(2, 2\)"),
    ],
    ids=["nan", "logits", "channels", "axes"],
)
def test_what_is_no_prediction_is_refused(tmp_path: Path, pred: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SaveImage2Dd(output_dir=tmp_path)({"pred": pred, "name": "a.png"})
    assert files_in(tmp_path) == []


def test_failed_case_writes_nothing_and_a_broken_prediction_becomes_one(tmp_path: Path) -> None:
    save = SaveImage2Dd(output_dir=tmp_path)
    broken = {"pred": torch.full((1, 2, 2), float("nan")), "name": "a.png", "failure": ""}
    assert "not a number" in save(broken)["failure"]
    assert save({"pred": probabilities_of(MASK), "name": "b.png", "failure": "why"})["failure"] == "why"
    assert files_in(tmp_path) == []


def test_scale_that_cannot_be_read_fails_its_case_without_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, source: str, **named: object) -> None:
        raise InputError(f"{source} is damaged: copy it again.")

    monkeypatch.setattr(writing, "measure", refuse)
    item = {"pred": probabilities_of(MASK), "name": "a.dcm", "source": str(tmp_path / "a.dcm"), "failure": ""}
    assert SaveImage2Dd(output_dir=tmp_path)(item)["failure"] == "a.dcm is damaged: copy it again."
    assert files_in(tmp_path) == []


def test_overlay_lies_on_the_picture_and_measures_are_told(tmp_path: Path) -> None:
    picture = torch.arange(3 * 5 * 3, dtype=torch.uint8).reshape(3, 5, 3)
    save = SaveImage2Dd(output_dir=tmp_path, overlays=True, labels=["lesion"])
    item = save({"pred": probabilities_of(MASK * 0), "name": "x/a.jpg", "picture": picture, "failure": ""})
    with Image.open(tmp_path / item["overlay_path"]) as overlay:
        np.testing.assert_array_equal(np.asarray(overlay)[:3, :5], picture)
    assert item["overlay_path"] == "overlays/x/a.png"
    assert (item["num_components"], item["area_mm2"], item["spacing_mm"]) == ([0], None, None)
    assert save({"pred": probabilities_of(MASK), "name": "b.jpg", "picture": picture})["num_components"] == [2]


def test_background_writing_is_done_when_its_future_is(tmp_path: Path) -> None:
    item = SaveImage2Dd(output_dir=tmp_path, background=True)({"pred": probabilities_of(MASK), "name": "a.jpg"})
    assert item["writing"].result(timeout=60) is None
    assert files_in(tmp_path) == ["masks/a.png"]
    (tmp_path / "b").write_text("in the way")
    item = SaveImage2Dd(output_dir=tmp_path / "b", background=True)({"pred": probabilities_of(MASK), "name": "a.jpg"})
    with pytest.raises(InputError, match=r"Cannot write a\.png"):
        item["writing"].result(timeout=60)


def test_background_writing_makes_the_thumbnail_of_the_overlay_without_its_legend(tmp_path: Path) -> None:
    picture = torch.full((40, 60, 3), 90, dtype=torch.uint8)
    save = SaveImage2Dd(output_dir=tmp_path, overlays=True, labels=["lesion"], background=True)
    item = save({"pred": torch.rand(1, 40, 60), "name": "a.jpg", "picture": picture})
    small = item["writing"].result(timeout=60)
    with Image.open(tmp_path / item["overlay_path"]) as overlay:
        assert small == thumbnail(overlay, size=(60, 40), num_labels=1)
    assert Image.open(io.BytesIO(small)).size == (60, 40)


def test_labels_must_name_the_foreground_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels must name 2 foreground classes, got \['lesion'\]"):
        SaveImage2Dd(output_dir=tmp_path, out_channels=3, labels=["lesion"])


def test_number_of_classes_must_fit_eight_bits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out_channels must be 1 to 256, got 257"):
        SaveImage2Dd(output_dir=tmp_path, out_channels=257)


def test_other_products_recognise_the_saver() -> None:
    assert issubclass(SaveImage2Dd, SaveImaged)
    assert "SaveImage" in SaveImage2Dd.__name__
