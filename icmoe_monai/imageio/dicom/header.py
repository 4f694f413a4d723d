"""DICOM files opened: what kind each is, what its header says, and whether it holds the pixels that it announces.

No tag's value gets into a message, a warning or a log, since it may identify a patient: pydicom is silenced while it
reads, and an `InputError` names the file and the remedy only. Every length is checked before memory is taken for it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.filereader import read_dataset

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import check_file

SUFFIXES = (".dcm", ".dicom", ".ima")
_Function = TypeVar("_Function", bound=Callable[..., Any])
_GREYS = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PIXEL_BITS = {0x7FE00010: None, 0x7FE00008: 32, 0x7FE00009: 64}  # PixelData, float and double float
_PIXELS_BUT_NO_IMAGE = (uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7", uid.RTDoseStorage)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LARGEST_HEADER_VALUE = 2**24
_EXPLICIT_META = b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00UI\x14\x00" + uid.ExplicitVRLittleEndian.encode() + b"\0"
_GUESSED_SYNTAX: dict[Any, uid.UID] = {
    (True, True): uid.ImplicitVRLittleEndian,
    (False, True): uid.ExplicitVRLittleEndian,
    (False, False): uid.ExplicitVRBigEndian,
}
_IMAGE_RECORD = "IMAGE"
# pydicom's logger and Python's warning filters belong to the whole process
_ONE_AT_A_TIME = threading.RLock()


class NotAnImageError(InputError):
    """A sound DICOM file that is no image to segment: a structure set, a report, a segmentation, a DICOMDIR."""


@dataclass(frozen=True)
class DicomInfo:
    """What a DICOM image's header says.

    Args:
        num_frames: How many frames, 1 or more.
        height: Rows.
        width: Columns.
        series: Equal for the single-frame files of one series, frame of reference, orientation and size; a digest, so
            that it may be logged. Empty for a multi-frame file, or where the header names no series or place in it.
        position: Sorts the files of a series: mm along the slice normal (0 where not given), then the instance number.
    """

    num_frames: int
    height: int
    width: int
    series: str
    position: tuple[float, ...]


class Opened(NamedTuple):
    """An image's checked header, and where in the file its pixels begin."""

    path: str
    stream: BinaryIO
    dataset: Dataset
    syntax: uid.UID
    pixels_at: int
    num_frames: int
    rows: int
    columns: int


