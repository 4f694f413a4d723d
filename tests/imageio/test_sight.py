"""Images in which there is little or nothing to see, of every kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from dicom_files import save as save_dicom
from PIL import Image
from pydicom import dcmread

from icmoe_monai.calibration.file import ApplyCalibrationd, Calibration
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.memory import read_memory
from icmoe_monai.imageio.read import read_image, see_image
from icmoe_monai.transforms.load import LoadImage2Dd

HEIGHT, WIDTH = 24, 40


def ramp() -> np.ndarray:
    return np.linspace(1, 9, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


def save_float_dicom(path: Path, values: np.ndarray) -> None:
    save_dicom(path, np.zeros(values.shape, np.uint32))
    dataset = dcmread(path)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.FloatPixelData = values.astype(np.float32).tobytes()
    dataset.save_as(path)


def save_windowed_dicom(path: Path, values: np.ndarray) -> None:
    save_float_dicom(path, values)
    dataset = dcmread(path)
    dataset.WindowCenter, dataset.WindowWidth = 5, 10
    dataset.save_as(path)


def save_nifti(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values.T[..., None], None), path)


Save = Callable[[Path, np.ndarray], None]
OF_FLOATS: dict[str, Save] = {
    "a.tif": tifffile.imwrite,
    "a.dcm": save_float_dicom,
    "windowed.dcm": save_windowed_dicom,
    "a.nii.gz": save_nifti,
}
OF_BYTES: dict[str, Save] = {
    "a.png": lambda path, values: Image.fromarray(values.astype(np.uint8)).save(path),
    "deep.png": lambda path, values: Image.fromarray(values.astype(np.uint16)).save(path),
    "a.jpg": lambda path, values: Image.fromarray(values.astype(np.uint8)).save(path),
    "a.bmp": lambda path, values: Image.fromarray(values.astype(np.uint8)).save(path),
    "bytes.tif": lambda path, values: tifffile.imwrite(path, values.astype(np.uint8)),
    "words.dcm": lambda path, values: save_dicom(path, values.astype(np.uint16)) and None,
}
float_kinds = pytest.mark.parametrize("name", OF_FLOATS)
every_kind = pytest.mark.parametrize("name", {**OF_FLOATS, **OF_BYTES})


def made(folder: Path, name: str, values: np.ndarray) -> str:
    {**OF_FLOATS, **OF_BYTES}[name](folder / name, values)
    return str(folder / name)


def loaded(path: str) -> dict:
    """The case as the inference loads it."""
    return LoadImage2Dd("image", keep_going=True)({"image": path, "name": "x/y"})


@float_kinds
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_finite_is_a_failed_case(tmp_path: Path, name: str, value: float) -> None:
    path = made(tmp_path, name, np.full((HEIGHT, WIDTH), value, np.float32))
    with pytest.raises(InputError, match=r"has no finite value, only NaN or infinite ones: export it again"):
        read_image(path)
    case = loaded(path)
    assert case["failure"] == "x/y has no finite value, only NaN or infinite ones: export it again or take it out."
    assert case["note"] == ""


@float_kinds
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_part_not_finite_is_a_note(tmp_path: Path, name: str, value: float) -> None:
    values = ramp()
    values[: HEIGHT // 4] = value
    path = made(tmp_path, name, values)
    sight = see_image(path)
    assert np.isfinite(sight.rgb).all()
    assert (sight.rgb[: HEIGHT // 4] == 0).all()
    assert sight.rgb[-1].min() > 200
    assert not sight.is_blank
    case = loaded(path)
    assert case["failure"] == ""
    assert case["note"] == "x/y has no finite value in 25 % of its pixels, which are taken as black: look at it."


@every_kind
@pytest.mark.parametrize("value", [0, 7])
def test_constant_image_is_a_note(tmp_path: Path, name: str, value: int) -> None:
    case = loaded(made(tmp_path, name, np.full((HEIGHT, WIDTH), value, np.float32)))
    assert case["failure"] == ""
    assert case["note"] == "x/y is the same in all its pixels, so there is nothing to see in it: look at it."
    assert case["is_blank"] is True


@every_kind
def test_other_images_have_no_note(tmp_path: Path, name: str) -> None:
    case = loaded(made(tmp_path, name, ramp()))
    assert (case["failure"], case["note"], case["is_blank"]) == ("", "", False)


def test_slice_without_values_of_a_volume_with_values_is_black(tmp_path: Path) -> None:
    volume = np.stack([np.full((HEIGHT, WIDTH), np.nan, np.float32), ramp()]).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(volume, None), tmp_path / "a.nii")
    notes = [see_image(str(tmp_path / "a.nii"), frame=frame).note for frame in (0, 1)]
    assert "has no finite value in 100 %" in notes[0]
    assert notes[1] == ""


def test_images_in_memory_are_looked_at_too(tmp_path: Path) -> None:
    load = LoadImage2Dd("image", keep_going=True)
    assert "nothing to see" in load({"image": read_memory(np.zeros((20, 30), np.uint8)).rgb, "name": "b"})["note"]
    values = ramp()
    values[0] = np.nan
    held = read_memory(dcmread(made(tmp_path, "a.dcm", values)))
    assert load({"image": held.rgb, "name": "b"})["note"].startswith("b has no finite value in 4.17 % of its pixels")
    held = read_memory(dcmread(made(tmp_path, "a.dcm", values * np.nan)))
    assert load({"image": held.rgb, "name": "b"})["failure"].startswith("b has no finite value, only NaN")


def test_review_is_advised_where_there_is_a_note() -> None:
    apply = ApplyCalibrationd(calibration=Calibration(reason="none"))
    assert apply({"name": "a", "note": "look"})["review"] is True
    assert "review" not in apply({"name": "a", "note": ""})
    blank = apply({"name": "a", "note": "look", "is_blank": True, "predicted_dice": 0.9, "no_lesion": False})
    assert (blank["review"], blank["predicted_dice"], blank["no_lesion"]) == (True, None, None)


def test_what_was_noticed_of_a_file_is_told_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (8, 9, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    sight = see_image(str(tmp_path / "a.png"))
    told = "a.png is transparent everywhere, so that its opacity is passed over: look at it."
    assert sight.note == f"{tmp_path}/{told}"
    assert (sight.rgb == pixels[..., :3]).all()
