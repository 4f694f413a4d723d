"""The images and frames that a DICOM Segmentation can refer to, read from files, and the objects that they make.

Letters: H W size of a mask on a slide.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pydicom
from highdicom.enum import CoordinateSystemNames
from highdicom.spatial import get_image_coordinate_system
from pydicom.dataset import Dataset

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.attributes import uid_in
from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.imageio.dicom.scale import read_scale
from icmoe_monai.imageio.dicom.seg.identity import uid_of
from icmoe_monai.imageio.dicom.seg.places import Place, group_places, place_of, unplaced
from icmoe_monai.imageio.dicom.slides import files_of_slide

_INSTEAD = "the masks hold the result"
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_OWN_SPACE = "has no Frame of Reference with positions, so that its DICOM Segmentation has one of its own"
_OWN_SCALE = f"{_OWN_SPACE}, in which a pixel counts as 1 mm"


class NoSegmentationError(InputError):
    """The source images allow no valid DICOM object; the message says why, and what holds the result."""

    code = "no_object"


class Image(NamedTuple):
    """A file's header, and how many bytes its pixels take."""

    path: str
    dataset: Dataset
    num_bytes: int

    @property
    def num_frames(self) -> int:
        """How many frames the file holds."""
        return int(self.dataset.get("NumberOfFrames") or 1)

    @property
    def is_multiframe(self) -> bool:
        """Whether references to it name frames."""
        return self.num_frames > 1 or "PerFrameFunctionalGroupsSequence" in self.dataset


class Part(NamedTuple):
    """What one object holds.

    Attributes:
        members: Indices of the sources, in the order given.
        images: The file of each member.
        frames: The frame of each member, from 0.
        places: Where each member lies; empty on a slide, where highdicom takes it from the one image.
        frame_of_reference: UID of the space in which the places are.
        has_scale: Whether mm are mm; else a pixel counts as 1 mm.
        remark: What shall be told of it, going on from the source's name, or "".
        is_unplaced: Whether the place is one of its own, for the image does not tell it.
        matrix: (H, W) of the mask of a whole slide, whose level is the one image; None of other images.
    """

    members: tuple[int, ...]
    images: tuple[Image, ...]
    frames: tuple[int, ...]
    places: tuple[Place, ...]
    frame_of_reference: str
    has_scale: bool
    remark: str
    is_unplaced: bool = False
    matrix: tuple[int, int] | None = None


def plan_segmentations(sources: Sequence[tuple[str, int]]) -> list[Part]:
    """Tell which objects the sources need: as few as can hold them all.

    Args:
        sources: Pairs of file and frame from 0.

    Returns:
        The objects; each source is in one of them.

    Raises:
        NoSegmentationError: A source has not what an object refers to it by.
        InputError: A file is not there.
        ValueError: A source has no such frame, or is named twice.
    """
    with silence():
        images = {path: _read(path) for path in dict.fromkeys(path for path, _ in sources)}
        if len(set(sources)) < len(sources) or any(not 0 <= frame < images[path].num_frames for path, frame in sources):
            raise ValueError("Each source must be named once, with a frame that it has.")
        datasets = [images[path].dataset for path, _ in sources]
        places = [place_of(dataset, frame) for dataset, (_, frame) in zip(datasets, sources, strict=True)]
        groups = group_places(places, [_space_of(dataset) for dataset in datasets])
        parts = [_part(group, sources, images, [places[n] for n in group]) for group in groups]
    return sorted(parts, key=lambda part: part.members)


def plan_slide(path: str, matrix: tuple[int, int]) -> Part:
    """Tell what the object of a whole slide's mask refers to: the level that the mask lies on, or the next larger one.

    Args:
        path: A file of the slide, whose folder holds the others.
        matrix: (H, W) of the mask.

    Raises:
        NoSegmentationError: The level does not tell where it lies on the slide, or lacks what an object refers to.
        InputError: A file is not there.
    """
    with silence():
        level = _level_of(path, matrix)
        try:
            image = _read(level)._replace(path=path)  # messages name the slide by the file that is known
        except NoSegmentationError as error:
            raise NoSegmentationError(str(error).replace(level, path)) from None
        if not _is_on_slide(image.dataset):
            raise refused(path, "does not tell where it lies on the slide")
        space = str(image.dataset.FrameOfReferenceUID)
        return Part((0,), (image,), (0,), (), space, has_scale=True, remark="", matrix=matrix)


