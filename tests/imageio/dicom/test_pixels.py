from __future__ import annotations

import logging
import shutil
import traceback
import tracemalloc
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from by_path import ByPath
from dicom_files import HEIGHT, WIDTH, asymmetric, item, save
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.content import begins_as_dicom
from icmoe_monai.imageio.dicom.dicomdir import read_dicomdir
from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.pixels import DicomFile
from icmoe_monai.imageio.dicom.scale import read_scale
from icmoe_monai.imageio.image_file import NotAnImageError
from icmoe_monai.imageio.read import read_image

dicom = ByPath(DicomFile)

SHIPPED = [
    "693_J2KI.dcm",  # JPEG 2000, signed, window
    "CT_small.dcm",  # no window, padding
    "ExplVR_BigEnd.dcm",  # RGB, 8 bits as big-endian words
    "GDCMJ2K_TextGBR.dcm",  # YBR_RCT
    "J2K_pixelrep_mismatch.dcm",  # several windows
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",  # bytes after the pixels
    "SC_jpeg_no_color_transform_2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",  # YBR_FULL_422 as JPEG
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg.dcm",  # implicit VRs against its transfer syntax
    "SC_rgb_jpeg_dcmd.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_rle_32bit.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "dicomdirtests/77654033/CR1/6154",  # MONOCHROME1, no suffix
    "examples_jpeg2k.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",  # 30 frames
]


class Info(NamedTuple):
    num_frames: int
    height: int
    width: int
    series: str
    position: tuple[float, ...]


def inspect(path: str) -> Info:
    """What the header says."""
    with DicomFile.open(path) as image:
        return Info(image.num_frames, *image.size, image.series, image.position)


def shipped(name: str) -> str:
    folder = Path(get_testdata_file("CT_small.dcm", download=False)).parent
    return str(folder / name)


