"""Tensors in and out of files: nothing but tensors and plain containers is ever read, and files are whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from icmoe_monai.errors import InputError
from icmoe_monai.files import write_atomically


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint (torch or safetensors) on the CPU.

    Args:
        path: The file.

    Returns:
        What the file holds, a dict.

    Raises:
        InputError: If there is no such file, or it is no checkpoint, or it holds code instead of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint at {path}: train first, or name the file with --checkpoint.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types, by where the file is broken
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}): truncated, or not weights.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of weights.")
    return content


def save_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint so that the file at `path` is the old one or the whole new one.

    Args:
        content: Tensors and plain containers.
        path: The file; its folder is made.

    Raises:
        InputError: If the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(dict(content), file)
            except RuntimeError as error:  # torch hides a full disk behind its own complaint about the unfinished file
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    write_atomically(path, write)