def _level_of(path: str, matrix: tuple[int, int]) -> str:
    """Return the file of the smallest level that is not smaller than a mask."""
    levels = [
        (file.num_pixels, other)
        for other, file in files_of_slide(path).items()
        if file.is_level and all(side >= least for side, least in zip(file.size, matrix, strict=True))
    ]
    return min(levels)[1] if levels else path


def _read(path: str) -> Image:
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file: correct the path.", code="unreadable")
    try:
        with open(path, "rb") as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            num_bytes = os.path.getsize(path) - file.tell()
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            named = dataset.file_meta.get(f"MediaStorage{keyword}")  # the same in a sound file
            if not dataset.get(keyword) and named:
                setattr(dataset, keyword, named)
        lacking = [keyword for keyword in _IDENTIFIERS if uid_in(dataset, keyword) is None]
        image = Image(path, dataset, num_bytes)
        _ = lacking or (image.num_frames, int(dataset.Rows), int(dataset.Columns))  # raises here, if at all
    except Exception:  # a damaged file makes pydicom raise nearly anything
        raise refused(path, "holds attributes that cannot be read") from None
    if lacking:
        raise refused(path, f"has no {lacking[0]} by which it could be referred to")
    return image


def refused(path: str, reason: str) -> NoSegmentationError:
    """Return the error that tells why there is no object.

    Args:
        path: The source.
        reason: Why, going on from the source's path.
    """
    return NoSegmentationError(f"{path} {reason}, so there can be no such object: {_INSTEAD}.")


def references_of(part: Part) -> list[tuple[str, str, int | None]]:
    """Return SOP class, SOP instance and number of the frame, from 1 or None, of each member of an object.

    Args:
        part: What the object holds.
    """
    return [
        (str(image.dataset.SOPClassUID), str(image.dataset.SOPInstanceUID), frame + 1 if image.is_multiframe else None)
        for image, frame in zip(part.images, part.frames, strict=True)
    ]


def _space_of(dataset: Dataset) -> tuple[object, ...]:
    uids = [uid_in(dataset, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")]
    return (*uids, int(dataset.Rows), int(dataset.Columns))


def _part(
    members: Sequence[int],
    sources: Sequence[tuple[str, int]],
    images: Mapping[str, Image],
    places: Sequence[Place | None],
) -> Part:
    path, frame = sources[members[0]]
    dataset, remark = images[path].dataset, ""
    space = uid_in(dataset, "FrameOfReferenceUID")
    placed = [place for place in places if place is not None]
    if len(placed) < len(places):
        spacing = _spacing_of(path, frame)
        placed, remark = [unplaced(spacing)], _OWN_SPACE if spacing else _OWN_SCALE
        space = uid_of("Frame of Reference", str(dataset.StudyInstanceUID))
    elif space is None:
        remark = _OWN_SPACE.replace(" with positions", "")
        space = uid_of("Frame of Reference", str(dataset.SeriesInstanceUID))
    of = [sources[n] for n in members]
    return Part(
        members=tuple(members),
        images=tuple(images[path] for path, _ in of),
        frames=tuple(frame for _, frame in of),
        places=tuple(placed),
        frame_of_reference=space,
        has_scale=remark != _OWN_SCALE,
        remark=remark,
        is_unplaced=len(placed) == 1 and places[0] is None,
    )


def _spacing_of(path: str, frame: int) -> tuple[float, float] | None:
    """Return mm between rows and between columns where one scale holds for all that is calibrated, else None."""
    try:
        steps = read_scale(path, frame).steps.reshape(-1, 2)
    except InputError:
        return None
    steps = steps[~np.isnan(steps).any(axis=1)]
    if not len(steps) or not np.isclose(steps, steps[0]).all():
        return None
    return float(steps[0, 0]), float(steps[0, 1])


def _is_on_slide(dataset: Dataset) -> bool:
    """Tell whether a level says where it lies on a slide, and how large its pixels are."""
    try:
        origin = dataset.TotalPixelMatrixOriginSequence[0]
        corner = [float(origin[f"{axis}OffsetInSlideCoordinateSystem"].value) for axis in "XY"]
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        is_placed = get_image_coordinate_system(dataset) == CoordinateSystemNames.SLIDE and np.isfinite(corner).all()
        num_pixels = int(dataset.TotalPixelMatrixRows) * int(dataset.TotalPixelMatrixColumns)
        return bool(is_placed and num_pixels > 0 and min(map(float, measures.PixelSpacing)) > 0
                    and uid_in(dataset, "FrameOfReferenceUID") is not None)  # fmt: skip
    except Exception:  # a damaged value makes pydicom raise nearly anything
        return False
