"""NIfTI volumes as stacks of upright slices, by nibabel.

A volume is cut along its stored third axis; a 2-D file is one slice. Arrays are (row, column), upright as a radiologist
sees them: by the affine the axes of the slices are swapped and reversed, never resampled, so that rows run towards the
patient's back, in coronal and sagittal slices towards the feet, and columns towards the left, in sagittal slices
towards the back. A file without an affine (no sform, no qform) has its first axis along the columns, not reversed.

nibabel reads the header; the voxels are read here, piece by piece, because a header may announce more than the memory
holds. Decisions, for images: grey goes from the 0.5 to the 99.5 percentile of the whole volume's finite values to
0..255, so that all slices share one window; where these two are the same value, from the minimum to the maximum; what
is not finite becomes 0, and so does a constant volume. Colour is taken as it is, and what is transparent becomes black.

Letters: X, Y, Z the stored axes; H, W an upright slice.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import check_file

SUFFIXES = (".nii", ".nii.gz")

HEADERS = {348: (Nifti1Header, b"n+1"), 540: (Nifti2Header, b"n+2")}  # by their size in bytes, with their magic
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MAX_RATIO = 1100  # deflate does not reach it
_MAX_VOLUME_BYTES = 2**32
_CHUNK_BYTES = 2**24
_PERCENTILES = (0.5, 99.5)
GEOMETRY = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
)
_MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_MAX_SPACING_ERROR = 0.01  # between the voxel sizes and the affine, relative
# nibabel tells what it mends in a header with the values of that header, which are nobody else's business.
_MUTE = logging.Logger("nibabel", level=logging.CRITICAL + 1)
_QUIET = np.errstate(all="ignore")  # numbers of a damaged file may overflow


@dataclass(frozen=True)
class _Turn:
    """How a stored plane (X, Y) becomes an upright slice (H, W): swap the axes, then reverse them."""

    swapped: bool = True
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, plane: np.ndarray) -> np.ndarray:
        plane = plane.swapaxes(0, 1) if self.swapped else plane
        return self._reverse(plane)

    def undo(self, upright: np.ndarray) -> np.ndarray:
        upright = self._reverse(upright)
        return upright.swapaxes(0, 1) if self.swapped else upright

    def _reverse(self, plane: np.ndarray) -> np.ndarray:
        return plane[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


@dataclass(frozen=True)
class _Layout:
    """What a header says: the shape (X, Y, Z), how the voxels are stored and scaled, and how a plane is turned."""

    header: Nifti1Header
    shape: tuple[int, int, int]
    dtype: np.dtype
    scale: tuple[float, float] | None
    turn: _Turn

    @property
    def size(self) -> tuple[int, int]:
        width, height, _ = self.shape
        return (height, width) if self.turn.swapped else (width, height)


def count_frames(path: str) -> int:
    """Return the number of a volume's slices, from its header.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be read.
    """
    return read_layout(path).shape[2]


@_QUIET
def decode_rgb(path: str, frame: int = 0) -> np.ndarray:
    """Return the colours of a slice.

    Args:
        path: The file.
        frame: Which slice, along the stored third axis.

    Returns:
        float32 (H, W, 3), RGB in 0..255.

    Raises:
        InputError: The file cannot be read.
    """
    layout, plane = _read_slice(path, frame)
    if plane.dtype.names:
        colours = np.stack([plane[name] for name in "RGB"], axis=-1).astype(np.float32)
        return colours * (plane["A"][..., None] / np.float32(255)) if "A" in plane.dtype.names else colours
    low, high = _window(*_key(path))
    values = _to_scale(plane, layout)
    finite = np.isfinite(values)
    span = high - low if high > low else 1.0
    grey = np.nan_to_num(np.where(finite, values - low, 0.0) * (255 / span)).clip(0, 255).astype(np.float32)
    return np.repeat(grey[..., None], 3, axis=2)


def decode_values(path: str, frame: int = 0) -> tuple[np.ndarray, bool]:
    """Return the numbers of a slice of a mask: as stored, but scaled where the header has a scale.

    Args:
        path: The file.
        frame: Which slice, along the stored third axis.

    Returns:
        The values, (H, W); and True, for NIfTI stores without loss.

    Raises:
        InputError: The file cannot be read, or its colour channels differ.
    """
    layout, plane = _read_slice(path, frame)
    if plane.dtype.names:
        if (plane["R"] != plane["G"]).any() or (plane["R"] != plane["B"]).any():
            raise InputError(f"{path} is in colour, and a mask is not: save it in one channel, 0 for the background.")
        shown = plane["A"] != 0 if "A" in plane.dtype.names else True
        return np.where(shown, plane["R"], 0), True
    if layout.scale is None:
        return np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("=")), True
    values = _to_scale(plane, layout)
    whole = values.round()
    # a label saved through a scale comes back a little off
    return (whole if np.allclose(values, whole, rtol=0, atol=1e-3) else values), True


def decode_size(path: str, *, whole: bool = False) -> tuple[int, int]:
    """Return a slice's upright (H, W).

    Args:
        path: The file.
        whole: Read all voxels too, which finds a damaged file. Otherwise the header is enough.

    Raises:
        InputError: The file cannot be read.
    """
    layout = read_layout(path)
    if whole:
        _read_voxels(*_key(path))
    return layout.size


@_QUIET
def pixel_spacing(path: str) -> tuple[float, float] | None:
    """Return how far an upright slice's rows, and how far its columns are apart, in mm.

    Args:
        path: The file.

    Returns:
        (between rows, between columns); None if the header names no unit, no sizes, or others than its affine.

    Raises:
        InputError: The file cannot be read.
    """
    layout = read_layout(path)
    header = layout.header
    try:
        factor = _MM_PER_UNIT.get(header.get_xyzt_units()[0])
    except KeyError:  # a code that the standard does not have
        return None
    # pixdim, not the affine: one that leads to an atlas (MNI) stretches
    sizes = np.abs(header["pixdim"][1:3].astype(np.float64))
    if factor is None or not np.isfinite(sizes).all() or not (sizes > 0).all():
        return None
    if header["sform_code"] in (1, 2):
        by_affine = np.linalg.norm(header.get_sform()[:3, :2], axis=0)
        if not np.allclose(sizes, by_affine, rtol=_MAX_SPACING_ERROR, atol=0):
            return None
    along_x, along_y = (float(size) * factor for size in sizes)
    return (along_y, along_x) if layout.turn.swapped else (along_x, along_y)


def areas_mm2(path: str, classes: np.ndarray, num_classes: int) -> list[float] | None:
    """Return the area of every foreground class of a class map, in square millimetres.

    Args:
        path: The volume that the class map lies on.
        classes: The class map of a slice, (H, W).
        num_classes: K, with the background.

    Returns:
        K - 1 areas, or None where `pixel_spacing` is None.

    Raises:
        InputError: The file cannot be read.
    """
    spacing = pixel_spacing(path)
    if spacing is None:
        return None
    pixels = np.bincount(classes.ravel(), minlength=num_classes)[1:num_classes]
    return [float(count) * spacing[0] * spacing[1] for count in pixels]


def _key(path: str) -> tuple[str, int, int]:
    """Return the path with what changes when the file does."""
    try:
        status = os.stat(path)
    except OSError:
        raise InputError(f"{path} is not a file: correct the path.") from None
    return path, status.st_mtime_ns, status.st_size


def _read_slice(path: str, frame: int) -> tuple[_Layout, np.ndarray]:
    layout = read_layout(path)
    if not 0 <= frame < layout.shape[2]:
        raise InputError(f"{path} has {layout.shape[2]} slices, and none has the number {frame} from 0: correct it.")
    return layout, layout.turn.apply(_read_voxels(*_key(path))[:, :, frame])


@lru_cache(maxsize=1)  # a compressed file has to be read from its beginning for every slice
def _read_voxels(path: str, _mtime: int, _num_bytes: int) -> np.ndarray:
    """Return all voxels as stored, (X, Y, Z)."""
    layout = read_layout(path)
    num_bytes = math.prod(layout.shape) * layout.dtype.itemsize
    data = bytearray()
    with _opened(path) as file:
        to_skip = int(layout.header["vox_offset"])
        while to_skip > 0 and (skipped := len(file.read(min(to_skip, _CHUNK_BYTES)))):
            to_skip -= skipped
        while len(data) < num_bytes and (chunk := file.read(min(num_bytes - len(data), _CHUNK_BYTES))):
            data += chunk
    if len(data) < num_bytes:
        raise _cut_short(path)
    voxels = np.frombuffer(data, dtype=layout.dtype).reshape(layout.shape, order="F")
    voxels.flags.writeable = False
    return voxels


@lru_cache(maxsize=64)
@_QUIET
def _window(path: str, mtime: int, num_bytes: int) -> tuple[float, float]:
    """Return which scaled values become 0 and 255."""
    voxels = _read_voxels(path, mtime, num_bytes)
    finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels
    if not finite.size:
        return 0.0, 0.0
    ends = np.percentile(finite, _PERCENTILES)
    if ends[0] == ends[1]:
        ends = np.array([finite.min(), finite.max()])
    low, high = sorted(_to_scale(ends, read_layout(path)).tolist())  # a negative slope reverses them
    return low, high


@_QUIET
def _to_scale(values: np.ndarray, layout: _Layout) -> np.ndarray:
    values = values.astype(np.float64)
    return values if layout.scale is None else values * layout.scale[0] + layout.scale[1]


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed if its content, whatever its name, is compressed."""
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")) if packed else file
    except (OSError, EOFError, zlib.error):
        raise InputError(f"{path} cannot be read or decompressed: copy it again or remove it.") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory: cut it into smaller volumes.") from None


