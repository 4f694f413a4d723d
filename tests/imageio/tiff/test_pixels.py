"""TIFF of every kind of sample: the numbers that were put in, and what becomes black and white of them."""

from __future__ import annotations

import resource
import struct
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_files import packed, save_tiff
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.image_file import BoundedFile
from icmoe_monai.imageio.read import count_frames, read_image, read_label, read_size
from icmoe_monai.imageio.tiff import directories, libtiff
from icmoe_monai.imageio.tiff.pixels import TiffFile

HEIGHT, WIDTH = 35, 53
BASE = ((np.sin(np.arange(WIDTH) / 7) + np.cos(np.arange(HEIGHT)[:, None] / 5)) / 4 + 0.5).clip(0, 1)
COLOURS = np.stack([BASE, BASE**2, 1 - BASE], axis=-1)
WHOLE = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


def numbers(dtype: str) -> np.ndarray:
    """Of both signs where the type has them, and of its whole range where that is an integer's."""
    if dtype[0] == "f":
        return (BASE * 300 - 100).astype(dtype)
    found = np.iinfo(dtype)
    span = int(found.max) - int(found.min)
    return np.array([int(value * span * 0.999) + int(found.min) for value in BASE.ravel()], dtype).reshape(BASE.shape)


def stored(path: Path) -> np.ndarray:
    with TiffFile.open(str(path)) as image:
        return image.values()[0]


def stretched(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) * 255


def greys(path: Path) -> np.ndarray:
    found = read_image(str(path))
    assert found.dtype == np.float32
    assert (found[..., :1] == found).all()
    return found[..., 0]


@pytest.mark.parametrize("how", ["strips", "tiles", "deflated"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", WHOLE)
def test_every_type_is_read_as_tifffile_stores_it(tmp_path: Path, dtype: str, byteorder: str, how: str) -> None:
    values = numbers(dtype)
    options: dict = {
        "strips": {"rowsperstrip": 8},
        "tiles": {"tile": (16, 32)},
        # tifffile writes differences of neighbours for these
        "deflated": {"compression": "zlib", "predictor": 2 if dtype[0] != "f" and dtype[1] != "8" else 1},
    }[how]
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder, photometric="minisblack", **options)
    found = stored(tmp_path / "a.tif")
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values)
    is_short = np.dtype(dtype).itemsize == 1
    expected = values.astype(np.float64) - np.iinfo(dtype).min if is_short else stretched(values)
    np.testing.assert_allclose(greys(tmp_path / "a.tif"), expected, atol=1e-3)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 20, 31])
def test_any_number_of_bits_is_unpacked_as_the_specification_says(tmp_path: Path, bits: int, byteorder: str) -> None:
    values = (BASE * ((1 << bits) - 1)).astype(np.uint32)
    save_tiff(tmp_path / "a.tif", values[..., None], bits=bits, byteorder=byteorder)
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), values)
    expected = values * (255 / ((1 << bits) - 1)) if bits <= 8 else stretched(values)
    np.testing.assert_allclose(greys(tmp_path / "a.tif"), expected, atol=1e-3)
    signed = values.astype(np.int64) - (1 << bits - 1)
    save_tiff(
        tmp_path / "b.tif", (signed & (1 << bits) - 1)[..., None], bits=bits, byteorder=byteorder, sample_format=2
    )
    np.testing.assert_array_equal(stored(tmp_path / "b.tif"), signed)
    np.testing.assert_allclose(greys(tmp_path / "b.tif"), expected, atol=1e-3)


@pytest.mark.parametrize("order", ["II, lowest first", "II, highest first", "MM, highest first"])
def test_three_bytes_are_read_as_libtiff_and_as_tifffile_write_them(tmp_path: Path, order: str) -> None:
    values = (BASE * 0xFFFFFF).astype(np.uint32)
    data = np.ascontiguousarray(values.astype("<u4")[..., None].view(np.uint8)[..., :3])
    data = data if "lowest" in order else data[..., ::-1]
    byteorder = "<" if order.startswith("II") else ">"
    save_tiff(tmp_path / "a.tif", values[..., None], bits=24, byteorder=byteorder, data=data.tobytes())
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), values)


