"""Damaged pictures of every kind: read, or refused in a sentence; never a traceback, a wait or much memory.

As many files of each kind as the environment variable ICMOE_FUZZ says, by default few. To damage many:

    ICMOE_FUZZ=300 python -m pytest tests/imageio/test_fuzz.py -q
"""

from __future__ import annotations

import os
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_files import bmp_rows, save_bmp, save_png, save_tiff
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import count_frames, read_image, read_label, read_size
from icmoe_monai.slides.images import open_large_image

NUM_FILES = int(os.environ.get("ICMOE_FUZZ", "12"))
MOST_SECONDS = 10.0
MOST_BYTES = 2**30
HEIGHT, WIDTH = 40, 56
RANDOM = np.random.default_rng(0)
COLOURS = (RANDOM.integers(0, 64, (HEIGHT, WIDTH, 3)) + np.arange(WIDTH)[None, :, None] * 3).astype(np.uint8)
GREYS = COLOURS[..., 0]
MASKS = (0xF800, 0x7E0, 0x1F)


def save_picture(suffix: str, mode: str, **options: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        path = folder / f"a.{suffix}"
        Image.fromarray(COLOURS).convert(mode).save(path, **options)
        return path

    return save


def save_tifffile(pixels: np.ndarray, **options: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", pixels, **options)
        return folder / "a.tif"

    return save


def save_made(suffix: str, make: Callable[..., None], *values: object, **options: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        make(folder / f"a.{suffix}", *values, **options)
        return folder / f"a.{suffix}"

    return save


SIZE = (HEIGHT, WIDTH)
RUNS = bytes([4, 3, 0, 3, 1, 2, 3, 0, 0, 0, 0, 2, 5, 3]) * 30 + b"\0\1"
KINDS = {
    "png": save_picture("png", "RGB"),
    "png palette": save_picture("png", "P"),
    "png 1 bit": save_picture("png", "1"),
    "png 16 bits": save_made("png", save_png, COLOURS * np.uint16(200), bits=16, colour_type=2),
    "png 16 bits grey and opacity": save_made("png", save_png, COLOURS[..., :2], bits=16, colour_type=4),
    "jpeg": save_picture("jpg", "RGB"),
    "progressive jpeg": save_picture("jpg", "RGB", progressive=True),
    "cmyk jpeg": save_picture("jpg", "CMYK"),
    "webp": save_picture("webp", "RGB"),
    "lossless webp": save_picture("webp", "RGBA", lossless=True),
    "bmp": save_picture("bmp", "RGB"),
    "bmp palette": save_picture("bmp", "P"),
    "bmp fields": save_made("bmp", save_bmp, bmp_rows(GREYS, 16), SIZE, bits=16, compression=3, masks=MASKS),
    "bmp runs of 4 bits": save_made("bmp", save_bmp, RUNS, SIZE, bits=4, compression=2, palette=bytes(range(64))),
    "bmp runs of 8 bits": save_made("bmp", save_bmp, RUNS, SIZE, bits=8, compression=1, palette=bytes(range(64))),
    "tiff": save_tifffile(COLOURS, photometric="rgb"),
    "tiff deflated tiles": save_tifffile(COLOURS, photometric="rgb", tile=(16, 32), compression="zlib", predictor=True),
    "tiff planes": save_tifffile(COLOURS.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "tiff floats": save_tifffile(GREYS.astype(np.float32), compression="zlib"),
    "tiff pages": save_tifffile(np.stack([GREYS] * 5), photometric="minisblack"),
    "big tiff": save_tifffile(GREYS, bigtiff=True, byteorder=">"),
    "tiff lzw": save_picture("tif", "RGB", compression="tiff_lzw"),
    "tiff jpeg": save_picture("tif", "RGB", compression="jpeg"),
    "tiff fax": save_picture("tif", "1", compression="group4"),
    "tiff packbits": save_picture("tif", "L", compression="packbits"),
    "tiff 12 bits": save_made("tif", save_tiff, COLOURS.astype(np.uint16) * 9, bits=12, photometric=2),
    "tiff ycbcr": save_made("tif", save_tiff, COLOURS, bits=8, photometric=6, tags={530: (1, 1)}),
}


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Cut a file short, or change one to four of its bytes, most of them near its beginning or end."""
    if random.random() < 0.25:
        return content[: random.integers(1, len(content))]
    changed = np.frombuffer(content, np.uint8).copy()
    for _ in range(random.integers(1, 5)):
        near = min(len(changed), 400)
        place = random.choice([random.integers(len(changed)), random.integers(near), -1 - random.integers(near)])
        changed[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
    return changed.tobytes()


def read_all(path: str) -> list[str]:
    """Ask all that is asked of a file, and return the sentences."""
    told = []
    for ask in (
        count_frames,
        read_size,
        lambda path: read_image(path, frame=0),
        lambda path: read_label(path, out_channels=256),
        read_region,
    ):
        try:
            ask(path)
        except InputError as error:
            told.append(str(error))
    return told


def read_region(path: str) -> None:
    with open_large_image(path) as image:
        image.read(0, 0, min(64, image.shape[0]), min(64, image.shape[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures_are_read_or_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path)
    assert read_image(str(path), frame=0).shape == (HEIGHT, WIDTH, 3)
    content, random = path.read_bytes(), np.random.default_rng(zlib.crc32(kind.encode()))
    num_told, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(NUM_FILES):
        path.write_bytes(damaged(content, random))
        start = time.perf_counter()
        told = read_all(str(path))
        assert time.perf_counter() - start < MOST_SECONDS, number
        for sentence in told:
            assert sentence.startswith(str(path)), sentence
            assert sentence.endswith("."), sentence
        num_told += bool(told)
    assert num_told > 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in kB; what imports take is no picture's
    assert grown * 1024 < MOST_BYTES