def reference(path: str) -> tuple[Dataset, np.ndarray]:
    """The header, and all frames by pydicom's own functions, (N, H, W, 3) in 0..255."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(path)
        stored = pixel_array(dataset)
        if int(dataset.get("NumberOfFrames") or 1) == 1:
            stored = stored[None]
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            return dataset, apply_color_lut(stored, dataset) // 256
        if dataset.SamplesPerPixel == 3:
            return dataset, stored // 2 ** (dataset.BitsStored - 8)
        values = apply_modality_lut(stored, dataset)
        if "WindowWidth" in dataset:
            bits, signed = dataset.BitsStored, dataset.PixelRepresentation
            ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
            low, high = apply_modality_lut(ends, dataset).tolist()
            grey = (apply_voi_lut(values, dataset) - low) / (high - low) * 255
        else:
            low, high = np.percentile(values[stored != dataset.get("PixelPaddingValue", -(10**9))], (0.5, 99.5))
            grey = ((values - low) / (high - low)).clip(0, 1) * 255
        grey = 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey
        return dataset, np.repeat(grey[..., None], 3, axis=-1)


def coloured() -> np.ndarray:
    pattern = np.stack([asymmetric(), np.full((HEIGHT, WIDTH), 40), 255 - asymmetric()], axis=-1)
    return pattern.astype(np.uint8)


def table(entries: np.ndarray, first: int, bits: int, order: str = "<") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", entries.astype(f"{order}u2").tobytes())
    return item


def check_grey(path: str, expected: np.ndarray, frame: int = 0, atol: float = 1e-3) -> None:
    read = dicom.rgb(path, frame)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, np.repeat(expected[..., None], 3, axis=-1), atol=atol)


@pytest.mark.parametrize("name", SHIPPED)
def test_equal_to_the_functions_of_pydicom(name: str) -> None:
    path = shipped(name)
    dataset, frames = reference(path)
    info = inspect(path)
    assert (info.num_frames, info.height, info.width) == frames.shape[:3]
    assert dicom.size(path) == dicom.size(path, whole=True) == (dataset.Rows, dataset.Columns)
    assert frames.std() > 0.5
    for frame in {0, len(frames) // 2, len(frames) - 1}:
        read = dicom.rgb(path, frame)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, frames[frame], atol=1e-3)


def test_deflated_is_inflated() -> None:
    stored = dcmread(shipped("image_dfl.dcm")).pixel_array.astype(np.float64)
    low, high = np.percentile(stored, (0.5, 99.5))
    check_grey(shipped("image_dfl.dcm"), ((stored - low) / (high - low)).clip(0, 1) * 255)


def test_frames_of_one_file_differ() -> None:
    frames = [dicom.rgb(shipped("examples_ybr_color.dcm"), frame) for frame in (0, 14, 29)]
    assert np.abs(frames[0] - frames[1]).max() > 20
    assert np.abs(frames[1] - frames[2]).max() > 20


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("kind", ["u1", "u2", "i2"])
def test_arrays_are_row_column(tmp_path: Path, syntax: uid.UID, kind: str) -> None:
    maximum = 255 if kind == "u1" else 4000
    offset = 1000 if kind == "i2" else 0
    path = save(
        tmp_path / "1.2.840.1",
        np.stack([asymmetric(maximum) - offset, asymmetric(maximum)[::-1] - offset]).astype(kind),
        syntax,
        WindowCenter=maximum / 2 - offset + 0.5,
        WindowWidth=maximum + 1,
    )
    check_grey(path, asymmetric(maximum) * (255 / maximum), atol=0.05)
    check_grey(path, asymmetric(maximum)[::-1] * (255 / maximum), frame=1, atol=0.05)
    assert dicom.size(path, whole=True) == (HEIGHT, WIDTH)


def test_colour_by_plane_and_by_pixel(tmp_path: Path) -> None:
    by_pixel = save(tmp_path / "a.dcm", coloured())
    planes = np.ascontiguousarray(coloured().transpose(2, 0, 1))
    by_plane = save(tmp_path / "b.dcm", coloured(), PlanarConfiguration=1, PixelData=planes.tobytes())
    for path in (by_pixel, by_plane):
        np.testing.assert_array_equal(dicom.rgb(path), coloured())


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.asarray(Image.fromarray(coloured()).convert("YCbCr"))
    path = save(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(dicom.rgb(path), coloured(), atol=4)  # both conversions round


@pytest.mark.parametrize(("bits", "factor", "white"), [(16, 257, 65535), (12, 16, 4095), (16, 16, 4095), (10, 4, 1023)])
def test_deep_colour_goes_to_the_white_of_its_depth(tmp_path: Path, bits: int, factor: int, white: int) -> None:
    """Bits Stored tells the depth, or where a camera of 12 bits fills words of 16, the largest value does."""
    values = coloured().astype(np.uint16) * factor
    path = save(tmp_path / "a.dcm", values, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_allclose(dicom.rgb(path), values * (255 / white), atol=1e-3)
    assert dicom.rgb(path).max() > 250


def palette(bits: int, first: int, order: str = "<") -> dict[str, Any]:
    ramp = np.arange(256)
    shades = {"Red": ramp, "Green": 255 - ramp, "Blue": np.minimum(2 * ramp, 255)}
    words = {
        colour: (shade << 8 if bits == 16 else shade).astype(f"{order}u{bits // 8}") for colour, shade in shades.items()
    }
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, shade in words.items():
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, first, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = shade.tobytes()
    return tags


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=["little", "big"])
def test_palette_colours(tmp_path: Path, bits: int, syntax: uid.UID) -> None:
    # 100 below the first entry and beyond the last one: those take the first and the last colour
    stored = (asymmetric(550)).astype(np.uint16)
    order = "<" if syntax.is_little_endian else ">"
    path = save(tmp_path / "a.dcm", stored, syntax, **palette(bits, 100, order))
    index = (stored.astype(int) - 100).clip(0, 255)
    np.testing.assert_array_equal(dicom.rgb(path), np.stack([index, 255 - index, np.minimum(2 * index, 255)], -1))


def test_palette_of_sixteen_bits_that_uses_eight(tmp_path: Path) -> None:
    """PS3.3, C.7.6.3.1.6: entries of 16 bits scale over all of them, where nothing of this one would be seen."""
    tags = palette(16, 0)
    for name in [name for name in tags if name.endswith("TableData")]:
        tags[name] = (np.frombuffer(tags[name], "<u2") >> 8).astype("<u2").tobytes()
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), **tags)
    index = asymmetric()
    np.testing.assert_array_equal(dicom.rgb(path), np.stack([index, 255 - index, np.minimum(2 * index, 255)], -1))


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path) -> None:
    window = {"WindowCenter": 128, "WindowWidth": 256}
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), PhotometricInterpretation="MONOCHROME1", **window)
    check_grey(path, 255.0 - asymmetric())


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", "", "OTHER"])
def test_first_window_after_rescale(tmp_path: Path, function: str) -> None:
    stored = asymmetric(4000).astype(np.uint16)
    rescale = {"RescaleSlope": -2, "RescaleIntercept": 100}  # a negative slope reverses the output range too
    path = save(tmp_path / "a.dcm", stored, WindowCenter=[-3000, 5], WindowWidth=[2000, 7], **rescale)
    dataset = dcmread(path)
    dataset.VOILUTFunction = function
    dataset.save_as(path)
    values = stored * -2.0 + 100
    expected = {
        "LINEAR_EXACT": ((values + 3000) / 2000 + 0.5).clip(0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values + 3000) / 2000)),
    }.get(function, ((values + 3000.5) / 1999 + 0.5).clip(0, 1))
    check_grey(path, expected * 255)


@pytest.mark.parametrize(
    "window",
    [{}, {"WindowCenter": 5}, {"WindowCenter": 5, "WindowWidth": 0.5}, {"WindowCenter": None, "WindowWidth": None}],
    ids=["none", "half", "narrow", "empty"],
)
def test_percentiles_without_a_window(tmp_path: Path, window: dict[str, Any]) -> None:
    stored = np.random.default_rng(0).normal(500, 100, (40, 50)).round().astype(np.int16)
    low, high = np.percentile(stored, (0.5, 99.5))
    path = save(tmp_path / "a.dcm", stored, **window)
    check_grey(path, ((stored - low) / (high - low)).clip(0, 1) * 255)


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_narrow_windows_are_windows_of_all_but_linear(tmp_path: Path, function: str) -> None:
    """PS3.3, C.11.2.1.3: their width is greater than 0, and only LINEAR's at least 1 (C.11.2.1.2)."""
    values = asymmetric(1000) / 1000
    path = save(
        tmp_path / "a.dcm",
        asymmetric(1000).astype(np.uint16),
        RescaleSlope="0.001",
        RescaleIntercept="0",
        WindowCenter="0.4",
        WindowWidth="0.3",
        VOILUTFunction=function,
    )
    expected = {
        "LINEAR_EXACT": ((values - 0.4) / 0.3 + 0.5).clip(0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - 0.4) / 0.3)),
    }[function]
    check_grey(path, expected * 255)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", ["0", "-5"])
