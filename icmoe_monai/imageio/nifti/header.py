"""NIfTI headers: what one says, checked against what the file holds, and how its slices are turned upright.

nibabel reads the header; every length is checked before memory is taken for it.

Letters: X, Y, Z the stored axes; H, W an upright slice.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import io_orientation

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.image_file import BoundedFile, max_pixels, open_file

SUFFIXES = (".nii", ".nii.gz")

HEADERS = {348: (Nifti1Header, b"n+1"), 540: (Nifti2Header, b"n+2")}  # by their size in bytes, with their magic
_COLOUR_TYPES = (2, 512)  # uint8, uint16
_COLOUR_INTENTS = (0, 1007, 2003, 2004)  # none, a vector, RGB, RGBA
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MAX_RATIO = 1100  # deflate does not reach it
_MAX_VOLUME_BYTES = 2**32
# nibabel tells what it mends in a header with the values of that header, which are nobody else's business.
_MUTE = logging.Logger("nibabel", level=logging.CRITICAL + 1)
QUIET = np.errstate(all="ignore")  # numbers of a damaged file may overflow


@dataclass(frozen=True)
class Turn:
    """How a stored plane (X, Y) becomes an upright slice (H, W): swap the axes, then reverse them."""

    swapped: bool = True
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, plane: np.ndarray) -> np.ndarray:
        """Turn a stored plane upright.

        Args:
            plane: (X, Y).

        Returns:
            A view of it, (H, W).
        """
        plane = plane.swapaxes(0, 1) if self.swapped else plane
        return self._reverse(plane)

    def undo(self, upright: np.ndarray) -> np.ndarray:
        """Turn an upright slice back.

        Args:
            upright: (H, W).

        Returns:
            A view of it, (X, Y).
        """
        upright = self._reverse(upright)
        return upright.swapaxes(0, 1) if self.swapped else upright

    def _reverse(self, plane: np.ndarray) -> np.ndarray:
        return plane[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


@dataclass(frozen=True)
class Layout:
    """What a header says: the shape (X, Y, Z), how the voxels are stored and scaled, and how a plane is turned.

    `channels` are the colours of a voxel along the fifth axis, as ITK stores them: 3 or 4; 1 of all other volumes.
    """

    header: Nifti1Header
    shape: tuple[int, int, int]
    dtype: np.dtype
    scale: tuple[float, float] | None
    turn: Turn
    channels: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """The (H, W) of an upright slice."""
        width, height, _ = self.shape
        return (height, width) if self.turn.swapped else (width, height)


def read_layout(path: str, file: BoundedFile | None = None) -> Layout:
    """Return what a volume's checked header says.

    Args:
        path: The file.
        file: The same file, where it is open already.

    Raises:
        InputError: It is no NIfTI volume, is damaged, or holds less than its header says.
    """
    if file is None:
        with open_file(path) as opened:
            return read_layout(path, opened)
    header = _read_header(path, file)
    lengths = [int(length) for length in header["dim"][: int(header["dim"][0]) + 1]][1:]
    channels = _num_channels(header, lengths)
    shape = _stack_shape(path, lengths if channels == 1 else lengths[:3])
    try:
        dtype, scale = header.get_data_dtype(), header.get_slope_inter()
    except Exception:
        raise InputError(
            f"{path} stores its voxels in an unknown way: save it again, for example as int16.", code="unsupported"
        ) from None
    if dtype.kind not in "iufV" or (dtype.kind == "V" and not dtype.names):
        raise InputError(
            f"{path} stores no real numbers and no colours: save it as int16, float32 or RGB24.", code="unsupported"
        )
    _check_bytes(path, file, header, math.prod(shape) * channels * dtype.itemsize)
    slope, inter = scale
    scaled = None if slope is None or (slope, inter) == (1, 0) else (float(slope), float(inter or 0))
    return Layout(header, shape, dtype, scaled, _find_turn(header), channels)


@contextmanager
def unpacked(path: str, file: BoundedFile) -> Iterator[BinaryIO]:
    """Give a file's content from its beginning, decompressed if the content, whatever the name, is compressed.

    Args:
        path: The file, for messages.
        file: The same file, which stays open.

    Raises:
        InputError: It cannot be read or decompressed, or does not fit into memory.
    """
    try:
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")) if _is_packed(file) else file
    except (OSError, EOFError, zlib.error):
        raise InputError(
            f"{path} cannot be read or decompressed: copy it again or remove it.", code="damaged"
        ) from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: cut it into smaller volumes.", code="too_large") from None


def cut_short(path: str) -> InputError:
    """Return what to say of a file that holds less than its header says.

    Args:
        path: The file.
    """
    return InputError(
        f"{path} is cut short, its header announces more voxels: copy it again or remove it.", code="damaged"
    )


def _is_packed(file: BoundedFile) -> bool:
    """Tell whether a file is compressed, and go to its beginning."""
    return file.head().startswith(_GZIP_MAGIC)


def _read_header(path: str, file: BoundedFile) -> Nifti1Header:
    with unpacked(path, file) as content:
        block = content.read(max(HEADERS))
    for length, (kind, magic) in HEADERS.items():
        if any(int.from_bytes(block[:4], order) == length for order in ("little", "big")) and len(block) >= length:
            return _checked_header(path, kind(block[:length], check=False), magic)
    raise InputError(f"{path} is no NIfTI volume: convert it to .nii or .nii.gz or remove it.", code="unsupported")


def _checked_header(path: str, header: Nifti1Header, magic: bytes) -> Nifti1Header:
    if header["magic"].item() != magic:
        raise InputError(
            f"{path} is no NIfTI volume in one file: convert it to .nii or .nii.gz or remove it.", code="unsupported"
        )
    try:
        header.check_fix(logger=_MUTE, error_level=logging.ERROR)
        header.get_best_affine()
    except Exception:  # nibabel raises a dozen types, with values of the header in their texts
        raise InputError(f"{path} has a damaged header: copy it again or remove it.", code="damaged") from None
    return header


def _num_channels(header: Nifti1Header, lengths: Sequence[int]) -> int:
    """Return how many colours a voxel has: a fifth axis of 3 or 4, unsigned numbers, and no other intent for them."""
    if len(lengths) < 5 or lengths[3] != 1 or lengths[4] not in (3, 4) or max(lengths[5:], default=1) > 1:
        return 1
    is_colour = int(header["datatype"]) in _COLOUR_TYPES and int(header["intent_code"]) in _COLOUR_INTENTS
    return lengths[4] if is_colour else 1


def _stack_shape(path: str, lengths: Sequence[int]) -> tuple[int, int, int]:
    if len(lengths) < 2 or min(lengths) < 1:
        raise InputError(
            f"{path} has a damaged header, which names no size of its slices: copy it again or remove it.",
            code="damaged",
        )
    width, height, depth = (*lengths, 1)[:3]
    if max(lengths[3:], default=1) > 1:
        raise InputError(
            f"{path} has {len(lengths)} dimensions, not 3: save each of its volumes as a file of its own.",
            code="unsupported",
        )
    if width * height > max_pixels():
        raise InputError(
            f"{path} has too many pixels for one picture ({width} x {height}): cut it into tiles.", code="too_large"
        )
    return width, height, depth


def _check_bytes(path: str, file: BoundedFile, header: Nifti1Header, num_bytes: int) -> None:
    """Refuse what the file cannot hold, before anything is allocated."""
    if num_bytes > _MAX_VOLUME_BYTES:
        limit = _MAX_VOLUME_BYTES >> 30
        raise InputError(
            f"{path} holds more than {limit} GiB of voxels: cut it into smaller volumes.", code="too_large"
        )
    ratio = _GZIP_MAX_RATIO if _is_packed(file) else 1
    offset = float(header["vox_offset"])
    if not 0 <= offset + num_bytes <= file.num_bytes * ratio:
        raise cut_short(path)


@QUIET
def _find_turn(header: Nifti1Header) -> Turn:
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        return Turn()
    affine = header.get_best_affine()
    if not np.isfinite(affine).all():
        return Turn()
    try:
        # per stored axis: which of right, anterior, superior is nearest, and 1 if towards it, else -1
        (world_x, sign_x), (world_y, sign_y), _ = io_orientation(affine).tolist()
    except np.linalg.LinAlgError:
        return Turn()
    if math.isnan(world_x) or math.isnan(world_y):
        return Turn()
    swapped = world_y > world_x
    rows, columns = (sign_y, sign_x) if swapped else (sign_x, sign_y)
    return Turn(swapped, rows > 0, columns > 0)
