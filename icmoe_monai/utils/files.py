"""Reading and writing of files, so that a written file is complete or absent; JSON, CSV and digests.

Every file is written under a temporary name in its own folder and then renamed.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from icmoe_monai.errors import InputError, kind_of

_CHUNK = 1 << 20
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}(\.\w+)?")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
# A spreadsheet takes a text that begins so for a formula, whatever white space stands before it.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REMEDIES = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota there",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Make the folder writable",
    errno.EROFS: "The disk is read-only: make it writable",
    errno.ENAMETOOLONG: "Shorten the names of the input files",
}


def as_path(value: Any, setting: str) -> str:
    """Return a path that a command line may have read as a number, as MONAI's reads the name of the folder 2024.

    Args:
        value: What the command line made of it.
        setting: Name of the setting, for messages.

    Raises:
        InputError: It is neither a path nor a number that a file or folder is called by. Of some names, such as 2024_01
            or 1.10, a number does not keep the spelling.

    Example:
        >>> as_path(Path("a") / "b", "dataset_dir") == os.path.join("a", "b")
        True
    """
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    if not isinstance(value, bool) and isinstance(value, (int, float)) and os.path.exists(str(value)):
        return str(value)
    raise InputError(
        f"{setting} was read as {value!r}, and nothing is called so: write ./NAME for a name that reads as a number."
    )


def composed(name: str) -> str:
    r"""Return a name as most systems spell it; macOS writes an \u00e9 as an e and an accent, which is the same name.

    Args:
        name: A file's name, or part of it.

    Example:
        >>> composed("cafe\u0301") == "caf\u00e9"
        True
    """
    return unicodedata.normalize("NFC", name)


def find_named(folder: str | Path, names: Collection[str]) -> list[str]:
    """Return the paths of the entries of a folder that have one of some names, whatever the capitals, sorted.

    Links that lead nowhere are among them, so that they are not passed over.

    Args:
        folder: The folder; in what is none, there is nothing.
        names: The names, in lower case.
    """
    if not os.path.isdir(folder):
        return []
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.lower() in names]


def write_atomically(path: str | Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Write a file so that it is complete or absent; missing folders are made.

    Args:
        path: Path of the file; a file already there is replaced once the new one is complete.
        write: Function that writes the file at the path it is given, which has the suffix and folder of `path`.
        durable: Return only once the file is on the disk, so that it also outlives a loss of power.

    Raises:
        InputError: If the system refuses, for example because the disk is full or read-only.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable and os.name == "posix":  # Windows opens no folders
            _flush(path.parent)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def remove_leftovers(folder: str | Path, *, but_with: str) -> None:
    """Remove the temporary files of `write_atomically` that a killed process has left in a folder and below it.

    Args:
        folder: The folder, in which no other process writes; it may be missing.
        but_with: Name of the file by which another run holds a folder below, which is left alone.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, but_with).exists()]
        for name in filter(_TEMPORARY.fullmatch, names):
            Path(place, name).unlink()


def refusal(path: Path, error: OSError) -> InputError:
    """Return the `InputError` to raise when the system refuses to write a file.

    Args:
        path: The file.
        error: The system's exception.
    """
    remedy = _REMEDIES.get(error.errno or 0, "Look whether something else lies in its place")
    reason = error.strerror or kind_of(error)
    return InputError(
        f"Cannot write {path.name} in {path.parent}: {reason}. {remedy}, or choose another folder.", code="not_written"
    )


def is_of_one_name(error: InputError) -> bool:
    """Return whether the system refused a file because of its name, so that other files can still be written.

    Args:
        error: Error of `refusal`, raised from the system's exception, or any other.
    """
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_ONE_NAME


def is_of_the_disk(error: BaseException) -> bool:
    """Return whether the system refused a file because of the disk, so that no other can be written.

    Args:
        error: Error of `refusal`, raised from the system's exception, or any other.
    """
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_DISK