def test_a_length_that_the_file_does_not_have_is_no_damage_where_nothing_is_missing(tmp_path: Path) -> None:
    values = (BASE * 255).astype(np.uint8)
    save_tiff(tmp_path / "a.tif", values[..., None], bits=8, tags={279: (35_711_440,)})
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), values)


def test_floats_of_three_bytes(tmp_path: Path) -> None:
    """1 bit of sign, 7 of exponent (bias 63), 16 of fraction: Adobe's TIFF technical note 3."""
    known = {0x3F0000: 1.0, 0xBF8000: -1.5, 0x400000: 2.0, 0x3E4000: 0.625, 0: 0.0, 0x000001: 2.0**-78}
    values = np.array([list(known)] * 2, dtype=np.uint32)
    save_tiff(tmp_path / "a.tif", values[..., None], bits=24, byteorder=">", sample_format=3, data=packed(values, 24))
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), [list(known.values())] * 2)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_differences_of_neighbours_are_summed_in_so_many_bits(tmp_path: Path, bits: int) -> None:
    values = np.array([[100, 4000, 7, 3999], [4095, 0, 4095, 1]]) & (1 << bits) - 1
    differences = np.diff(values, axis=1, prepend=0) & (1 << bits) - 1
    data = differences.astype("<u2").tobytes() if bits == 16 else packed(differences, bits)
    save_tiff(tmp_path / "a.tif", values[..., None], bits=bits, data=data, tags={317: (2,)})
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_differences_of_the_bytes_of_floats(tmp_path: Path, dtype: str) -> None:
    """Adobe's TIFF technical note 3: a row's bytes by their rank, the highest first, each less the one before."""
    values = (BASE * 7 - 3).astype(dtype)
    ranked = values.astype(">" + dtype).view(np.uint8).reshape(HEIGHT, WIDTH, -1).swapaxes(1, 2).reshape(HEIGHT, -1)
    data = np.diff(ranked, axis=1, prepend=np.uint8(0)).astype(np.uint8).tobytes()
    save_tiff(
        tmp_path / "a.tif", values[..., None], bits=values.itemsize * 8, sample_format=3, data=data, tags={317: (3,)}
    )
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), values)


@pytest.mark.parametrize(("dtype", "planar"), list(product(["u1", "u2", "f4"], ["contig", "separate"])))
@pytest.mark.parametrize("how", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7, "compression": "zlib"}])
def test_colours_pixel_by_pixel_and_in_planes(tmp_path: Path, dtype: str, planar: str, how: dict) -> None:
    values = (COLOURS * {"u1": 255, "u2": 65535, "f4": 1}[dtype]).astype(dtype)
    data = values if planar == "contig" else np.moveaxis(values, -1, 0).copy()
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig=planar, **how)
    expected = {"u1": values, "u2": values / 257, "f4": stretched(values)}[dtype]
    np.testing.assert_allclose(read_image(str(tmp_path / "a.tif")), expected, atol=1e-3)


@pytest.mark.parametrize(("most", "white"), [(200, 255), (900, 1023), (4000, 4095), (16_000, 16_383), (60_000, 65_535)])
def test_deep_colours_are_scaled_by_the_bits_that_they_need(tmp_path: Path, most: int, white: int) -> None:
    values = (COLOURS / COLOURS.max() * most).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    np.testing.assert_allclose(read_image(str(tmp_path / "a.tif")), values * (255 / white), atol=1e-3)


def test_colours_of_twelve_bits_are_scaled_by_their_own_depth(tmp_path: Path) -> None:
    values = (COLOURS * 900).astype(np.uint16)
    save_tiff(tmp_path / "a.tif", values, bits=12, photometric=2)
    np.testing.assert_allclose(read_image(str(tmp_path / "a.tif")), values * (255 / 4095), atol=1e-3)


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "packbits", "tiff_deflate", "jpeg", "group3", "group4", "tiff_ccitt"]
)
def test_what_pillow_writes_by_libtiff_is_what_it_reads(tmp_path: Path, compression: str) -> None:
    is_fax = compression in ("group3", "group4", "tiff_ccitt")
    values = (COLOURS * 255).astype(np.uint8) if not is_fax else BASE > 0.5
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
    with Image.open(tmp_path / "a.tif") as picture:
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif")), expected)