def _cut_short(path: str) -> InputError:
    return InputError(f"{path} is cut short, its header announces more voxels: copy it again or remove it.")


def read_layout(path: str) -> _Layout:
    """Return what a volume's checked header says.

    Args:
        path: The file.

    Raises:
        InputError: It is no NIfTI volume, is damaged, or holds less than its header says.
    """
    header = _read_header(path)
    shape = _stack_shape(path, [int(length) for length in header["dim"][: int(header["dim"][0]) + 1]][1:])
    try:
        dtype, scale = header.get_data_dtype(), header.get_slope_inter()
    except (HeaderDataError, KeyError):
        raise InputError(f"{path} stores its voxels in an unknown way: save it again, for example as int16.") from None
    if dtype.kind not in "iufV" or (dtype.kind == "V" and not dtype.names):
        raise InputError(f"{path} stores no real numbers and no colours: save it as int16, float32 or RGB24.")
    _check_bytes(path, header, math.prod(shape) * dtype.itemsize)
    slope, inter = scale
    scaled = None if slope is None or (slope, inter) == (1, 0) else (float(slope), float(inter or 0))
    return _Layout(header, shape, dtype, scaled, _find_turn(header))


def _read_header(path: str) -> Nifti1Header:
    check_file(path)
    with _opened(path) as file:
        block = file.read(max(HEADERS))
    for length, (kind, magic) in HEADERS.items():
        if any(int.from_bytes(block[:4], order) == length for order in ("little", "big")) and len(block) >= length:
            return _checked_header(path, kind(block[:length], check=False), magic)
    raise InputError(f"{path} is no NIfTI volume: convert it to .nii or .nii.gz or remove it.")


