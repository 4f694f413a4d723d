"""BMP files, made here as Microsoft's documentation of the format says; Pillow reads the plain ones as well."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from picture_files import bmp_rows, save_bmp
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.bmp import BmpFile
from icmoe_monai.imageio.read import read_image, read_label, read_size

HEIGHT, WIDTH = 19, 27
RANDOM = np.random.default_rng(0)
PALETTE = RANDOM.integers(0, 256, (16, 3), dtype=np.uint8)


def quads(colours: np.ndarray) -> bytes:
    return np.pad(colours[:, ::-1], ((0, 0), (0, 1))).tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("is_upright", [False, True])
def test_indices_of_a_palette(tmp_path: Path, bits: int, is_upright: bool) -> None:
    indices = RANDOM.integers(0, min(1 << bits, 16), (HEIGHT, WIDTH), dtype=np.uint8)
    rows = bmp_rows(indices[::-1] if is_upright else indices, bits)
    size = (-HEIGHT if is_upright else HEIGHT, WIDTH)
    save_bmp(tmp_path / "a.bmp", rows, size, bits=bits, palette=quads(PALETTE[: 1 << bits]))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.bmp")), PALETTE[indices])
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.bmp"), out_channels=16), indices)
    assert read_size(str(tmp_path / "a.bmp")) == (HEIGHT, WIDTH)


def as_rle4(rows: np.ndarray) -> bytes:
    """Rows of indices, the lowest first: pairs and single indices in absolute runs of every length, and runs."""
    coded = b""
    for number, row in enumerate(rows):
        place = 0
        while place < len(row):
            length = min(3 + (number + place) % 7, len(row) - place)
            run = row[place : place + length]
            if length >= 3 and (number + place) % 2:
                padded = np.append(run, [0] * (-length % 4)).astype(np.uint8)
                coded += bytes([0, length]) + (padded[::2] << 4 | padded[1::2]).tobytes()
            else:  # an encoded run alternates between two indices, so each index is a run of its own
                coded += b"".join(bytes([1, index << 4]) for index in run)
            place += length
        coded += b"\0\0"
    return coded + b"\0\1"


def test_run_lengths_of_four_bits_are_the_indices(tmp_path: Path) -> None:
    indices = RANDOM.integers(0, 16, (HEIGHT, WIDTH), dtype=np.uint8)
    save_bmp(tmp_path / "a.bmp", as_rle4(indices[::-1]), (HEIGHT, WIDTH), bits=4, compression=2, palette=quads(PALETTE))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.bmp")), PALETTE[indices])


def test_runs_jumps_and_rows_that_end_early(tmp_path: Path) -> None:
    """By hand, from the bottom: of 4 bits 1 2 1 2 1, then a jump; of 8 bits a run and an absolute run."""
    palette = quads(np.repeat(np.arange(16, dtype=np.uint8)[:, None], 3, axis=1))
    coded = bytes([5, 0x12, 0, 2, 1, 2, 2, 0x77, 0, 0, 0, 1])
    save_bmp(tmp_path / "a.bmp", coded, (4, 9), bits=4, compression=2, palette=palette)
    expected = np.zeros((4, 9))
    expected[3, :5] = [1, 2, 1, 2, 1]
    expected[1, 6:8] = 7
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.bmp"))[..., 0], expected)
    coded = bytes([4, 3, 0, 3, 9, 8, 7, 0, 0, 0, 2, 5, 0, 1])
    save_bmp(tmp_path / "b.bmp", coded, (2, 8), bits=8, compression=1, palette=palette)
    expected = np.array([[5, 5, 0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 9, 8, 7, 0]])
    np.testing.assert_array_equal(read_image(str(tmp_path / "b.bmp"))[..., 0], expected)


FIELDS = {
    "5, 5 and 5": (16, (0x7C00, 0x3E0, 0x1F)),
    "5, 6 and 5": (16, (0xF800, 0x7E0, 0x1F)),
    "4, 4 and 4": (16, (0xF00, 0xF0, 0xF)),
    "8 in a row": (32, (0xFF0000, 0xFF00, 0xFF)),
    "8 the other way round": (32, (0xFF, 0xFF00, 0xFF0000)),
    "8 above": (32, (0xFF000000, 0xFF0000, 0xFF00)),
    "8, 8 and 8 with gaps": (32, (0xFF00000, 0xFF00, 0x7F)),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    "none of blue": (32, (0xFF0000, 0xFF00, 0)),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("header_bytes", [40, 52, 56, 108, 124])
def test_fields_of_any_bits(tmp_path: Path, name: str, header_bytes: int) -> None:
    bits, masks = FIELDS[name]
    pixels = RANDOM.integers(0, 1 << bits, (HEIGHT, WIDTH), dtype=np.uint32)
    save_bmp(
        tmp_path / "a.bmp",
        bmp_rows(pixels, bits),
        (HEIGHT, WIDTH),
        bits=bits,
        compression=3,
        masks=masks if header_bytes < 56 else (*masks, 0),
        header_bytes=header_bytes,
    )
    expected = np.zeros((HEIGHT, WIDTH, 3))
    for channel, mask in enumerate(masks):
        if mask:
            expected[..., channel] = (pixels & mask) / mask * 255  # the bits below the field are none of it
    np.testing.assert_allclose(read_image(str(tmp_path / "a.bmp")), expected, atol=0.51)


@pytest.mark.parametrize("opacity", ["none of it", "some", "all", "without a mask"])
def test_a_fourth_channel_is_opacity_only_where_it_says_something(tmp_path: Path, opacity: str) -> None:
    colours = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint32)
    alpha = np.zeros((HEIGHT, WIDTH), np.uint32)
    if opacity == "some":
        alpha[5:] = 255
    elif opacity == "all":
        alpha += 255
    pixels = alpha << 24 | colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    masks = (0xFF0000, 0xFF00, 0xFF, 0 if opacity == "without a mask" else 0xFF000000)
    save_bmp(
        tmp_path / "a.bmp",
        bmp_rows(pixels, 32),
        (HEIGHT, WIDTH),
        bits=32,
        compression=3,
        masks=masks,
        header_bytes=108,
    )
    shown = colours * (alpha[..., None] > 0) if opacity == "some" else colours
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.bmp")), shown)


def test_what_pillow_writes(tmp_path: Path) -> None:
    colours = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for picture in (Image.fromarray(colours), Image.fromarray(colours[..., 0]), Image.fromarray(colours[..., 0] > 9)):
        picture.save(tmp_path / "a.bmp")
        np.testing.assert_array_equal(read_image(str(tmp_path / "a.bmp")), np.asarray(picture.convert("RGB")))
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.bmp")), colours[..., 0] > 9)
    Image.fromarray(colours).save(tmp_path / "b.bmp")
    with pytest.raises(InputError, match=r"b.bmp is in colour, and a mask is not"):
        read_label(str(tmp_path / "b.bmp"))


def test_the_header_of_os2(tmp_path: Path) -> None:
    indices = RANDOM.integers(0, 16, (HEIGHT, WIDTH), dtype=np.uint8)
    rows, palette = bmp_rows(indices, 4), PALETTE[:, ::-1].tobytes()
    start = 14 + 12 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 4)
    (tmp_path / "a.bmp").write_bytes(head + palette + rows)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.bmp")), PALETTE[indices])


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("jpeg", r"is a BMP of 24 bits a pixel with compression 4, which is not read here: save it as PNG"),
        ("bits", r"is a BMP of 64 bits a pixel with compression 0, which is not read here: save it as PNG"),
        ("short", r"cannot be decoded \(it ends too early\): copy it again"),
        ("short runs", r"cannot be decoded \(it ends too early\): copy it again"),
        ("no width", r"cannot be decoded \(it claims 0 x 19 pixels\): copy it again"),
        ("no palette", r"cannot be decoded \(it has no palette\): copy it again"),
        ("huge", r"has too many pixels for one picture"),
    ],
)
def test_what_cannot_be_read_is_told_truly(tmp_path: Path, fault: str, sentence: str) -> None:
    bits, compression, size = 24, 0, (HEIGHT, WIDTH)
    pixels = bytes(HEIGHT * 84)
    if fault == "jpeg":
        compression = 4
    elif fault == "bits":
        bits = 64
    elif fault == "short":
        pixels = pixels[:-90]
    elif fault == "short runs":
        bits, compression, pixels = 8, 1, b"\5"
    elif fault == "no palette":
        bits = 8
    elif fault == "no width":
        size = (HEIGHT, 0)
    else:
        size = (60_000, 60_000)
    palette = bytes(range(64)) if fault == "short runs" else b""
    save_bmp(tmp_path / "a.bmp", pixels, size, bits=bits, compression=compression, palette=palette)
    with pytest.raises(InputError, match=rf"a.bmp {sentence}"):
        read_image(str(tmp_path / "a.bmp"))


def test_there_is_one_picture(tmp_path: Path) -> None:
    save_bmp(tmp_path / "a.bmp", bytes(HEIGHT * 84), (HEIGHT, WIDTH), bits=24)
    with (
        BmpFile.open(str(tmp_path / "a.bmp")) as image,
        pytest.raises(InputError, match="none has the number 1 from 0"),
    ):
        image.rgb(1)
    (tmp_path / "a.bmp").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a.bmp is no BMP: convert it to one"):
        BmpFile.open(str(tmp_path / "a.bmp"))


def test_a_few_runs_that_claim_millions_of_pixels_are_refused(tmp_path: Path) -> None:
    save_bmp(tmp_path / "a.bmp", b"\5\1\0\1", (13_000, 13_000), bits=8, compression=1, palette=bytes(range(64)))
    with pytest.raises(InputError, match=r"a.bmp cannot be decoded \(it ends too early\)"):
        read_image(str(tmp_path / "a.bmp"))
