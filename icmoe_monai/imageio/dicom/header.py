"""DICOM headers: what kind a file is, what its header says, and whether it holds the pixels that this announces.

An `InputError` names the file and the remedy only, never a tag's value, which may identify a patient. Every length is
checked before memory is taken for it.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

from pydicom import Dataset, dcmread, uid
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.filereader import read_dataset

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.content import begins_as_dicom, has_preamble
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.image_file import BoundedFile, NotAnImageError, max_pixels, read_head

SUFFIXES = (".dcm", ".dicom", ".ima")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PIXELS = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
_PIXELS_BUT_NO_IMAGE = (uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7", uid.RTDoseStorage)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LARGEST_HEADER_VALUE = 2**24
_EXPLICIT_META = b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00UI\x14\x00" + uid.ExplicitVRLittleEndian.encode() + b"\0"
_GUESSED_SYNTAX: dict[Any, uid.UID] = {
    (True, True): uid.ImplicitVRLittleEndian,
    (False, True): uid.ExplicitVRLittleEndian,
    (False, False): uid.ExplicitVRBigEndian,
}


class Header(NamedTuple):
    """An image's checked header, and where in the file its pixels begin."""

    path: str
    stream: BinaryIO
    dataset: Dataset
    syntax: uid.UID
    keyword: str
    vr: str
    pixels_at: int
    num_frames: int
    rows: int
    columns: int


def is_dicom(path: str) -> bool:
    """Tell whether a file is DICOM, by its suffix or by what it begins with.

    Args:
        path: The file; one that cannot be opened counts by its suffix.
    """
    return not os.path.isdir(path) and (path.lower().endswith(SUFFIXES) or begins_as_dicom(read_head(path)))


@guarded
def read_header(path: str, file: BoundedFile) -> Header:
    """Read an image's header and check it against what the file holds; no pixels are decoded.

    Args:
        path: The file, for messages.
        file: The same file, open for as long as pixels shall be decoded.

    Raises:
        InputError: It is damaged, is not DICOM, or holds less or more pixel data than its header says.
        NotAnImageError: It is DICOM, but no image to segment.
    """
    preamble = has_preamble(file.head())
    stream = inflated(path, file)
    dataset = dcmread(stream, stop_before_pixels=True, force=True, defer_size=_LARGEST_HEADER_VALUE)
    start = stream.tell()
    pixels_follow = len(stream.read(8)) == 8
    stream.seek(start)
    _check_kind(path, dataset, preamble, pixels_follow)
    syntax = dataset.file_meta.get("TransferSyntaxUID") or _GUESSED_SYNTAX[dataset.original_encoding]
    if uid.UID(syntax).name == syntax:
        raise InputError(
            f"{path} has an unknown transfer syntax: convert it to Explicit VR Little Endian.", code="unsupported"
        )
    dataset.file_meta.TransferSyntaxUID = syntax
    keyword, vr, length = _read_tag(stream, syntax.is_little_endian)
    header = Header(path, stream, dataset, syntax, keyword, vr, stream.tell(), *_shape(path, dataset))
    if syntax.is_encapsulated:
        _check_fragments(header)
    else:
        _check_length(header, length, _FLOAT_BITS.get(keyword) or int(dataset.BitsAllocated))
    return header


