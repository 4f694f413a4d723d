"""Shifts of images: each is what it says, stronger by its strength, the same again, and nowhere but in the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized
from PIL import Image

from icmoe_monai.analysis.shifts import SHIFTS, STRENGTHS, LoadShifted2Dd, case_seed, shift_image, shifted_cases
from icmoe_monai.data.phantoms import draw_dermoscopy, draw_ultrasound
from icmoe_monai.errors import InputError

SHAPE = (90, 128)


def picture(draw=draw_dermoscopy, shape: tuple[int, int] = SHAPE) -> torch.Tensor:
    image, _ = draw(np.random.default_rng(3), shape)
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))


def change(image: torch.Tensor, shift: str, strength: int, seed: int = 1) -> float:
    return float((shift_image(image, shift, strength, seed=seed) - image).abs().mean())


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("draw", [draw_dermoscopy, draw_ultrasound], ids=["colour", "grey"])
def test_a_shift_grows_with_its_strength_and_keeps_range_and_place(shift, draw):
    image = picture(draw)
    changes = [change(image, shift, strength) for strength in STRENGTHS]
    assert 0.1 < changes[0] < changes[1] < changes[2] < 80
    for strength in STRENGTHS:
        shifted = shift_image(image, shift, strength, seed=1)
        assert (shifted.shape, shifted.dtype) == (image.shape, image.dtype)
        assert shifted.min() >= 0
        assert shifted.max() <= 255
        assert torch.equal(shifted, shift_image(image, shift, strength, seed=1))


@pytest.mark.parametrize("shift", ["noise", "speckle", "colour_cast", "hair", "marker"])
def test_what_is_random_follows_the_seed(shift):
    image = picture()
    assert not torch.equal(shift_image(image, shift, 3, seed=1), shift_image(image, shift, 3, seed=2))


def test_a_seed_is_the_cases_own():
    assert case_seed("a") == case_seed("a") != case_seed("b")
    assert case_seed("a", 1) != case_seed("a", 2)
    assert 0 <= case_seed("\udcfc.png", 2**40) < 2**32


def test_every_shift_is_what_it_says():
    flat = torch.full((3, 64, 64), 100.0)
    noise = shift_image(flat, "noise", 3, seed=0) - flat
    assert float(noise.std()) == pytest.approx(40, rel=0.05)
    assert torch.equal(noise[0], noise[2])  # grey images get grey noise
    speckle = shift_image(flat, "speckle", 3, seed=0) / flat - 1
    assert float(speckle.std()) == pytest.approx(0.3, rel=0.05)
    for shift in ("blur", "resolution"):  # nothing dark comes in over the border
        assert torch.allclose(shift_image(flat, shift, 3), flat, atol=1e-2)
    cast = shift_image(flat, "colour_cast", 3, seed=0) / flat - 1
    assert float(cast.sum(0).abs().max()) < 1e-5  # as much more of one colour as less of the others
    assert float(cast[:, 0, 0].norm()) == pytest.approx(0.25 * 1.5**0.5, rel=1e-4)
    ramp = torch.linspace(0, 255, 64).repeat(3, 64, 1)
    expected = 255 * (ramp / 255) ** 0.4
    assert torch.allclose(shift_image(ramp, "contrast", 3), expected, atol=0.1)


def test_jpeg_is_what_pillow_writes(tmp_path):
    image = picture()
    plain = Image.fromarray(image.byte().permute(1, 2, 0).numpy())
    plain.save(tmp_path / "a.jpg", quality=10, subsampling="4:2:0")
    expected = np.asarray(Image.open(tmp_path / "a.jpg")).transpose(2, 0, 1)
    np.testing.assert_array_equal(shift_image(image, "jpeg", 3).numpy(), expected)


@pytest.mark.parametrize("shift", ["blur", "resolution", "noise", "speckle", "hair", "marker"])
def test_a_strength_means_the_same_in_a_large_file(shift):
    """Reduced to one size, the same picture in a large and a small file is changed by about as much.

    Not by exactly as much: noise has a grain of the image's 512th part, and is averaged where that is below a pixel.
    """
    small = picture(shape=(128, 192))
    large = torch.nn.functional.interpolate(small[None], scale_factor=6, mode="bicubic")[0].clamp(0, 255)
    shifted = shift_image(large, shift, 2, seed=1)
    back = [torch.nn.functional.interpolate(each[None], size=(128, 192), mode="area")[0] for each in (shifted, large)]
    ratio = float((back[0] - back[1]).abs().mean()) / change(small, shift, 2)
    assert 0.3 < ratio < 1.5


def test_loading_shifts_the_image_alone(tmp_path: Path):
    image, mask = draw_dermoscopy(np.random.default_rng(0), SHAPE)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.png")
    case = {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "m.png"), "name": "a"}
    load = LoadShifted2Dd()
    clean, zero = load(case), load({**case, "shift": "none", "strength": 0})
    worse = load({**case, "shift": "hair", "strength": 3})
    assert torch.equal(clean["image"], zero["image"])
    assert not torch.equal(clean["image"], worse["image"])
    assert torch.equal(clean["label"], worse["label"])
    assert isinstance(worse["image"], MetaTensor)
    assert worse["image"].meta["filename_or_obj"] == case["image"]
    expected = shift_image(clean["image"], "hair", 3, seed=case_seed("a", 0))
    assert torch.equal(worse["image"], expected)
    steps = Compose([load, Resized("image", 32, size_mode="longest")])
    item = steps({**case, "shift": "blur", "strength": 1})
    item["pred"] = item["image"][:1]
    assert Invertd("pred", steps, "image")(item)["pred"].shape == (1, *SHAPE)


def test_cases_come_clean_and_then_by_shift():
    cases = [{"name": name} for name in "abcd"]
    listed = shifted_cases(cases, shifts=["blur", "jpeg"], num_cases=2)
    assert [case["name"] for case in listed] == ["b"] * 7 + ["d"] * 7
    expected = [("none", 0), *((shift, strength) for shift in ("blur", "jpeg") for strength in (1, 2, 3))]
    assert [(case["shift"], case["strength"]) for case in listed[:7]] == expected
    assert len(shifted_cases(cases, shifts=SHIFTS, num_cases=9)) == 4 * (1 + 3 * len(SHIFTS))


@pytest.mark.parametrize(("shifts", "found"), [(["blur", "fog"], "got fog"), ([], "got none")])
def test_an_unknown_shift_is_refused(shifts, found):
    with pytest.raises(InputError, match=found):
        shifted_cases([{"name": "a"}], shifts=shifts)
