"""What a DICOM Segmentation takes over from its source: patient, study and specimen, if their values are valid.

Each value is checked by its value representation (PS3.5 6.2), its multiplicity, and where the standard enumerates the
values, by these.
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import DA, DT, TM, validate_value

MAY_BE_EMPTY = (  # Type 2: what the standard wants to be there, if only empty
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_ENUMERATED = {
    "ConsentForDistributionFlag": ("NO", "YES", "WITHDRAWN"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "PatientSex": ("M", "F", "O"),
    "PatientSexNeutered": ("ALTERED", "UNALTERED"),
    "PregnancyStatus": (1, 2, 3, 4),
    "QualityControlSubject": ("YES", "NO"),
    "SmokingStatus": ("YES", "NO", "UNKNOWN"),
    "TypeOfPatientID": ("TEXT", "RFID", "BARCODE"),
}
_TIMES = {"DA": DA, "DT": DT, "TM": TM}
_TEXTS = ("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_NO_TEXT = {
    **dict.fromkeys(_TEXTS, re.compile("[\x00-\x1f\x7f\ufffd]")),  # U+FFFD: bytes that were no text
    **dict.fromkeys(("LT", "ST", "UT"), re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffd]")),
}
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0032, 0x0038, 0x0040)  # identification, patient, trial, request, visit, specimen
_AMONG_OTHERS = (
    0x0020000D,
    0x00200010,
    0x00181000,
    0x00181020,
)  # study's UID, ID; device's number, software


def take_over(image: Dataset) -> tuple[Dataset, frozenset[str]]:
    """Return an image's attributes with valid values, and the keywords of those that are emptied.

    Args:
        image: The image's header. What tells pixels and places, and private attributes, is passed over.

    Returns:
        A new data set, in which what has no valid value is empty, so that it is seen what would have been taken over,
        and what has to be there is there; and the keywords of what was not empty and is.
    """
    taken, emptied = Dataset(), set()
    for tag in list(image.keys()):
        if tag.group not in _GROUPS and tag not in _AMONG_OTHERS:
            continue
        element = _element(image, tag)
        if element is not None and _is_valid(element):
            taken.add(copy.copy(element))  # pydicom changes elements in place
        elif dictionary_has_tag(tag):
            taken.add(DataElement(tag, dictionary_VR(tag), None))
            emptied.add(keyword_for_tag(tag))
    for keyword in MAY_BE_EMPTY:
        if keyword not in taken:
            setattr(taken, keyword, None)
    return taken, frozenset(emptied)


def _element(image: Dataset, tag: BaseTag) -> DataElement | None:
    """Return an element, its value in today's form, or None if it cannot be read."""
    try:
        element = image[tag]
        if element.VR in ("DA", "TM", "CS") and isinstance(element.value, str):
            return DataElement(tag, element.VR, _mended(element), validation_mode=config.IGNORE)
        _ = list(element.value) if element.VR == "SQ" else element.VM  # raises here, if at all
        return element
    except Exception:  # a damaged value makes pydicom raise nearly anything
        return None


def _mended(element: DataElement) -> str:
    text = str(element.value)
    if element.VR == "DA":
        return re.sub(r"^(\d{4})([./-])(\d\d)\2(\d\d)$", r"\1\3\4", text)  # with dots before 1993
    if element.VR == "TM":
        return re.sub(r"^(\d\d):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?$", r"\1\2\3", text)
    return text.upper() if element.keyword in _ENUMERATED else text


def _is_valid(element: DataElement) -> bool:
    """Tell whether an element's value is one that the standard permits; an empty one is."""
    if element.VR == "SQ":
        return all(_is_valid_item(item) for item in element.value)
    if element.is_empty:
        return True
    values = list(element.value) if isinstance(element.value, MultiValue) else [element.value]
    if not _may_have(element.tag, len(values)):
        return False
    allowed = _ENUMERATED.get(element.keyword)
    return all(_is_valid_value(element.VR, value) and (not allowed or value in allowed) for value in values)


def _is_valid_item(item: Dataset) -> bool:
    elements = [_element(item, tag) for tag in list(item.keys()) if not tag.is_private]
    return all(element is not None and _is_valid(element) for element in elements)


def _may_have(tag: BaseTag, count: int) -> bool:
    most = dictionary_VM(tag).split("-")[-1] if dictionary_has_tag(tag) else "n"
    return not most.isdigit() or count <= int(most)


def _is_valid_value(vr: str, value: Any) -> bool:
    try:
        told = str(value) if vr == "PN" else str(getattr(value, "original_string", value))
        if vr in _TEXTS or vr in _TIMES or vr in ("IS", "DS", "UI"):
            validate_value(vr, told, config.RAISE)
        else:
            validate_value(vr, value, config.RAISE)
        if vr in _TIMES and told:
            _TIMES[vr](told)
        if vr in ("IS", "DS", "FL", "FD"):
            return math.isfinite(float(value))
        return vr != "UN" and not (vr in _NO_TEXT and _NO_TEXT[vr].search(told))
    except (ValueError, TypeError, OverflowError, AttributeError):
        return False
