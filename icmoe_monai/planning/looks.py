"""One pass over the images and masks of a set: of each case what facts, faults and choices are made of.

Files are read by several threads, each one image and its masks at a time. Kept of an image are figures and a thumbnail,
whose side is chosen so that all of them stay within a bound.

Letters: H, W size of an image; S side of a thumbnail.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from skimage.measure import label as label_objects
from tqdm import tqdm

from icmoe_monai.data.cases import find_size_problem, may_be_turned
from icmoe_monai.data.thickness import thickness_of
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.masks import LOSSY_THRESHOLD
from icmoe_monai.imageio.read import merged, see_image, stored_values
from icmoe_monai.planning.headers import Header, read_header

MOST_VALUES = 64  # of a mask that are told apart; more are no class numbers
_THUMBNAIL_SIDES = (256, 128, 64)
_MOST_BYTES = 300e6  # of all thumbnails
_UNKNOWN = Header()


@dataclass(frozen=True, eq=False)
class MaskLook:
    """Hold what is kept of a mask.

    Attributes:
        path: The file, or the first of several whose maximum is the mask.
        size: (H, W).
        values: Values that the file holds, sorted, at most `MOST_VALUES`.
        pixels: Number of pixels of each of `values`.
        areas: Areas of the targets, in pixels; a target is a piece of one value.
        thickness: How wide the thinnest of `values` is in the middle of its distribution, in pixels; of more than
            `MOST_VALUES` the foreground; 0 of an empty mask.
        key: Of masks with the same pixels the same.
        share: Share of the foreground in every pixel of a thumbnail, float16 (S, S).
        at_border: Share of the image's outermost pixels that are foreground.
        is_whole: Whether all of `values` are whole numbers of at least 0.
    """

    path: str
    size: tuple[int, int]
    values: tuple[float, ...]
    pixels: tuple[int, ...]
    areas: np.ndarray
    thickness: float
    key: str
    share: np.ndarray
    at_border: float
    is_whole: bool

    @property
    def foreground(self) -> float:
        """Share of the pixels that are not 0."""
        num_empty = dict(zip(self.values, self.pixels, strict=True)).get(0, 0)
        return 1 - num_empty / (self.size[0] * self.size[1])


@dataclass(frozen=True, eq=False)
class Look:
    """Hold what is kept of a case.

    Attributes:
        name: The case's name.
        split: The split it is in.
        group: What cases that must stay together share, such as a patient; "" where nothing is known.
        image: The image's file.
        error: Why image or mask cannot be used; "" if they can.
        header: How the image is stored.
        size: (H, W); (0, 0) of an image that cannot be read.
        low: 0.5 percentile of its values, 0..255 as the network would see them.
        high: 99.5 percentile.
        mean: Mean.
        is_grey: Whether its three channels are one.
        is_blank: Whether all pixels are the same.
        note: What is odd about it, as inference would tell; else "".
        picture: Thumbnail, uint8 (S, S, 3), whatever the image's shape.
        mask: What is kept of the mask; None of a case without one.
        may_be_turned: Whether EXIF turns image and mask upright in different ways, and they fit in others too.
    """

    name: str
    split: str
    group: str
    image: str
    error: str = ""
    header: Header = _UNKNOWN
    size: tuple[int, int] = (0, 0)
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    is_grey: bool = False
    is_blank: bool = False
    note: str = ""
    picture: np.ndarray | None = None
    mask: MaskLook | None = None
    may_be_turned: bool = False

    @property
    def longest(self) -> int:
        """The longest side in pixels."""
        return max(self.size)

    @property
    def fits(self) -> bool:
        """Whether image and mask can be used together."""
        return not self.error and self.mask is not None and self.mask.size == self.size


def look_at_cases(splits: Mapping[str, Sequence[Mapping[str, Any]]], *, progress: bool | None = None) -> list[Look]:
    """Read every image and mask once.

    Args:
        splits: Cases by split, as `icmoe_monai.data.find_cases` lists them.
        progress: Show a bar; None: on a terminal only.

    Returns:
        A look at each case, in the order of the splits.
    """
    cases = [(split, case) for split, listed in splits.items() for case in listed]
    side = next((side for side in _THUMBNAIL_SIDES if 5 * side**2 * len(cases) <= _MOST_BYTES), _THUMBNAIL_SIDES[-1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(_look, side=side), cases)
        hide = None if progress is None else not progress
        return list(tqdm(found, "Looking at images", len(cases), disable=hide))


def _look(listed: tuple[str, Mapping[str, Any]], *, side: int) -> Look:
    split, case = listed
    look = Look(case["name"], split, str(case.get("group") or ""), case["image"])
    try:
        look = _with_image(look, side)
        if problem := find_size_problem(look.image, *look.size):
            raise InputError(problem)
        if "label" in case:
            mask = _look_at_mask(case["label"], is_numbered=case.get("label_kind") == "instances", side=side)
            turned = mask.size == look.size and may_be_turned(dict(case), is_square=mask.size[0] == mask.size[1])
            look = Look(**{**vars(look), "mask": mask, "may_be_turned": turned})
    except InputError as error:
        return Look(**{**vars(look), "error": str(error)})
    return look


def _with_image(look: Look, side: int) -> Look:
    seen = see_image(look.image)
    low, high = np.percentile(seen.rgb[::2, ::2], (0.5, 99.5))
    picture = Image.fromarray(seen.rgb.clip(0, 255).round().astype(np.uint8))
    small = picture.resize((side, side), Image.Resampling.BOX, reducing_gap=None)
    known = {
        "header": read_header(look.image),
        "size": seen.rgb.shape[:2],
        "low": float(low),
        "high": float(high),
        "mean": float(seen.rgb.mean()),
        "is_grey": bool((seen.rgb[..., :1] == seen.rgb).all()),
        "is_blank": seen.is_blank,
        "note": seen.note,
        "picture": np.asarray(small),
    }
    return Look(**{**vars(look), **known})


def _look_at_mask(label: str | Sequence[str], *, is_numbered: bool, side: int) -> MaskLook:
    paths = [label] if isinstance(label, str) else list(label)
    read = [_read_values(path) for path in paths]
    numbers = merged(paths, read)
    objects = label_objects(_ranked(numbers), connectivity=2)
    values = numbers > 0 if is_numbered or len(paths) > 1 else numbers
    known, pixels = np.unique(values, return_counts=True)
    foreground = values != 0
    edge = np.concatenate([foreground[0], foreground[-1], foreground[:, 0], foreground[:, -1]])
    return MaskLook(
        path=paths[0],
        size=(values.shape[0], values.shape[1]),
        values=tuple(map(float, known[:MOST_VALUES])),
        pixels=tuple(map(int, pixels[:MOST_VALUES])),
        areas=np.bincount(objects.ravel())[1:],
        thickness=thickness_of(values if len(known) <= MOST_VALUES else foreground),
        key=hashlib.sha256(f"{values.shape}".encode() + _ranked(values).tobytes()).hexdigest(),
        share=_shrunk(foreground, side),
        at_border=float(edge.mean()),
        is_whole=bool((known >= 0).all() and (known % 1 == 0).all()),
    )


def _read_values(path: str) -> np.ndarray:
    values, lossless = stored_values(path)
    return values if lossless else values >= LOSSY_THRESHOLD


def _ranked(values: np.ndarray) -> np.ndarray:
    """Return the values by their rank, 0 as 0, int32."""
    known, ranks = np.unique(values, return_inverse=True)
    is_background = known == 0
    offset = 0 if is_background[:1].any() else 1
    return (ranks.reshape(values.shape) + offset).astype(np.int32)


def _shrunk(foreground: np.ndarray, side: int) -> np.ndarray:
    picture = Image.fromarray(foreground.astype(np.float32))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float16)
