"""Contents of the protocols' official releases: the number of images in each part, and checksums of known names.

A *part* is a group into which a release divides its images: splits (ISIC), classes (BUSI), train, test A and test B
(GlaS). Where the names of a part are known without the release, their checksum is here, and a set with other names is
refused; the lists of other parts are locked when the set is prepared for the first time. docs/data.md has the sources.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from icmoe_monai.data.layouts import Found, find_layout
from icmoe_monai.data.splits import Case, checksum
from icmoe_monai.errors import InputError


class Official(NamedTuple):
    """Hold a release: its layout as `layouts` names it, the number of images and the checksum of names of each part."""

    layout: str
    counts: dict[str, int]
    checksums: dict[str, str]


OFFICIAL = {
    "isic2017": Official(
        "ISIC 2017",
        {"train": 2000, "val": 150, "test": 600},
        {"val": "935f4b2717349177a2f70cce2946b37bd99b5eca4ed4047254e057249c6ebb09"},
    ),
    "isic2018": Official("ISIC 2018", {"train": 2594, "val": 100, "test": 1000}, {}),
    "busi": Official(
        "BUSI",
        {"benign": 437, "malignant": 210, "normal": 133},
        {  # of the names benign_1, ..., benign_437 and so on
            "benign": "41d7d2834a3851b37e66647b758d3bb515f1ff4bca8b84eda288b29cc9aa92c3",
            "malignant": "b5b1c7e25fe785049880794b00f1dc02952944784d03f40848ef01063c06d27b",
            "normal": "04b47ac7df590b612278f22e0fe765047c79fe9f3807882def8ed2cc22750f17",
        },
    ),
    "glas": Official(
        "GlaS",
        {"train": 85, "testA": 60, "testB": 20},
        {  # of the names train_1, ..., train_85 and so on
            "train": "6dd979785950a302b310eebc8e3743e356774768295d742a739ed5ebae7a3c42",
            "testA": "70883f2a12b902b0e198f602fa5d76ea8c4c3e932900d5e8eea6aebd95852a06",
            "testB": "a01a5e34a8e414215c4a835a395e60b0264e076a566f1bf18797ab886d8dae47",
        },
    ),
}


def find_release(protocol: str, archive_dir: str, *, partial_set: bool = False) -> Found:
    """List the cases of an unpacked release by split, under the names that they have in a prepared set.

    Args:
        protocol: One of `OFFICIAL`.
        archive_dir: The folder with the release's folders.
        partial_set: Warn of missing images instead of raising; images without a mask are left out.

    Raises:
        InputError: The folder holds another release, or not the whole of this one.
    """
    zips = sorted(path.name for path in Path(archive_dir).glob("*.zip"))
    unpack = f" Unpack {', '.join(zips)} first?" if zips else ""
    try:
        found = find_layout(archive_dir)
    except InputError as error:
        raise InputError(f"{error}{unpack}") from error
    if found.layout != OFFICIAL[protocol].layout:
        raise InputError(
            f"{archive_dir} has the layout {found.layout}, not that of {OFFICIAL[protocol].layout}: correct it."
        )
    logger = logging.getLogger(__name__)
    if found.problems and not partial_set:
        raise InputError(f"{found.problems[0]} Or leave such cases out by --partial.{unpack}")
    for problem in found.problems:
        logger.warning("Left out: %s", problem)
    splits = {split: [case | _renamed(case) for case in cases] for split, cases in found.splits.items()}
    names = {split: [case["name"] for case in cases] for split, cases in splits.items()}
    difference = find_difference(protocol, by_part(protocol, names))
    if difference and not partial_set:
        raise InputError(f"{archive_dir} {difference}: complete or correct it, or go on by --partial.{unpack}")
    if difference:
        logger.warning("A partial set: %s %s.", archive_dir, difference)
    return found._replace(splits=splits)


def by_part(protocol: str, splits: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Group the names of a set's cases by the parts of its release.

    Args:
        protocol: One of `OFFICIAL`.
        splits: Names by split, as a prepared set has them: `ISIC_0000000`, `benign_1`, `testA_1`.

    Example:
        >>> by_part("glas", {"train": ["train_2"], "val": ["train_1"], "test": ["testA_1", "testB_1"]})
        {'train': ['train_2', 'train_1'], 'testA': ['testA_1'], 'testB': ['testB_1']}
    """
    parts: dict[str, list[str]] = defaultdict(list)
    for split, names in splits.items():
        for name in names:
            parts[split if protocol.startswith("isic") else name.rpartition("_")[0]].append(name)
    return dict(parts)


def find_difference(protocol: str, parts: Mapping[str, Sequence[str]]) -> str | None:
    """Describe how a set differs from its official release.

    Args:
        protocol: One of `OFFICIAL`.
        parts: Names by part.

    Returns:
        The numbers or names found and expected, as a part of a sentence; None if there is no difference.

    Example:
        >>> find_difference("isic2018", {"train": ["a", "b"]})
        'holds 2 train, 0 val and 0 test images, and the release has 2594 train, 100 val and 1000 test images'
    """
    official = OFFICIAL[protocol]
    found = {part: len(parts.get(part, [])) for part in official.counts}
    if found != official.counts or parts.keys() - found:
        return f"holds {_listed(found)}, and the release has {_listed(official.counts)}"
    for part, expected in official.checksums.items():
        if checksum(parts[part]) != expected:
            return f"holds {found[part]} {part} images whose names are not those of the release"
    return None


def find_part(protocol: str, names: Sequence[str]) -> str | None:
    """Return the part of a release that has exactly these names; None if no part is known to have them.

    Args:
        protocol: One of `OFFICIAL`.
        names: Names of images.

    Example:
        >>> find_part("glas", [f"testB_{i}" for i in range(1, 21)])
        'testB'
    """
    parts = {expected: part for part, expected in OFFICIAL[protocol].checksums.items()}
    return parts.get(checksum(names))


def _renamed(case: Case) -> Case:
    return {key: re.sub(r" \((\d+)\)$", r"_\1", case[key]) for key in ("name", "group") if key in case}


def _listed(counts: Mapping[str, int]) -> str:
    *others, last = [f"{count} {part}" for part, count in counts.items()]
    return f"{', '.join(others)} and {last} images"
