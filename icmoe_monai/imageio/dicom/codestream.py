"""What a compressed frame says of itself: size, channels, bits, colour, and whether it was compressed with loss.

JPEG and JPEG-LS (ITU-T T.81, T.87) tell this by markers before the first scan, JPEG 2000 (T.800) in its main header. A
DICOM header tells the same, and where the two disagree, the frame was still compressed as it says itself. The colour of
a JPEG follows the rules of libjpeg's `default_decompress_parms`, which all programs built on that library share.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

RGB, YBR = "RGB", "YBR_FULL"
JPEG, JPEG_LS, JPEG_2000 = "JPEG", "JPEG-LS", "JPEG 2000"
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}  # start of frame of JPEG's lossless processes
_START_OF_JPEG_LS = 0xF7
_START_OF_FRAME = {*range(0xC0, 0xD0), _START_OF_JPEG_LS} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
_SIZ = b"\xff\x4f\xff\x51"
_COD, _START_OF_TILE = 0x52, 0x90
_LARGEST_JP2_HEADER = 4096
_RGB_NAMES, _YBR_NAMES = b"RGB", bytes((1, 2, 3))


class Codestream(NamedTuple):
    """The header of a compressed frame.

    Attributes:
        rows: H.
        columns: W.
        channels: How many.
        precision: Bits of a sample.
        kind: JPEG, JPEG-LS or JPEG 2000.
        lossy: Whether samples may differ from those that were compressed.
        colour: RGB or YBR where the frame says so; "" where the DICOM header must tell.
    """

    rows: int
    columns: int
    channels: int
    precision: int
    kind: str
    lossy: bool
    colour: str


def read_codestream(coded: bytes) -> Codestream:
    """Read the header of a compressed frame; RLE has none.

    Args:
        coded: The frame: JPEG, JPEG-LS, JPEG 2000 or HTJ2K, with or without the boxes of a JP2 file.

    Raises:
        ValueError: It is none of these, or is cut short.
    """
    try:
        if coded[:2] == b"\xff\xd8":
            return _read_jpeg(coded)
        at = coded.find(_SIZ, 0, _LARGEST_JP2_HEADER)
        if at >= 0:
            return _read_jpeg_2000(coded, at)
    except (struct.error, IndexError) as error:
        raise ValueError("the frame is cut short") from error
    raise ValueError("the frame is neither JPEG nor JPEG-LS nor JPEG 2000")


def _read_jpeg(coded: bytes) -> Codestream:
    applications: dict[int, bytes] = {}
    frame, start = b"", 0
    at = 2
    while coded[at] == 0xFF and coded[at + 1] != _START_OF_SCAN:
        marker = coded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", coded, at + 2)
        content = coded[at + 4 : at + 2 + length]
        if marker in _START_OF_FRAME:
            frame, start = content, marker
        elif marker in (_APP0, _APP14):
            applications.setdefault(marker, content)
        at += 2 + length
    precision, rows, columns, channels = struct.unpack_from(">BHHB", frame)
    if start == _START_OF_JPEG_LS:
        near = coded[at + 5 + 2 * channels]  # of the first scan: by how much samples may differ
        return Codestream(rows, columns, channels, precision, JPEG_LS, lossy=near > 0, colour="")
    lossless = start in _LOSSLESS
    colour = _colour_of_jpeg(frame[6:], applications, lossless) if channels == 3 else ""
    return Codestream(rows, columns, channels, precision, JPEG, not lossless, colour)


def _colour_of_jpeg(components: bytes, applications: dict[int, bytes], lossless: bool) -> str:
    """Follow libjpeg; where that only guesses, subsampled channels tell luma from chroma, and all else tells nothing.

    Args:
        components: Of each channel a byte for its name, one for its sampling and one for its table.
        applications: The first APP0 and APP14 segments.
        lossless: Whether the process is lossless, in which libjpeg does not guess by the names 1, 2, 3.
    """
    names, sampling = components[0:9:3], components[1:9:3]
    if applications.get(_APP0, b"").startswith(b"JFIF\0"):
        return YBR
    adobe = applications.get(_APP14, b"")
    if adobe.startswith(b"Adobe") and len(adobe) >= 12:
        return YBR if adobe[11] else RGB
    if names == _RGB_NAMES:
        return RGB
    if not lossless and (names == _YBR_NAMES or len(set(sampling)) > 1):
        return YBR
    return ""


def _read_jpeg_2000(coded: bytes, at: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4L", coded, at + 8)
    channels, depth = struct.unpack_from(">HB", coded, at + 40)
    transformed, lossy = False, True
    at += 4 + struct.unpack_from(">H", coded, at + 4)[0]
    while coded[at] == 0xFF and coded[at + 1] != _START_OF_TILE:
        if coded[at + 1] == _COD:
            transformed, lossy = coded[at + 8] == 1, coded[at + 13] == 0
        at += 2 + struct.unpack_from(">H", coded, at + 2)[0]
    # a decoder undoes the multiple component transformation, and that begins with RGB
    colour = RGB if transformed else ""
    return Codestream(bottom - top, right - left, channels, depth % 128 + 1, JPEG_2000, lossy, colour)