def test_windows_without_a_width_are_none(tmp_path: Path, function: str, width: str) -> None:
    stored = asymmetric().astype(np.uint8)
    path = save(tmp_path / "a.dcm", stored, WindowCenter="9", WindowWidth=width, VOILUTFunction=function)
    low, high = np.percentile(stored, (0.5, 99.5))
    check_grey(path, ((stored - low) / (high - low)).clip(0, 1) * 255)


def test_window_that_is_not_finite_is_none(tmp_path: Path) -> None:
    stored = asymmetric().astype(np.uint8)
    path = save(tmp_path / "a.dcm", stored, WindowCenter="1234", WindowWidth="5678")
    data = Path(path).read_bytes()
    Path(path).write_bytes(data.replace(b"5678", b"inf "))
    low, high = np.percentile(stored, (0.5, 99.5))
    check_grey(path, ((stored - low) / (high - low)).clip(0, 1) * 255)


@pytest.mark.parametrize("padding", [-2000, 63536, 2096], ids=["signed", "unsigned", "of-12-bits"])
def test_padding_is_compared_as_the_values_are_read(tmp_path: Path, padding: int) -> None:
    """Of 63536, which is -2000 in 16 bits, Bits Stored keeps 2096."""
    stored = asymmetric(1000).astype(np.uint16)
    low, high = np.percentile(stored[4:], (0.5, 99.5))
    stored[:4] = 63536
    path = save(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11)
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    dataset.save_as(path)
    values = (stored & 0xFFF).astype(float)
    check_grey(path, ((values - low) / (high - low)).clip(0, 1) * 255)


@pytest.mark.parametrize("limit", [None, -1990], ids=["value", "range"])
def test_padding_does_not_drive_the_percentiles(tmp_path: Path, limit: int | None) -> None:
    stored = asymmetric(1000).astype(np.int16)
    low, high = np.percentile(stored[4:], (0.5, 99.5))
    stored[:4] = -2000 if limit is None else -1995
    tags = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    path = save(tmp_path / "a.dcm", stored, PixelPaddingValue=-2000, **tags)
    check_grey(path, ((stored - low) / (high - low)).clip(0, 1) * 255)


@pytest.mark.parametrize("padded", [False, True])
def test_constant_image_is_black(tmp_path: Path, padded: bool) -> None:
    tags = {"PixelPaddingValue": 7} if padded else {}
    check_grey(save(tmp_path / "a.dcm", np.full((5, 6), 7, dtype=np.uint16), **tags), np.zeros((5, 6)))


def test_few_bright_pixels_are_not_lost_to_the_percentiles(tmp_path: Path) -> None:
    stored = np.zeros((30, 30), dtype=np.uint8)
    stored[3, 20] = 9
    check_grey(save(tmp_path / "a.dcm", stored), stored / 9 * 255)


