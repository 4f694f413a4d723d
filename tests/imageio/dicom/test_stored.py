"""Bits and colours of stored values, where header and frame disagree, or where bits lie beside the values."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dicom_coding import CODERS, by_jpeg, by_jpeg_2000, by_jpeg_ls, save_coded
from dicom_files import asymmetric, save
from PIL import Image
from pydicom import uid

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom import decoders
from icmoe_monai.imageio.dicom.header import read_header
from icmoe_monai.imageio.dicom.stored import read_stored
from icmoe_monai.imageio.image_file import open_file
from icmoe_monai.imageio.read import read_image


def stored(path: str) -> np.ndarray:
    with open_file(path) as file:
        return read_stored(read_header(path, file), 0).values


def values_of_12_bits(signed: bool) -> np.ndarray:
    values = asymmetric(4095).astype(np.int64) - (2048 if signed else 0)
    return values.repeat(4, axis=0).repeat(4, axis=1)  # JPEG 2000 is not made of less than 32 pixels a side


def words_of(values: np.ndarray, high: int) -> np.ndarray:
    """16-bit words with the 12 bits of each value up to bit `high`, and noise in all other bits."""
    shift = high - 11
    noise = np.random.default_rng(0).integers(0, 2**16, values.shape)
    mask = 0xFFF << shift
    return (((values & 0xFFF) << shift) | (noise & ~mask)).astype(np.uint16)


@pytest.mark.parametrize(
    "syntax",
    [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, *CODERS],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("high", [11, 13, 15])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_only_the_bits_below_high_bit_count(tmp_path: Path, syntax: uid.UID, high: int, signed: bool) -> None:
    """PS3.5, 8.1.1: a value is Bits Stored bits up to High Bit, and nothing may be assumed of the others."""
    if syntax == uid.JPEGLosslessSV1 and find_spec("imagecodecs") is None:
        pytest.skip("imagecodecs makes and reads such files")
    values = values_of_12_bits(signed)
    words = words_of(values, high)
    tags = {"BitsStored": 12, "HighBit": high, "PixelRepresentation": int(signed)}
    if syntax in CODERS:
        path = save_coded(tmp_path / "a.dcm", words, [CODERS[syntax](words)], syntax, **tags)
    else:
        path = save(tmp_path / "a.dcm", words, syntax, **tags)
    np.testing.assert_array_equal(stored(path), values)


@pytest.mark.parametrize("high", [7, 40, None])
def test_high_bit_that_cannot_be_is_the_lowest_place(tmp_path: Path, high: int | None) -> None:
    values = values_of_12_bits(False)
    path = save(tmp_path / "a.dcm", values.astype(np.uint16), BitsStored=12, HighBit=high)
    np.testing.assert_array_equal(stored(path), values)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_frame_with_the_values_alone_is_not_shifted(tmp_path: Path, signed: bool) -> None:
    """Of 12 bits of a frame none lies beside the value, whatever High Bit says of the words before compression."""
    values = values_of_12_bits(signed).astype(np.int16 if signed else np.uint16)
    coded = by_jpeg_2000(values, bits_stored=12)
    tags = {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": int(signed)}
    path = save_coded(tmp_path / "a.dcm", values, [coded], uid.JPEG2000Lossless, **tags)
    np.testing.assert_array_equal(stored(path), values)


def test_loss_beyond_the_range_does_not_turn_white_into_black(tmp_path: Path) -> None:
    values = np.where(np.arange(40 * 60).reshape(40, 60) % 7 < 4, 4095, 4080).astype(np.uint16)
    coded = by_jpeg_ls(values, near=9)
    path = save_coded(tmp_path / "a.dcm", values, [coded], uid.JPEGLSNearLossless, BitsStored=12, HighBit=11)
    found = stored(path).astype(int)
    assert found.max() <= 4095
    assert np.abs(found - values).max() <= 9  # T.87: no sample is further off than NEAR


def lesion() -> np.ndarray:
    """Red and blue areas, (H, W, 3), smooth enough for subsampled colours."""
    y, x = np.mgrid[:48, :64]
    spot = np.exp(-(((x - 25) / 12) ** 2 + ((y - 20) / 9) ** 2))[..., None]
    return (np.array([220, 150, 130]) * (1 - spot) + np.array([60, 30, 90]) * spot).round().astype(np.uint8)


def without(coded: bytes, marker: int) -> bytes:
    """A JPEG without its first segment of a kind."""
    at = coded.index(bytes((0xFF, marker)))
    return coded[:at] + coded[at + 2 + int.from_bytes(coded[at + 2 : at + 4], "big") :]


def renamed(coded: bytes, names: bytes) -> bytes:
    """A JPEG whose three components have other names."""
    changed = bytearray(coded)
    frame, scan = coded.index(b"\xff\xc0"), coded.index(b"\xff\xda")
    for number, name in enumerate(names):
        changed[frame + 10 + 3 * number] = changed[scan + 5 + 2 * number] = name
    return bytes(changed)


JFIF, ADOBE, PHOTOSHOP = 0xE0, 0xEE, b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
CODED = {
    "JFIF": by_jpeg(lesion(), quality=95, subsampling=2),
    "no marker, subsampled": without(by_jpeg(lesion(), quality=95, subsampling=2), JFIF),
    "no marker, not subsampled": without(by_jpeg(lesion(), quality=95, subsampling=0), JFIF),
    "no marker, subsampled, other names": renamed(
        without(by_jpeg(lesion(), quality=95, subsampling=2), JFIF), b"\0\1\2"
    ),
    "Adobe, YCbCr": without(by_jpeg(lesion(), quality=95), JFIF)[:2]
    + PHOTOSHOP
    + b"\1"
    + without(by_jpeg(lesion(), quality=95), JFIF)[2:],
    "R, G, B without a marker": without(by_jpeg(lesion(), quality=95, keep_rgb=True), ADOBE),
    "R, G, B and Adobe": by_jpeg(lesion(), quality=95, keep_rgb=True),
    "1, 2, 3 and Adobe of RGB": renamed(by_jpeg(lesion(), quality=95, keep_rgb=True), b"\1\2\3"),
}


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("kind", CODED)
def test_colour_of_a_jpeg_is_that_which_libjpeg_takes_it_for(tmp_path: Path, kind: str, photometric: str) -> None:
    """The source of the right colours is libjpeg itself, which Pillow opens the bare frame with."""
    path = save_coded(
        tmp_path / "a.dcm", lesion(), [CODED[kind]], uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric
    )
    right = np.asarray(Image.open(io.BytesIO(CODED[kind])).convert("RGB")).astype(int)
    assert np.abs(right - lesion()).max() < 25
    assert np.abs(right[..., 0] - right[..., 2]).max() > 80  # a wrong colour would be seen
    np.testing.assert_allclose(read_image(path), right, atol=2)  # both round


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_header_tells_the_colour_where_libjpeg_only_guesses(tmp_path: Path, photometric: str) -> None:
    """Such RGB is in pydicom's data (SC_jpeg_no_color_transform.dcm): no marker, names 0, 1, 2, not subsampled."""
    options: dict[str, Any] = {"keep_rgb": True} if photometric == "RGB" else {"subsampling": 0}
    coded = without(by_jpeg(lesion(), quality=95, **options), ADOBE if photometric == "RGB" else JFIF)
    coded = renamed(coded, b"\0\1\2")
    path = save_coded(
        tmp_path / "a.dcm", lesion(), [coded], uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric
    )
    np.testing.assert_allclose(read_image(path), lesion(), atol=25)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT", "YBR_FULL"])
