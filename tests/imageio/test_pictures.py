"""PNG, JPEG and WebP, and pictures of Pillow's: depths, few bits, opacity, and kinds that are not read."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_files import png_chunk, save_bmp, save_png, save_tiff
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.memory import read_memory
from icmoe_monai.imageio.read import open_image, read_image, read_label, read_objects, read_size

HEIGHT, WIDTH = 29, 37
RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint16)
CLASSES = RANDOM.integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.mark.parametrize(("most", "white"), [(255, 255), (1000, 1023), (4095, 4095), (65_535, 65_535)])
def test_colours_of_16_bits_are_scaled_by_the_bits_that_they_need(tmp_path: Path, most: int, white: int) -> None:
    deep = (COLOURS.astype(np.float64) / COLOURS.max() * most).astype(np.uint16)
    save_png(tmp_path / "a.png", deep, bits=16, colour_type=2)
    expected = deep * (255 / white)
    np.testing.assert_allclose(read_image(str(tmp_path / "a.png")), expected, atol=1e-3)
    np.testing.assert_allclose(read_memory(deep).rgb, expected, atol=1e-3)


def test_a_picture_is_the_same_in_8_12_and_16_bits(tmp_path: Path) -> None:
    save_png(tmp_path / "8.png", COLOURS, bits=8, colour_type=2)
    save_png(tmp_path / "16.png", COLOURS * 257, bits=16, colour_type=2)
    twelve = (COLOURS * (4095 / 255)).round().astype(np.uint16)
    save_png(tmp_path / "12.png", twelve, bits=16, colour_type=2)
    tifffile.imwrite(tmp_path / "12.tif", twelve, photometric="rgb")
    np.testing.assert_allclose(read_image(str(tmp_path / "16.png")), COLOURS, atol=1e-3)
    for name in ("12.png", "12.tif"):
        np.testing.assert_allclose(read_image(str(tmp_path / name)), COLOURS, atol=0.1)
    np.testing.assert_array_equal(read_image(str(tmp_path / "8.png")), COLOURS)


@pytest.mark.parametrize("colour_type", [4, 6], ids=["grey", "colour"])
def test_opacity_of_16_bits(tmp_path: Path, colour_type: int) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 65_535, np.uint16)
    alpha[:9], alpha[-5:] = 0, 65_535 // 5
    colours = (COLOURS * 257)[..., : 1 if colour_type == 4 else 3]
    save_png(tmp_path / "a.png", np.dstack([colours, alpha]), bits=16, colour_type=colour_type)
    shown = colours / 257.0
    if colour_type == 4:  # from its own minimum to its maximum, as grey of 16 bits
        shown = np.repeat((shown - shown.min()) / (shown.max() - shown.min()) * 255, 3, axis=2)
    np.testing.assert_allclose(read_image(str(tmp_path / "a.png")), shown * (alpha / 65_535), atol=1e-2)


def test_one_colour_of_16_bits_may_be_transparent(tmp_path: Path) -> None:
    deep = COLOURS * 257
    deep[0, 0], deep[0, 1] = (300, 500, 700), (300, 500, 701)
    chunk = png_chunk(b"tRNS", struct.pack(">3H", 300, 500, 700))
    save_png(tmp_path / "a.png", deep, bits=16, colour_type=2, chunks=chunk)
    found = read_image(str(tmp_path / "a.png"))
    assert found[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found[0, 1], deep[0, 1] / 257, atol=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_grey_may_be_transparent(tmp_path: Path, bits: int) -> None:
    """PNG, third edition, 11.3.1.1: tRNS holds a grey as it is stored, in as many bits."""
    top = (1 << bits) - 1
    stored = (COLOURS[..., :1] * (top / 255)).round().astype(np.uint16)
    assert len({0, top} & set(stored.ravel().tolist())) == 2
    save_png(tmp_path / "a.png", stored, bits=bits, colour_type=0, chunks=png_chunk(b"tRNS", struct.pack(">H", top)))
    expected = np.repeat(np.where(stored == top, 0, stored * (255 / top)), 3, axis=2)
    np.testing.assert_allclose(read_image(str(tmp_path / "a.png")), expected, atol=1e-3)
    if bits not in (2, 4):  # a picture of Pillow's does not tell that it is of these
        with Image.open(tmp_path / "a.png") as picture:
            np.testing.assert_allclose(read_memory(picture).rgb, expected, atol=1e-3)
    save_png(tmp_path / "b.png", stored * 0, bits=bits, colour_type=0, chunks=png_chunk(b"tRNS", struct.pack(">H", 0)))
    with open_image(str(tmp_path / "b.png")) as image:
        assert not image.rgb().any()
        assert image.note == "is transparent everywhere, so that its opacity is passed over"


def test_deep_colour_is_turned_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(COLOURS * 257))
    save_png(tmp_path / "a.png", turned, bits=16, colour_type=2, chunks=png_chunk(b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_allclose(read_image(str(tmp_path / "a.png")), COLOURS, atol=1e-3)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_class_numbers_of_few_bits_are_those_stored(tmp_path: Path, bits: int) -> None:
    save_png(tmp_path / "a.png", CLASSES[..., None], bits=bits, colour_type=0)
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.png"), out_channels=3), CLASSES)
    np.testing.assert_array_equal(read_objects(str(tmp_path / "a.png")), CLASSES)
    if bits < 16:  # shown, they are greys of the whole range
        shown = CLASSES * (255 / ((1 << bits) - 1))
        np.testing.assert_allclose(read_image(str(tmp_path / "a.png"))[..., 0], shown, atol=1e-3)


@pytest.mark.parametrize("colour_type", [2, 4, 6], ids=["colour", "grey and opacity", "colour and opacity"])
def test_class_numbers_in_channels_of_16_bits(tmp_path: Path, colour_type: int) -> None:
    channels = np.repeat(CLASSES[..., None].astype(np.uint16), 3 if colour_type != 4 else 1, axis=2)
    alpha = [] if colour_type == 2 else [np.full((HEIGHT, WIDTH), 65_535)]
    save_png(tmp_path / "a.png", np.dstack([channels, *alpha]), bits=16, colour_type=colour_type)
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.png"), out_channels=3), CLASSES)


def save_transparent(folder: Path, kind: str, colours: np.ndarray) -> Path:
    """RGB in 0..255, and an opacity that is 0 everywhere."""
    nothing = np.zeros((HEIGHT, WIDTH), np.uint8)
    if kind == "tif":
        rgba = np.dstack([colours.astype(np.uint8), nothing])
        tifffile.imwrite(folder / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    elif kind == "bmp":
        pixels = np.dstack([colours.astype(np.uint8)[..., ::-1], nothing])[::-1].tobytes()
        masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        size = (HEIGHT, WIDTH)
        save_bmp(folder / "a.bmp", pixels, size, bits=32, compression=3, masks=masks, header_bytes=108)
    elif kind == "deep.png":
        save_png(folder / "a.deep.png", np.dstack([colours * 257, nothing]), bits=16, colour_type=6)
    else:
        rgba = np.dstack([colours.astype(np.uint8), nothing])
        options = {"lossless": True, "exact": True} if kind == "webp" else {}
        Image.fromarray(rgba).save(folder / f"a.{kind}", **options)
    return folder / f"a.{kind}"


@pytest.mark.parametrize("kind", ["png", "deep.png", "tif", "bmp", "webp"])
def test_what_is_transparent_everywhere_is_seen_all_the_same(tmp_path: Path, kind: str) -> None:
    path = save_transparent(tmp_path, kind, COLOURS)
    with open_image(str(path)) as image:
        assert image.note == ""
        np.testing.assert_allclose(image.rgb(), COLOURS, atol=1e-3)
        assert image.note == "is transparent everywhere, so that its opacity is passed over"
    mask = np.repeat((CLASSES > 0)[..., None].astype(np.uint16), 3, axis=2) * 255
    path = save_transparent(tmp_path, kind, mask)
    np.testing.assert_array_equal(read_label(str(path)), CLASSES > 0)


def test_a_picture_in_memory_that_is_transparent_everywhere(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS.astype(np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)])
    np.testing.assert_array_equal(read_memory(Image.fromarray(rgba)).rgb, COLOURS)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_mask_that_lies_in_its_opacity_is_refused(tmp_path: Path, kind: str) -> None:
    rgba = np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), (CLASSES > 0) * np.uint8(255)])
    Image.fromarray(rgba).save(tmp_path / f"a.{kind}")
    with pytest.raises(InputError, match=rf"a.{kind} differs in its opacity alone, and a mask in its values: save it"):
        read_label(str(tmp_path / f"a.{kind}"))


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [
        (0xC1, 12, "12-bit"),
        (0xC3, 8, "lossless"),
        (0xC3, 16, "lossless"),
        (0xC6, 8, "hierarchical"),
        (0xF7, 8, "JPEG-LS coded"),
    ],
)
def test_a_jpeg_of_a_kind_that_is_not_read_is_named(tmp_path: Path, marker: int, bits: int, kind: str) -> None:
    """The start-of-frame markers of ITU T.81, table B.1, and T.87."""
    Image.fromarray(COLOURS.astype(np.uint8)).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    place = content.index(b"\xff\xc0")
    content[place + 1], content[place + 4] = marker, bits
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (read_image, read_label):
        with pytest.raises(
            InputError, match=rf"a.jpg is a {kind} JPEG, which is not read here: save it as PNG or TIFF"
        ):
            read(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("chunk", [b"PLTE", b"IDAT"])
def test_a_png_that_does_not_fit_its_checksums_is_damaged(tmp_path: Path, chunk: bytes) -> None:
    """PNG, third edition, 5.3: a chunk ends with the CRC-32 of its name and data; Pillow reads on where one differs."""
    picture = Image.fromarray(CLASSES, mode="P")
    picture.putpalette(range(30))
    picture.save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    place = content.index(chunk)
    end = place + 4 + int.from_bytes(content[place - 4 : place], "big")
    for position in (place + 5, end):
        changed = content.copy()
        changed[position] ^= 1
        (tmp_path / "a.png").write_bytes(changed)
        for read in (read_image, read_label, lambda path: read_size(path, whole=True)):
            with pytest.raises(InputError, match=r"a.png cannot be decoded \(.*\): copy it again"):
                read(str(tmp_path / "a.png"))


def test_a_damaged_jpeg_is_called_damaged(tmp_path: Path) -> None:
    Image.fromarray(COLOURS.astype(np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-500])
    with pytest.raises(InputError, match=r"a.jpg cannot be decoded \(.*\): copy it again"):
        read_image(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("kind", ["signed 8 bits", "unsigned 32 bits", "16 bits and several channels"])
def test_a_tiff_of_which_pillow_changes_the_numbers_is_asked_for_by_its_path(tmp_path: Path, kind: str) -> None:
    if kind == "signed 8 bits":
        tifffile.imwrite(tmp_path / "a.tif", CLASSES.astype(np.int8))
    elif kind == "unsigned 32 bits":
        tifffile.imwrite(tmp_path / "a.tif", CLASSES.astype(np.uint32))
    else:
        save_tiff(tmp_path / "a.tif", COLOURS, bits=16, photometric=2)
    with (
        Image.open(tmp_path / "a.tif") as picture,
        pytest.raises(InputError, match=f"the picture is a TIFF of {kind}, of which Pillow does not keep"),
    ):
        read_memory(picture)
    assert read_image(str(tmp_path / "a.tif")).shape == (HEIGHT, WIDTH, 3)


def test_a_masked_array_is_read_by_what_it_holds():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    masked = read_memory(np.ma.masked_less(grey, 3)).rgb
    np.testing.assert_array_equal(masked, np.repeat(grey[..., None], 3, axis=2))
    hidden = np.ma.masked_invalid(np.array([[0.5, np.nan], [1, 0]]))
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        read_memory(hidden)