def test_float_pixels(tmp_path: Path) -> None:
    values = asymmetric(1000).astype(np.float32) / 1e4 - 3
    values[5, 6] = np.nan
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint32))
    dataset = dcmread(path)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.FloatPixelData = values.tobytes()
    dataset.save_as(path)
    low, high = np.nanpercentile(values.astype(np.float64), (0.5, 99.5))
    check_grey(path, ((values - low) / (high - low)).clip(0, 1) * 255)  # NaN stays NaN


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=["little", "big"])
@pytest.mark.parametrize(("entries", "bits"), [(4096, 12), (4096, 8), (256, 16)])
def test_voi_table(tmp_path: Path, syntax: uid.UID, entries: int, bits: int) -> None:
    stored = asymmetric(4095).astype(np.uint16)
    lut = (np.linspace(0, 1, entries) ** 2 * (2**bits - 1)).round().astype(int)
    order = "<" if syntax.is_little_endian else ">"
    tags = {"VOILUTSequence": [table(lut, 100, bits, order)], "WindowCenter": 5, "WindowWidth": 9}
    path = save(tmp_path / "a.dcm", stored, syntax, **tags)
    expected = lut[(stored.astype(int) - 100).clip(0, entries - 1)] * (255 / (2**bits - 1))
    check_grey(path, expected)


def test_voi_table_that_holds_more_than_it_says(tmp_path: Path) -> None:
    stored = asymmetric(4095).astype(np.uint16)
    lut = np.arange(4096)[::-1]
    path = save(tmp_path / "a.dcm", stored, VOILUTSequence=[table(lut, 0, 8)])  # which says 8 bits, and holds 12
    check_grey(path, (4095 - stored.astype(float)) * (255 / 4095))


def test_modality_table_comes_before_the_window(tmp_path: Path) -> None:
    stored = (asymmetric(400) - 200).astype(np.int16)
    lut = np.arange(300)[::-1] * 13
    tags = {"ModalityLUTSequence": [table(lut, -150, 12)], "WindowCenter": 2048, "WindowWidth": 4096}
    path = save(tmp_path / "a.dcm", stored, **tags)
    check_grey(path, lut[(stored.astype(int) + 150).clip(0, 299)] * (255 / 4095))


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence", "SequenceOfUltrasoundRegions"])
@pytest.mark.parametrize("empty", [{}, {"LUTExplanation": "none"}], ids=["empty", "without-a-table"])
def test_items_without_content_are_no_damage(tmp_path: Path, keyword: str, empty: dict[str, Any]) -> None:
    window = {"WindowCenter": 128, "WindowWidth": 256}
    path = save(tmp_path / "a.dcm", asymmetric().astype(np.uint8), **window, **{keyword: [item(**empty)]})
    check_grey(path, asymmetric().astype(float))
    assert read_scale(path).areas_mm2(np.ones((HEIGHT, WIDTH)), 2) is None


@pytest.mark.parametrize("shared", [False, True], ids=["per-frame", "shared"])
def test_enhanced_frames_have_their_own_rescale_and_window(tmp_path: Path, shared: bool) -> None:
    frames = np.stack([asymmetric(4000), asymmetric(4000)[:, ::-1]]).astype(np.uint16)
    groups = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=-1000)],
            FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=1500)],
        )
        for slope, center in ((1, 500), (2, 2000))
    ]
    tags = {"SharedFunctionalGroupsSequence": groups[:1]} if shared else {"PerFrameFunctionalGroupsSequence": groups}
    path = save(tmp_path / "a.dcm", frames, RescaleSlope=9, RescaleIntercept=9, **tags)
    for frame, (slope, center) in enumerate([(1, 500), (1, 500) if shared else (2, 2000)]):
        values = frames[frame] * float(slope) - 1000
        check_grey(path, (((values - center + 0.5) / 1499 + 0.5).clip(0, 1)) * 255, frame=frame)


@pytest.mark.parametrize("empty", [None, "", "0"])
def test_number_of_frames_may_be_empty(tmp_path: Path, empty: str | None) -> None:
    path = save(tmp_path / "a.dcm", coloured(), NumberOfFrames=empty)
    assert inspect(path).num_frames == 1
    np.testing.assert_array_equal(dicom.rgb(path), coloured())