def test_transformed_jpeg_2000_is_rgb(tmp_path: Path, photometric: str) -> None:
    coded = by_jpeg_2000(lesion(), use_mct=True)
    path = save_coded(
        tmp_path / "a.dcm", lesion(), [coded], uid.JPEG2000Lossless, PhotometricInterpretation=photometric
    )
    np.testing.assert_array_equal(read_image(path), lesion())


def test_jpeg_of_8_bits_in_words_of_16(tmp_path: Path) -> None:
    grey = lesion()[..., 0]
    coded = by_jpeg(grey, quality=95)
    tags = {"BitsStored": 12, "HighBit": 11}
    path = save_coded(tmp_path / "a.dcm", grey.astype(np.uint16), [coded], uid.JPEGBaseline8Bit, **tags)
    np.testing.assert_array_equal(stored(path), np.asarray(Image.open(io.BytesIO(coded))))
    coded = by_jpeg(lesion(), quality=95)
    path = save_coded(tmp_path / "b.dcm", lesion().astype(np.uint16), [coded], uid.JPEGBaseline8Bit)
    np.testing.assert_allclose(read_image(path), lesion(), atol=25)


def test_frames_that_do_not_fit_their_header(tmp_path: Path) -> None:
    grey = lesion()[..., 0]
    deep = save_coded(
        tmp_path / "a.dcm", grey, [by_jpeg_2000(grey.astype(np.uint16), bits_stored=16)], uid.JPEG2000Lossless
    )
    with pytest.raises(InputError, match=r"a.dcm holds a frame of more bits than its header says \(16, not 8\)"):
        stored(deep)
    coloured = save_coded(tmp_path / "b.dcm", lesion()[..., 0], [CODED["JFIF"]], uid.JPEGBaseline8Bit)
    with pytest.raises(InputError, match=r"b.dcm holds a frame of other channels than its header says \(3, not 1\)"):
        stored(coloured)


