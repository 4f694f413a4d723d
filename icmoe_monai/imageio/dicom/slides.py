"""DICOM whole slides: their files, one for each level of a pyramid, told apart by their headers."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.dicom.header import is_dicom

_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "ImageType", "NumberOfFrames"),
    *("TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
)
_LEAST_OF_A_FRAME = 8  # bytes


class SlideFile(NamedTuple):
    """A file of a whole slide.

    Attributes:
        series: UID of the series, which all files of the slide share.
        size: (H, W) of the file's image in pixels, (0, 0) where it does not tell.
        is_level: Whether it is a level of the pyramid, and no label, overview or thumbnail.
        may_hold_its_frames: Whether its bytes may be as many frames as it claims, of which readers make tables.
    """

    series: str
    size: tuple[int, int]
    is_level: bool
    may_hold_its_frames: bool

    @property
    def num_pixels(self) -> int:
        """How many pixels the level has; 0 of a label, overview or thumbnail."""
        return self.size[0] * self.size[1] if self.is_level else 0


@guarded
def read_slide_file(path: str) -> SlideFile | None:
    """Return what a DICOM file tells of the whole slide that it is of, or None if it is of none.

    Args:
        path: The file.

    Raises:
        InputError: It cannot be read.
    """
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
    if header.get("SOPClassUID") != VLWholeSlideMicroscopyImageStorage:
        return None
    num_frames = int(header.get("NumberOfFrames") or 1)
    may_hold = 0 < num_frames <= max(1, os.path.getsize(path) // _LEAST_OF_A_FRAME)
    rows, columns = (int(header.get(f"TotalPixelMatrix{side}") or 0) for side in ("Rows", "Columns"))
    kind = [str(word) for word in header.get("ImageType") or ()]
    return SlideFile(str(header.get("SeriesInstanceUID") or ""), (rows, columns), "VOLUME" in kind[2:3], may_hold)


def files_of_slide(path: str) -> dict[str, SlideFile]:
    """Return the files of a whole slide by their paths, of which one is given and the others lie beside it.

    Args:
        path: One of them.

    Raises:
        InputError: It cannot be read, or one of its files claims more frames than its bytes can hold.
    """
    own, found = read_slide_file(path), {}
    for other in sorted(str(file) for file in Path(path).parent.iterdir()):
        with suppress(InputError):  # a damaged neighbour is no file of this slide
            file = read_slide_file(other) if own is not None and is_dicom(other) else None
            if file is not None and own is not None and file.series == own.series:
                found[other] = file
    if not all(file.may_hold_its_frames for file in found.values()):
        raise InputError(
            f"{path} claims more frames than its files can hold: copy them again or remove them.", code="damaged"
        )
    return found