@pytest.mark.parametrize(("frames", "frame"), [(1, 1), (1, -1), (2, 2)])
def test_frames_that_do_not_exist(tmp_path: Path, frames: int, frame: int) -> None:
    path = save(tmp_path / "a.dcm", np.zeros((frames, 5, 7), dtype=np.uint8))
    with pytest.raises(InputError, match=rf"a.dcm has no frame {frame}: they are counted from 0"):
        dicom.rgb(path, frame)
    with pytest.raises(InputError, match=rf"a.dcm has no frame {frame}"):
        read_scale(path, frame)


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
def test_files_without_preamble_and_meta(tmp_path: Path, implicit: bool) -> None:
    path = save(tmp_path / "a.dcm", coloured())
    dataset = dcmread(path)
    del dataset.file_meta, dataset.preamble
    dataset.save_as(path, implicit_vr=implicit, little_endian=True)
    assert not Path(path).read_bytes().startswith(b"\0" * 128)
    np.testing.assert_array_equal(dicom.rgb(path), coloured())
    bare = tmp_path / "1.2.840.1"
    bare.write_bytes(Path(path).read_bytes())
    assert is_dicom(str(bare))
    np.testing.assert_array_equal(read_image(str(bare)), coloured())


def test_implicit_vrs_against_the_transfer_syntax(tmp_path: Path) -> None:
    """As in pydicom's SC_rgb_jpeg.dcm."""
    explicit = Path(save(tmp_path / "a.dcm", coloured())).read_bytes()
    implicit = Path(save(tmp_path / "b.dcm", coloured(), uid.ImplicitVRLittleEndian)).read_bytes()
    path = tmp_path / "c.dcm"
    meta = explicit[: explicit.index(b"\x08\0\x16\0")]
    path.write_bytes(meta + implicit[implicit.index(b"\x08\0\x16\0") :])
    np.testing.assert_array_equal(dicom.rgb(str(path)), coloured())


def test_meta_elements_without_preamble_and_suffix(tmp_path: Path) -> None:
    path = tmp_path / "scan"
    path.write_bytes(Path(save(tmp_path / "a.dcm", coloured())).read_bytes()[132:])
    assert is_dicom(str(path))
    np.testing.assert_array_equal(read_image(str(path)), coloured())


def test_big_endian_without_preamble_is_told_by_its_content() -> None:
    head = b"\0\x08\0\x05CS\0\x0aISO_IR 100" + b"\0\x08\0\x16UI\0\x1a1.2.840.10008.5.1.4.1.1.7\0"
    assert begins_as_dicom(head)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x08\0",
        b"\x08\0\x05\0",
        b"\x89PNG\r\n\x1a\n" + bytes(range(124)),
        b"II*\0\x08\0\0\0" + bytes(124),
        b"\xff\xd8\xff\xe0" + bytes(128),
        b"8\0\0\0" + bytes(128),
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"and then words that no one wrote as elements" * 3,
        bytes(132),
        b"\x02\0" * 66,
    ],
    ids=["empty", "2", "4", "png", "tiff", "jpeg", "number", "one-element", "zeros", "twos"],
)
def test_other_content_is_not_dicom(head: bytes) -> None:
    assert not begins_as_dicom(head)


def test_is_dicom(tmp_path: Path) -> None:
    image = save(tmp_path / "1.2.840.1", coloured())
    (tmp_path / "notes").write_text("DICM")
    (tmp_path / "folder.dcm").mkdir()
    for name in ("a.dcm", "a.DCM", "a.Dicom", "a.IMA"):
        assert is_dicom(str(tmp_path / name))
    assert is_dicom(image)
    assert not is_dicom(str(tmp_path / "notes"))
    assert not is_dicom(str(tmp_path / "missing"))
    assert not is_dicom(str(tmp_path / "folder.dcm"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rtstruct.dcm", "RT Structure Set Storage"),
        ("rtplan_truncated.dcm", "RT Plan Storage"),
        ("rtdose.dcm", "RT Dose Storage"),
        ("test-SR.dcm", "Comprehensive SR Storage"),
        ("waveform_ecg.dcm", "12-lead ECG Waveform Storage"),
        ("liver_1frame.dcm", "Segmentation Storage"),
        ("dicomdirtests/DICOMDIR", "is a DICOMDIR, not an image: name the folder"),
    ],
)
def test_dicom_files_that_are_no_images(name: str, kind: str) -> None:
    for read in (inspect, dicom.rgb, dicom.size, read_scale):
        with pytest.raises(NotAnImageError, match=kind):
            read(shipped(name))


def test_unknown_kinds_are_not_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", None, SOPClassUID="1.3.6.1.4.1.99999.1")
    with pytest.raises(
        NotAnImageError, match=r"a.dcm is a DICOM file, but no image \(of an unknown kind\): leave it out"
    ):
        inspect(path)


