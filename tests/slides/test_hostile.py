"""Damaged slides of scanners: read, or refused in a sentence; as many as the environment variable ICMOE_FUZZ says."""

from __future__ import annotations

import os
import resource
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from slide_files import save_dicom_slide, save_svs

from icmoe_monai.inference.inputs import find_inputs
from icmoe_monai.slides.images import UnreadableImageError, open_large_image

NUM_FILES = int(os.environ.get("ICMOE_FUZZ", "25"))
PIXELS = np.random.default_rng(0).integers(0, 256, (150, 211, 3), dtype=np.uint8)
MOST_SECONDS = 10.0
MOST_BYTES = 2**30


def save_ome(folder: Path) -> Path:
    path = folder / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        about = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}
        file.write(PIXELS, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **about)
        file.write(PIXELS[::2, ::2], subfiletype=1, metadata=None, **about)
    return path


KINDS = {
    "SVS": lambda folder: save_svs(folder / "a.svs", PIXELS),
    "SVS of JPEG 2000": lambda folder: save_svs(folder / "a.svs", PIXELS, compression="aperio_jp2000_rgb"),
    "DICOM": lambda folder: save_dicom_slide(folder, PIXELS)[0],
    "OME-TIFF": save_ome,
}


def damaged(content: bytes, random: np.random.Generator, first: int) -> bytes:
    if random.random() < 0.25:
        return content[: random.integers(1, len(content))]
    changed = np.frombuffer(content, np.uint8).copy()
    for _ in range(random.integers(1, 5)):
        place = random.choice([random.integers(first, len(changed)), random.integers(first, first + 2500)])
        changed[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
    return changed.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_slides_are_read_or_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    content, random = path.read_bytes(), np.random.default_rng(zlib.crc32(kind.encode()))
    num_told, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(NUM_FILES):
        path.write_bytes(damaged(content, random, 132 if kind == "DICOM" else 8))
        start, told = time.perf_counter(), []
        for options in ({}, {"level": 1}, {"um_per_pixel": 1.3}):
            try:
                with open_large_image(str(path), **options) as image:
                    image.read(0, 0, *(min(64, side) for side in image.shape))
            except UnreadableImageError as error:
                told.append(str(error))
        find_inputs(str(tmp_path), output_dir=str(tmp_path / "out"), large=True)
        assert time.perf_counter() - start < MOST_SECONDS, number
        assert all(one.startswith(str(path)) and one.endswith(".") for one in told)
        num_told += bool(told)
    assert num_told > 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MOST_BYTES


@pytest.mark.parametrize("attributes", [
    {"TotalPixelMatrixRows": 2**32 - 1, "TotalPixelMatrixColumns": 2**32 - 1},
    {"NumberOfFrames": "2147483647"},
    {"Rows": 65535, "Columns": 65535},
    {"TotalPixelMatrixRows": 0},
    {"TotalPixelMatrixRows": 600_000},
])  # fmt: skip
def test_a_dicom_slide_with_an_absurd_header_gives_a_sentence(tmp_path: Path, attributes: dict) -> None:
    for path in save_dicom_slide(tmp_path, PIXELS):
        image = pydicom.dcmread(path)
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        image.save_as(path)
    find_inputs(str(tmp_path), output_dir=str(tmp_path / "out"), large=True)
    sentence = r"\.dcm (cannot be read by OpenSlide|claims|is damaged)"
    with pytest.raises(UnreadableImageError, match=sentence), open_large_image(str(tmp_path / "0.dcm")) as image:
        image.read(0, 0, 64, 64)


@pytest.mark.parametrize(("tag", "value"), [(256, 2**31), (257, 2**32 - 1), (322, 2**31), (324, 2**32 - 1)])
def test_an_svs_with_an_absurd_header_gives_a_sentence(tmp_path: Path, tag: int, value: int) -> None:
    path = save_svs(tmp_path / "a.svs", PIXELS)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        found = file.pages[0].tags[tag]
        place = found.offset
    content[place + 2 : place + 8] = b"\4\0\1\0\0\0"  # one LONG
    content[place + 8 : place + 12] = value.to_bytes(4, "little")
    path.write_bytes(content)
    sentence = r"a\.svs (cannot be read|claims|is damaged|is a damaged)"
    with pytest.raises(UnreadableImageError, match=sentence), open_large_image(str(path)) as image:
        image.read(0, 0, 64, 64)


def test_a_damaged_neighbour_does_not_stop_a_dicom_slide(tmp_path: Path) -> None:
    (path,) = save_dicom_slide(tmp_path, PIXELS, num_levels=1)
    (other,) = save_dicom_slide(tmp_path / "other", PIXELS, num_levels=1)
    image = pydicom.dcmread(other)
    image.NumberOfFrames = 2**31 - 1
    image.save_as(tmp_path / "other.dcm")
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:700])
    with open_large_image(str(path)) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, *slide.shape), PIXELS)
