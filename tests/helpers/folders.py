"""Data sets that a test needs: a folder of images and masks."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from icmoe_monai.data.demo import make_demo_set

HEIGHT, WIDTH = 20, 24


def put_image(path: Path, *, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (200, 120, 90)).save(path)


def put_mask(path: Path, *, value: int = 255, top: int = 4, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[top : top + 3] = value
    Image.fromarray(mask).save(path)


def put_plain(folder: Path, num_cases: int = 10, splits: object = None) -> Path:
    for i in range(num_cases):
        put_image(folder / "images" / f"case_{i}.jpg")
        put_mask(folder / "masks" / f"case_{i}.png")
    if splits is not None:
        (folder / "splits.json").write_text(json.dumps(splits))
    return folder


def put_demo_set(folder: Path) -> Path:
    """Make a demo set of 18 phantoms, which are drawn once in each process of the tests and then copied."""
    return Path(shutil.copytree(f"{_phantoms().name}/set", folder))


@cache
def _phantoms() -> TemporaryDirectory:
    folder = TemporaryDirectory()
    make_demo_set(f"{folder.name}/set", num_images=18, seed=1)
    return folder


def put_demo(folder: Path, *, train: int, val: int, test: int) -> Path:
    """Make a demo set of 18 phantoms, of which the splits hold few, and which no longer counts as the demo set."""
    put_demo_set(folder)
    names = sorted(name for split in json.loads((folder / "splits.json").read_text()).values() for name in split)
    ends = {"train": (0, train), "val": (train, train + val), "test": (train + val, train + val + test)}
    (folder / "splits.json").write_text(json.dumps({split: names[a:b] for split, (a, b) in ends.items()}))
    (folder / "demo_set.json").unlink()
    return folder