def test_masks_are_not_read_from_dicom() -> None:
    with pytest.raises(InputError, match=r"CT_small.dcm is a DICOM file, and masks .* convert it to PNG or NIfTI"):
        dicom.values(shipped("CT_small.dcm"))


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("JPGExtended.dcm", r"imagecodecs or pylibjpeg-libjpeg"),
        ("SC_rgb_jpeg_gdcm.dcm", r"imagecodecs or python-gdcm or pylibjpeg-libjpeg"),
    ],
)
def test_missing_decoder_is_named(name: str, packages: str) -> None:
    if any(find_spec(module) for module in ("gdcm", "imagecodecs", "libjpeg")):
        pytest.skip("a decoder of these files is installed")
    path = shipped(name)
    assert inspect(path).height > 0
    for read in (dicom.rgb, lambda path: dicom.size(path, whole=True)):
        with pytest.raises(
            InputError, match=rf"its transfer syntax JPEG .* needs a decoder that is not installed, .* {packages}"
        ):
            read(path)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Rows": 65535, "Columns": 65535}, r"a.dcm has too many pixels for one image: cut it into tiles"),
        ({"NumberOfFrames": 10**9}, r"a.dcm holds less pixel data than its header says"),
        ({"NumberOfFrames": -3}, r"a.dcm has no sound number of frames, rows and columns"),
        ({"Rows": 0}, r"a.dcm has no sound number of frames, rows and columns"),
        ({"Columns": None}, r"a.dcm has no sound number of frames, rows and columns"),
        ({"Rows": HEIGHT + 1}, r"a.dcm holds less pixel data than its header says"),
        ({"Rows": HEIGHT // 2}, r"a.dcm holds more pixel data than its header says"),
        ({"BitsAllocated": 16}, r"a.dcm holds less pixel data than its header says"),
        ({"PhotometricInterpretation": "HSV"}, r"a.dcm is neither grey nor palette nor RGB nor YBR colour"),
        ({"PhotometricInterpretation": "MONOCHROME2"}, r"a.dcm is neither grey nor palette nor RGB nor YBR colour"),
        ({"PhotometricInterpretation": None}, r"a.dcm is neither grey nor palette nor RGB nor YBR colour"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_headers_that_cannot_be(tmp_path: Path, tags: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.dcm", coloured(), **tags)
    tracemalloc.start()
    for read in (inspect, dicom.rgb, dicom.size):
        with pytest.raises(InputError, match=message):
            read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def encapsulated(path: Path, coded: list[bytes], syntax: uid.UID, **tags: Any) -> str:
    data = encapsulate(coded, has_bot=False)
    path = Path(save(path, asymmetric().astype(np.uint8)))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = data
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return str(path)


def test_compressed_frames_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    coded = get_frame(dcmread(shipped("JPEGLSNearLossless_08.dcm")).PixelData, 0, number_of_frames=1)
    size = {"Rows": 45, "Columns": 10}
    syntax = uid.JPEGLSNearLossless
    sound = encapsulated(tmp_path / "a.dcm", [coded, coded], syntax, NumberOfFrames=2, **size)
    assert dicom.size(sound, whole=True) == (45, 10)
    missing = encapsulated(tmp_path / "b.dcm", [coded, coded], syntax, NumberOfFrames=10**9, **size)
    with pytest.raises(InputError, match=r"b.dcm holds fewer frames than its header says"):
        inspect(missing)
    other = encapsulated(tmp_path / "c.dcm", [coded], syntax, Rows=10, Columns=45)
    with pytest.raises(InputError, match=r"c.dcm holds a frame of another size than its header says"):
        dicom.rgb(other)
    bomb = b"\xff\x4f\xff\x51" + b"\0\0\0\0" + b"\0\0\xff\xff" * 2 + b"\0" * 60
    huge = encapsulated(tmp_path / "d.dcm", [bomb], uid.JPEG2000)
    with pytest.raises(InputError, match=r"d.dcm holds a frame of another size than its header says"):
        dicom.rgb(huge)


def test_deflated_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.dcm", np.zeros((400, 500), dtype=np.uint8), uid.DeflatedExplicitVRLittleEndian)
    assert Path(path).stat().st_size < 2000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    with pytest.raises(InputError, match=r"a.dcm inflates to implausibly much"):
        inspect(path)


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "image_dfl.dcm", "examples_ybr_color.dcm"]
)
@pytest.mark.parametrize("share", [0.003, 0.05, 0.3, 0.9, 0.97])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    data = Path(shipped(name)).read_bytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"a.dcm (holds|is) .*: "):
        inspect(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a.dcm is not a file: correct the path"),
        (b"", r"a.dcm is empty \(0 bytes\): copy it again or remove it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4, r"a.dcm is (damaged|no DICOM)"),
        (b"no picture at all, but words " * 30, r"a.dcm is (damaged|no DICOM)"),
        (b"\0" * 128 + b"DICM", r"a.dcm holds no pixel data"),
    ],
    ids=["missing", "empty", "png", "text", "preamble"],
)
def test_files_that_are_not_dicom(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.dcm"
    if content is not None:
        path.write_bytes(content)
    for read in (inspect, dicom.rgb, dicom.size, read_scale):
        with pytest.raises(InputError, match=message):
            read(str(path))


def test_random_damage_is_always_an_input_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sources = [
        Path(shipped(name)).read_bytes() for name in ("MR_small_RLE.dcm", "examples_palette.dcm", "693_J2KI.dcm")
    ]
    path = tmp_path / "a.dcm"
    errors = []
    for trial in range(60):
        data = bytearray(sources[trial % 3][:40000])
        for place in random.integers(132, len(data), 30):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            dicom.rgb(str(path))
        except InputError as error:
            errors.append(error)
    assert len(errors) > 10
    assert all(error.__cause__ is error.__context__ is None for error in errors)


@pytest.mark.parametrize("damage", ["pixels", "window", "frames", "photometric", "table", "syntax"])
def test_no_tag_values_in_messages_logs_and_warnings(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = {"PatientName": "SECRET^NAME", "PatientID": "SECRET", "SeriesInstanceUID": "1.2.3"}
    path = tmp_path / "a.dcm"
    if damage == "pixels":
        encapsulated(path, [b"\xff\xd8SECRET" * 9], uid.JPEGBaseline8Bit, **secret)
    elif damage == "table":
        lut = item(LUTData=b"SECRET")
        lut.LUTDescriptor = [3, 0]
        save(path, asymmetric().astype(np.uint8), **secret, ModalityLUTSequence=[lut])
    else:
        save(path, asymmetric().astype(np.uint8), **secret, WindowCenter="5678", WindowWidth="5678", NumberOfFrames=1)
        swaps = {
            "window": (b"5678", b"SECR"),
            "frames": (b"IS\x02\x001 ", b"IS\x02\x00SE"),
            "photometric": (b"MONOCHROME2", b"SECRET_____"),
            "syntax": (b"1.2.840.10008.1.2.1", b"1.SECRET0008.1.2.99"),
        }
        path.write_bytes(path.read_bytes().replace(*swaps[damage]))
    caplog.set_level(logging.DEBUG)
    errors = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for read in (inspect, dicom.rgb, read_scale):
            try:
                read(str(path))
            except InputError as error:
                errors.append(error)
    assert all(error.__cause__ is error.__context__ is None for error in errors)
    told = "".join(line for error in errors for line in traceback.format_exception(error))
    told += caplog.text + "".join(str(warning.message) for warning in caught) + "".join(capfd.readouterr())
    assert "a.dcm" in told
    assert "SECR" not in told
    assert "5678" not in told


def test_silence_ends(caplog: pytest.LogCaptureFixture) -> None:
    filters, level = list(warnings.filters), logging.getLogger("pydicom").level
    dicom.rgb(shipped("MR_small_padded.dcm"))
    with pytest.raises(InputError, match="MR_truncated"):
        dicom.rgb(shipped("MR_truncated.dcm"))
    assert (list(warnings.filters), logging.getLogger("pydicom").level) == (filters, level)
    assert not caplog.records


def test_slices_sort_by_position_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    orientation = [1, 0, 0, 0, 0.8, 0.6]  # the normal is (0, -0.6, 0.8)
    order = [3, 0, 4, 1, 2]
    infos = {}
    for name, place in enumerate(order):
        path = save(
            tmp_path / f"{name}.dcm",
            asymmetric().astype(np.uint8),
            ImageOrientationPatient=orientation,
            ImagePositionPatient=[7, -0.6 * place * 2.5, 0.8 * place * 2.5],
            FrameOfReferenceUID="1.2.9",
            InstanceNumber=name,
        )
        infos[place] = inspect(path)
    assert sorted(infos.values(), key=lambda info: info.position) == [infos[place] for place in range(5)]
    assert len({info.series for info in infos.values()}) == 1
    np.testing.assert_allclose([infos[place].position[0] for place in range(5)], np.arange(5) * 2.5, atol=1e-9)


def test_instance_number_sorts_what_has_no_position(tmp_path: Path) -> None:
    infos = [inspect(save(tmp_path / "a.dcm", coloured(), InstanceNumber=number)) for number in (10, 2, None)]
    assert [info.position for info in infos] == [(0.0, 10.0), (0.0, 2.0), (0.0, 0.0)]


@pytest.mark.parametrize(
    "change",
    [
        {"SeriesInstanceUID": "1.2.4"},
        {"FrameOfReferenceUID": "1.2.8"},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]},
        {"Rows": WIDTH, "Columns": HEIGHT},
    ],
    ids=lambda change: next(iter(change)),
)
def test_series_differ(tmp_path: Path, change: dict[str, Any]) -> None:
    tags: dict[str, Any] = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "FrameOfReferenceUID": "1.2.9"}
    tags["ImagePositionPatient"] = [0, 0, 5]
    first = inspect(save(tmp_path / "a.dcm", coloured(), **tags))
    noisy = tags | {"ImageOrientationPatient": [1, 1e-6, 0, -1e-6, 1, 0]}
    assert inspect(save(tmp_path / "b.dcm", coloured(), **noisy)).series == first.series
    assert inspect(save(tmp_path / "c.dcm", coloured(), **(tags | change))).series != first.series
    assert "1.2.3" not in first.series


