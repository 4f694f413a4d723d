"""DICOM images, upright, by pydicom.pixels.

One frame of a file as RGB in 0..255. Greys are made by `greys`. Colours of more than 8 bits are read by their high
byte. Overlays, colour profiles and presentation states are not applied.

Files are opened and checked by `header`.
"""

from __future__ import annotations

import struct
from typing import Any, cast

import numpy as np
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.greys import to_grey
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.dicom.header import (
    COLOURS,
    PALETTE,
    SUFFIXES,
    Header,
    check_frame,
    has_preamble,
    read_header,
)
from icmoe_monai.imageio.dicom.scale import Scale, scale_of
from icmoe_monai.imageio.dicom.stacks import position_of, series_of
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile

_FREE_DECODERS = {
    **dict.fromkeys(uid.JPEG2000TransferSyntaxes, "pylibjpeg-openjpeg"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
}
_GENERAL_DECODERS = "python-gdcm, or pylibjpeg-libjpeg (GPL: your own choice)"
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


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
        """Tell whether a file is DICOM, by its suffix or by "DICM" at byte 128.

        Args:
            path: The file.
            head: Its first bytes.
        """
        return super().recognises(path, head) or has_preamble(head)

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
    stored = _decode_stored(image, frame)
    photometric = image.dataset.PhotometricInterpretation
    if photometric == PALETTE:
        return _paint(image, stored).astype(np.float32)
    if photometric in COLOURS:
        return _to_eight_bits(stored, int(image.dataset.BitsStored)).astype(np.float32)
    grey = to_grey(image, stored, frame)
    if photometric == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)


def _decode_stored(image: Header, frame: int) -> np.ndarray:
    """Return the values as stored, (H, W) or (H, W, 3), YBR made RGB."""
    try:
        decoder = get_decoder(image.syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None:
        raise InputError(
            f"{image.path} cannot be decoded: pydicom does not know its transfer syntax "
            f"{image.syntax.name}, so convert it to Explicit VR Little Endian."
        )
    if not decoder.is_available:
        raise InputError(_missing_decoder(image))
    if image.syntax.is_encapsulated and image.syntax != uid.RLELossless:
        _check_coded_size(image, frame)
    image.stream.seek(0)
    try:
        return pixel_array(image.stream, index=frame, transfer_syntax_uid=image.syntax)
    except Exception:
        # Pillow takes 8 of the 12 bits that this transfer syntax allows
        if image.syntax != uid.JPEGExtended12Bit or set(decoder.available_plugins) - {"pillow"}:
            raise
    raise InputError(_missing_decoder(image))


def _missing_decoder(image: Header) -> str:
    package = _FREE_DECODERS.get(image.syntax, _GENERAL_DECODERS)
    return (
        f"{image.path} cannot be decoded: its transfer syntax {image.syntax.name} needs a decoder that is not "
        f"installed, so install {package}, or convert the file."
    )


def _check_coded_size(image: Header, frame: int) -> None:
    """Refuse a frame whose JPEG, JPEG-LS or JPEG 2000 header claims another size, for which a decoder takes memory."""
    tables = [image.dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    image.stream.seek(image.pixels_at)
    coded = get_frame(
        cast(Any, image.stream),
        frame,
        number_of_frames=image.num_frames,
        extended_offsets=cast(Any, tuple(tables) if all(tables) else None),
    )
    if _coded_size(coded) != (image.rows, image.columns):
        raise InputError(f"{image.path} holds a frame of another size than its header says: export it again.")


def _coded_size(coded: bytes) -> tuple[int, int] | None:
    codestream = coded.find(b"\xff\x4f\xff\x51")
    if 0 <= codestream < 4096 and coded[:2] != b"\xff\xd8":
        right, bottom, left, top = struct.unpack_from(">4L", coded, codestream + 8)
        return bottom - top, right - left
    at = 2
    while coded[at] == 0xFF:
        if coded[at + 1] in _START_OF_FRAME:
            return cast("tuple[int, int]", struct.unpack_from(">2H", coded, at + 5))
        at += 1 if coded[at + 1] == 0xFF else 2 + struct.unpack_from(">H", coded, at + 2)[0]
    return None


def _to_eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    if bits < 8:
        return values * (255 / (2**bits - 1))
    return (values >> (bits - 8)).clip(0, 255)


def _paint(image: Header, stored: np.ndarray) -> np.ndarray:
    num_entries, first, bits = image.dataset.RedPaletteColorLookupTableDescriptor
    last = first + (num_entries or 2**16) - 1
    colours = apply_color_lut(stored.astype(np.int32).clip(first, last), image.dataset)[..., :3]
    if colours.dtype.itemsize == 1 and last - first > 255:  # pydicom 3 counts a table's entries in the table's own bits
        raise InputError(f"{image.path} has a palette of more than 256 colours of 8 bits: convert it to RGB.")
    segmented = "SegmentedRedPaletteColorLookupTableData" in image.dataset
    if colours.dtype.itemsize == 2 and not image.syntax.is_little_endian and not segmented:
        colours = colours.byteswap()
    return _to_eight_bits(colours, bits)
