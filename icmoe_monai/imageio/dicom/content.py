"""What a DICOM file begins with: "DICM" at byte 128, or without that preamble the first elements of a data set."""

from __future__ import annotations

import struct

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

_FIRST_GROUPS = (2, 8)  # the file's meta elements, or where these are left out those that identify it
_VRS = {vr.value.encode() for vr in VR if len(vr.value) == 2}
_LONG_VRS = {str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32}
_NUM_ELEMENTS = 2  # that begin in a sound way; one alone may be chance
_LONGEST = 2**16


def has_preamble(head: bytes) -> bool:
    """Tell whether a file has "DICM" at byte 128.

    Args:
        head: Its first bytes, 132 or more.
    """
    return head[128:132] == b"DICM"


def begins_as_dicom(head: bytes) -> bool:
    r"""Tell whether a file is DICOM by what it begins with, whatever its name.

    Without a preamble, as archives of the time before DICOM's files had one hold them, there must be elements of the
    first groups in ascending order, in one of the three ways of writing them.

    Args:
        head: Its first bytes, 132 or more.

    Example:
        >>> begins_as_dicom(bytes.fromhex("0800 0500 0a00 0000") + b"ISO_IR 100" + bytes.fromhex("0800 1600 1a00 0000"))
        True
        >>> begins_as_dicom(b"\x89PNG\r\n\x1a\n" + bytes(124))
        False
    """
    return has_preamble(head) or any(
        _count_elements(head, order, explicit) >= _NUM_ELEMENTS
        for order, explicit in (("<", True), ("<", False), (">", True))
    )


def _count_elements(head: bytes, order: str, explicit: bool) -> int:
    """Return how many elements begin in the head, 0 if it cannot be the beginning of a data set."""
    at, last, count = 0, (0, -1), 0
    while at + 8 <= len(head):
        tag = struct.unpack_from(f"{order}HH", head, at)
        length, begin = _value_of(head, at, order, explicit)
        starts_well = count > 0 or tag[0] in _FIRST_GROUPS
        if not (starts_well and tag > last and 0 <= length < _LONGEST):
            return 0
        last, count, at = tag, count + 1, begin + length
    return count


def _value_of(head: bytes, at: int, order: str, explicit: bool) -> tuple[int, int]:
    """Return how long an element's value is, -1 where it cannot be, and where it begins."""
    if not explicit:
        return struct.unpack_from(f"{order}L", head, at + 4)[0], at + 8
    vr = head[at + 4 : at + 6]
    if vr in _LONG_VRS and at + 12 <= len(head):
        return struct.unpack_from(f"{order}L", head, at + 8)[0], at + 12
    return (struct.unpack_from(f"{order}H", head, at + 6)[0] if vr in _VRS else -1), at + 8