def _checked_header(path: str, header: Nifti1Header, magic: bytes) -> Nifti1Header:
    if header["magic"].item() != magic:
        raise InputError(f"{path} is no NIfTI volume in one file: convert it to .nii or .nii.gz or remove it.")
    try:
        header.check_fix(logger=_MUTE, error_level=logging.ERROR)
        header.get_best_affine()
    except (HeaderDataError, ValueError, OverflowError):
        raise InputError(f"{path} has a damaged header: copy it again or remove it.") from None
    return header


def _stack_shape(path: str, lengths: Sequence[int]) -> tuple[int, int, int]:
    if len(lengths) < 2 or min(lengths) < 1:
        raise InputError(f"{path} has a damaged header, which names no size of its slices: copy it again or remove it.")
    width, height, depth = (*lengths, 1)[:3]
    if max(lengths[3:], default=1) > 1:
        raise InputError(f"{path} has {len(lengths)} dimensions, not 3: save each of its volumes as a file of its own.")
    max_pixels = Image.MAX_IMAGE_PIXELS
    if max_pixels is not None and width * height > 2 * max_pixels:
        raise InputError(f"{path} has too many pixels for one picture ({width} x {height}): cut it into tiles.")
    return width, height, depth


def _check_bytes(path: str, header: Nifti1Header, num_bytes: int) -> None:
    """Refuse what the file cannot hold, before anything is allocated."""
    if num_bytes > _MAX_VOLUME_BYTES:
        limit = _MAX_VOLUME_BYTES >> 30
        raise InputError(f"{path} holds more than {limit} GiB of voxels: cut it into smaller volumes.")
    with open(path, "rb") as file:
        ratio = _GZIP_MAX_RATIO if file.read(2) == _GZIP_MAGIC else 1
    offset = float(header["vox_offset"])
    if not 0 <= offset + num_bytes <= os.path.getsize(path) * ratio:
        raise _cut_short(path)


@_QUIET
def _find_turn(header: Nifti1Header) -> _Turn:
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        return _Turn()
    affine = header.get_best_affine()
    if not np.isfinite(affine).all():
        return _Turn()
    try:
        # per stored axis: which of right, anterior, superior is nearest, and 1 if towards it, else -1
        (world_x, sign_x), (world_y, sign_y), _ = io_orientation(affine).tolist()
    except np.linalg.LinAlgError:
        return _Turn()
    if math.isnan(world_x) or math.isnan(world_y):
        return _Turn()
    swapped = world_y > world_x
    rows, columns = (sign_y, sign_x) if swapped else (sign_x, sign_y)
    return _Turn(swapped, rows > 0, columns > 0)
