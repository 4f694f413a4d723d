"""Regions of large images: every kind of file gives the pixels that were put in, or a sentence."""

from __future__ import annotations

import builtins
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from dicom_sources import ct, save
from picture_files import save_tiff
from PIL import Image
from slide_files import save_dicom_slide, save_svs

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image
from icmoe_monai.imageio.tiff.chunks import read_chunk
from icmoe_monai.slides import tiff
from icmoe_monai.slides.images import UnreadableImageError, open_large_image

SHAPE = (150, 211)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def read_in_parts(path: Path, level: int = 0) -> np.ndarray:
    """Return an image put together of regions that end neither at tiles nor at strips."""
    with open_large_image(str(path), level=level) as image:
        height, width = image.shape
        result = np.zeros((height, width, 3), dtype=np.uint8)
        for top in range(0, height, 37):
            for left in range(0, width, 50):
                h, w = min(37, height - top), min(50, width - left)
                result[top : top + h, left : left + w] = image.read(top, left, h, w)
    return result


@pytest.mark.parametrize(
    "how",
    [
        {"tile": (32, 64)},
        {"tile": (32, 64), "compression": "zlib", "predictor": True},
        {"tile": (256, 256), "compression": "zlib"},
        {"tile": (32, 64), "bigtiff": True},
        {"rowsperstrip": 7},
        {"rowsperstrip": 150, "compression": "zlib"},
    ],
    ids=["tiles", "deflated", "one large tile", "BigTIFF", "strips", "one strip"],
)
def test_a_tiff_gives_its_pixels(tmp_path: Path, pixels: np.ndarray, how: dict) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **how)
    np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(("photometric", "sign"), [("minisblack", 1), ("miniswhite", -1)])
def test_grey_becomes_rgb_and_white_is_zero_is_inverted(
    tmp_path: Path, pixels: np.ndarray, photometric: str, sign: int
) -> None:
    grey = pixels[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric=photometric, tile=(64, 64))
    expected = grey if sign == 1 else 255 - grey
    np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif"), np.repeat(expected[..., None], 3, axis=-1))


def test_planes_palettes_and_few_bits_are_read_by_regions(tmp_path: Path, pixels: np.ndarray) -> None:
    planes = pixels.transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", tile=(32, 64))
    np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif"), pixels)
    colours = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", pixels[..., 0], photometric="palette", colormap=colours * 256, tile=(32, 64))
    np.testing.assert_array_equal(read_in_parts(tmp_path / "b.tif"), colours.T[pixels[..., 0]])
    for bits, photometric in ((2, 1), (4, 0), (1, 0)):
        most = (1 << bits) - 1
        save_tiff(tmp_path / "c.tif", pixels[..., :1] & most, bits=bits, photometric=photometric)
        shown = (pixels[..., :1] & most) * (255 // most)
        expected = shown if photometric else 255 - shown
        np.testing.assert_array_equal(read_in_parts(tmp_path / "c.tif"), np.repeat(expected, 3, axis=2))


def test_what_is_transparent_is_black_as_in_ordinary_inference(tmp_path: Path, pixels: np.ndarray) -> None:
    opacity = np.broadcast_to(np.linspace(0, 255, SHAPE[1]).astype(np.uint8)[None, :, None], (*SHAPE, 1))
    rgba = np.concatenate([pixels, opacity], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64))
    found = read_in_parts(tmp_path / "a.tif")
    assert (found[:, 0] == 0).all()
    assert np.abs(found - read_image(str(tmp_path / "a.tif"))).max() <= 1


