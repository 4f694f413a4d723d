"""Training, validation and test splits: read from a splits.json, cut by a seed, and locked by checksums.

A folder that `prepare` wrote has a protocol.json, which holds the checksum of each list of its splits.json. A list that
was changed later is reported as a problem, so that two results on one protocol are results on the same splits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from icmoe_monai.errors import kind_of
from icmoe_monai.utils.files import composed

Case = dict[str, Any]

SPLITS = ("train", "val", "test", "unlabelled")
OUT_OF_FOLD = "out_of_fold"  # the images of all folds, each with the number of its own as `fold`
SHARES = {"val": 0.1, "test": 0.2}
# of names of files, also of those that are no text
_AS_BYTES = {"encoding": "utf-8", "errors": "surrogatepass"}


def read_splits(listing: str, images: dict[str, str], problems: list[str]) -> dict[str, list[str]]:
    """Read a splits.json: an object with a list of stems for each split; a stem may be in one list only.

    Args:
        listing: The file.
        images: Image paths by stem.
        problems: List to which a sentence is appended for each problem of the file.

    Returns:
        Stems by split, with every split present and without the stems that are a problem.
    """
    stems: dict[str, list[str]] = {split: [] for split in SPLITS}
    try:
        content = json.loads(Path(listing).read_bytes(), object_pairs_hook=_without_doubles)
    except _TwiceError as error:
        problems.append(f"{listing} has {json.dumps(error.name)} twice: put its names into one list.")
        return stems
    except (ValueError, OSError, RecursionError) as error:  # nested too deeply
        problems.append(f"{listing} is not JSON ({kind_of(error)}): correct it, or remove it for a split by seed.")
        return stems
    if not isinstance(content, dict) or not all(
        isinstance(listed, list) and all(isinstance(stem, str) for stem in listed) for listed in content.values()
    ):
        problems.append(f'{listing} must be an object of lists of names, such as {{"train": ["a"], "val": ["b"]}}.')
        return stems
    seen: dict[str, str] = {}
    for split, listed in content.items():
        if split not in SPLITS:
            problems.append(f'{listing} has the split "{split}": name the splits {", ".join(SPLITS)}.')
            continue
        for stem in map(composed, listed):
            if stem in seen:
                problems.append(f'{listing} lists "{stem}" in {seen[stem]} and in {split}: remove one of the two.')
            elif stem not in images:
                problems.append(f'{listing} lists "{stem}", and images/ has no file of that stem: add it or remove it.')
            else:
                stems[split].append(stem)
            seen.setdefault(stem, split)
    if not content:
        problems.append(f"{listing} lists no image: list cases for train and val, or remove it for a split by seed.")
    return stems


class _TwiceError(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs, and refuse one that has a name twice, of which a dict would keep the last."""
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise _TwiceError(name)
    return dict(pairs)


def checksum(names: Iterable[str]) -> str:
    """Return the SHA-256, hexadecimal, of a list of names, whatever their order.

    Args:
        names: Stems; they are sorted, and hashed each with a line end.

    Example:
        >>> checksum(["b", "a"])[:16]
        '911169ddaaf146af'
    """
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode(**_AS_BYTES)).hexdigest()


