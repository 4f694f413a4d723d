"""The drafts: the chosen images with the model's masks, as a data set that training reads.

`drafts/images/STEM.png` is the image as the network saw it, upright RGB without anything else of its file, and
`drafts/masks/STEM.png` the mask. The folder appears once it is whole, and is never replaced: its masks may have been
corrected since.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference.writing import write_png
from icmoe_monai.suggestion.looking import as_picture
from icmoe_monai.utils.files import composed, inside, refusal, write_atomically

DRAFTS, IMAGES, MASKS = "drafts", "images", "masks"
_PART = ".drafts.part"
_LONGEST = 200  # bytes of a stem, which the folders of a name may make too long for a file system


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
    cases: Sequence[Mapping[str, Any]],
    records: Mapping[str, Mapping[str, Any]],
    output_dir: Path,
    *,
    taken: Collection[str] = (),
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Write the images and their masks.

    Args:
        cases: The chosen images, each with its `name`, `source` and `frame`.
        records: The run's records by name, each with the path of its `mask`.
        output_dir: Folder of the run's results.
        taken: Stems that no draft may have: those of the data set that the drafts are put into.

    Returns:
        For each image its picture, uint8 (H, W, 3), its class map, uint8 (H, W), which holds 1 for a target that is
        alone, and its stem.

    Raises:
        InputError: If a file cannot be read or written.
    """
    part = output_dir / _PART
    shutil.rmtree(part, ignore_errors=True)
    found = []
    for case, stem in zip(cases, stems_of([case["name"] for case in cases], taken), strict=True):
        picture = as_picture(case["source"], case["frame"])
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


def stems_of(names: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Return a stem for each name, all in one folder and no two alike, whatever a system makes of capitals and accents.

    Args:
        names: The names, POSIX paths.
        taken: Stems that are in use already.

    Example:
        >>> stems_of(["a/b.png", "a_b.jpg", "A_B.dcm"])
        ['a_b', 'a_b_2', 'A_B_3']
    """
    stems: list[str] = []
    in_use = {composed(stem).lower() for stem in taken}
    for name in names:
        stem = _shortened(composed(split_suffix(name)[0]).replace("/", "_"))
        tries = chain([stem], (f"{stem}_{number}" for number in count(2)))
        stems.append(next(one for one in tries if one.lower() not in in_use))
        in_use.add(stems[-1].lower())
    return stems


def _shortened(stem: str) -> str:
    """Return the end of a stem, which tells more than the folders that it begins with."""
    while len(os.fsencode(stem)) > _LONGEST:
        stem = stem[1:]
    return stem


def _classes(mask: Path) -> np.ndarray:
    with Image.open(mask) as picture:
        values = np.asarray(picture)
        return values if picture.mode == "P" else (values > 0).astype(np.uint8)
