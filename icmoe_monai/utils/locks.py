"""A folder of results held for one run at a time, so that no two runs mix their files."""

from __future__ import annotations

import json
import logging
import os
import socket
import weakref
from contextlib import suppress
from datetime import datetime
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, Timeout

from icmoe_monai.errors import InputError
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.utils.files import refusal, remove_leftovers

LOCK = ".run.lock"
_SECONDS = 0.5  # a run that ends just now may still remove the file
_NO_LOCKS = (ENOLCK, ENOSYS, EOPNOTSUPP)
_held: weakref.WeakValueDictionary[str, HeldFolder] = weakref.WeakValueDictionary()


class HeldFolder:
    """Hold a folder until this object is gone, or the process is: the system frees the lock of a killed one.

    Args:
        lock: The lock, acquired.
        made: Whether the folder was made for this run: it is removed again if the run leaves it empty.
    """

    def __init__(self, lock: FileLock, *, made: bool = False) -> None:
        self.process = os.getpid()
        self.release = weakref.finalize(self, _release, lock, self.process, made)  # which Python also calls at its end


def hold_folder(folder: str | None, *, task: str) -> list[HeldFolder]:
    """Hold a folder of results for this run; it is made if it is missing, and removed again if the run leaves it empty.

    What a killed run has left half written is removed from it.

    A workflow calls it in a step, and `release_folder` in its last: MONAI keeps what a step returns until the run ends,
    also by an exception, and then until Python's garbage collector comes by. Of several processes that work together
    the first holds the folder for all. A folder that this process holds already, for an earlier run that ended by an
    exception, is handed on.

    Args:
        folder: The folder.
        task: What the run does, in a word, for the sentence that another run is told.

    Returns:
        The held folder, in the first process; nothing in the others, and where the file system knows no locks.

    Raises:
        InputError: If another run holds the folder, the sentence says which; or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     held = hold_folder(folder, task="inference")
        ...     print(os.listdir(folder))
        ...     held.clear()
        ...     print(os.listdir(folder))
        ['.run.lock']
        []
    """
    if folder is None:
        raise InputError("output_dir is not set: give the folder of the results, --output_dir FOLDER.")
    taken: list[HeldFolder] = []
    by_first(lambda: taken.extend(_take(Path(folder), task)))()
    return taken


def release_folder(folder: str) -> None:
    """Release a folder that this process holds, for the next run; one that it does not hold is left alone.

    Args:
        folder: The folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     held = hold_folder(folder, task="inference")
        ...     release_folder(folder)
        ...     print(os.listdir(folder))
        []
    """
    held = _held.get(_lock_of(Path(folder)))
    if held is not None:
        held.release()


def _lock_of(folder: Path) -> str:
    return str(folder.resolve() / LOCK)


def _take(folder: Path, task: str) -> list[HeldFolder]:
    path = _lock_of(folder)
    held = _held.get(path)
    # not one of the process that this one was forked from
    if held is not None and held.release.alive and held.process == os.getpid():
        return [held]
    lock = FileLock(path, thread_local=False, on_acquired=lambda file: _sign(file, task))
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_SECONDS)
    except Timeout as error:
        raise InputError(
            f"{folder} is in use by another run, {_holder(path)}: wait for its end, or choose another folder."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise refusal(Path(path), error) from error
        logging.getLogger(__name__).warning(
            "The file system of %s knows no locks: see to it yourself that no other run writes into it.", folder
        )
        return []
    held = _held[path] = HeldFolder(lock, made=made)
    remove_leftovers(folder, but_with=LOCK)  # which no other run can be writing now
    return [held]


def _sign(file: int, task: str) -> None:
    """Write into the lock's file who holds it."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    content = {"task": task, "pid": os.getpid(), "host": socket.gethostname(), "since": now}
    os.write(file, json.dumps(content).encode())


def _holder(path: str) -> str:
    try:
        told = json.loads(Path(path).read_bytes())
        return f"{told['task']}, process {told['pid']} on {told['host']}, since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # on Windows a locked file cannot be read
        return "which does not say who it is"


def _release(lock: FileLock, process: int, made: bool) -> None:
    if os.getpid() != process:  # a forked process has closed its copy
        return
    with suppress(OSError):  # Windows removes no open file
        os.unlink(lock.lock_file)
    lock.release()
    if made:
        with suppress(OSError):  # it holds results
            os.rmdir(os.path.dirname(lock.lock_file))
