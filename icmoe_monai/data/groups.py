"""Groups of images that belong together, such as those of one patient: a `groups.csv` or `groups.json` beside the set.

Splits, folds and bootstraps keep a group together. What a file calls a group may identify a patient, so no case holds
it: a group is known by the first of its images' names.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from icmoe_monai.data.splits import Case
from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.utils.files import composed, find_named, unescaped
from icmoe_monai.utils.schema import shown

GROUP_FILES = ("groups.csv", "groups.json")
_COLUMNS = ("name", "group")
_LARGEST = 2**26  # bytes of a file: some million names

Pairs = list[tuple[str, str]]


def find_groups(folder: str, names: Collection[str], problems: list[str]) -> dict[str, str]:
    """Read the groups of the images in a data set's folder, if a file there tells them.

    Args:
        folder: The data set's folder.
        names: Names of all its images.
        problems: List to which a sentence is appended for each problem of the file.

    Returns:
        The group by the image's name, for all images; one that the file does not list is a group by itself. Empty
        without a file.
    """
    paths = find_named(folder, GROUP_FILES)
    if len(paths) > 1:
        names_of_two = " and ".join(map(os.path.basename, paths[:2]))
        problems.append(f"{folder} holds both {names_of_two}: remove one of the two.")
    return read_groups(paths[0], names, problems) if len(paths) == 1 else {}


def read_groups(
    path: str,
    names: Collection[str],
    problems: list[str],
    *,
    columns: tuple[str, str] = _COLUMNS,
    may_be_partial: bool = False,
) -> dict[str, str]:
    r"""Read a file of groups: a table with the columns `name` and `group`, {name: group}, or {group: [names]}.

    Args:
        path: The file, JSON if its name ends so, else CSV.
        names: Names of all images.
        problems: List to which a sentence is appended for each problem of the file.
        columns: The two columns of a table.
        may_be_partial: Whether images that the file lists may be missing.

    Returns:
        The group by the image's name, for all images; one that the file does not list is a group by itself.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "groups.csv").write_text("name,group\nb,Miller\na,Miller\n")
        ...     read_groups(f"{folder}/groups.csv", ["a", "b", "c"], [])
        {'a': 'a', 'b': 'a', 'c': 'c'}
    """
    try:
        pairs = [(composed(name), group) for name, group in _read_pairs(path, columns)]
    except InputError as error:
        problems.append(str(error))
        return {}
    problems += _find_problems(path, pairs, names, may_be_partial=may_be_partial)
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in pairs:
        if name in names:
            members[group].append(name)
    first = {name: min(group) for group in members.values() for name in group}
    return {name: first.get(name, name) for name in names} if first else {}


def with_groups(splits: Mapping[str, Sequence[Case]], groups: Mapping[str, str]) -> dict[str, list[Case]]:
    """Return cases with their groups, if groups are known.

    Args:
        splits: Cases by split.
        groups: The group of each case by its name, or nothing.
    """
    return {
        split: [case | {"group": groups[case["name"]]} if groups else case for case in cases]
        for split, cases in splits.items()
    }


def table_of_groups(groups: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the rows of a groups.csv.

    Args:
        groups: The group by the image's name.
    """
    return [dict(zip(_COLUMNS, pair, strict=True)) for pair in sorted(groups.items())]


def _read_pairs(path: str, columns: tuple[str, str]) -> Pairs:
    try:
        if os.path.getsize(path) > _LARGEST:
            raise InputError(f"{path} has more than {_LARGEST >> 20} MB: it should hold names and groups only.")
        text = Path(path).read_bytes().decode("utf-8-sig")
        return _read_json(path, text) if path.lower().endswith(".json") else _read_table(path, text, columns)
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    except csv.Error:
        reason = "a quote is not closed, or a cell is very long"
    except RecursionError:
        reason = "it is nested too deeply"
    except (OSError, json.JSONDecodeError) as error:
        reason = kind_of(error)
    raise InputError(f"{path} cannot be read ({reason}): correct or remove it.")


def _read_table(path: str, text: str, columns: tuple[str, str]) -> Pairs:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, *rows = [[unescaped(cell.strip()) for cell in line] for line in lines if any(map(str.strip, line))] or [[]]
    if any(header.count(column) != 1 for column in columns):
        raise InputError(
            f"{path} must be a table whose first line names its columns, {columns[0]} and {columns[1]}, with a comma "
            "between two columns: correct or remove it."
        )
    name, group = (header.index(column) for column in columns)
    cells = [row + [""] * (len(header) - len(row)) for row in rows]
    return [(row[name], row[group]) for row in cells]


def _read_json(path: str, text: str) -> Pairs:
    content = json.loads(text, object_pairs_hook=_Object, parse_int=str)
    if isinstance(content, _Object) and all(isinstance(group, str) for _, group in content.pairs):
        return [(name, group.strip()) for name, group in content.pairs]
    if isinstance(content, _Object) and all(_is_list_of_names(listed) for _, listed in content.pairs):
        return [(name, group) for group, listed in content.pairs for name in listed]
    raise InputError(
        f'{path} must be an object of names and groups, such as {{"case1": "patient 1"}}, or of groups and lists of '
        'names, such as {"patient 1": ["case1", "case2"]}: correct or remove it.'
    )


class _Object:
    """Hold the pairs of a JSON object, of which a dict would keep one where two have the same key."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _find_problems(path: str, pairs: Pairs, names: Collection[str], *, may_be_partial: bool) -> list[str]:
    problems = []
    counts = Counter(name for name, _ in pairs)
    for name, group in dict(pairs).items():
        if counts[name] > 1:
            problems.append(f"{path} lists {shown(name)} {counts[name]} times: leave one of them.")
        elif name not in names and not may_be_partial:
            problems.append(
                f"{path} lists {shown(name)}, and no image has that name, which is a file's without its suffix: "
                "correct or remove it."
            )
        elif not group:
            problems.append(f"{path} lists {shown(name)} without a group: give it one, or leave the image out.")
    return problems
