"""DICOM files that were damaged at random: each is read, or refused in a sentence.

`ICMOE_FUZZ=300 python -m pytest tests/imageio/test_dicom_fuzz.py` damages 300 files of every kind, instead of a few.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from dicom_coding import by_jpeg, by_jpeg_2000, by_jpeg_ls, by_lossless_jpeg, by_rle, save_coded
from dicom_files import item, save
from pydicom import uid

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.dicomdir import read_dicomdir
from icmoe_monai.imageio.dicom.pixels import DicomFile
from icmoe_monai.imageio.read import open_image
from icmoe_monai.imageio.sight import look
from icmoe_monai.utils.memory import peak_memory_mb

NUM_FILES = int(os.environ.get("ICMOE_FUZZ", "4"))
MOST_SECONDS, MOST_MB = 20, 1000
HEIGHT, WIDTH = 40, 56

GREY = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) * 42).astype(np.uint16)
COLOUR = np.stack([GREY // 16, 255 - GREY // 16, GREY // 32], axis=-1).astype(np.uint8)
GEOMETRY = {
    "ImagePositionPatient": [0, 0, 5],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PixelSpacing": [0.5, 0.5],
    "WindowCenter": 2000,
    "WindowWidth": 4000,
    "RescaleSlope": 1,
    "RescaleIntercept": -1024,
}


def table(first: int, bits: int) -> object:
    lut = item()
    lut.add_new("LUTDescriptor", "US", [256, first, bits])
    lut.add_new("LUTData", "OW", np.arange(256, dtype="<u2").tobytes())
    return lut


def save_palette(path: Path) -> None:
    tags: dict = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = np.arange(256, dtype="<u2").tobytes()
    save(path, COLOUR[..., 0], **tags)


def save_regions(path: Path) -> None:
    region = item(
        RegionLocationMinX0=0,
        RegionLocationMinY0=0,
        RegionLocationMaxX1=30,
        RegionLocationMaxY1=30,
        PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3,
        PhysicalDeltaX=0.1,
        PhysicalDeltaY=0.1,
        RegionSpatialFormat=1,
    )
    save(path, COLOUR, SequenceOfUltrasoundRegions=[region])


def save_bare(path: Path) -> None:
    path.write_bytes(Path(save(path, GREY, **GEOMETRY)).read_bytes()[132:])


def save_dicomdir(path: Path) -> None:
    records = [item(DirectoryRecordType="IMAGE", ReferencedFileID=["A", name]) for name in ("IM1", "IM2")]
    save(path, None, SOPClassUID=uid.MediaStorageDirectoryStorage, DirectoryRecordSequence=records)


def native(syntax: uid.UID, pixels: np.ndarray) -> Callable[[Path], object]:
    return lambda path: save(path, pixels, syntax, **GEOMETRY)


def coded(syntax: uid.UID, pixels: np.ndarray, frame: bytes, num_frames: int = 1) -> Callable[[Path], object]:
    return lambda path: save_coded(path, pixels, [frame] * num_frames, syntax, **GEOMETRY)


KINDS: dict[str, Callable[[Path], object]] = {
    "explicit": native(uid.ExplicitVRLittleEndian, GREY),
    "implicit": native(uid.ImplicitVRLittleEndian, GREY),
    "big endian": native(uid.ExplicitVRBigEndian, np.stack([GREY, GREY])),
    "deflated": native(uid.DeflatedExplicitVRLittleEndian, COLOUR),
    "without preamble": save_bare,
    "palette": save_palette,
    "tables": lambda path: save(path, GREY, ModalityLUTSequence=[table(0, 16)], VOILUTSequence=[table(0, 8)]),
    "regions": save_regions,
    "RLE": coded(uid.RLELossless, GREY, by_rle(GREY), 2),
    "RLE colour": coded(uid.RLELossless, COLOUR, by_rle(COLOUR)),
    "JPEG": coded(uid.JPEGBaseline8Bit, COLOUR[..., 0], by_jpeg(COLOUR[..., 0])),
    "JPEG colour": coded(uid.JPEGBaseline8Bit, COLOUR, by_jpeg(COLOUR), 2),
    "JPEG-LS": coded(uid.JPEGLSLossless, GREY, by_jpeg_ls(GREY)),
    "JPEG-LS near": coded(uid.JPEGLSNearLossless, GREY, by_jpeg_ls(GREY, near=2)),
    "JPEG 2000": coded(uid.JPEG2000Lossless, GREY, by_jpeg_2000(GREY)),
    "JPEG 2000 colour": coded(uid.JPEG2000, COLOUR, by_jpeg_2000(COLOUR, compression_ratios=[8])),
}

if find_spec("imagecodecs"):  # nothing that comes with the package reads or makes these
    import imagecodecs

    KINDS["lossless JPEG"] = coded(uid.JPEGLosslessSV1, GREY, by_lossless_jpeg(GREY))
    twelve = imagecodecs.jpeg8_encode(GREY, level=95, bitspersample=12)
    KINDS["JPEG of 12 bits"] = coded(uid.JPEGExtended12Bit, GREY, twelve)


def damaged(data: bytes, random: np.random.Generator) -> Iterator[bytes]:
    """Files with bytes that were changed anywhere or in the header only, and files that end too early."""
    for number in range(NUM_FILES):
        if number % 3 == 2:
            yield data[: random.integers(1, len(data))]
            continue
        changed = bytearray(data)
        end = len(data) if number % 3 else min(len(data), 1200)
        for place in random.integers(0, end, random.integers(1, 12)):
            changed[place] = random.integers(256)
        yield bytes(changed)


def read_all(path: str) -> None:
    with open_image(path) as image:
        assert min(image.size) > 0
        assert isinstance((image.series, image.position), tuple)
        for frame in {0, image.num_frames - 1}:
            rgb = look(image, frame).rgb
            assert rgb.shape == (*image.size, 3)
            assert 0 <= rgb.min() <= rgb.max() <= 255
        if isinstance(image, DicomFile):
            image.scale(0)


def sentence(read: Callable[[str], object], path: Path) -> str:
    """What a refusal says; the path where the file is read."""
    try:
        read(str(path))
    except InputError as error:
        return str(error)
    return str(path)


def check_every(path: Path, read: Callable[[str], object], kind: str) -> None:
    data = path.read_bytes()
    read(str(path))  # it is sound
    random, before = np.random.default_rng(zlib.crc32(kind.encode())), peak_memory_mb()
    for content in damaged(data, random):
        path.write_bytes(content)
        start = time.monotonic()
        told = sentence(read, path)
        assert "\n" not in told
        assert str(path) in told
        assert time.monotonic() - start < MOST_SECONDS
    assert peak_memory_mb() - before < MOST_MB  # what other tests took is no file's


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.dcm"
    KINDS[kind](path)
    check_every(path, read_all, kind)


def test_damaged_dicomdirs_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "DICOMDIR"
    save_dicomdir(path)
    check_every(path, read_dicomdir, "DICOMDIR")
