"""Values of a DICOM header, or None where they are not what they should be."""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom import Dataset

_IS_UID = re.compile(r"[0-9.]{1,64}")


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


def uid_in(dataset: Dataset, keyword: str) -> str | None:
    """Return a UID of a header, also one with a leading zero or of a wrong root, or None where there is none.

    Args:
        dataset: The header.
        keyword: The attribute.
    """
    try:
        found = str(dataset.get(keyword) or "")
    except Exception:  # a damaged value makes pydicom raise nearly anything
        return None
    return found if _IS_UID.fullmatch(found) else None


def text_in(dataset: Dataset, keyword: str) -> str:
    """Return a code string of a header in capitals, "" where there is none.

    Args:
        dataset: The header.
        keyword: The attribute.
    """
    try:
        return str(dataset.get(keyword) or "").upper()
    except Exception:  # a damaged value makes pydicom raise nearly anything
        return ""
