"""Recognition of dataset folders by their layout: the images, masks and splits that they hold.

Plain: `images/STEM.*`, `masks/STEM.*` and, if wanted, `splits.json`, whose lists a `protocol.json` locks. And three
archives as they are downloaded: ISIC 2017 and 2018 (dermoscopy), BUSI (breast ultrasound), GlaS/Warwick-QU (histology).
A file of groups may lie in the folder of each (`groups`).
A reader of a layout returns the splits that the set itself names; `splits.cut_missing_splits` cuts the others. Problems
are collected, not raised, so that a user learns of all of them at once.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from icmoe_monai.data.groups import GROUP_FILES, find_groups, read_groups, with_groups
from icmoe_monai.data.splits import Case, find_lock_problems, read_splits
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import PICTURE_SUFFIXES
from icmoe_monai.utils.files import composed, find_named

LAYOUTS = (
    "images/ and masks/ with equal names; the ISIC 2017 or 2018 archives; BUSI's benign/, malignant/ and normal/; "
    "GlaS's train_1.bmp with train_1_anno.bmp"
)
_CLUTTER = ("thumbs.db", "desktop.ini")
_BUSI_CLASSES = ("benign", "malignant", "normal")
_READ = ("images", "masks", *_BUSI_CLASSES)  # folders of a data set
_BUSI_MASK = re.compile(r"(?P<stem>.+)_mask(_\d+)?")
_GLAS_GRADES = "Grade.csv"
_GLAS = re.compile(r"(?P<stem>(?P<part>train|test[AB])_\d+)(?P<anno>_anno)?")
_ISIC = re.compile(
    r"ISIC-?(?P<year>201[78])_(Task1(-2)?_)?(?P<part>Training|Validation|Test)(_v2)?"
    r"((?P<images>_Data|_Input)|(_Part1)?_GroundTruth)"
)
_ISIC_SPLITS = {"Training": "train", "Validation": "val", "Test": "test"}


class Found(NamedTuple):
    """Hold what was found in a dataset folder.

    Attributes:
        layout: Name of the layout.
        splits: Cases by split, of the splits that the set itself names.
        problems: What is wrong with the folder, a sentence each.
    """

    layout: str
    splits: dict[str, list[Case]]
    problems: list[str]


def find_layout(dataset_dir: str) -> Found:
    """Recognise a dataset folder, or the one dataset in it, and list its cases.

    Args:
        dataset_dir: The folder itself, its parent, or one of the folders of an ISIC archive.

    Raises:
        InputError: The folder is missing, holds no dataset of a known layout, or holds several.
    """
    if not os.path.isdir(dataset_dir):
        raise InputError(f"The dataset folder {dataset_dir} does not exist: correct its path.")
    inner = [os.path.join(dataset_dir, name) for name in _visible(dataset_dir)]
    above = os.path.dirname(os.path.abspath(dataset_dir))
    homes = [[dataset_dir], inner, [above] if _ISIC.fullmatch(os.path.basename(os.path.abspath(dataset_dir))) else []]
    for group in homes:
        known = [(home, reader) for home in group if (reader := _recognise(home)) is not None]
        if len(known) > 1:
            names = ", ".join(os.path.basename(home) for home, _ in known)
            raise InputError(f"{dataset_dir} holds several datasets ({names}): give one of them.")
        for home, reader in known:
            found = reader(home)
            found.problems.extend(_find_stray_groups(dataset_dir, home))
            if not any(found.splits.values()) and not found.problems:
                break
            return found
    raise InputError(
        f"No images were found in {dataset_dir}. Layouts understood: {LAYOUTS}; files: {', '.join(PICTURE_SUFFIXES)}."
    )


def _recognise(home: str) -> Callable[[str], Found] | None:
    if not os.path.isdir(home):
        return None
    names = _visible(home)
    if os.path.isdir(os.path.join(home, "images")):
        return _read_plain
    if any(_ISIC.fullmatch(name) for name in names):
        return _read_isic
    if any(os.path.isdir(os.path.join(home, name)) for name in _BUSI_CLASSES[:2]):
        return _read_busi
    if any((match := _GLAS.fullmatch(os.path.splitext(name)[0])) and match["anno"] for name in names):
        return _read_glas
    return None


def _read_plain(home: str) -> Found:
    problems: list[str] = []
    images = _by_stem(_pictures(os.path.join(home, "images")), problems)
    mask_folder = os.path.join(home, "masks")
    masks = _by_stem(_pictures(mask_folder), problems) if os.path.isdir(mask_folder) else {}
    listings = find_named(home, ("splits.json",))
    if not listings:
        problems += find_lock_problems(home, {})
        splits = {"train": _pair(images, masks, problems)}
        return Found("plain", with_groups(splits, find_groups(home, images, problems)), problems)
    listing = listings[-1]
    if len(listings) > 1:
        problems.append(f"{home} holds {' and '.join(map(os.path.basename, listings))}: remove one of the two.")
    stems = read_splits(listing, images, problems)
    problems += find_lock_problems(home, stems) if not problems else []
    labelled = {stem for split, listed in stems.items() if split != "unlabelled" for stem in listed}
    unlabelled = set(stems["unlabelled"]) - labelled
    wanted = {stem: path for stem, path in images.items() if stem in labelled or stem in masks}
    cases = {case["name"]: case for case in _pair(wanted, masks, problems)}
    cases.update({stem: {"image": images[stem], "name": stem} for stem in unlabelled if stem in images})
    splits = {split: [cases[stem] for stem in listed if stem in cases] for split, listed in stems.items()}
    if not unlabelled:
        del splits["unlabelled"]
    num_unused = len(images.keys() - labelled - unlabelled)
    if num_unused:
        logging.getLogger(__name__).warning("%s does not list %d of the %d images.", listing, num_unused, len(images))
    return Found("plain", with_groups(splits, find_groups(home, images, problems)), problems)


def _read_isic(home: str) -> Found:
    problems: list[str] = []
    folders: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in _visible(home):
        if match := _ISIC.fullmatch(name):
            role = "images" if match["images"] else "masks"
            folders[match["year"], _ISIC_SPLITS[match["part"]]][role] = os.path.join(home, name)
    years = sorted({year for year, _ in folders})
    if len(years) > 1:
        raise InputError(f"{home} holds ISIC {' and '.join(years)}, which share images: give one of them.")
    splits: dict[str, list[Case]] = {}
    names: set[str] = set()
    for (_, split), pair in folders.items():
        images = _by_stem(_isic_images(pair["images"]), problems) if "images" in pair else {}
        names |= images.keys()
        if len(pair) < 2:
            logging.getLogger(__name__).warning("%s is not used: its counterpart is missing.", *pair.values())
            continue
        masks = _by_stem(_pictures(pair["masks"]), problems, suffix="_segmentation")
        splits[split] = _pair(images, masks, problems)
    if "train" not in splits:
        raise InputError(f"{home} lacks ISIC's training images or their Part1/Task1 ground truth: download both.")
    return Found(f"ISIC {years[0]}", with_groups(splits, find_groups(home, names, problems)), problems)


def _isic_images(folder: str) -> list[str]:
    return [path for path in _pictures(folder) if not _stem(path).endswith("_superpixels")]


def _read_busi(home: str) -> Found:
    problems: list[str] = []
    cases: list[Case] = []
    names: set[str] = set()
    for kind in _BUSI_CLASSES:
        folder = os.path.join(home, kind)
        if not os.path.isdir(folder):
            continue
        pictures = _pictures(folder)
        masks: dict[str, list[str]] = defaultdict(list)
        for path in pictures:
            if match := _BUSI_MASK.fullmatch(_stem(path)):
                masks[match["stem"]].append(path)
        images = _by_stem([path for path in pictures if not _BUSI_MASK.fullmatch(_stem(path))], problems)
        names |= images.keys()
        merged = {stem: paths if len(paths) > 1 else paths[0] for stem, paths in masks.items()}
        cases += [{**case, "class": kind} for case in _pair(images, merged, problems)]
    return Found("BUSI", with_groups({"train": cases}, find_groups(home, names, problems)), problems)


def _read_glas(home: str) -> Found:
    problems: list[str] = []
    matched = [(path, _GLAS.fullmatch(_stem(path))) for path in _pictures(home)]
    images = _by_stem([path for path, match in matched if match and not match["anno"]], problems)
    masks = _by_stem([path for path, match in matched if match and match["anno"]], problems, suffix="_anno")
    num_unused = sum(match is None for _, match in matched)
    if num_unused:
        logging.getLogger(__name__).warning("%s: %d pictures have no name of GlaS and are not used.", home, num_unused)
    cases = [{**case, "label_kind": "instances"} for case in _pair(images, masks, problems)]
    splits: dict[str, list[Case]] = {"train": [], "test": []}
    for case in cases:
        splits["train" if case["name"].startswith("train") else "test"].append(case)
    if not splits["test"]:
        del splits["test"]
    groups = find_groups(home, images, problems)
    grades = os.path.join(home, _GLAS_GRADES)
    if not groups and os.path.exists(grades):
        groups = read_groups(grades, images, problems, columns=("name", "patient ID"), may_be_partial=True)
    return Found("GlaS", with_groups(splits, groups), problems)


def _find_stray_groups(dataset_dir: str, home: str) -> list[str]:
    read = [name for name in _visible(home) if name.lower() in _READ or _ISIC.fullmatch(name)]
    folders = [dataset_dir, *(os.path.join(home, name) for name in read)]
    elsewhere = [folder for folder in folders if os.path.abspath(folder) != os.path.abspath(home)]
    strays = [path for folder in elsewhere for path in find_named(folder, GROUP_FILES)]
    return [f"{path} is not in the data set's folder: move it to {home}." for path in strays]


def _pair(images: dict[str, str], masks: dict[str, Any], problems: list[str]) -> list[Case]:
    for stem in sorted(images.keys() - masks.keys()):
        problems.append(
            f"{images[stem]} has no mask: add it, remove the image, or list it as unlabelled in splits.json."
        )
    for stem in sorted(masks.keys() - images.keys()):
        path = masks[stem] if isinstance(masks[stem], str) else masks[stem][0]
        problems.append(f"{path} is a mask without an image: add the image or remove the mask.")
    return [
        {"image": images[stem], "label": masks[stem], "name": stem} for stem in sorted(images.keys() & masks.keys())
    ]


def _by_stem(paths: list[str], problems: list[str], *, suffix: str = "") -> dict[str, str]:
    """Return the files by their stems without a suffix, whose capitals do not count; of two of a stem the first."""
    stems: dict[str, str] = {}
    for path in paths:
        first = stems.setdefault(re.sub(f"(?i){suffix}$", "", _stem(path)), path)
        if first != path:
            problems.append(f"{first} and {os.path.basename(path)} have one name: rename or remove one of the two.")
    return stems


def _pictures(folder: str) -> list[str]:
    """List a folder's pictures, sorted; other entries are counted in a warning."""
    names, used = _visible_and_used(folder)
    nested = os.path.join(folder, os.path.basename(os.path.abspath(folder)))
    if not used and os.path.isdir(nested):  # some archives unpack into a folder within a folder
        folder = nested
        names, used = _visible_and_used(folder)
    others = sorted({name for name in names if name.lower() not in (*GROUP_FILES, _GLAS_GRADES.lower())} - {*used})
    if others:
        logging.getLogger(__name__).warning(
            "%s: %d entries are no pictures and not used: %s%s.",
            folder,
            len(others),
            ", ".join(others[:3]),
            ", ..." if len(others) > 3 else "",
        )
    return [os.path.join(folder, name) for name in used]


def _visible_and_used(folder: str) -> tuple[list[str], list[str]]:
    names = _visible(folder)
    return names, [name for name in names if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES]


def _visible(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith(".") and name.lower() not in _CLUTTER)


def _stem(path: str) -> str:
    return composed(os.path.splitext(os.path.basename(path))[0])
