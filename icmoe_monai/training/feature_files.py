"""Reading and writing of feature files, safe with several processes and after a crash.

A file is complete or absent, and holds a checksum of its features.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import refusal
from icmoe_monai.weights.tensor_files import read_checkpoint, read_metadata, save_tensors

_REMEDY = "run the same training again, from --checkpoint last.pt; it computes them anew"
_logger = logging.getLogger(__name__)


def write_features(features: Mapping[str, Tensor], path: Path) -> None:
    """Write features and their checksum to a file.

    Args:
        features: Tensors by name, on the CPU.
        path: The file.

    Raises:
        InputError: If the system refuses, for example because the disk is full.
    """
    save_tensors(features, path, metadata={"crc32": _checksum(features)})


def read_features(path: Path) -> dict[str, Tensor]:
    """Return the features in a file, as float32.

    Args:
        path: The file.

    Raises:
        InputError: If the file is absent or damaged; a damaged one is removed, so that the next run computes it again.
    """
    if not path.is_file():
        raise InputError(f"The features {path.name} are gone from {path.parent}: {_REMEDY}.")
    try:
        features = cast(dict[str, Tensor], read_checkpoint(path))
        is_whole = read_metadata(path).get("crc32") == _checksum(features)
    except InputError:
        is_whole = False
    if not is_whole:
        path.unlink(missing_ok=True)
        raise InputError(f"The features {path.name} in {path.parent} were damaged and are removed: {_REMEDY}.")
    # copied, since the file is mapped into memory: changing it would change mapped tensors or end the process
    return {name: value.to(torch.float32, copy=True) for name, value in features.items()}


def _checksum(features: Mapping[str, Tensor]) -> str:
    code = 0
    for name in sorted(features):
        code = zlib.crc32(features[name].contiguous().view(torch.uint8).numpy().data, code)
    return f"{code:08x}"


def is_sound(path: Path) -> bool:
    """Return whether a feature file is there and undamaged; a damaged one is removed, with a warning."""
    if not path.is_file():
        return False
    try:
        read_features(path)
    except InputError as error:
        _logger.warning(f"{str(error).partition(_REMEDY)[0]}they are computed anew.")
        return False
    return True


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, and remove unfinished files of writers that were killed.

    Raises:
        InputError: If the folder cannot be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        _logger.info(f"Another process computes the features in {folder}: waiting for it.")
        lock.acquire()
    except OSError as error:
        raise refusal(folder / ".lock", error) from error
    try:
        for path in folder.glob(".*.safetensors"):
            path.unlink()
        yield
    finally:
        lock.release()