def test_no_series_for_several_frames_or_without_uid(tmp_path: Path) -> None:
    assert inspect(save(tmp_path / "a.dcm", np.stack([coloured()] * 2))).series == ""
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 5]}
    assert inspect(save(tmp_path / "b.dcm", coloured(), **place, SeriesInstanceUID="")).series == ""
    assert inspect(save(tmp_path / "c.dcm", coloured(), **place)).series != ""


def test_pictures_of_a_series_without_a_place_in_it_are_no_stack(tmp_path: Path) -> None:
    assert inspect(save(tmp_path / "a.dcm", coloured(), InstanceNumber=1)).series == ""


def test_dicomdir_lists_its_images() -> None:
    paths = read_dicomdir(shipped("dicomdirtests/DICOMDIR"))
    present = [path for path in paths if Path(path).is_file()]
    folder = Path(shipped("dicomdirtests"))
    on_disk = {str(path) for path in folder.glob("[79]*/**/*") if path.is_file()}
    assert set(present) == on_disk
    assert len(paths) == len(set(paths)) >= len(on_disk) > 20
    assert all(inspect(path).num_frames == 1 for path in present[:3])


def test_missing_images_of_a_dicomdir_are_listed(tmp_path: Path) -> None:
    shutil.copy(shipped("dicomdirtests/DICOMDIR"), tmp_path / "DICOMDIR")
    paths = read_dicomdir(str(tmp_path / "DICOMDIR"))
    assert str(tmp_path / "77654033" / "CR1" / "6154") in paths