def inflated(path: str, file: BoundedFile) -> BinaryIO:
    """Give a file to pydicom; a deflated one as if it had been stored inflated, within bounds.

    Args:
        path: The file, for messages.
        file: The same file, open.

    Raises:
        InputError: It inflates to more than an image may have, or is cut short.
    """
    file.seek(132 if has_preamble(file.head()) else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        return io.BytesIO(_EXPLICIT_META + _inflate(path, file.read()))
    file.seek(0)
    return file


def _inflate(path: str, data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, int(min(max_pixels(), 2**31)))
    if not inflater.eof and inflater.unconsumed_tail:
        raise InputError(
            f"{path} inflates to implausibly much: store it without the deflated transfer syntax.", code="damaged"
        )
    if not inflater.eof:
        raise InputError(f"{path} is cut short: copy it again or remove it.", code="damaged")
    return inflated


def _check_kind(path: str, dataset: Dataset, preamble: bool, pixels_follow: bool) -> None:
    sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if not sop_class and not preamble and not (pixels_follow and dataset.get("Rows")):
        raise InputError(f"{path} is no DICOM file: convert it or remove it.", code="unsupported")
    name = uid.UID(sop_class).name
    if sop_class == uid.MediaStorageDirectoryStorage:
        raise NotAnImageError(f"{path} is a DICOMDIR, not an image: name the folder, or the images it lists.")
    if pixels_follow and sop_class not in _PIXELS_BUT_NO_IMAGE:
        return
    if not sop_class or "Image Storage" in name:
        raise InputError(f"{path} holds no pixel data: copy it again or remove it.", code="no_pixels")
    what = "of an unknown kind" if name == sop_class else name
    raise NotAnImageError(f"{path} is a DICOM file, but no image ({what}): leave it out.")


def _shape(path: str, dataset: Dataset) -> tuple[int, int, int]:
    """Return how many frames, rows and columns."""
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = (int(dataset.get(keyword) or 0) for keyword in ("Rows", "Columns"))
    if min(num_frames, rows, columns) < 1:
        raise InputError(
            f"{path} has no sound number of frames, rows and columns: export it again or remove it.", code="damaged"
        )
    if rows * columns > max_pixels():
        raise InputError(f"{path} has too many pixels for one image: cut it into tiles.", code="too_large")
    photometric, samples = dataset.get("PhotometricInterpretation"), int(dataset.get("SamplesPerPixel") or 1)
    if (photometric not in (*_GREYS, PALETTE) or samples != 1) and (photometric not in COLOURS or samples != 3):
        raise InputError(
            f"{path} is neither grey nor palette nor RGB nor YBR colour: convert it to RGB.", code="unsupported"
        )
    is_native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated  # a frame tells its bits itself
    if is_native and str(photometric).startswith("YBR_FULL") and int(dataset.get("BitsAllocated") or 8) > 8:
        raise InputError(f"{path} holds YBR colour of more than 8 bits: convert it to RGB.", code="unsupported")
    return num_frames, rows, columns


def _read_tag(stream: BinaryIO, is_little_endian: bool) -> tuple[str, str, int]:
    """Return keyword, VR ("" where it is implicit) and length of the pixels, and stop where their value begins.

    Some files have implicit VRs against their transfer syntax. A length is even, so it never reads as one of these VRs.
    """
    order = "<" if is_little_endian else ">"
    group, element, vr = struct.unpack(f"{order}HH2s2x", stream.read(8))
    if vr in _PIXEL_VRS:
        (length,) = struct.unpack(f"{order}L", stream.read(4))
        return _PIXELS[group << 16 | element], vr.decode(), length
    stream.seek(-4, os.SEEK_CUR)
    (length,) = struct.unpack(f"{order}L", stream.read(4))
    return _PIXELS[group << 16 | element], "", length


def _check_length(image: Header, length: int, bits: int) -> None:
    held = min(length, image.stream.seek(0, os.SEEK_END) - image.pixels_at)
    num_values = image.rows * image.columns * int(image.dataset.get("SamplesPerPixel") or 1)
    if image.dataset.PhotometricInterpretation == "YBR_FULL_422":
        num_values = num_values // 3 * 2
    expected = math.ceil(num_values * bits * image.num_frames / 8)
    excess = held - expected - expected % 2
    if length == _UNDEFINED_LENGTH or held < expected or excess >= max(expected // image.num_frames, 1):
        much = "more" if length != _UNDEFINED_LENGTH and held > expected else "less"
        raise InputError(
            f"{image.path} holds {much} pixel data than its header says: copy it again or remove it.", code="damaged"
        )


def _check_fragments(image: Header) -> None:
    stream = image.stream
    parse_basic_offsets(stream)
    num_fragments, offsets = parse_fragments(stream)
    if num_fragments < image.num_frames:
        raise InputError(
            f"{image.path} holds fewer frames than its header says: copy it again or remove it.", code="damaged"
        )
    stream.seek(offsets[-1] + 4)
    (length,) = struct.unpack("<L", stream.read(4))
    if offsets[-1] + 8 + length > stream.seek(0, os.SEEK_END):
        raise InputError(f"{image.path} is cut short: copy it again or remove it.", code="damaged")


def check_frame(image: Header, frame: int) -> None:
    """Check that an image has a frame.

    Args:
        image: The image.
        frame: Its number, from 0.

    Raises:
        InputError: It has not.
    """
    if not 0 <= frame < image.num_frames:
        raise InputError(f"{image.path} has no frame {frame}: they are counted from 0.", code="no_such_frame")
