"""Where an image or a frame lies in the patient, and which of them one DICOM Segmentation can hold.

An object holds parallel planes of one size and spacing in one Frame of Reference, and no two at the same place: that is
what highdicom writes, and what viewers make a volume of. So a cine, a series of phases, or planes in several directions
are several objects, one for each phase and direction. An image without a place is an object of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset

from icmoe_monai.imageio.dicom.attributes import first_number, macro, numbers

_MAX_TILT = 1e-4  # of one object's orientations against each other, as direction cosines
_MAX_SKEW = 0.01  # of directions that are no unit vectors at right angles but can be mended
_MAX_APART = 1e-3  # mm between planes that count as the same place


class Place(NamedTuple):
    """A plane in the patient: mm of its first pixel's middle, directions of rows and columns, mm between pixels."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None = None
    gap: float | None = None  # mm from the middle of a slice to that of the next, as the header has it

    @property
    def distance(self) -> float:
        """The distance of the plane from the origin along its normal, in mm."""
        return float(np.cross(self.orientation[:3], self.orientation[3:]) @ np.asarray(self.position))


def unplaced(spacing: tuple[float, float] | None) -> Place:
    """Return the place of an image that has none: the origin of a space of its own.

    Args:
        spacing: mm between rows and columns; None for a pixel that counts as 1 mm.
    """
    return Place((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), spacing or (1.0, 1.0))


def place_of(image: Dataset, frame: int) -> Place | None:
    """Return where a frame lies in the patient, or None where its header does not tell, or tells what cannot be.

    Args:
        image: The image's header.
        frame: Which frame, from 0.
    """
    position = _numbers(image, frame, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _numbers(image, frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = _numbers(image, frame, "PixelMeasuresSequence", "PixelSpacing", 2)
    orientation = None if orientation is None else _at_right_angles(orientation)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        return None
    thickness, gap = (_positive(image, frame, keyword) for keyword in ("SliceThickness", "SpacingBetweenSlices"))
    return Place(position, orientation, spacing, thickness, gap)


def group_places(places: Sequence[Place | None], spaces: Sequence[tuple[Any, ...]]) -> list[list[int]]:
    """Group planes into objects: parallel ones of one space, at different places.

    Args:
        places: Where each plane lies; None for one without a place.
        spaces: What planes of one object have in common, such as series, Frame of Reference and size.

    Returns:
        The indices of each object's planes, in the order given. Of several planes at one place the first is in the
        first object, the second in the second, and so on.

    Example:
        >>> planes = [Place((0, 0, z), (1, 0, 0, 0, 1, 0), (1, 1)) for z in (0, 0, 5, 5)]
        >>> group_places([*planes, None], [()] * 5)
        [[0, 2], [1, 3], [4]]
    """
    groups: list[list[int]] = []
    families: list[_Family] = []
    for index, (place, space) in enumerate(zip(places, spaces, strict=True)):
        if place is None:
            groups.append([index])
            continue
        family = next((one for one in families if one.space == space and _are_parallel(one.first, place)), None)
        if family is None:
            family = _Family(place, space, [], [])
            families.append(family)
        distance = family.first._replace(position=place.position).distance
        num_before = int((np.abs(np.asarray(family.distances) - distance) <= _MAX_APART).sum())
        if num_before == len(family.groups):
            family.groups.append([])
            groups.append(family.groups[-1])
        family.groups[num_before].append(index)
        family.distances.append(distance)
    return groups


def thickness_of(places: Sequence[Place]) -> float:
    """Return the thickness of an object's slices in mm: as told, else the distance between them, else a pixel's size.

    Args:
        places: Where the planes lie.
    """
    first = places[0]
    told = first.thickness or first.gap
    distances = sorted(first._replace(position=place.position).distance for place in places)
    return told or (float(np.median(np.diff(distances))) if len(places) > 1 else min(first.spacing))


class _Family(NamedTuple):
    """Parallel planes of one space: the first, how far all are from the origin, and the objects that they make."""

    first: Place
    space: tuple[Any, ...]
    distances: list[float]
    groups: list[list[int]]


def _are_parallel(first: Place, other: Place) -> bool:
    return all(
        abs(one - two) <= _MAX_TILT
        for one, two in zip(first.orientation + first.spacing, other.orientation + other.spacing, strict=True)
    )


def _numbers(image: Dataset, frame: int, group: str, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        return numbers(macro(image, frame, group).get(keyword), count)
    except Exception:  # a damaged value makes pydicom raise nearly anything
        return None


def _positive(image: Dataset, frame: int, keyword: str) -> float | None:
    """Return a length, whose sign some scanners use to tell a direction, or None where there is none."""
    try:
        return abs(first_number(macro(image, frame, "PixelMeasuresSequence").get(keyword)) or 0.0) or None
    except Exception:
        return None


def _at_right_angles(orientation: tuple[float, ...]) -> tuple[float, ...] | None:
    """Return directions as unit vectors at right angles, or None where they are far from that."""
    rows, columns = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    skew = max(abs(np.linalg.norm(rows) - 1), abs(np.linalg.norm(columns) - 1), abs(rows @ columns))
    if skew > _MAX_SKEW:
        return None
    if skew <= _MAX_TILT:
        return orientation
    rows = rows / np.linalg.norm(rows)
    columns = columns - (columns @ rows) * rows
    return (*map(float, rows), *map(float, columns / np.linalg.norm(columns)))