def test_opacity_that_hides_all_is_passed_over_and_one_that_hides_a_tile_is_not(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    opacity = np.zeros((*SHAPE, 1), np.uint8)
    how = {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "a.tif", np.concatenate([pixels, opacity], axis=-1), **how)
    np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif"), pixels)
    opacity[-1, -1] = 255
    tifffile.imwrite(tmp_path / "b.tif", np.concatenate([pixels, opacity], axis=-1), **how)
    np.testing.assert_array_equal(read_in_parts(tmp_path / "b.tif"), pixels * (opacity > 0))


@pytest.mark.parametrize("kind", ["assocalpha", "unspecified"])
def test_a_fourth_sample_that_hides_nothing_is_passed_over(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    rgba = np.concatenate([pixels // 2, np.full((*SHAPE, 1), 128, np.uint8)], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[kind], tile=(64, 64))
    np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif"), pixels // 2)


def test_each_tile_is_decoded_once_for_a_row_of_regions(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(32, 32))
    calls = []
    monkeypatch.setattr(
        tiff, "read_chunk", lambda page, index, read: calls.append(index) or read_chunk(page, index, read)
    )
    with open_large_image(str(tmp_path / "a.tif")) as image:
        for top in (0, 16, 32, 48):
            image.read(top, 0, 32, SHAPE[1])
    assert len(calls) == len(set(calls)) == 3 * 7  # rows 0 to 79 lie in three rows of seven tiles


@pytest.fixture
def pyramid(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as file:
        about = {"photometric": "rgb", "tile": (32, 32), "resolutionunit": "CENTIMETER"}
        file.write(pixels, subifds=1, resolution=(40_000, 20_000), **about)
        file.write(pixels[::2, ::2], subfiletype=1, resolution=(20_000, 10_000), **about)
    return path


def test_a_level_of_a_pyramid_has_its_own_pixels_and_spacing(pyramid: Path, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read_in_parts(pyramid, level=1), pixels[::2, ::2])
    with open_large_image(str(pyramid)) as full, open_large_image(str(pyramid), level=1) as half:
        assert full.spacing_um == pytest.approx((0.5, 0.25))
        assert half.spacing_um == pytest.approx((1.0, 0.5), rel=0.01)


def test_ome_and_svs_tell_their_spacing(tmp_path: Path, pixels: np.ndarray) -> None:
    sizes = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", tile=(64, 64), metadata=sizes)
    note = "Aperio Image Library v1\n211x150 (64x64)|AppMag = 20|MPP = 0.4990|Left = 1"
    tifffile.imwrite(tmp_path / "a.svs", pixels, photometric="rgb", tile=(64, 64), description=note, metadata=None)
    for name, expected in (("a.ome.tif", (0.25, 0.5)), ("a.svs", (0.499, 0.499))):
        with open_large_image(str(tmp_path / name)) as image:
            assert image.spacing_um == pytest.approx(expected), name
            np.testing.assert_array_equal(image.read(0, 0, *SHAPE), pixels)


def test_a_printers_resolution_is_no_scale(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", resolution=(300, 300), resolutionunit="INCH")
    with open_large_image(str(tmp_path / "a.tif")) as image:
        assert image.spacing_um is None


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_picture_without_regions_is_read_whole(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_in_parts(tmp_path / f"a.{suffix}"), pixels)


def test_a_tile_that_was_never_written_is_black(tmp_path: Path) -> None:
    tiles = iter([np.full((32, 32), 7, np.uint8), None])
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(32, 64), dtype=np.uint8, tile=(32, 32))
    assert read_in_parts(tmp_path / "a.tif")[0, [0, 40], 0].tolist() == [7, 0]


REFUSED = {
    "deep": (lambda p, a: tifffile.imwrite(p, a.astype(np.uint16), photometric="rgb"), "stores uint16 values"),
    "planes": (lambda p, a: tifffile.imwrite(p, np.stack([a, a]), photometric="rgb"), "holds 2 planes"),
    "turned": (
        lambda p, a: tifffile.imwrite(p, a, photometric="rgb", extratags=[(274, 3, 1, 6, True)]),
        "is stored turned",
    ),
    "empty": (lambda p, a: p.touch(), "is empty"),
    "text": (lambda p, a: p.write_text("no picture, just text"), "is no TIFF that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_read_wrong_is_refused_in_a_sentence(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    write, sentence = REFUSED[kind]
    write(tmp_path / "a.tif", pixels)
    with pytest.raises(UnreadableImageError, match=sentence), open_large_image(str(tmp_path / "a.tif")):
        pass


def patched(path: Path, tag: int, value: int) -> None:
    """Write another number into a tag of the first page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[tag].overwrite(value)


@pytest.mark.parametrize(
    ("tag", "value", "sentence"),
    [
        (259, 31_337, "is compressed by 31337, which is not read here"),
        (262, 31_337, "stores its colours as 31337"),
        (256, 0, "a.tif (is a damaged TIFF|claims 0 x 150 pixels)"),
        (322, 0, "a.tif (is a damaged TIFF|claims 211 x 150 pixels in tiles of 211 x 0)"),
    ],
    ids=["compression", "colours", "width", "tile width"],
)
def test_a_tag_that_nobody_knows_is_refused_in_a_sentence(
    tmp_path: Path, pixels: np.ndarray, tag: int, value: int, sentence: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(32, 32), compression="zlib")
    patched(tmp_path / "a.tif", tag, value)
    with pytest.raises(UnreadableImageError, match=sentence):
        read_in_parts(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["a.tif", "a.ome.tif", "a.svs"])
def test_damaged_bytes_give_a_picture_or_a_sentence(tmp_path: Path, kind: str) -> None:
    path, random = tmp_path / kind, np.random.default_rng(4)
    note = "Aperio Image Library v1\n64x64|MPP = 0.5" if kind == "a.svs" else None
    metadata = None if kind == "a.svs" else {"axes": "YXS"}
    about = {"photometric": "rgb", "tile": (32, 32), "description": note, "metadata": metadata}
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), compression="zlib", **about)
    whole, failed = path.read_bytes(), 0
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(8, len(whole), 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            with open_large_image(str(path)) as image:
                image.read(0, 0, min(64, image.shape[0]), min(64, image.shape[1]))
        except UnreadableImageError:
            failed += 1
    assert failed > 10


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_short_fails_at_the_region_that_is_missing(
    tmp_path: Path, pixels: np.ndarray, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), compression=compression)
    path.write_bytes(path.read_bytes()[:-20_000])
    with open_large_image(str(path)) as image:
        np.testing.assert_array_equal(image.read(0, 0, 32, 32), pixels[:32, :32])
        with pytest.raises(UnreadableImageError, match="is damaged, or cut short"):
            image.read(0, 0, *SHAPE)


def test_a_level_that_is_not_there_names_those_that_are(pyramid: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="no level 2; it has 0: 211 x 150, 1: 106 x 75"):
        read_in_parts(pyramid, level=2)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match="holds no pyramid: set level to 0"):
        read_in_parts(tmp_path / "a.png", level=1)


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((600, 500), np.uint8), rowsperstrip=600, compression="zlib")
    with monkeypatch.context() as patch:
        patch.setattr("icmoe_monai.slides.images._LONGEST", 550)
        with pytest.raises(UnreadableImageError, match="claims 500 x 600 pixels"):
            read_in_parts(tmp_path / "a.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(UnreadableImageError, match=r"no tiles, or huge ones \(500 x 600 pixels\)"):
        read_in_parts(tmp_path / "a.tif")


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="the decoder is not missing")
def test_a_missing_decoder_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(32, 32), compression="zlib")
    patched(tmp_path / "a.tif", 259, 50001)
    sentence = "is compressed by WEBP, whose decoder is not installed: pip install imagecodecs"
    for read in (read_in_parts, lambda path: read_image(str(path))):
        with pytest.raises(InputError, match=sentence):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "jpeg"])
def test_what_libtiff_packs_is_read_without_an_extra(tmp_path: Path, compression: str) -> None:
    """Pillow writes these by libtiff, and reads them back as the source of the right values."""
    smooth = np.broadcast_to(np.linspace(20, 220, SHAPE[1])[None, :, None], (*SHAPE, 3)).astype(np.uint8)
    smooth = np.ascontiguousarray(smooth // [1, 2, 3]).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.tif", compression=compression)
    with Image.open(tmp_path / "a.tif") as picture:
        np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif"), np.asarray(picture.convert("RGB")))


def test_without_openslide_a_scanners_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8")
    usual = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "openslide":
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnreadableImageError, match="needs OpenSlide, which is not installed"):
        read_in_parts(tmp_path / "a.mrxs")


class FakeSlide:
    """OpenSlide's interface over an array, four times reduced at level 1; what is left of column 5 was not scanned."""

    level_downsamples = (1.0, 4.0)
    properties = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}  # noqa: RUF012

    detect_format = staticmethod(lambda path: "hamamatsu")

    def __init__(self, path: str) -> None:
        self.pixels = np.asarray(Image.open(path).convert("RGBA")).copy()
        self.pixels[:, :5, 3] = 0
        self.level_dimensions = [(self.pixels.shape[1], self.pixels.shape[0]), (self.pixels.shape[1] // 4, 37)]

    def read_region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        left, top = (place // 4**level for place in corner)
        level_pixels = self.pixels[:: 4**level, :: 4**level]
        return Image.fromarray(level_pixels[top : top + size[1], left : left + size[0]])

    def close(self) -> None:
        pass


@pytest.mark.parametrize("told", ["n/a", "nan", "-1", "inf", ""])
def test_a_scale_that_is_no_number_is_none(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    slide = type("Slide", (FakeSlide,), {"properties": {"openslide.mpp-x": told, "openslide.mpp-y": "0.5"}})
    monkeypatch.setitem(sys.modules, "openslide", SimpleNamespace(OpenSlide=slide))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.ndpi")
    with open_large_image(str(tmp_path / "a.ndpi")) as image:
        assert image.spacing_um is None


def test_openslide_is_asked_for_the_region_of_a_level(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "openslide", SimpleNamespace(OpenSlide=FakeSlide, OpenSlideError=type("E", (Exception,), {}))
    )
    size = (SHAPE[1] // 4 * 4, 148)
    Image.fromarray(pixels).crop((0, 0, *size)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.ndpi")
    with open_large_image(str(tmp_path / "a.ndpi")) as image:
        region = image.read(10, 3, 4, 6)
        assert (region[:, :2] == 255).all()
        np.testing.assert_array_equal(region[:, 2:], pixels[10:14, 5:9])
        assert image.spacing_um == (0.5, 0.25)
    with open_large_image(str(tmp_path / "a.ndpi"), level=1) as image:
        assert image.shape == (37, 52)
        np.testing.assert_array_equal(image.read(5, 7, 4, 6), pixels[20:36:4, 28:52:4])
        assert image.spacing_um == (2.0, 1.0)


SVS = {"plain": (None, 0, 0), "JPEG": ("jpeg", 60, 5), "JPEG 2000": ("aperio_jp2000_rgb", 0, 0)}


@pytest.mark.parametrize(("compression", "most", "mean"), SVS.values(), ids=SVS)
def test_an_svs_is_read_by_openslide(tmp_path: Path, compression: str | None, most: int, mean: float) -> None:
    shape = (148, 208)  # so that levels lie on whole pixels
    pixels = (np.linspace(20, 220, 208)[None, :, None] * [1, 0.8, 0.6] * np.ones((148, 1, 1))).astype(np.uint8)
    path = save_svs(tmp_path / "a.svs", pixels, mpp=0.25, compression=compression)
    for level, every in ((0, 1), (1, 4)):
        difference = np.abs(read_in_parts(path, level).astype(int) - pixels[::every, ::every])
        assert difference.max() <= most
        assert difference.mean() <= mean
    with open_large_image(str(path)) as image:
        assert type(image).__name__ == "ScannerImage"
        assert (image.levels, image.spacing_um) == ((shape, (37, 52)), (0.25, 0.25))
    with pytest.raises(UnreadableImageError, match="has levels 0 to 1, and level is 2"):
        read_in_parts(path, 2)


def test_an_svs_of_ycbcr_in_jpeg_2000_is_read_in_its_colours(tmp_path: Path) -> None:
    colours = np.zeros((*SHAPE, 3), np.uint8) + np.uint8([180, 90, 150])
    stored = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    path = save_svs(tmp_path / "a.svs", stored, compression="aperio_jp2000_ycbc")
    assert np.abs(read_in_parts(path).astype(int) - colours).max() <= 4


@pytest.mark.parametrize("given", [0, 1])
def test_a_dicom_slide_is_read_whichever_of_its_files_is_named(tmp_path: Path, pixels: np.ndarray, given: int) -> None:
    pixels = pixels[:148, :208]  # so that levels lie on whole pixels
    path = save_dicom_slide(tmp_path / "slide", pixels, mpp=0.5)[given]
    bare = path.rename(path.with_suffix(""))  # a DICOM file may have any name
    np.testing.assert_array_equal(read_in_parts(bare), pixels)
    np.testing.assert_array_equal(read_in_parts(bare, level=1), pixels[::2, ::2])
    with open_large_image(str(bare)) as image:
        assert (image.levels, image.spacing_um) == (((148, 208), (74, 104)), (0.5, 0.5))


def test_levels_that_follow_the_image_are_found(tmp_path: Path, pixels: np.ndarray) -> None:
    about = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels, tile=(32, 32), **about)
        file.write(pixels[::2, ::2], tile=(32, 32), subfiletype=1, **about)
        file.write(pixels[::4, :80:4], tile=(32, 32), subfiletype=1, **about)  # of another shape
        file.write(pixels[::8, ::8], subfiletype=1, **about)  # a thumbnail, not in tiles
    with open_large_image(str(tmp_path / "a.tif")) as image:
        assert image.levels == (SHAPE, (75, 106))
    np.testing.assert_array_equal(read_in_parts(tmp_path / "a.tif", level=1), pixels[::2, ::2])


def test_dicom_that_is_no_slide_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", ct(1, 0))
    with pytest.raises(UnreadableImageError, match=r"a\.dcm cannot be read by OpenSlide"):
        read_in_parts(Path(path))


def test_levels_of_odd_sizes_are_read_without_a_drift(tmp_path: Path) -> None:
    """OpenSlide finds a level's pixels by one factor, also where rows and columns are fewer by others."""
    ramp = np.repeat(np.tile(np.arange(211, dtype=np.uint8), (150, 1))[..., None], 3, axis=2)
    path = save_dicom_slide(tmp_path / "slide", ramp)[0]
    assert np.abs(read_in_parts(path, level=1).astype(int) - ramp[::2, ::2]).max() <= 2