def test_lzma_and_zstandard(tmp_path: Path) -> None:
    """Written by tifffile with Python's lzma; by hand, as RFC 8878 says, in a frame of one raw block."""
    values = (BASE * 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="lzma")
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), values)
    length = values.size
    frame = bytes.fromhex("28b52ffd 60") + (length - 256).to_bytes(2, "little")
    frame += (length << 3 | 1).to_bytes(3, "little") + values.tobytes()
    save_tiff(tmp_path / "b.tif", values[..., None], bits=8, data=frame, tags={259: (50000,)})
    if libtiff.knows(50000):
        np.testing.assert_array_equal(stored(tmp_path / "b.tif"), values)
    elif find_spec("imagecodecs") is None:
        with pytest.raises(InputError, match=r"b.tif is compressed by ZSTD, whose decoder is not installed"):
            stored(tmp_path / "b.tif")


def test_deflated_bytes_that_do_not_fit_their_checksum_are_damage(tmp_path: Path) -> None:
    """RFC 1950: the data end with the Adler-32 of what was compressed."""
    tifffile.imwrite(tmp_path / "a.tif", MASK.astype(np.uint8), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = file.pages[0].dataoffsets[0] + file.pages[0].databytecounts[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[end - 1] ^= 1
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(
        InputError, match=r"a.tif cannot be decoded \(its compressed bytes are damaged\): copy it again"
    ):
        read_label(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (4, 1), (2, 1)])
def test_ycbcr_is_what_libtiff_makes_of_it(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    """Section 21 of TIFF 6.0 with its default coefficients, 0.299, 0.587 and 0.114, and no headroom."""
    across, down = subsampling
    height, width = 8, 16
    luma = np.arange(height * width).reshape(height, width) + 50
    red, blue = (np.tile(np.arange(width // across) * step + 100, (height // down, 1)) for step in (3, -2))
    blocks = luma.reshape(height // down, down, width // across, across).swapaxes(1, 2)
    units = np.dstack([blocks.reshape(*blocks.shape[:2], -1), blue, red]).astype(np.uint8)
    save_tiff(
        tmp_path / "a.tif", np.zeros((height, width, 3)), bits=8, photometric=6, data=units.tobytes(),
        tags={530: subsampling},
    )  # fmt: skip
    cb, cr = (part.repeat(down, 0).repeat(across, 1) - 128.0 for part in (blue, red))
    expected = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], axis=-1)
    np.testing.assert_allclose(read_image(str(tmp_path / "a.tif")), expected.clip(0, 255), atol=2)


def test_inks_and_palettes_become_colours(tmp_path: Path) -> None:
    picture = Image.fromarray((COLOURS * 255).astype(np.uint8))
    for mode in ("CMYK", "P"):
        picture.convert(mode).save(tmp_path / "a.tif")
        with Image.open(tmp_path / "a.tif") as written:
            expected = np.asarray(written.convert("RGB"))
        np.testing.assert_allclose(read_image(str(tmp_path / "a.tif")), expected, atol=1)
    inks = np.dstack([COLOURS, BASE / 2]) * 255
    expected = (255 - inks[..., :3].round()) * (1 - inks[..., 3:].round() / 255)
    for dtype, black in (("u1", 0), ("i1", 128)):
        values = (inks.round() - black).astype(dtype)
        tifffile.imwrite(tmp_path / "c.tif", values, photometric="separated")
        np.testing.assert_allclose(read_image(str(tmp_path / "c.tif")), expected, atol=1e-3)
    for bits in (1, 4):
        palette = np.random.default_rng(0).integers(0, 256, (3, 1 << bits)) * 257
        indices = (BASE * ((1 << bits) - 1)).astype(np.uint8)
        tags = {320: tuple(palette.ravel().tolist())}
        save_tiff(tmp_path / "b.tif", indices[..., None], bits=bits, photometric=3, tags=tags)
        np.testing.assert_array_equal(read_image(str(tmp_path / "b.tif")), (palette // 257).T[indices])
        np.testing.assert_array_equal(stored(tmp_path / "b.tif"), indices)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("opacity", ["none of it", "some", "all"])
def test_a_picture_that_is_transparent_everywhere_is_seen(tmp_path: Path, dtype: str, opacity: str) -> None:
    most = np.iinfo(dtype).max
    alpha = {"none of it": 0 * BASE, "some": (BASE > 0.5) * 1.0, "all": BASE**0}[opacity]
    values = (COLOURS * most).astype(dtype)
    rgba = np.dstack([values, (alpha * most).astype(dtype)])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    shown = alpha if opacity == "some" else alpha**0
    np.testing.assert_allclose(read_image(str(tmp_path / "a.tif")), values / (most / 255) * shown[..., None], atol=1e-3)


def test_channels_beyond_the_colours_are_passed_over(tmp_path: Path) -> None:
    values = (COLOURS * 255).astype(np.uint8)
    more = np.dstack([values, values[..., :2]])
    tifffile.imwrite(tmp_path / "a.tif", more, photometric="rgb", extrasamples=["unspecified"] * 2)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif")), values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    values = (COLOURS * 255).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    with Image.open(tmp_path / "a.tif") as picture:
        picture.load()  # which turns it
        expected = np.asarray(picture)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif")), expected)
    assert read_size(str(tmp_path / "a.tif")) == expected.shape[:2]


MASK = BASE > 0.6


@pytest.mark.parametrize(
    "values",
    [MASK, MASK.astype(np.uint8), MASK.astype(np.uint8) * 255, MASK.astype(np.uint16) * 65535, MASK * 0 > 0],
    ids=["bool", "0 and 1", "0 and 255", "16 bits", "empty"],
)
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_masks_that_tifffile_writes_are_the_numbers_that_it_was_given(
    tmp_path: Path, values: np.ndarray, photometric: str
) -> None:
    how = {} if values.dtype == bool and photometric == "miniswhite" else {"photometric": photometric}
    tifffile.imwrite(tmp_path / "a.tif", values, **how)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric.name == photometric.upper()  # bool arrays are white-is-zero by themselves
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.tif")), values != 0)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_white_is_zero_is_refused_where_it_may_be_a_mask_both_ways(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    sentence = "stores white as zero, so that it cannot be known whether its zeros are the background: save it as PNG"
    for values in (MASK * top, MASK * 0, np.full_like(MASK, 1, dtype=int) * top):
        save_tiff(tmp_path / "a.tif", values[..., None], bits=bits, photometric=0)
        for options in ({}, {"out_channels": top + 1}, {"instances": True}):
            with pytest.raises(InputError, match=sentence):
                read_label(str(tmp_path / "a.tif"), **options)
    if bits > 1:  # inverted, these would be no class numbers
        save_tiff(tmp_path / "a.tif", (MASK * 2)[..., None], bits=bits, photometric=0)
        np.testing.assert_array_equal(read_label(str(tmp_path / "a.tif"), out_channels=3), MASK * 2)


@pytest.mark.parametrize("dtype", WHOLE)
def test_class_numbers_of_every_type(tmp_path: Path, dtype: str) -> None:
    classes = np.floor(BASE * 3.9).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", classes)
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.tif"), out_channels=4), classes)


@pytest.mark.skipif(find_spec("imagecodecs") is None, reason="nothing else writes and reads these")
@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "jpegxl", "jpegxr"])
def test_class_numbers_are_not_read_from_what_may_have_lost_them(tmp_path: Path, compression: str) -> None:
    classes = np.repeat(np.floor(BASE * 3.9).astype(np.uint8)[..., None], 3, axis=2)

    def save(values: np.ndarray, lossy: bool) -> str:
        options = {"webp": {"lossless": not lossy}, "jpegxl": {"lossless": not lossy}}.get(compression, {})
        options |= {"level": 60} if lossy and compression != "jpegxl" else {}
        tifffile.imwrite(
            tmp_path / "a.tif", values, photometric="rgb", compression=compression, compressionargs=options
        )
        return str(tmp_path / "a.tif")

    with pytest.raises(InputError, match=r"a.tif is stored with loss, which keeps no class numbers: save the mask as"):
        read_label(save(classes, lossy=True), out_channels=4)
    mask = np.repeat(MASK[..., None].astype(np.uint8) * 255, 3, axis=2)
    assert np.mean(read_label(save(mask, lossy=True)) == MASK) > 0.99
    if compression in ("webp", "jpeg2000"):  # of which a file says whether it is lossless
        np.testing.assert_array_equal(read_label(save(classes, lossy=False), out_channels=4), classes[..., 0])


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="it reads more kinds")
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("webp", r"is compressed by WEBP, whose decoder is not installed: pip install imagecodecs, or save"),
        ("jpeg of 12 bits", r"is compressed by JPEG of 12 bits and 1 channels, whose decoder is not installed"),
        ("thunderscan", r"is compressed by THUNDERSCAN, which is not read here: save it with deflate compression"),
        ("old jpeg", r"is compressed by the old JPEG of TIFF 6.0 in a way that is not read here: save it"),
        ("lab", r"stores its colours as CIELAB: convert it to RGB or greyscale"),
        ("complex", r"stores its samples in different or complex formats: save it with 8 or 16 bits"),
        ("5, 6 and 5 bits", r"stores its samples in different or complex formats: save it with 8 or 16 bits"),
        ("33 bits", r"stores samples of 33 bits: save it with 8 or 16 bits"),
        ("deep", r"has 1 channels, 3 deep: save it as RGB or greyscale"),
    ],
)
def test_a_sound_file_of_a_kind_that_is_not_read_is_never_called_damaged(
    tmp_path: Path, kind: str, sentence: str
) -> None:
    values, bits, tags, photometric = BASE[..., None] * 0, 8, {}, 1
    data = bytes(HEIGHT * WIDTH * 8)
    numbers = {"webp": 50001, "old jpeg": 6, "jpeg of 12 bits": 7, "thunderscan": 32809}
    if kind in numbers:
        tags = {259: (numbers[kind],)}
        bits = 12 if "12" in kind else 8
    elif kind == "lab":
        values, photometric = COLOURS, 8
    elif kind == "complex":
        bits, tags = 64, {339: (6,)}
    elif kind == "5, 6 and 5 bits":
        values, photometric, tags = COLOURS, 2, {258: (5, 6, 5)}
    elif kind == "33 bits":
        bits = 33
    elif kind == "deep":
        tags = {32997: (3,)}
    save_tiff(tmp_path / "a.tif", values, bits=bits, photometric=photometric, tags=tags, data=data)
    for read in (read_image, read_label):
        with pytest.raises(InputError, match=rf"a.tif {sentence}") as told:
            read(str(tmp_path / "a.tif"))
        assert "copy it again" not in str(told.value)


def test_numbers_that_may_be_black_or_white_are_refused(tmp_path: Path) -> None:
    """Without PhotometricInterpretation, which TIFF 6.0 asks for, libtiff takes 0 for black, and Pillow for white."""
    save_tiff(tmp_path / "a.tif", (BASE[..., None] * 255).astype(np.uint8), bits=8)
    tag, other = (struct.pack("<HHI", code, 4, 1) for code in (262, 263))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes().replace(tag, other))
    with pytest.raises(InputError, match=r"a.tif does not say whether 0 is black or white \(no Photometric.*: save it"):
        read_image(str(tmp_path / "a.tif"))


