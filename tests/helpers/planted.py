"""Sets of phantoms in which nothing is wrong, and faults to plant in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from icmoe_monai.data.phantoms import draw_dermoscopy

HEIGHT, WIDTH = 72, 96


def put_phantoms(folder: Path, num_images: int = 24) -> Path:
    """Write a plain set of dermoscopic phantoms, whose names are train_00, ..., val_18, ..., test_21, ..."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for n in range(num_images):
        split = "train" if n < 0.75 * num_images else ("val" if n < 0.875 * num_images else "test")
        name = f"{split}_{n:02d}"
        lists[split].append(name)
        put(folder, name, *phantom(n))
    (folder / "splits.json").write_text(json.dumps(lists))
    return folder


@cache
def phantom(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask of a phantom, which each process of the tests draws once."""
    image, mask = draw_dermoscopy(np.random.default_rng(n), (110, 150))
    top, left = (int(place) for place in np.random.default_rng(n).integers(0, (110 - HEIGHT, 150 - WIDTH)))
    part = slice(top, top + HEIGHT), slice(left, left + WIDTH)  # so that lesions lie anywhere
    return image[part], 255 * mask[part].astype(np.uint8)


def put(folder: Path, name: str, image: np.ndarray | None, mask: np.ndarray | None) -> None:
    for kind, array in (("images", image), ("masks", mask)):
        if array is not None:
            Image.fromarray(array).save(folder / kind / f"{name}.png")


def read(folder: Path, kind: str, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / kind / f"{name}.png"))


def double_across_splits(folder: Path) -> None:
    """Save a training image again as a test image: larger, brighter and as a JPEG would keep it."""
    image = Image.fromarray(read(folder, "images", "train_03")).resize((2 * WIDTH, 2 * HEIGHT))
    mask = Image.fromarray(read(folder, "masks", "train_03")).resize((2 * WIDTH, 2 * HEIGHT), 0)
    brighter = np.clip(np.asarray(image) * 0.8 + 20, 0, 255).astype(np.uint8)
    put(folder, "test_21", brighter, np.asarray(mask))


def contradict(folder: Path) -> None:
    """Save a training image again, with a mask somewhere else."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:12, :30] = 255
    put(folder, "train_04", read(folder, "images", "train_03"), mask)


def swap(folder: Path) -> None:
    one, other = read(folder, "masks", "train_02"), read(folder, "masks", "train_07")
    put(folder, "train_02", None, other)
    put(folder, "train_07", None, one)


def shrink(folder: Path) -> None:
    """Leave a target of one pixel."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30, 40] = 255
    put(folder, "train_05", None, mask)


def invert(folder: Path) -> None:
    put(folder, "train_06", None, 255 - read(folder, "masks", "train_06"))


def copy_mask(folder: Path) -> None:
    put(folder, "train_09", None, read(folder, "masks", "train_08"))


def fill(folder: Path) -> None:
    put(folder, "train_10", None, np.full((HEIGHT, WIDTH), 255, np.uint8))


def blank(folder: Path) -> None:
    put(folder, "train_11", np.full((HEIGHT, WIDTH, 3), 90, np.uint8), None)


def resize_mask(folder: Path) -> None:
    put(folder, "train_12", None, read(folder, "masks", "train_12")[:60])


def add_value(folder: Path) -> None:
    mask = read(folder, "masks", "train_13").copy()
    mask[0, 0] = 7
    put(folder, "train_13", None, mask)


def cut_file(folder: Path) -> None:
    path = folder / "images" / "train_14.png"
    path.write_bytes(path.read_bytes()[:200])


# the kind of fault, what plants it, and stems of which one of the named files must be
FAULTS: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "duplicate_across_splits": (double_across_splits, {"train_03", "test_21"}),
    "contradicting_labels": (contradict, {"train_03", "train_04"}),
    "swapped_masks": (swap, {"train_02", "train_07"}),
    "tiny_target": (shrink, {"train_05"}),
    "inverted_mask": (invert, {"train_06"}),
    "equal_masks": (copy_mask, {"train_08", "train_09"}),
    "full_mask": (fill, {"train_10"}),
    "blank_image": (blank, {"train_11"}),
    "size": (resize_mask, {"train_12"}),
    "values": (add_value, {"train_13"}),
    "unreadable": (cut_file, {"train_14"}),
}