def check_file(path: str) -> None:
    """Check that there is a file with something in it.

    Args:
        path: The file.

    Raises:
        InputError: If there is none, or it is empty.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file: correct the path.", code="unreadable")
    if os.path.getsize(path) == 0:
        raise InputError(f"{path} is empty (0 bytes): copy it again or remove it.", code="empty")


def inside(folder: str | Path, name: Any) -> Path | None:
    """Return the path that a file names in a folder, or None if it leads out, by "..", a root or a link.

    A journal, a report or a list may be damaged or made by a stranger: every path that was read from a file passes here
    before it is opened, linked or removed.

    Args:
        folder: The folder.
        name: Path in it, as text.

    Example:
        >>> inside("out", "masks/a.png").as_posix(), inside("out", "../a.png"), inside("out", "/etc/passwd")
        ('out/masks/a.png', None, None)
    """
    kinds = [kind(name) for kind in (PurePosixPath, PureWindowsPath)] if isinstance(name, str) else []
    if not kinds or not kinds[0].parts or any(path.anchor or ".." in path.parts for path in kinds):
        return None
    path = Path(folder, name)
    try:
        return path if path.resolve().is_relative_to(Path(folder).resolve()) else None
    except (OSError, ValueError, RuntimeError):  # a loop of links, a name with a NUL or too long
        return None


def digest_of(path: str | Path, algorithm: str = "sha256") -> str:
    """Return a file's digest, hexadecimal.

    Args:
        path: The file.
        algorithm: Name of the digest's algorithm in `hashlib`.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically: UTF-8, indented, a number that is not finite as null.

    Args:
        path: Path of the file.
        content: Mappings, sequences, strings, numbers (NumPy's too), paths, None.

    Raises:
        InputError: If the file cannot be written.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(dump_json(content, indent=2) + b"\n"))


def dump_json(content: Any, *, indent: int | None = None) -> bytes:
    """Return content as JSON in UTF-8, a number that is not finite as null.

    Args:
        content: Mappings, sequences, strings, numbers (NumPy's too), paths, None.
        indent: Spaces per level; None: one line.
    """
    text = json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)
    # A file name that is not UTF-8 holds surrogates; escaped they are JSON and come back as the same name.
    return text.encode("utf-8", errors="backslashreplace")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically, with the rows' keys as columns in the order of their first appearance.

    A name of a file may be meant for a spreadsheet: a text that it would take for a formula gets an apostrophe before
    it. A row with control characters, such as a line end, is quoted.

    Args:
        path: Path of the file.
        rows: The rows; a missing key and None give an empty cell.

    Raises:
        InputError: If the file cannot be written.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data = _csv([columns, *([row.get(name) for name in columns] for row in rows)])
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a file that `write_csv` wrote, every value as text, as it was before it was written.

    Args:
        path: The file.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        columns, *rows = [row for row in csv.reader(file) if row] or [[]]
    names = [unescaped(name) for name in columns]
    return [dict(zip(names, map(unescaped, row), strict=False)) for row in rows]


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # by itself csv quotes no carriage return
    for row in rows:
        cells = [_escaped(cell) for cell in row]
        has_control = any(isinstance(cell, str) and _CONTROL.search(cell) for cell in cells)
        (quoted if has_control else plain).writerow(cells)
    return text.getvalue().encode("utf-8", errors="backslashreplace")


def _escaped(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _is_risky(cell) else cell


def unescaped(text: str) -> str:
    """Return the text of a cell without the apostrophe by which `write_csv` keeps it from being a formula.

    Args:
        text: The cell.

    Example:
        >>> unescaped("'=a"), unescaped("'a")
        ('=a', "'a")
    """
    return text[1:] if text.startswith("'") and _is_risky(text[1:]) else text


def _is_risky(text: str) -> bool:
    """Tell whether a text is a formula, or would be read back as an escaped one."""
    bare = text.lstrip("'")
    return _FORMULA.match(bare) is not None and not _NUMBER.fullmatch(bare)


def without_folders(content: Any) -> Any:
    """Return settings with every absolute path cut to its last part, since a report may leave this machine.

    Args:
        content: Mappings, sequences, strings, paths and other plain values.

    Example:
        >>> without_folders({"checkpoint": "/home/me/best.pt", "dataset_dir": "data/set"})
        {'checkpoint': 'best.pt', 'dataset_dir': 'data/set'}
    """
    if isinstance(content, Mapping):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_folders(value) for value in content]
    if isinstance(content, (str, PurePath)):
        text = str(content)
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(text).is_absolute():
                return kind(text).name
    return content


def _plain(content: Any) -> Any:
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return str(content) if isinstance(content, PurePath) else content