def test_pages_are_found_once_however_many_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all pages one by one, each with the file opened anew, walks the chain of directories once."""
    path, num_pages = str(tmp_path / "a.tif"), 60
    tifffile.imwrite(
        path, np.arange(num_pages * 256, dtype=np.uint16).reshape(num_pages, 16, 16), photometric="minisblack"
    )
    directories.find_pages.cache_clear()
    seeks = 0

    class Counted(BoundedFile):
        def seek(self, *place: int) -> int:
            nonlocal seeks
            seeks += 1
            return super().seek(*place)

    monkeypatch.setattr("icmoe_monai.imageio.image_file.BoundedFile", Counted)
    assert count_frames(path) == num_pages
    per_page = []
    for frame in range(num_pages):
        seeks = 0
        with TiffFile.open(path) as image:
            assert image.values(frame)[0][0, 0] == frame * 256
        per_page.append(seeks)
    assert max(per_page) <= min(per_page) + 4
    assert directories.find_pages.cache_info().misses == 1


def test_a_stack_that_is_cut_short_is_not_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for page in range(4):
            file.write(np.full((20, 20), page, np.uint8), photometric="minisblack", metadata=None, contiguous=False)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        last = file.pages[3].offset
    for length in (last, last + 10):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a.tif cannot be decoded \(it ends (before|within) its page 4\): copy"):
            count_frames(str(path))


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("first", ["whole", "thumbnail"])
def test_smaller_copies_of_an_image_are_no_pages(tmp_path: Path, first: str, is_big: bool) -> None:
    """TIFF 6.0, section 8: bit 0 of NewSubfileType is a reduced-resolution version of another image in the file."""
    values, small = ((COLOURS * 255).astype(np.uint8)[::step, ::step].copy() for step in (1, 2))
    pages = [(values, 0), (small, 1), (values[::-1].copy(), 2), (values, 1)]
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=is_big, byteorder=">") as file:
        for page, kind in pages if first == "whole" else pages[1::-1]:
            file.write(page, photometric="rgb", subfiletype=kind, metadata=None, contiguous=False)
    kept = [values, values[::-1], values] if first == "whole" else [values]  # one is called a copy, and is not smaller
    assert count_frames(str(tmp_path / "a.tif")) == len(kept)
    for frame, expected in enumerate(kept):
        np.testing.assert_array_equal(read_image(str(tmp_path / "a.tif"), frame=frame), expected)


def test_a_thumbnail_is_not_taken_for_the_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write((BASE[::2, ::2] * 255).astype(np.uint8), photometric="minisblack", subfiletype=1, subifds=1)
        file.write((BASE * 255).astype(np.uint8), photometric="minisblack")
    with pytest.raises(
        InputError, match=r"a.tif has a small copy for its page, and the image itself in a sub-directory"
    ):
        count_frames(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("how", ["tifffile", "ImageJ"])
def test_a_stack_with_one_directory_is_not_its_first_image(tmp_path: Path, how: str) -> None:
    """As ImageJ writes stacks of more than 4 GiB; tifffile's `truncate` makes the same of small ones."""
    stack = np.stack([BASE, BASE**2, BASE**3] * 2).astype(np.float32)
    options: dict = {"imagej": True} if how == "ImageJ" else {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", stack, truncate=True, **options)
    with pytest.raises(
        InputError, match=r"a.tif holds a stack of which only the first image is a page: save its images"
    ):
        read_image(str(tmp_path / "a.tif"))
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        end = file.pages[0].dataoffsets[0] + stack[0].nbytes
    (tmp_path / "a.tif").write_bytes(content[:end])  # the page alone, taken out of a stack
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), stack[0])


def test_directories_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    save_tiff(tmp_path / "a.tif", BASE[..., None] * 0, bits=8)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    place = int.from_bytes(content[4:8], "little")
    num_tags = int.from_bytes(content[place : place + 2], "little")
    end = place + 2 + 12 * num_tags
    content[end : end + 4] = place.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    assert count_frames(str(tmp_path / "a.tif")) == 1


@pytest.mark.parametrize("compression", [3, 4, 5, 7, 32773])
def test_a_few_bytes_that_claim_millions_of_pixels_take_no_memory_for_them(tmp_path: Path, compression: int) -> None:
    side = 13_000
    tags = {256: (side,), 257: (side,), 278: (side,), 259: (compression,)}
    save_tiff(
        tmp_path / "a.tif", BASE[..., None], bits=1 if compression in (3, 4) else 8, data=bytes(range(200)), tags=tags
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"a.tif cannot be decoded \(a strip or tile is too short for what it claims"):
        read_image(str(tmp_path / "a.tif"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
