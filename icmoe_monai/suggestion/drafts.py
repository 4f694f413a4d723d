"""The drafts: the chosen images with the model's masks, as a data set that training reads.

`drafts/images/STEM.png` is the image as the network saw it, upright RGB without anything else of its file, and
`drafts/masks/STEM.png` the mask. The folder appears once it is whole, and is never replaced: its masks may have been
corrected since.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image, split_suffix
from icmoe_monai.inference.writing import write_png
from icmoe_monai.utils.files import inside, refusal, write_atomically

DRAFTS, IMAGES, MASKS = "drafts", "images", "masks"
_PART = ".drafts.part"


def check_no_drafts(output_dir: Path) -> None:
    """Refuse a folder of results that holds drafts.

    Raises:
        InputError: If it does.
    """
    folder = output_dir / DRAFTS
    if os.path.lexists(folder):
        raise InputError(
            f"{folder} holds the drafts of an earlier suggestion, which may have been corrected since and are never "
            "replaced: move that folder away, or choose another output_dir."
        )


def write_drafts(
    cases: Sequence[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]], output_dir: Path
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Write the images and their masks.

    Args:
        cases: The chosen images, each with its `name`, `source` and `frame`.
        records: The run's records by name, each with the path of its `mask`.
        output_dir: Folder of the run's results.

    Returns:
        For each image its picture, uint8 (H, W, 3), its class map, uint8 (H, W), which holds 1 for a target that is
        alone, and its stem.

    Raises:
        InputError: If a file cannot be read or written.
    """
    part = output_dir / _PART
    shutil.rmtree(part, ignore_errors=True)
    found = []
    for case, stem in zip(cases, stems_of([case["name"] for case in cases]), strict=True):
        picture = read_image(case["source"], frame=case["frame"]).round().astype(np.uint8)
        write_png(part / IMAGES / f"{stem}.png", Image.fromarray(picture))
        mask = inside(output_dir, records[case["name"]]["mask"])
        if mask is None or not mask.is_file():
            raise InputError(f"The mask of {case['name']} is gone: run the same command again.")
        write_atomically(part / MASKS / f"{stem}.png", partial(shutil.copyfile, mask))
        found.append((picture, _classes(mask), stem))
    try:
        os.rename(part, output_dir / DRAFTS)
    except OSError as error:
        raise refusal(output_dir / DRAFTS, error) from error
    return found


def stems_of(names: Sequence[str]) -> list[str]:
    """Return a stem for each name, all in one folder and no two alike, whatever a file system makes of capitals.

    Example:
        >>> stems_of(["a/b.png", "a_b.jpg", "A_B.dcm"])
        ['a_b', 'a_b_2', 'A_B_3']
    """
    stems: list[str] = []
    for name in names:
        stem = split_suffix(name)[0].replace("/", "_")
        taken = {other.lower() for other in stems}
        tries = (stem, *(f"{stem}_{number}" for number in range(2, len(names) + 2)))
        stems.append(next(one for one in tries if one.lower() not in taken))
    return stems


def _classes(mask: Path) -> np.ndarray:
    with Image.open(mask) as picture:
        values = np.asarray(picture)
        return values if picture.mode == "P" else (values > 0).astype(np.uint8)