def guarded(read: _Function) -> _Function:
    """Turn all that a damaged file makes pydicom raise into an `InputError` without its text.

    Args:
        read: A function of a path and more.
    """

    @functools.wraps(read)
    def wrapped(path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with _silence():
                return read(path, *args, **kwargs)
        except InputError:
            raise
        except Exception:
            pass
        # outside of the except, so that the text, which may hold a tag's value, is not even this error's context
        raise InputError(f"{path} is damaged, or no DICOM image that pydicom can read: copy it again or remove it.")

    return cast(_Function, wrapped)


def is_dicom(path: str) -> bool:
    """Tell whether a file is DICOM, by its suffix or by "DICM" at byte 128.

    Args:
        path: The file; one that cannot be opened counts by its suffix.
    """
    if os.path.isdir(path):
        return False
    return path.lower().endswith(SUFFIXES) or (os.path.isfile(path) and _has_preamble(path))


@guarded
def inspect(path: str) -> DicomInfo:
    """Return what the header says; no pixels are decoded.

    Args:
        path: The file.

    Raises:
        InputError: The file is damaged, is not DICOM, or holds less or more pixel data than the header says.
        NotAnImageError: It is DICOM, but no image to segment.
    """
    with opened(path) as image:
        series = "" if image.num_frames > 1 else _series(image.dataset)
        position = (_place(image.dataset), first_number(image.dataset.get("InstanceNumber")) or 0.0)
        return DicomInfo(image.num_frames, image.rows, image.columns, series, position)


@guarded
def read_dicomdir(path: str) -> list[str]:
    """Return the absolute paths of the image files that a DICOMDIR lists, whether they exist or not.

    Args:
        path: The DICOMDIR.

    Raises:
        InputError: The file is no DICOMDIR, is damaged, or leads out of its folder.
    """
    check_file(path)
    with _stream(path) as stream:
        records = dcmread(stream, force=True).get("DirectoryRecordSequence")
    if records is None:
        raise InputError(f"{path} is no DICOMDIR: correct the path.")
    folder = os.path.dirname(os.path.abspath(path))
    paths = []
    for record in records:
        parts = record.get("ReferencedFileID")
        if record.get("DirectoryRecordType") != _IMAGE_RECORD or not parts:
            continue
        parts = [parts] if isinstance(parts, str) else list(parts)
        if any(part in ("", ".", "..") or set(part) & set("/\\:\0") for part in parts):
            raise InputError(f"{path} leads out of its own folder: read the image files without it.")
        paths.append(os.path.join(folder, *parts))
    return list(dict.fromkeys(paths))


@contextmanager
def _silence() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    with _ONE_AT_A_TIME, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


class _File(io.BufferedReader):
    """A file that never takes more memory than it has bytes, whatever length a header claims."""

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))
        self.num_bytes = os.path.getsize(path)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self.num_bytes - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def _has_preamble(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _max_pixels() -> float:
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf


@contextmanager
def _stream(path: str) -> Iterator[BinaryIO]:
    """Open a file for pydicom; a deflated one as if it had been stored inflated, within bounds."""
    with _File(path) as file:
        file.seek(132 if _has_preamble(path) else 0)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
            yield io.BytesIO(_EXPLICIT_META + _inflate(path, file.read()))
        else:
            file.seek(0)
            yield file


def _inflate(path: str, data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, int(min(_max_pixels(), 2**31)))
    if not inflater.eof and inflater.unconsumed_tail:
        raise InputError(f"{path} inflates to implausibly much: store it without the deflated transfer syntax.")
    if not inflater.eof:
        raise InputError(f"{path} is cut short: copy it again or remove it.")
    return inflated


@contextmanager
def opened(path: str) -> Iterator[Opened]:
    """Open an image whose header is checked against what the file holds, within a function that is `guarded`.

    Args:
        path: The file.

    Raises:
        InputError: It is damaged, or holds less or more pixel data than its header says.
        NotAnImageError: It is DICOM, but no image to segment.
    """
    check_file(path)
    with _stream(path) as stream:
        dataset = dcmread(stream, stop_before_pixels=True, force=True, defer_size=_LARGEST_HEADER_VALUE)
        start = stream.tell()
        pixels_follow = len(stream.read(8)) == 8
        stream.seek(start)
        _check_kind(path, dataset, pixels_follow)
        syntax = dataset.file_meta.get("TransferSyntaxUID") or _GUESSED_SYNTAX[dataset.original_encoding]
        if uid.UID(syntax).name == syntax:
            raise InputError(f"{path} has an unknown transfer syntax: convert it to Explicit VR Little Endian.")
        dataset.file_meta.TransferSyntaxUID = syntax
        tag, length = _read_tag(stream, syntax)
        image = Opened(path, stream, dataset, syntax, stream.tell(), *_shape(path, dataset))
        if syntax.is_encapsulated:
            _check_fragments(image)
        else:
            _check_length(image, length, _PIXEL_BITS[tag] or int(dataset.BitsAllocated))
        yield image


def _check_kind(path: str, dataset: Dataset, pixels_follow: bool) -> None:
    sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if not sop_class and not _has_preamble(path):
        raise InputError(f"{path} is no DICOM file: convert it or remove it.")
    name = uid.UID(sop_class).name
    if sop_class == uid.MediaStorageDirectoryStorage:
        raise NotAnImageError(f"{path} is a DICOMDIR, not an image: name the folder, or the images it lists.")
    if pixels_follow and sop_class not in _PIXELS_BUT_NO_IMAGE:
        return
    if not sop_class or "Image Storage" in name:
        raise InputError(f"{path} holds no pixel data: copy it again or remove it.")
    what = "of an unknown kind" if name == sop_class else name
    raise NotAnImageError(f"{path} is a DICOM file, but no image ({what}): leave it out.")


def _shape(path: str, dataset: Dataset) -> tuple[int, int, int]:
    """Return how many frames, rows and columns."""
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = (int(dataset.get(keyword) or 0) for keyword in ("Rows", "Columns"))
    if min(num_frames, rows, columns) < 1:
        raise InputError(f"{path} has no sound number of frames, rows and columns: export it again or remove it.")
    if rows * columns > _max_pixels():
        raise InputError(f"{path} has too many pixels for one image: cut it into tiles.")
    photometric, samples = dataset.get("PhotometricInterpretation"), int(dataset.get("SamplesPerPixel") or 1)
    if (photometric not in (*_GREYS, PALETTE) or samples != 1) and (photometric not in COLOURS or samples != 3):
        raise InputError(f"{path} is neither grey nor palette nor RGB nor YBR colour: convert it to RGB.")
    if str(photometric).startswith("YBR_FULL") and int(dataset.get("BitsAllocated") or 8) > 8:
        raise InputError(f"{path} holds YBR colour of more than 8 bits: convert it to RGB.")
    return num_frames, rows, columns


def _read_tag(stream: BinaryIO, syntax: uid.UID) -> tuple[int, int]:
    """Return the tag and the length of the element that holds the pixels, and stop where its value begins."""
    order = "<" if syntax.is_little_endian else ">"
    group, element = struct.unpack(f"{order}HH", stream.read(4))
    if not syntax.is_implicit_VR:
        stream.seek(4, os.SEEK_CUR)
    (length,) = struct.unpack(f"{order}L", stream.read(4))
    return group << 16 | element, length


def _check_length(image: Opened, length: int, bits: int) -> None:
    held = min(length, image.stream.seek(0, os.SEEK_END) - image.pixels_at)
    num_values = image.rows * image.columns * int(image.dataset.get("SamplesPerPixel") or 1)
    if image.dataset.PhotometricInterpretation == "YBR_FULL_422":
        num_values = num_values // 3 * 2
    expected = math.ceil(num_values * bits * image.num_frames / 8)
    excess = held - expected - expected % 2
    if length == _UNDEFINED_LENGTH or held < expected or excess >= max(expected // image.num_frames, 1):
        much = "more" if length != _UNDEFINED_LENGTH and held > expected else "less"
        raise InputError(f"{image.path} holds {much} pixel data than its header says: copy it again or remove it.")


def _check_fragments(image: Opened) -> None:
    stream = image.stream
    parse_basic_offsets(stream)
    num_fragments, offsets = parse_fragments(stream)
    if num_fragments < image.num_frames:
        raise InputError(f"{image.path} holds fewer frames than its header says: copy it again or remove it.")
    stream.seek(offsets[-1] + 4)
    (length,) = struct.unpack("<L", stream.read(4))
    if offsets[-1] + 8 + length > stream.seek(0, os.SEEK_END):
        raise InputError(f"{image.path} is cut short: copy it again or remove it.")


def check_frame(image: Opened, frame: int) -> None:
    """Check that an image has a frame.

    Args:
        image: The image.
        frame: Its number, from 0.

    Raises:
        InputError: It has not.
    """
    if not 0 <= frame < image.num_frames:
        raise InputError(f"{image.path} has no frame {frame}: they are counted from 0.")


def macro(dataset: Dataset, frame: int, name: str) -> Dataset:
    """Return a frame's item of a functional group, or one shared by all frames, or else the data set itself.

    Args:
        dataset: The image's header.
        frame: Which frame, from 0.
        name: Keyword of the functional group.
    """
    for keyword, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(keyword) or []
        if index < len(groups) and groups[index].get(name):
            return groups[index].get(name)[0]
    return dataset


def first_number(value: Any) -> float | None:
    """Return an attribute's only or first value if it is a finite number, else None.

    Args:
        value: What the attribute holds.
    """
    if value is not None and not isinstance(value, (str, float, int)):
        value = next(iter(value), None)
    if value is None or value == "":
        return None
    return float(value) if math.isfinite(float(value)) else None


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Return an attribute's values, or None if they are not so many finite numbers.

    Args:
        value: What the attribute holds.
        count: How many.
    """
    found = tuple(float(number) for number in value) if value and not isinstance(value, (str, float, int)) else ()
    return found if len(found) == count and all(math.isfinite(number) for number in found) else None


def _series(dataset: Dataset) -> str:
    directions = numbers(dataset.get("ImageOrientationPatient"), 6)
    if not dataset.get("SeriesInstanceUID") or directions is None or not dataset.get("ImagePositionPatient"):
        return ""  # pictures of one series, such as ultrasound stills, are no stack
    directions = tuple(round(number, 2) + 0.0 for number in directions)
    uids = [str(dataset.get(keyword) or "") for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID")]
    return hashlib.sha256(repr((uids, directions, dataset.Rows, dataset.Columns)).encode()).hexdigest()


def _place(dataset: Dataset) -> float:
    """Return the position along the slice normal in mm, 0 where it is not given."""
    directions = numbers(dataset.get("ImageOrientationPatient"), 6)
    position = numbers(dataset.get("ImagePositionPatient"), 3)
    if directions is None or position is None:
        return 0.0
    return float(np.cross(directions[:3], directions[3:]) @ np.asarray(position))
