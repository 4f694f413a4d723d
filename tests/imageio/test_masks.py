"""Masks in which opacity, further channels or signs would be read otherwise than they were meant."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_files import png_chunk, save_png
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_label

TARGET = np.zeros((20, 24), dtype=bool)
TARGET[5:12, 6:15] = True
BLACK, WHITE, CLEAR = (0, 0, 0, 255), (255, 255, 255, 255), (255, 255, 255, 0)
BY_OPACITY = r"differs in its opacity alone, and a mask in its values: save it in one channel, 0 for the background"


def drawn(target: tuple[int, ...], background: tuple[int, ...]) -> np.ndarray:
    return np.where(TARGET[..., None], target, background).astype(np.uint8)


def save_drawn(path: Path, pixels: np.ndarray) -> str:
    if path.suffix == ".tiff":
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    else:
        options = {"lossless": path.stem != "lossy", "exact": True} if path.suffix == ".webp" else {}
        Image.fromarray(pixels).save(path, **options)
    return str(path)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp", "lossy.webp"])
def test_a_black_target_on_transparent_white_is_no_empty_mask(tmp_path: Path, name: str) -> None:
    path = save_drawn(tmp_path / name, drawn(BLACK, CLEAR))
    with pytest.raises(InputError, match=f"{BY_OPACITY}|is stored with loss and has no value above"):
        read_label(path)
    np.testing.assert_array_equal(read_label(save_drawn(tmp_path / name, drawn(WHITE, CLEAR))), TARGET)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp", "lossy.webp"])
def test_transparent_white_everywhere_may_be_an_empty_mask(tmp_path: Path, name: str) -> None:
    path = save_drawn(tmp_path / name, drawn(CLEAR, CLEAR))
    with pytest.raises(InputError, match=r"is transparent everywhere and the same in all its pixels, so"):
        read_label(path)
    assert not read_label(save_drawn(tmp_path / name, drawn(CLEAR, CLEAR) * 0)).any()


KINDS = ["palette", "opacities", "grey", "1 bit", "4 bits", "16 bits", "colour", "deep colour"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_transparent_number_of_a_png_is_background(tmp_path: Path, kind: str) -> None:
    """PNG, third edition, 11.3.1.1: tRNS names a grey or a colour, or gives the opacity of each index."""

    def save(target: int, background: int, clear: int) -> str:
        path = tmp_path / "a.png"
        values = np.where(TARGET, target, background)
        if kind in ("palette", "opacities"):
            chunks = png_chunk(b"PLTE", bytes((0, 0, 0, 255, 255, 255, 9, 9, 9)))
            opaque = 255 if kind == "palette" else 200
            chunks += png_chunk(b"tRNS", bytes(0 if index == clear else opaque for index in range(3)))
            save_png(path, values[..., None], bits=8, colour_type=3, chunks=chunks)
            return str(path)
        bits = {"1 bit": 1, "4 bits": 4, "16 bits": 16, "deep colour": 16}.get(kind, 8)
        samples = 3 if "colour" in kind else 1
        chunks = png_chunk(b"tRNS", struct.pack(f">{samples}H", *[clear] * samples))
        save_png(path, np.repeat(values[..., None], samples, 2), bits=bits, colour_type=samples - 1, chunks=chunks)
        return str(path)

    with pytest.raises(InputError, match=BY_OPACITY):
        read_label(save(0, 1, clear=1))
    np.testing.assert_array_equal(read_label(save(1, 0, clear=0)), TARGET)
    if kind != "1 bit":
        np.testing.assert_array_equal(read_label(save(1, 2, clear=2)), TARGET)


@pytest.mark.parametrize("extra", ["assocalpha", "unspecified"])
def test_a_channel_of_a_tiff_that_alone_tells_pixels_apart_is_not_passed_over(tmp_path: Path, extra: str) -> None:
    path = str(tmp_path / "a.tif")
    for pixels, photometric in ((drawn(BLACK, (0, 0, 0, 0)), "rgb"), (drawn((0, 1), (1, 0)), "minisblack")):
        tifffile.imwrite(path, pixels, photometric=photometric, planarconfig="contig", extrasamples=[extra])
        with pytest.raises(InputError, match=r"a.tif (differs in its opacity alone|has a further channel)"):
            read_label(path)
    for pixels in (drawn(WHITE, BLACK), drawn(WHITE, (0, 0, 0, 0))):
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=[extra])
        np.testing.assert_array_equal(read_label(path), TARGET)


@pytest.mark.parametrize(("target", "background"), [(-1, 0), (-1, -1), (5, -1), (np.inf, 0), (np.nan, 1), (2.5, 0)])
def test_objects_are_numbered_from_one_on(tmp_path: Path, target: float, background: float) -> None:
    values = np.where(TARGET, target, background)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.int16 if values.min() < 0 else np.float32))
    with pytest.raises(InputError, match=r"a.tif holds .*, and objects are numbered 0, 1, 2, ...: change the mask"):
        read_label(str(tmp_path / "a.tif"), instances=True)


@pytest.mark.parametrize(("target", "background"), [(-1, 0), (-1, -1), (5, -1), (np.inf, 0)])
def test_one_class_is_a_number_above_zero(tmp_path: Path, target: float, background: float) -> None:
    values = np.where(TARGET, target, background)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.int16 if values.min() < 0 else np.float32))
    with pytest.raises(InputError, match=r"a.tif holds the values? .*, and a binary mask holds 0 and one value above"):
        read_label(str(tmp_path / "a.tif"))
