"""What the segments of a DICOM Segmentation are, in words and in codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from skimage.color import rgb2lab

from icmoe_monai.errors import InputError
from icmoe_monai.visualize.overlay import class_colour

MAX_TEXT = 64  # characters of a label, a code's meaning or a name in DICOM


@dataclass(frozen=True)
class Segment:
    """What a foreground class is, in words and in codes.

    Args:
        label: Its name for people, up to 64 characters.
        category: What kind of thing it is: a code's value, scheme and meaning, of DICOM's context group 7150.
        type: What it is, likewise.
        anatomy: Where in the body it is, likewise, or None.

    Example:
        >>> Segment("nucleus", ["91723000", "SCT", "Anatomical Structure"], ["84640000", "SCT", "Nucleus"]).label
        'nucleus'
    """

    label: str
    category: Sequence[str]
    type: Sequence[str]
    anatomy: Sequence[str] | None = None


def as_segment(segment: Segment | Mapping[str, Any]) -> Segment:
    """Return a segment from its arguments, checked.

    Args:
        segment: A segment, or a mapping of `Segment`'s arguments.

    Raises:
        InputError: If an argument is missing or cannot be used.
    """
    try:
        segment = segment if isinstance(segment, Segment) else Segment(**segment)
    except TypeError as error:
        raise InputError("A segment needs label, category and type, and may have anatomy: correct segments.") from error
    for code in (segment.category, segment.type, segment.anatomy):
        if code is not None and (isinstance(code, str) or len(code) != 3 or not all(map(str, code))):
            raise InputError(
                f"The codes of segment {segment.label} must be lists of value, scheme and meaning, got {code}."
            )
    if not 0 < len(segment.label) <= MAX_TEXT:
        raise InputError(f"A segment's label must have 1 to {MAX_TEXT} characters, got {len(segment.label)}.")
    return segment


def describe(number: int, segment: Segment, *, algorithm: Mapping[str, Any], tracking_uid: str) -> SegmentDescription:
    """Return highdicom's description of a segment.

    Args:
        number: The segment's, from 1.
        segment: The segment.
        algorithm: `name`, `version`, and perhaps `family`, a code's value, scheme and meaning; the default is
            Artificial Intelligence.
        tracking_uid: What identifies this finding in further objects.
    """
    family = algorithm.get("family")
    return SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=CodedConcept(*segment.category),
        segmented_property_type=CodedConcept(*segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=str(algorithm["name"]),
            family=CodedConcept(*family) if family else codes.DCM.ArtificialIntelligence,
            version=str(algorithm["version"]),
        ),
        tracking_uid=tracking_uid,
        tracking_id=f"{segment.label} {number}"[:MAX_TEXT],
        anatomic_regions=[CodedConcept(*segment.anatomy)] if segment.anatomy else None,
        display_color=_colour(number),
    )


def _colour(number: int) -> CIELabColor:
    """Return the colour that viewers shall show a segment in: that of the overlays."""
    return CIELabColor(*rgb2lab(np.divide(class_colour(number), 255)).tolist())
