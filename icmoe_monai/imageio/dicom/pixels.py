"""DICOM images, upright, by pydicom.pixels.

The functions of `pictures`, for DICOM: one frame of a file as RGB in 0..255, arrays (row, column). Greys go through the
modality LUT or rescale, then the first VOI LUT or window, whose output range becomes 0..255; without one, the frame's
0.5..99.5 percentile range does, padding left out. MONOCHROME1 is then inverted. Colours of more than 8 bits are read by
their high byte. Overlays, colour profiles and presentation states are not applied.

Files are opened and checked by `dicom_header`.
"""

from __future__ import annotations

import struct
from typing import Any, cast

import numpy as np
from pydicom import Dataset, uid
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_windowing, get_decoder, pixel_array

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.header import (
    COLOURS,
    PALETTE,
    Opened,
    check_frame,
    first_number,
    guarded,
    inspect,
    macro,
    opened,
)

_FREE_DECODERS = {
    **dict.fromkeys(uid.JPEG2000TransferSyntaxes, "pylibjpeg-openjpeg"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
}
_GENERAL_DECODERS = "python-gdcm, or pylibjpeg-libjpeg (GPL: your own choice)"
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def count_frames(path: str) -> int:
    """Return how many frames an image holds.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be read, or holds no image.
    """
    return inspect(path).num_frames


@guarded
def decode_rgb(path: str, frame: int = 0) -> np.ndarray:
    """Return the colours of one frame; no other is decoded.

    Args:
        path: The file.
        frame: Which frame, from 0.

    Returns:
        float32 (H, W, 3), RGB in 0..255.

    Raises:
        InputError: The frame cannot be decoded or does not exist.
        NotAnImageError: The file is DICOM, but no image to segment.
    """
    with opened(path) as image:
        return _decode(image, frame)


def decode_values(path: str, frame: int = 0) -> tuple[np.ndarray, bool]:
    """Refuse: a mask is not read from a DICOM image.

    Args:
        path: The file.
        frame: Not used.

    Raises:
        InputError: Always.
    """
    raise InputError(f"{path} is a DICOM file, and masks are not read from those: convert it to PNG or NIfTI.")


@guarded
def decode_size(path: str, *, whole: bool = False) -> tuple[int, int]:
    """Return an image's (H, W).

    Args:
        path: The file.
        whole: Decode every frame too, which finds a damaged file and a missing decoder. Otherwise the header is enough.

    Raises:
        InputError: The file cannot be read.
        NotAnImageError: The file is DICOM, but no image to segment.
    """
    with opened(path) as image:
        for frame in range(image.num_frames if whole else 0):
            _decode(image, frame)
        return image.rows, image.columns


def _decode(image: Opened, frame: int) -> np.ndarray:
    check_frame(image, frame)
    stored = _decode_stored(image, frame)
    photometric = image.dataset.PhotometricInterpretation
    if photometric == PALETTE:
        return _paint(image, stored).astype(np.float32)
    if photometric in COLOURS:
        return _to_eight_bits(stored, int(image.dataset.BitsStored)).astype(np.float32)
    grey = _to_grey(image, stored, frame)
    if photometric == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)


def _decode_stored(image: Opened, frame: int) -> np.ndarray:
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


def _missing_decoder(image: Opened) -> str:
    package = _FREE_DECODERS.get(image.syntax, _GENERAL_DECODERS)
    return (
        f"{image.path} cannot be decoded: its transfer syntax {image.syntax.name} needs a decoder that is not "
        f"installed, so install {package}, or convert the file."
    )


def _check_coded_size(image: Opened, frame: int) -> None:
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


def _paint(image: Opened, stored: np.ndarray) -> np.ndarray:
    num_entries, first, bits = image.dataset.RedPaletteColorLookupTableDescriptor
    last = first + (num_entries or 2**16) - 1
    colours = apply_color_lut(stored.astype(np.int32).clip(first, last), image.dataset)[..., :3]
    if colours.dtype.itemsize == 1 and last - first > 255:  # pydicom 3 counts a table's entries in the table's own bits
        raise InputError(f"{image.path} has a palette of more than 256 colours of 8 bits: convert it to RGB.")
    segmented = "SegmentedRedPaletteColorLookupTableData" in image.dataset
    if colours.dtype.itemsize == 2 and not image.syntax.is_little_endian and not segmented:
        colours = colours.byteswap()
    return _to_eight_bits(colours, bits)


