"""DICOM images, upright, by pydicom.pixels.

One frame of a file as RGB in 0..255. Greys are made by `dicom.greys`, colours as those of pictures. Overlays, colour
profiles and presentation states are not applied.

Files are opened and checked by `header`, and their values decoded by `stored`.
"""

from __future__ import annotations

import numpy as np
from pydicom.pixels import apply_color_lut
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.content import begins_as_dicom
from icmoe_monai.imageio.dicom.greys import to_grey
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.dicom.header import (
    COLOURS,
    PALETTE,
    SUFFIXES,
    Header,
    check_frame,
    read_header,
)
from icmoe_monai.imageio.dicom.scale import Scale, scale_of
from icmoe_monai.imageio.dicom.stacks import position_of, series_of
from icmoe_monai.imageio.dicom.stored import read_stored
from icmoe_monai.imageio.greys import show
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile


class DicomFile(ImageFile):
    """A DICOM image. Masks are not read from those.

    Args:
        path: The file, for messages.
        file: The same file, open at its beginning.

    Raises:
        InputError: It is damaged, is not DICOM, or holds less or more pixel data than its header says.
        NotAnImageError: It is DICOM, but no image to segment.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> with DicomFile.open(get_testdata_file("CT_small.dcm", download=False)) as image:
        ...     print(image.num_frames, image.size, image.rgb().shape)
        1 (128, 128) (128, 128, 3)
    """

    suffixes = SUFFIXES
    any_name = True

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        self._header = read_header(path, file)

    @classmethod
    def recognises(cls, path: str, head: bytes) -> bool:
        """Tell whether a file is DICOM, by its suffix or by what it begins with.

        Args:
            path: The file.
            head: Its first bytes.
        """
        return super().recognises(path, head) or begins_as_dicom(head)

    @property
    def num_frames(self) -> int:
        """How many frames the image holds; a header whose place in a series is damaged is refused here."""
        _ = self.series, self.position
        return self._header.num_frames

    @property
    def size(self) -> tuple[int, int]:
        """The (H, W) of all frames, from the header."""
        return self._header.rows, self._header.columns

    @property
    def is_whole_slide(self) -> bool:
        """Whether it is a level of a whole slide, whose frames are tiles."""
        return bool(self._header.dataset.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage)

    @property
    @guarded
    def series(self) -> str:
        """Equal for the single-frame files of one series, frame of reference, orientation and size; else ""."""
        return "" if self._header.num_frames > 1 else series_of(self._header.dataset)

    @property
    @guarded
    def position(self) -> tuple[float, ...]:
        """Sorts the files of a series: mm along the slice normal (0 where not given), then the instance number."""
        return position_of(self._header.dataset)

    @guarded
    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return the colours of one frame; no other is decoded.

        Args:
            frame: Which frame, from 0.

        Returns:
            float32 (H, W, 3), RGB in 0..255.

        Raises:
            InputError: The frame cannot be decoded or does not exist.
        """
        return _decode(self._header, frame)

    def scale(self, frame: int = 0) -> Scale:
        """Return how large the pixels of one frame are.

        Args:
            frame: Which frame, from 0.

        Raises:
            InputError: There is no such frame.
        """
        return scale_of(self._header, frame)

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Refuse: a mask is not read from a DICOM image.

        Args:
            frame: Not used.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.path} is a DICOM file, and masks are not read from those: convert it to PNG or NIfTI.")


def _decode(image: Header, frame: int) -> np.ndarray:
    check_frame(image, frame)
    stored, bits = read_stored(image, frame)
    photometric = image.dataset.PhotometricInterpretation
    if photometric == PALETTE:
        return _paint(image, stored).astype(np.float32)
    if photometric in COLOURS:
        return show(stored, bits=bits)
    grey = to_grey(image, stored, frame)
    if photometric == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)


def _paint(image: Header, stored: np.ndarray) -> np.ndarray:
    num_entries, first, bits = image.dataset.RedPaletteColorLookupTableDescriptor
    places = np.arange(first, first + (num_entries or 2**16), dtype=np.int32)
    colours = apply_color_lut(places, image.dataset)[..., :3]
    if colours.dtype.itemsize == 1 and len(places) > 256:  # pydicom 3 counts a table's entries in the table's own bits
        raise InputError(
            f"{image.path} has a palette of more than 256 colours of 8 bits: convert it to RGB.", code="unsupported"
        )
    segmented = "SegmentedRedPaletteColorLookupTableData" in image.dataset
    if colours.dtype.itemsize == 2 and not image.syntax.is_little_endian and not segmented:
        colours = colours.byteswap()
    # a table of 16 bits uses them all, but some programs write 8 of them
    colours = (colours >> (max(bits - 8, 0) if colours.max() > 255 else 0)).clip(0, 255)
    return colours[stored.astype(np.int32).clip(places[0], places[-1]) - first]