def describe_training(
    splits: Mapping[str, Iterable[Case]],
    *,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> dict[str, Any]:
    """Return what identifies the training images of a set, and the whole set, without telling the names.

    Args:
        splits: Cases by split, each with its `name`; one that is listed several times counts once.
        split_seed: Seed by which splits were cut.
        folds: Number of folds, if they were dealt.
        fold: The fold that is validated on.

    Returns:
        The number of training images, as `num_images`; the `checksum` of their names, as `sha256`, of theirs and the
        validation's, as `seen_sha256`, of all images' names, as `set_sha256`, and of all folds' names, as
        `folds_sha256`; and the seed and folds.

    Example:
        >>> describe_training({"train": [{"name": "b"}, {"name": "a"}, {"name": "a"}]})["num_images"]
        2
    """
    names = {split: {str(case["name"]) for case in cases} for split, cases in splits.items()}
    return {
        "num_images": len(names["train"]),
        "sha256": checksum(names["train"]),
        "seen_sha256": checksum(names["train"] | names.get("val", set())),
        "set_sha256": checksum(set().union(*names.values())),
        "folds_sha256": checksum(f"{case['fold']}/{case['name']}" for case in splits.get(OUT_OF_FOLD, ())),
        "split_seed": split_seed,
        "folds": folds,
        "fold": fold,
    }


def lock(splits: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Return the entry of a protocol.json that locks lists: the number of cases and the checksum of each.

    Args:
        splits: Stems by split.
    """
    return {split: {"cases": len(stems), "sha256": checksum(stems)} for split, stems in splits.items() if stems}


def find_lock_problems(folder: str, splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Compare a folder's lists with its protocol.json.

    Args:
        folder: A plain dataset folder, with or without a protocol.json.
        splits: Stems by split that its splits.json lists; empty without a splits.json.

    Returns:
        A list with one sentence; empty if the folder has no protocol.json, or no list has changed.
    """
    path = os.path.join(folder, "protocol.json")
    if not os.path.lexists(path):
        return []
    try:
        locked = dict(json.loads(Path(path).read_bytes())["splits"])
    except (ValueError, OSError, TypeError, KeyError, RecursionError) as error:
        return [
            f"{path} is not what prepare wrote ({kind_of(error)}): prepare the set again, or remove it to use "
            "lists of your own."
        ]
    found = lock(splits)
    # as names were compared until 0.8.0, on macOS
    spelt = lock({split: [normalize("NFD", stem) for stem in stems] for split, stems in splits.items()})
    changed = [split for split in SPLITS if locked.get(split) not in (found.get(split), spelt.get(split))]
    if not changed:
        return []
    return [
        f"The lists of {', '.join(changed)} in {os.path.join(folder, 'splits.json')} are not those that protocol.json "
        "locks: prepare the set again, or remove protocol.json to use lists of your own."
    ]


def cut_missing_splits(splits: dict[str, list[Case]], *, seed: int) -> dict[str, list[Case]]:
    """Cut the splits that a set does not name from its training cases: 10 % for val, 20 % for test.

    Cases are ordered by a hash of seed and name, class by class, and taken at even steps: the same on every machine,
    and each class has its share. From three cases on no split is empty.

    If cases have a `group`, whole groups are taken, in the order of a hash, while they fit into the share of their
    class, so that a split can be smaller than its share. If each is larger, the smallest is taken.

    Args:
        splits: Cases by split, "train" among them.
        seed: Another seed gives other splits.

    Example:
        >>> cases = [{"name": f"case_{i}"} for i in range(10)]
        >>> {split: len(cut) for split, cut in cut_missing_splits({"train": cases}, seed=0).items()}
        {'train': 7, 'val': 1, 'test': 2}
    """
    missing = [split for split in SHARES if split not in splits]
    train = sorted(splits["train"], key=lambda case: (case.get("class", ""), shuffle_key(case["name"], seed)))
    num_cases = len(train)
    cut: dict[str, list[Case]] = {}
    for split in reversed(missing):  # test first: it is the larger
        if any("group" in case for case in train):
            num_left = 1 if split == "val" else 2  # one for each split that comes later
            cut[split], train = _take_groups(train, SHARES[split] * num_cases, seed, num_left)
            continue
        enough = num_cases > 2 or split == "val"
        num_taken = max(round(SHARES[split] * num_cases), 1 if enough else 0)
        cut[split], train = take_evenly(train, min(num_taken, max(len(train) - 1, 0)))
    complete = {**splits, **cut, "train": train}
    return {split: sorted(complete[split], key=lambda case: str(case["name"])) for split in SPLITS if split in complete}


def find_divided_group(splits: Mapping[str, Sequence[Case]]) -> str | None:
    """Return a sentence about groups whose cases are in several of the splits, or None.

    Args:
        splits: Cases by split; unlabelled ones do not count, nor what lists the images of all folds again.

    Example:
        >>> split = lambda name: [{"name": name, "image": f"images/{name}.png", "group": "a"}]
        >>> find_divided_group({"train": split("a"), "val": split("b")}).partition(".png). ")[0]
        '1 of 1 groups have images in several splits; of the first, 1 in train (a.png) and 1 in val (b'
    """
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for split, cases in splits.items():
        for case in cases:
            if "group" in case and split not in ("unlabelled", OUT_OF_FOLD):
                groups[case["group"]][split].append(os.path.basename(case["image"]))
    divided = [group for _, group in sorted(groups.items()) if len(group) > 1]
    if not divided:
        return None
    parts = [f"{len(images)} in {split} ({min(images)})" for split, images in divided[0].items()]
    return (
        f"{len(divided)} of {len(groups)} groups have images in several splits; of the first, {' and '.join(parts)}. "
        "Scores are too good where the like was trained on: list the images of a group in one split of splits.json."
    )


def take_evenly(items: Sequence[Any], num_taken: int) -> tuple[list[Any], list[Any]]:
    """Take items at even steps of a sequence.

    Args:
        items: Any sequence.
        num_taken: Number of items to take, at most all.

    Returns:
        The items that are taken and the rest, each in order.

    Example:
        >>> take_evenly("abcdef", 2)
        (['b', 'e'], ['a', 'c', 'd', 'f'])
    """
    taken = {(2 * i + 1) * len(items) // (2 * num_taken) for i in range(num_taken)}
    return [x for i, x in enumerate(items) if i in taken], [x for i, x in enumerate(items) if i not in taken]


def shuffle_key(name: str, seed: int) -> str:
    """Return the key by which names are put into an order that looks random, and is the same on every machine.

    Args:
        name: The name.
        seed: Another seed gives another order.
    """
    return hashlib.sha256(f"{seed}/{name}".encode(**_AS_BYTES)).hexdigest()


def _take_groups(cases: Sequence[Case], wanted: float, seed: int, num_left: int) -> tuple[list[Case], list[Case]]:
    """Take whole groups, about as many cases as wanted, and leave a number of groups; return both."""
    members: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        members[case["group"]].append(case)
    of_class: dict[str, list[str]] = defaultdict(list)
    for group in sorted(members, key=lambda group: shuffle_key(group, seed)):
        of_class[min(case.get("class", "") for case in members[group])].append(group)
    taken: set[str] = set()
    for groups in of_class.values():
        room = round(wanted / len(cases) * sum(len(members[group]) for group in groups))
        for group in groups:
            if len(members[group]) <= room:
                taken.add(group)
                room -= len(members[group])
    if not taken and len(members) > num_left:
        taken = {min(members, key=lambda group: (len(members[group]), shuffle_key(group, seed)))}
    sides: tuple[list[Case], list[Case]] = ([], [])
    for group, group_cases in members.items():
        sides[group not in taken].extend(group_cases)
    return sides