def _to_grey(image: Opened, stored: np.ndarray, frame: int) -> np.ndarray:
    """Return greys in 0..255 before MONOCHROME1 is inverted, (H, W)."""
    big_endian = not image.syntax.is_little_endian
    values = _to_modality(stored, macro(image.dataset, frame, "PixelValueTransformationSequence"), big_endian)
    view = macro(image.dataset, frame, "FrameVOILUTSequence")
    for table in view.get("VOILUTSequence") or []:
        if table.get("LUTDescriptor") and table.get("LUTData"):
            looked_up = _look_up(values, table, big_endian)
            return looked_up * (255 / (2 ** int(table.LUTDescriptor[2]) - 1))
    windowed = _window(values, view)
    return _stretch(values, ~_padding(image.dataset, stored)) if windowed is None else windowed


def _to_modality(stored: np.ndarray, item: Dataset, big_endian: bool) -> np.ndarray:
    if item.get("ModalityLUTSequence"):
        return _look_up(stored, item.ModalityLUTSequence[0], big_endian)
    slope, intercept = first_number(item.get("RescaleSlope")), first_number(item.get("RescaleIntercept"))
    values = stored.astype(np.float64)
    return values if slope is None or intercept is None else values * slope + intercept


def _look_up(values: np.ndarray, item: Dataset, big_endian: bool) -> np.ndarray:
    """Apply a table as pydicom does, which wraps at 256 entries of 8 bits and refuses modality tables of 12 bits."""
    num_entries, first, _ = item.LUTDescriptor
    num_entries = num_entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        words = ">u2" if big_endian else "<u2"
        data = np.frombuffer(data, dtype=words if len(data) >= 2 * num_entries else "u1")
    table = np.atleast_1d(np.asarray(data))[:num_entries]
    places = np.nan_to_num(values.astype(np.float64) - first).clip(0, len(table) - 1).astype(np.int64)
    return table[places].astype(np.float64)


def _window(values: np.ndarray, view: Dataset) -> np.ndarray | None:
    center, width = first_number(view.get("WindowCenter")), first_number(view.get("WindowWidth"))
    function = str(view.get("VOILUTFunction") or "").upper()
    function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    if center is None or width is None or width < 1:
        return None
    settings = Dataset()
    settings.add(view["WindowCenter"])
    settings.add(view["WindowWidth"])
    settings.VOILUTFunction = function
    settings.PhotometricInterpretation, settings.PixelRepresentation = "MONOCHROME2", 0
    settings.BitsStored = 8  # the window's output range: 0..255
    return np.nan_to_num(apply_windowing(values, settings))


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    limits = [dataset.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    limits = [int(limit) for limit in limits if limit is not None]
    if "PixelPaddingValue" not in dataset or not limits or stored.dtype.kind == "f":
        return np.zeros(stored.shape, dtype=bool)
    bits = 8 * stored.dtype.itemsize
    if stored.dtype.kind == "i":  # some write a signed padding value as if it were unsigned
        limits = [limit - 2**bits if limit >= 2 ** (bits - 1) else limit for limit in limits]
    elif min(limits) < 0:
        limits = [limit % 2**bits for limit in limits]
    return (stored >= min(limits)) & (stored <= max(limits))


def _stretch(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    counted = values[finite & counts] if (finite & counts).any() else values[finite]
    if not counted.size:
        return np.zeros(values.shape)
    low, high = np.percentile(counted, (0.5, 99.5))
    if low == high:
        low, high = counted.min(), counted.max()
    span = high - low if high > low else 1.0
    return (np.where(finite, values - low, 0.0) * (255 / span)).clip(0, 255)