@pytest.mark.parametrize("change", [str, str.lower, lambda name: f"{name};1", lambda name: f"{name.lower()}.;1"])
def test_dicomdir_finds_files_as_the_disc_spells_them(tmp_path: Path, change: Any) -> None:
    records = [item(DirectoryRecordType="IMAGE", ReferencedFileID=["DICOM", name]) for name in ("IM1", "IM2")]
    path = tmp_path / "DICOMDIR"
    save(path, None, SOPClassUID=uid.MediaStorageDirectoryStorage, DirectoryRecordSequence=records)
    folder = tmp_path / ("DICOM" if change("X").startswith("X") else "dicom")
    folder.mkdir()
    expected = [save(folder / change(name), coloured()) for name in ("IM1", "IM2")]
    (folder / "IM1").touch()  # the exact name comes first
    expected[0] = str(folder / "IM1")
    assert read_dicomdir(str(path)) == expected


@pytest.mark.parametrize("parts", [["..", "A"], ["A", "..", "B"], "/etc/passwd", ["A", "C:"], [".."]])
def test_dicomdir_leading_out_of_its_folder(tmp_path: Path, parts: str | list[str]) -> None:
    records = [item(DirectoryRecordType="IMAGE", ReferencedFileID=name) for name in (["IM", "1"], parts)]
    path = tmp_path / "DICOMDIR"
    save(path, None, SOPClassUID=uid.MediaStorageDirectoryStorage, DirectoryRecordSequence=records)
    with pytest.raises(InputError, match=r"DICOMDIR leads out of its own folder: read the image files without it"):
        read_dicomdir(str(path))


def test_what_is_no_dicomdir(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"CT_small.dcm is no DICOMDIR: correct the path"):
        read_dicomdir(shipped("CT_small.dcm"))
    with pytest.raises(InputError, match=r"DICOMDIR is not a file: correct the path"):
        read_dicomdir(str(tmp_path / "DICOMDIR"))


def test_what_tells_a_file_that_is_dicom() -> None:
    assert DicomFile.suffixes == (".dcm", ".dicom", ".ima")
    assert issubclass(NotAnImageError, InputError)
