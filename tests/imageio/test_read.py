from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, Invertd, LoadImaged, Resized, SpatialPadd
from PIL import Image, ImageCms

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import count_frames, read_image, read_label, read_size
from icmoe_monai.transforms.load import Image2DReader, LoadImage2Dd

HEIGHT, WIDTH = 40, 56


def upright_pattern() -> np.ndarray:
    """uint8 (H, W, 3): grey, a red corner at the top left, a bar of blue along the bottom."""
    pattern = np.full((HEIGHT, WIDTH, 3), 100, dtype=np.uint8)
    pattern[:10, :14] = [250, 20, 20]
    pattern[-6:] = [10, 30, 220]
    return pattern


def grey_pattern() -> np.ndarray:
    grey = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    grey[:10, :14] = 255
    grey[-6:] = 51
    return grey


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def turned_back(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores so that the EXIF orientation makes it upright again."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def check_read(path: Path, expected: np.ndarray, *, atol: float = 0) -> None:
    read = read_image(str(path))
    assert read.dtype == np.float32
    assert read.shape == expected.shape
    np.testing.assert_allclose(read, expected, atol=atol)
    assert read_size(str(path)) == read_size(str(path), whole=True) == expected.shape[:2]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_lossless_colour_is_read_upright(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(upright_pattern()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    check_read(path, upright_pattern())


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGBA", upright_pattern()),
        ("P", upright_pattern()),
        ("L", repeated(grey_pattern())),
        ("LA", repeated(grey_pattern())),
        ("1", repeated(grey_pattern() // 255 * 255)),
    ],
)
def test_png_modes(tmp_path: Path, mode: str, expected: np.ndarray) -> None:
    source = Image.fromarray(expected)
    if mode == "P":
        source = source.quantize(3)
    elif mode != "RGBA":
        source = source.convert("L").convert(mode)
    (source.convert("RGBA") if mode == "RGBA" else source).save(tmp_path / "a.png")
    check_read(tmp_path / "a.png", expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_is_black(tmp_path: Path, mode: str) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    alpha[:10, :14] = 0
    alpha[-6:] = 51  # a fifth
    picture = Image.new(mode, (WIDTH, HEIGHT), "white")
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    check_read(tmp_path / "a.png", repeated(alpha))


def test_transparent_colour_of_a_palette_is_black(tmp_path: Path) -> None:
    picture = Image.fromarray((grey_pattern() > 0).astype(np.uint8)).convert("P")
    picture.putpalette([200, 200, 200, 90, 60, 30])
    picture.save(tmp_path / "a.png", transparency=0)
    check_read(tmp_path / "a.png", np.where(grey_pattern()[..., None] > 0, [90, 60, 30], 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpeg(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(turned_back(upright_pattern(), orientation)))
    stored.save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=with_orientation(orientation))
    check_read(tmp_path / "a.jpg", upright_pattern(), atol=40)
    mean = np.abs(read_image(str(tmp_path / "a.jpg")) - upright_pattern()).mean()
    assert mean < 3


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_of_tiff(tmp_path: Path, orientation: int, compression: str | None) -> None:
    # uncompressed and opened by its path, Pillow 13 scrambles a turned greyscale TIFF
    stored = Image.fromarray(np.ascontiguousarray(turned_back(grey_pattern(), orientation)))
    stored.save(tmp_path / "a.tif", tiffinfo={274: orientation}, compression=compression)
    check_read(tmp_path / "a.tif", repeated(grey_pattern()))


def test_orientation_of_png_applies_to_masks(tmp_path: Path) -> None:
    stored = Image.fromarray(np.ascontiguousarray(turned_back(grey_pattern() // 51, 6)))
    stored.save(tmp_path / "a.png", exif=with_orientation(6))
    label = read_label(str(tmp_path / "a.png"), out_channels=6)
    np.testing.assert_array_equal(label, grey_pattern() // 51)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_goes_from_its_range_to_255(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"a.{suffix}", 1000 + grey_pattern().astype(np.uint16) * 4)
    check_read(tmp_path / f"a.{suffix}", repeated(grey_pattern()), atol=1e-4)


def test_float_tiff_goes_from_its_finite_range_to_255(tmp_path: Path) -> None:
    values = grey_pattern().astype(np.float32) / 1000 - 3
    values[20, 30] = np.nan
    save(tmp_path / "a.tif", values)
    check_read(tmp_path / "a.tif", repeated(grey_pattern()), atol=1e-3)


def test_constant_16_bit_is_black(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((HEIGHT, WIDTH), 4000, dtype=np.uint16))
    check_read(tmp_path / "a.png", np.zeros((HEIGHT, WIDTH, 3)))


def test_white_is_zero_tiff_is_inverted(tmp_path: Path) -> None:
    deep = grey_pattern().astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.tif", tiffinfo={262: 0})
    check_read(tmp_path / "deep.tif", repeated(255 - grey_pattern()), atol=1e-4)
    Image.fromarray(grey_pattern()).save(tmp_path / "a.tif", tiffinfo={262: 0})  # Pillow inverts 8 bits both ways
    check_read(tmp_path / "a.tif", repeated(grey_pattern()))


def test_cmyk_and_grey_jpeg(tmp_path: Path) -> None:
    Image.fromarray(upright_pattern()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    check_read(tmp_path / "cmyk.jpg", upright_pattern(), atol=60)
    Image.fromarray(grey_pattern()).save(tmp_path / "grey.jpg", quality=98)
    check_read(tmp_path / "grey.jpg", repeated(grey_pattern()), atol=25)


@pytest.mark.parametrize(
    ("stored", "out_channels", "expected"),
    [
        (grey_pattern() // 255, 1, grey_pattern() == 255),
        (np.where(grey_pattern() > 51, 7, 0).astype(np.uint8), 1, grey_pattern() == 255),
        (grey_pattern() == 255, 1, grey_pattern() == 255),
        (np.zeros((HEIGHT, WIDTH), dtype=np.uint8), 1, np.zeros((HEIGHT, WIDTH))),
        (np.full((HEIGHT, WIDTH), 255, dtype=np.uint8), 1, np.ones((HEIGHT, WIDTH))),
        (repeated(grey_pattern() // 51), 6, grey_pattern() // 51),
        ((grey_pattern() // 51).astype(np.uint16), 6, grey_pattern() // 51),
    ],
    ids=["0-1", "0-7", "one-bit", "empty", "full", "grey-as-RGB-classes", "16-bit-classes"],
)
def test_masks_are_read_unscaled(tmp_path: Path, stored: np.ndarray, out_channels: int, expected: np.ndarray) -> None:
    label = read_label(save(tmp_path / "a.png", stored), out_channels=out_channels)
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, expected)


def test_palette_mask_is_its_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(grey_pattern() // 51).convert("P")
    picture.putpalette([0, 0, 0] + [200, 10, 10] * 5)  # classes 1 and 5 look alike
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.png"), out_channels=6), grey_pattern() // 51)


def test_transparent_mask_pixels_are_background(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (WIDTH, HEIGHT), "white")
    picture.putalpha(Image.fromarray(grey_pattern()))
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.png")), grey_pattern() > 0)


def test_jpeg_mask_is_cut_at_half_scale(tmp_path: Path) -> None:
    mask = np.where(grey_pattern() == 255, 255, 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.jpg", quality=75)
    label = read_label(str(tmp_path / "a.jpg"))
    assert np.mean(label == (mask > 0)) > 0.99
    assert set(np.unique(label)) == {0, 1}


def test_several_masks_are_merged_and_instances_are_one_class(tmp_path: Path) -> None:
    corner, bar = (save(tmp_path / f"{v}.png", (grey_pattern() == v).astype(np.uint8) * 255) for v in (255, 51))
    np.testing.assert_array_equal(read_label([corner, bar]), grey_pattern() > 0)
    numbered = save(tmp_path / "n.png", grey_pattern())
    np.testing.assert_array_equal(read_label(numbered, instances=True), grey_pattern() > 0)
    np.testing.assert_array_equal(read_label(numbered, instances=True, out_channels=2), grey_pattern() > 0)


@pytest.mark.parametrize(
    ("stored", "out_channels", "message"),
    [
        (grey_pattern(), 1, r"a.png holds the values 0, 51, 255, and a binary mask .* set out_channels"),
        (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8), 1, r"256 values \(0, 1, 2, 3, 4, 5, ...\)"),
        (grey_pattern() // 51, 5, r"0, 1, 5, and with out_channels 5 .* numbers 0 to 4, .*: change"),
        (upright_pattern(), 1, r"a.png is in colour, and a mask is not: save it in one channel"),
    ],
    ids=["not-binary", "smoothed", "class-too-high", "colour"],
)
def test_unfit_masks(tmp_path: Path, stored: np.ndarray, out_channels: int, message: str) -> None:
    path = save(tmp_path / "a.png", stored)
    with pytest.raises(InputError, match=message):
        read_label(path, out_channels=out_channels)


def test_unfit_jpeg_masks(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", grey_pattern() // 255)
    with pytest.raises(InputError, match=r"a.jpg is stored with loss, which keeps no class numbers: save the"):
        read_label(path, out_channels=2)
    with pytest.raises(InputError, match=r"a.jpg is stored with loss and has no value above \d+, and .* cut at 128"):
        read_label(save(tmp_path / "a.jpg", grey_pattern() // 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {"quality": 75}), ("a.webp", {"quality": 75}), ("a.tif", {"compression": "jpeg"})],
    ids=["JPEG", "WebP", "TIFF"],
)
def test_masks_stored_with_loss(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    mask = grey_pattern() == 255
    grey = repeated(mask.astype(np.uint8) * 255)
    layers = {"grey": grey, "red": grey * (1, 0, 0), "green": grey * (0, 1, 0), "yellow": grey * (1, 1, 0)}
    for colour, stored in layers.items():
        Image.fromarray(stored.astype(np.uint8)).save(tmp_path / name, **options)
        if colour == "grey":
            assert np.mean(read_label(str(tmp_path / name)) == mask) > 0.99
            continue
        with pytest.raises(InputError, match="is in colour, and a mask is not: save it in one channel"):
            read_label(str(tmp_path / name))


def test_a_lossy_webp_with_opacity_is_cut_at_half_scale(tmp_path: Path) -> None:
    mask = grey_pattern() == 255
    layers = np.dstack([repeated(mask * np.uint8(255)), np.full(mask.shape, 255, np.uint8)])
    layers[-1, -1, 3] = 0
    Image.fromarray(layers).save(tmp_path / "a.webp", quality=75)
    assert np.mean(read_label(str(tmp_path / "a.webp")) == mask) > 0.99


def test_a_lossy_webp_with_a_colour_profile_is_cut_at_half_scale(tmp_path: Path) -> None:
    mask = grey_pattern() == 255
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(repeated(mask * np.uint8(255)))
    picture.save(tmp_path / "a.webp", quality=75, icc_profile=profile)
    assert np.mean(read_label(str(tmp_path / "a.webp")) == mask) > 0.99
    picture.save(tmp_path / "b.webp", lossless=True, icc_profile=profile)
    assert (read_label(str(tmp_path / "b.webp")) == mask).all()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_a_palette_that_shows_the_background_white_and_a_target_black_is_refused(tmp_path: Path, name: str) -> None:
    """As with white-is-zero TIFFs, programs disagree on which of the two was meant."""
    corner = (grey_pattern() == 255).astype(np.uint8)
    for colours, is_read in (
        ([255, 255, 255, 0, 0, 0], False),
        ([0, 0, 0, 255, 255, 255], True),
        ([255, 255, 255, 200, 10, 10, 0, 0, 0], True),  # black is not used
        ([0, 0, 0, 0, 0, 0], True),
    ):
        picture = Image.fromarray(corner).convert("P")
        picture.putpalette(colours)
        picture.save(tmp_path / name)
        if is_read:
            np.testing.assert_array_equal(read_label(str(tmp_path / name)), corner)
            continue
        with pytest.raises(InputError, match=rf"{name} shows 1 black, and 0 in another colour, so that it cannot be"):
            read_label(str(tmp_path / name))


def test_a_mask_of_floats_that_are_not_finite_is_told_by_its_values(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.where(grey_pattern() > 0, np.float32(1), np.float32(np.nan)))
    with pytest.raises(
        InputError,
        match=r"values 1, nan, and a binary mask holds 0 and one value above it: .* with the background",
    ):
        read_label(str(tmp_path / "a.tif"))


def test_masks_of_one_image_must_have_one_size(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.png", np.zeros((30, n), dtype=np.uint8)) for n in (20, 25)]
    with pytest.raises(InputError, match=r"25.png is 25x30 and .*20.png is 20x30: the masks of one image must have"):
        read_label(paths)


def damaged(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3)).astype(np.uint8)
    if kind == "truncated":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "truncated_tiff":
        path = folder / "truncated_tiff.tif"
        Image.fromarray(noise).save(path, compression="tiff_lzw")
        path.write_bytes(path.read_bytes()[:-12000])
    elif kind == "truncated_jpeg":
        path = folder / "truncated_jpeg.jpg"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "pages":
        path = folder / "pages.tif"
        Image.fromarray(noise).save(path, save_all=True, append_images=[Image.fromarray(noise)])
    elif kind == "lab":
        path = folder / "lab.tif"
        Image.new("LAB", (20, 20)).save(path)
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "empty":
        path.touch()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"empty.png is empty \(0 bytes\): copy it again or remove it"),
        ("truncated", r"truncated.png cannot be decoded \(.*\): copy it again"),
        ("truncated_jpeg", r"truncated_jpeg.jpg cannot be decoded \(.*\): copy it again"),
        ("truncated_tiff", r"truncated_tiff.tif cannot be decoded \(.*\): copy it again"),
        ("text", r"text.png is no PNG, JPEG, TIFF, BMP or WebP image: convert it"),
        ("pages", r"pages.tif holds 2 frames, slices or pages: save each as a file of its own"),
        ("lab", r"lab.tif stores its colours as CIELAB: convert it to RGB"),
        ("missing", r"missing.png is not a file: correct the path"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, kind: str, message: str) -> None:
    path = str(damaged(tmp_path, kind))
    with pytest.raises(InputError, match=message):
        read_image(path)
    with pytest.raises(InputError, match=message):
        read_size(path, whole=True)
    with pytest.raises(InputError, match=message):  # unwrapped by MONAI's loader
        LoadImage2Dd("image")({"image": path})


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", upright_pattern())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 4)
    with pytest.raises(InputError, match=r"a.png has too many pixels for one picture: cut it into tiles"):
        read_image(path)


def test_loader_gives_upright_tensors_with_meta_data(tmp_path: Path) -> None:
    image, label = save(tmp_path / "a.png", upright_pattern()), save(tmp_path / "m.png", grey_pattern() // 255)
    load = LoadImage2Dd()
    case = load({"image": image, "label": [label, label], "name": "a"})
    assert isinstance(load, LoadImaged)
    assert [type(reader) for reader in load._loader.readers] == [Image2DReader]
    assert isinstance(case["image"], MetaTensor)
    assert case["image"].dtype == case["label"].dtype == torch.float32
    torch.testing.assert_close(case["image"].as_tensor(), torch.tensor(upright_pattern()).permute(2, 0, 1).float())
    assert case["label"].shape == (1, HEIGHT, WIDTH)
    for key, path in (("image", image), ("label", label)):
        assert case[key].meta["spatial_shape"].tolist() == [HEIGHT, WIDTH]
        assert case[key].meta["filename_or_obj"] == path
    assert case["name"] == "a"
    assert list_data_collate([case, case])["image"].shape == (2, 3, HEIGHT, WIDTH)


def test_loader_knows_instances_missing_labels_and_meta_dicts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", grey_pattern())
    case = LoadImage2Dd()({"image": path, "label": path, "label_kind": "instances"})
    assert case["label"].unique().tolist() == [0, 1]
    assert set(LoadImage2Dd(allow_missing_keys=True)({"image": path})) == {"image"}
    load = LoadImage2Dd("image")
    load._loader.image_only = False  # as MONAI Label sets it
    assert load({"image": path})["image_meta_dict"]["filename_or_obj"] == path
    with pytest.raises(InputError, match=r"An image must be one file, got 2: "):
        LoadImage2Dd("image")({"image": [path, path]})


@pytest.mark.parametrize("longest", [False, True], ids=["stretched", "padded"])
def test_inverting_resize_returns_to_the_file_geometry(tmp_path: Path, longest: bool) -> None:
    path = save(tmp_path / "a.png", upright_pattern())
    resize = (
        [Resized("image", 32, size_mode="longest"), SpatialPadd("image", (32, 32))]
        if longest
        else [Resized("image", (32, 32))]
    )
    chain = Compose([LoadImage2Dd("image"), *resize])
    batch = list_data_collate([chain({"image": path})])
    batch["pred"] = (batch["image"][:, :1] > 180).float()  # the red corner
    case = decollate_batch(batch)[0]
    inverted = Invertd("pred", chain, orig_keys="image", nearest_interp=True)(case)["pred"]
    corner = grey_pattern() == 255
    assert inverted.shape == (1, HEIGHT, WIDTH)
    assert np.mean((inverted[0].numpy() > 0) == corner) > 0.97


def test_a_page_is_read_by_its_number(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint8)) for value in (10, 20)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert count_frames(str(tmp_path / "a.tif")) == 2
    case = LoadImage2Dd("image")({"image": str(tmp_path / "a.tif"), "frame": 1})
    assert case["image"].unique().tolist() == [20]


def test_loader_that_keeps_going_puts_black_in_the_place_of_what_cannot_be_read(tmp_path: Path) -> None:
    load = LoadImage2Dd("image", keep_going=True, keep_picture=True)
    good, bad = save(tmp_path / "a.png", upright_pattern()), str(damaged(tmp_path, "truncated"))
    case = load({"image": good, "name": "a.png"})
    assert case["failure"] == ""
    np.testing.assert_array_equal(case["picture"], upright_pattern())
    case = load({"image": bad, "name": "x/b.png"})
    assert case["failure"].startswith("x/b.png cannot be decoded")
    assert str(tmp_path) not in case["failure"]
    assert (tuple(case["image"].shape), float(case["image"].max())) == ((3, 16, 16), 0.0)
    assert load({"image": good, "failure": "known before"})["failure"] == "known before"
    assert list_data_collate([load({"image": bad, "name": "b"})])["picture"].shape == (1, 16, 16, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_that_is_drawn_in_transparency_alone_is_refused(mode, tmp_path):
    alpha = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    picture = Image.new(mode, (WIDTH, HEIGHT))
    for opaque in (0, 255):  # an empty mask, transparent or not
        picture.putalpha(opaque)
        picture.save(tmp_path / "a.png")
        assert not read_label(str(tmp_path / "a.png")).any()
    alpha[3:8] = 255
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png differs in its opacity alone.*save it in one channel"):
        read_label(str(tmp_path / "a.png"))