def damaged_jpeg_ls(path: Path) -> str:
    values = values_of_12_bits(False).astype(np.uint16)
    coded = by_jpeg_ls(values)
    return save_coded(path, values, [coded[: len(coded) // 2]], uid.JPEGLSLossless)


def test_decoders_that_fail_and_others_are_named(tmp_path: Path) -> None:
    if any(find_spec(module) for module in ("gdcm", "imagecodecs", "libjpeg")):
        pytest.skip("another decoder of these files is installed")
    with pytest.raises(
        InputError, match=r"a.dcm cannot be decoded by pyjpegls, .* JPEG-LS .*: install imagecodecs or python-gdcm"
    ) as caught:
        stored(damaged_jpeg_ls(tmp_path / "a.dcm"))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, uid.HEVCMP51], ids=lambda syntax: syntax.keyword)
def test_transfer_syntaxes_that_pydicom_does_not_know_are_no_damage(tmp_path: Path, syntax: uid.UID) -> None:
    path = save_coded(tmp_path / "a.dcm", lesion(), [b"\0\0\1\xb3 a video"], syntax)
    with pytest.raises(InputError, match=r"a.dcm cannot be decoded: pydicom does not know its transfer .*convert"):
        read_image(path)


def test_next_decoder_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values_of_12_bits(False).astype(np.uint16)
    monkeypatch.setitem(sys.modules, "imagecodecs", SimpleNamespace(jpegls_decode=lambda coded: values))
    monkeypatch.setattr(decoders, "_has_imagecodecs", lambda: True)
    np.testing.assert_array_equal(stored(damaged_jpeg_ls(tmp_path / "a.dcm")), values)


@pytest.mark.parametrize("kind", ["lossless", "12 bits"])
def test_imagecodecs_reads_the_jpegs_that_nothing_else_here_does(tmp_path: Path, kind: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = values_of_12_bits(False).astype(np.uint16)
    if kind == "lossless":
        coded, syntax, atol = imagecodecs.ljpeg_encode(values, bitspersample=12), uid.JPEGLosslessSV1, 0
    else:
        coded, syntax, atol = imagecodecs.jpeg8_encode(values, level=100, bitspersample=12), uid.JPEGExtended12Bit, 40
    path = save_coded(tmp_path / "a.dcm", values, [coded], syntax, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(stored(path).astype(int), values, atol=atol)
    cut = save_coded(tmp_path / "b.dcm", values, [coded[: len(coded) * 9 // 10]], syntax, BitsStored=12, HighBit=11)
    with pytest.raises(InputError, match=r"b.dcm cannot be decoded by imagecodecs, .*copy it again or remove it"):
        stored(cut)


def test_cut_short_jpeg_is_refused_and_not_made_up(tmp_path: Path) -> None:
    for part in (0.87, 0.97):
        coded = CODED["JFIF"][: int(len(CODED["JFIF"]) * part)]
        path = save_coded(tmp_path / "a.dcm", lesion(), [coded], uid.JPEGBaseline8Bit)
        with pytest.raises(InputError, match=r"a.dcm cannot be decoded by Pillow, .*: copy it again or remove it"):
            stored(path)
