"""Listing of a dataset folder's cases: they are found, split and checked before anything is trained.

A case is a dictionary: `image`, a path; `label`, a path or several whose masks are merged; `name`, its stem, unique in
the set; `class` where the archive has classes (BUSI); `label_kind` "instances" where masks number objects (GlaS);
`group`, the name of the first image of its group, in all cases of a set of which groups are known.
`layouts` says which folders are understood, `groups` what tells groups, `splits` how missing splits are cut, `folds`
how folds are dealt, `imageio.read` what a file may hold.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from icmoe_monai.data.demo import NO_IMAGES, is_demo, make_demo_set
from icmoe_monai.data.folds import check_fold, take_fold
from icmoe_monai.data.layouts import find_layout
from icmoe_monai.data.splits import OUT_OF_FOLD, Case, cut_missing_splits, find_divided_group
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image, read_label, read_orientation, read_size
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.utils.files import as_path

MIN_SIDE = 16  # pixels, of an image's height and width: one patch of the encoder
_NUM_PROBLEMS_LOGGED = 20
_NUM_FILES_WITHOUT_BAR = 50


class Content(NamedTuple):
    """Hold what is in a mask.

    Attributes:
        classes: The classes, as their numbers.
        share: Share of the pixels that belong to the target, 0 to 1; of several classes, to all but the background.
        may_be_turned: Whether the files of image and mask are turned upright in different ways, and fit in others too.
    """

    classes: frozenset[int] = frozenset()
    share: float = 0.0
    may_be_turned: bool = False


class Listed(NamedTuple):
    """Hold the cases of a dataset folder.

    Attributes:
        folder: The folder, of the phantoms where these were asked for.
        layout: Name of the layout.
        splits: Cases by split.
        problems: What is wrong with the folder, a sentence each.
    """

    folder: str
    layout: str
    splits: dict[str, list[Case]]
    problems: list[str]


@by_first
def find_cases(
    dataset_dir: str | None,
    *,
    demo_dir: str | None = None,
    out_channels: int = 1,
    seed: int = 0,
    check: bool = True,
    needed: Sequence[str] = ("train", "val"),
    folds: int | None = None,
    fold: int | None = None,
) -> dict[str, list[Case]]:
    """List the cases of a dataset folder by split.

    Splits that the set does not name are cut from its training cases by `seed`; neither they nor folds divide a group.
    Files that are no pictures, images that a splits.json does not list, and groups that it divides, are counted in a
    warning; hidden files are ignored. With several processes, the first one reads the folder and all take its result.

    Args:
        dataset_dir: A folder of a layout that `layouts` knows, or its parent; or demo: computer-made phantoms.
        demo_dir: Folder where the phantoms are, or will be, written.
        out_channels: Output channels of the network, which decide which values a mask may hold.
        seed: Seed of the splits that are cut, and of the folds.
        check: Decode every file once, so that a bad one is found now and not in the middle of a training; with folds,
            which need the masks, this is always done.
        needed: Splits that must have a case.
        folds: Number of folds of a cross-validation, into which the training and validation cases are dealt; None: the
            splits stay as they are. Other splits always do.
        fold: The fold that is "val", from 1; the others are "train". None: all are "train", and "out_of_fold" lists
            them again, each with the number of its own as `fold`.

    Returns:
        Cases sorted by name under "train", "val", "test" and, if splits.json has it, "unlabelled" (these have no
        label).

    Raises:
        InputError: The folder or its files cannot be used; the message names the first problem, and the others are
            counted and logged. Or nothing could be learnt from it: all training images are black, or all their masks
            empty. Or there is no such fold, or there are fewer images, or groups of them, than folds.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     find_cases(folder + "/nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: The dataset folder ... does not exist: correct its path.
    """
    logger = logging.getLogger(__name__)
    unknown = [split for split in needed if split not in ("train", "val", "test", OUT_OF_FOLD)]
    if unknown:
        raise InputError(f"split must be train, val, test or {OUT_OF_FOLD}, got {unknown[0]!r}.")
    check_fold(folds, fold, of_all=OUT_OF_FOLD in needed)
    found = list_cases(dataset_dir, demo_dir=demo_dir, seed=seed)
    if found.folder == demo_dir:
        logger.info("These are computer-made phantoms, no patient data: %s.", demo_dir)
    splits, problems = found.splits, found.problems
    pooled = () if folds is None else ("train", "val", OUT_OF_FOLD)
    if not problems:
        problems += _find_split_problems(found.folder, splits, [split for split in needed if split not in pooled])
    contents: dict[str, Content] = {}
    if check or folds:
        more, contents = _look_into_files(splits, out_channels=out_channels)
        problems += more
    _raise_problems(problems)
    if folds is not None:
        shares = {name: content.share for name, content in contents.items()}
        splits = take_fold(splits, folds=folds, fold=fold, seed=seed, shares=shares)
    if divided := find_divided_group(splits):
        logger.warning("%s: %s", found.folder, divided)
    if check:
        _tell_turned(splits, contents)
        looked_at = [split for split in needed if splits[split] or split not in pooled]
        _check_content(splits, contents, looked_at, out_channels=out_channels)
    counts = ", ".join(f"{len(cases)} {split}" for split, cases in splits.items())
    of_folds = "" if folds is None else f", {folds} folds" if fold is None else f", fold {fold} of {folds}"
    logger.info("%s (%s layout%s): %s.", found.folder, found.layout, of_folds, counts)
    return splits


def list_cases(dataset_dir: str | None, *, demo_dir: str | None = None, seed: int = 0) -> Listed:
    """List the cases of a dataset folder by split, without a look into the files.

    Args:
        dataset_dir: As of `find_cases`.
        demo_dir: As of `find_cases`.
        seed: Seed of the splits that are cut.

    Raises:
        InputError: The folder is missing, or holds no dataset of a known layout, or several.
    """
    if dataset_dir is None or dataset_dir == "":
        raise InputError(NO_IMAGES)
    dataset_dir = as_path(dataset_dir, "dataset_dir")
    if is_demo(dataset_dir) and demo_dir:
        make_demo_set(demo_dir)
        dataset_dir = demo_dir
    found = find_layout(dataset_dir)
    return Listed(dataset_dir, found.layout, cut_missing_splits(found.splits, seed=seed), found.problems)


def _find_split_problems(dataset_dir: str, splits: dict[str, list[Case]], needed: Sequence[str]) -> list[str]:
    groups = {case["group"] for cases in splits.values() for case in cases if "group" in case}
    reason = f", as groups are not divided and {dataset_dir} has {len(groups)}" if len(groups) in (1, 2) else ""
    problems = [
        f"The {split} split of {dataset_dir} is empty{reason}: list cases for it in splits.json or add images."
        for split in needed
        if not splits[split]
    ]
    images: dict[str, str] = {}
    for case in (case for cases in splits.values() for case in cases):
        first = images.setdefault(case["name"], case["image"])
        if first != case["image"]:
            problems.append(f"{first} and {case['image']} have one name: rename or remove one of the two.")
    return problems


def _look_into_files(splits: dict[str, list[Case]], *, out_channels: int) -> tuple[list[str], dict[str, Content]]:
    """Read every file, and return the problems and what is in the masks, by the names of the cases."""
    cases = [case for split in splits.values() for case in split]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(_look_into_case, out_channels=out_channels), cases)
        few = 2 * len(cases) <= _NUM_FILES_WITHOUT_BAR
        # None: no bar but on a terminal
        looked = list(tqdm(found, "Checking images", len(cases), disable=few or None))
    problems = [problem for problem, _ in looked if problem]
    return problems, {case["name"]: content for case, (_, content) in zip(cases, looked, strict=True)}


def _look_into_case(case: Case, *, out_channels: int) -> tuple[str | None, Content]:
    try:
        height, width = read_size(case["image"], whole=True)
        if problem := find_size_problem(case["image"], height, width):
            return problem, Content()
        if "label" not in case:
            return None, Content()
        label = read_label(case["label"], out_channels=out_channels, instances=case.get("label_kind") == "instances")
    except InputError as error:
        return str(error), Content()
    if label.shape != (height, width):
        return _size_problem(case, label, height, width), Content()
    counts = np.bincount(label.astype(np.int64).ravel())
    classes, share = frozenset(np.flatnonzero(counts).tolist()), float(1 - counts[0] / label.size)
    return None, Content(classes, share, may_be_turned(case, is_square=height == width))


def _size_problem(case: Case, label: np.ndarray, height: int, width: int) -> str:
    mask, size = _first_mask(case), f"{label.shape[1]}x{label.shape[0]}"
    upright = ", both upright as their EXIF orientations say" if label.shape == (width, height) else ""
    return f"{mask} is {size} and {case['image']} is {width}x{height}{upright}: image and mask must have one size."


def _first_mask(case: Case) -> str:
    return str(case["label"] if isinstance(case["label"], str) else case["label"][0])


def find_size_problem(image: str, height: int, width: int) -> str:
    """Return what is wrong with an image below one patch of the encoder; "" of others.

    Args:
        image: The file.
        height: Its height in pixels.
        width: Its width in pixels.

    Example:
        >>> find_size_problem("a.png", 16, 9)
        'a.png is 9x16, and the least is 16x16: remove it.'
    """
    if min(height, width) >= MIN_SIDE:
        return ""
    return f"{image} is {width}x{height}, and the least is {MIN_SIDE}x{MIN_SIDE}: remove it."


def may_be_turned(case: Case, *, is_square: bool) -> bool:
    """Tell whether image and mask would have one size as stored, too, and are turned upright in different ways.

    Args:
        case: The case, with a label.
        is_square: Whether the image is.

    Raises:
        InputError: A file cannot be used.
    """
    one, other = read_orientation(case["image"]), read_orientation(_first_mask(case))
    return one != other and (is_square or (one < 5) == (other < 5))


def _tell_turned(splits: dict[str, list[Case]], contents: dict[str, Content]) -> None:
    """Warn of masks that may have been drawn over the image as stored, and not as its EXIF orientation turns it."""
    cases = {case["name"]: case["image"] for listed in splits.values() for case in listed}
    turned = [image for name, image in cases.items() if contents[name].may_be_turned]
    if turned:
        logging.getLogger(__name__).warning(
            "%d images are turned upright by their EXIF orientation otherwise than their masks, such as %s: look "
            "whether these masks lie on their targets.", len(turned), turned[0],
        )  # fmt: skip


def _check_content(
    splits: dict[str, list[Case]], contents: dict[str, Content], needed: Sequence[str], *, out_channels: int
) -> None:
    """Refuse a training set that shows nothing, and warn of classes that a split lacks."""
    classes = {
        split: set().union(*(contents[case["name"]].classes for case in cases)) for split, cases in splits.items()
    }
    if "train" in needed:
        if classes["train"] <= {0}:
            raise InputError(
                f"All {len(splits['train'])} masks of the training images are empty (0 everywhere), so nothing can "
                "be learnt: correct the masks."
            )
        if not any(read_image(case["image"]).any() for case in splits["train"]):  # seldom more than one is read
            raise InputError(
                f"All {len(splits['train'])} training images are black (0 everywhere, or values that are not finite): "
                "correct the images."
            )
    for split in needed:
        absent = [k for k in range(max(out_channels, 2)) if k not in classes[split]]
        if absent:
            named = ", ".join(f"{k} (the {'foreground' if k else 'background'})" if out_channels == 1 else str(k)
                              for k in absent)  # fmt: skip
            logging.getLogger(__name__).warning(
                "No mask of the %s images has class %s: %s.", split, named,
                "it cannot be learnt" if split == "train" else "what is measured there says nothing of it",
            )  # fmt: skip


def _raise_problems(problems: list[str]) -> None:
    if not problems:
        return
    first, *others = problems
    for problem in others[:_NUM_PROBLEMS_LOGGED]:
        logging.getLogger(__name__).error("%s", problem)
    more = f" (and {len(others)} more, see the lines above)" if others else ""
    raise InputError(first + more)
