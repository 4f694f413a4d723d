"""Safe reading and writing of tensor files, in torch's format and as safetensors.

Only tensors and plain containers are ever read, never code, and never more than the file holds: torch's archives store
their parts as they are, so a compressed part, or a tensor that is larger than the file, is no checkpoint's but a
bomb's. A file that is written is complete or absent.
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.utils.files import write_atomically

_ZIP = b"PK\x03\x04"
_PROGRAM = "/constants.pkl"  # only TorchScript has it
_IS_PROGRAM = ("it is a TorchScript program, which is never run", "use the weights that it was made from")
_CHUNK = 1 << 20
_FETCH_AGAIN = "fetch it again, or train again"
_SAVE_AGAIN = "save the weights again by torch.save, or fetch them from where they were made"


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint (torch or safetensors, by its content) on the CPU.

    Args:
        path: The file.
        mapped: Map the file into memory where possible. This is for large files of which a part is copied and the rest
            dropped at once, since tensors that are kept would change with the file.

    Returns:
        The content of the file, a dict.

    Raises:
        InputError: If there is no such file, or it is no checkpoint, holds code instead of tensors, or would become
            larger in memory than it is.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint at {path}: train first, or name the file with --checkpoint.")
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        if head.startswith(_ZIP):
            _check_archive(path)
        content = _load(path, head, mapped)
    except InputError:
        raise
    except Exception as error:  # torch.load raises a dozen types, depending on where the file is broken
        reason, remedy = _explain(path, head, error)
        raise _unreadable(path, reason, remedy) from error
    if _inflates(content, path.stat().st_size):
        raise _unreadable(path, "it claims tensors that are larger than itself", _SAVE_AGAIN)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of weights.")
    return content


def save_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint in torch's format; at any time `path` holds the old file or the complete new one.

    Args:
        content: Tensors and plain containers; an OrderedDict is written with its attributes.
        path: The file; its folder is made.

    Raises:
        InputError: If the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(content if type(content) is OrderedDict else dict(content), file)
            except RuntimeError as error:  # torch hides a full disk behind its own complaint about the unfinished file
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    write_atomically(path, write)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if it has none or the file is of another format.

    Args:
        path: A file that `read_checkpoint` can read.
    """
    with Path(path).open("rb") as file:
        if not _is_safetensors(file.read(9)):
            return {}
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, *, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; at any time `path` holds the old file or the complete new one.

    Args:
        tensors: Tensors by name; those that share their memory are written each by itself.
        path: The file; its folder is made.
        metadata: Metadata of the file, beside the format ("pt") that Hugging Face asks for.

    Raises:
        InputError: If the folder cannot be written.
    """
    contiguous: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        contiguous[name] = value.detach().contiguous()
        if contiguous[name].data_ptr() in places:
            contiguous[name] = contiguous[name].clone()
        places.add(contiguous[name].data_ptr())

    def write(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode  # kept, since safetensors makes a file that other users may not read
        try:
            safetensors.torch.save_file(contiguous, temporary, metadata={"format": "pt", **metadata})
        except safetensors.SafetensorError as error:  # how Rust reports a full disk
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]), os.strerror(int(code[1]))) if code else error from error
        temporary.chmod(mode)

    write_atomically(path, write)


def _load(path: Path, head: bytes, mapped: bool) -> Any:
    if _is_safetensors(head):
        return safetensors.torch.load_file(path)
    is_misnamed = path.suffix == ".safetensors"  # torch.load goes by the suffix, unless it is given an open file
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of other pickles and TorchScript
        can_map = mapped and head.startswith(_ZIP) and not is_misnamed
        return torch.load(file if is_misnamed else path, map_location="cpu", weights_only=True, mmap=can_map)


def _check_archive(path: Path) -> None:
    """Refuse, before torch unpacks it, an archive that would become larger in memory than it is, or that is damaged.

    Raises:
        InputError: If it holds compressed parts, claims more bytes than it has, or has others than were written.
        zipfile.BadZipFile: If it is damaged otherwise.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        _check_size(path, parts)
        changed = next((part.filename for part in parts if not _is_as_written(archive, part)), None)
    if changed is not None:
        raise _unreadable(path, f"the bytes of {changed} are not those that were written", _FETCH_AGAIN)


def _check_size(path: Path, parts: Sequence[zipfile.ZipInfo]) -> None:
    if any(part.filename.endswith(_PROGRAM) for part in parts):
        raise _unreadable(path, *_IS_PROGRAM)
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise _unreadable(path, "it holds compressed parts, which torch does not write", _SAVE_AGAIN)
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise _unreadable(path, "its parts claim more bytes than it has", _SAVE_AGAIN)


def _is_as_written(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    """Compare a part's checksum, which torch does not; 0 stands for none, since torch can be told to write none."""
    if part.CRC == 0:
        return True
    try:
        with archive.open(part) as file:
            while file.read(_CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _inflates(content: Any, num_bytes: int) -> bool:
    """Tell whether a tensor in nested containers stands for more bytes than a file has, by a stride of 0 say."""
    seen: set[int] = set()
    to_do = [content]
    while to_do:
        node = to_do.pop()
        if isinstance(node, Tensor) and node.numel() * node.element_size() > num_bytes:
            return True
        if isinstance(node, (Mapping, list, tuple, set)) and id(node) not in seen:
            seen.add(id(node))  # a dict may hold itself
            to_do += [*node.keys(), *node.values()] if isinstance(node, Mapping) else [*node]
    return False


def _unreadable(path: Path, reason: str, remedy: str) -> InputError:
    return InputError(f"{path} cannot be read as a checkpoint ({reason}): {remedy}.")


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the length of a header (at most 100 MB, by the format's rule) and a header."""
    return int.from_bytes(head[:8], "little") <= 100_000_000 and head[8:9] == b"{"


def _explain(path: Path, head: bytes, error: Exception) -> tuple[str, str]:
    """Return why a file cannot be read, and what to do about it."""
    size = path.stat().st_size
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    code = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, PermissionError):
        return "it may not be read", "change its permissions"
    if size == 0:
        return "it is empty", "fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself", "run `git lfs pull` where it came from"
    if text.startswith(b"<") and not _is_safetensors(head):
        return "it is a web page, not weights", "the download went wrong; download it again, by the link to the file"
    if _is_cut_off(path, head, error):
        return f"it is only the beginning of one, {size} bytes", "the download or copy was cut off; fetch it again"
    if code is not None:
        return f"it holds code, {code[1]}, which is never run", "save its weights alone, as a state_dict"
    return kind_of(error), "truncated, or not weights"


def _is_cut_off(path: Path, head: bytes, error: Exception) -> bool:
    if _is_safetensors(head):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length)
        ends = re.findall(rb'"data_offsets":\s*\[\s*\d+\s*,\s*(\d+)', header)
        return path.stat().st_size < 8 + length + max(map(int, ends), default=0)
    if head.startswith(_ZIP):
        return not zipfile.is_zipfile(path)
    is_pickle = head.startswith(b"\x80")
    return is_pickle and (isinstance(error, EOFError) or "unexpected EOF" in str(error))
