"""Values as a DICOM image stores them: decoded, with the bits that count, and colours made RGB.

A sample is the Bits Stored bits below and with High Bit of the Bits Allocated (PS3.5, 8.1.1), where nothing may be
assumed of the others: some hold overlays. That is so for samples that are compressed without loss, too. Where a frame
has fewer bits than its header says, those are the sample. Loss has spread over all bits of a sample, so there a value
beyond the range of Bits Stored takes the nearest end of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import as_pixel_options

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.codestream import RGB, YBR, Codestream, read_codestream
from icmoe_monai.imageio.dicom.decoders import UndecodedError, decode, is_known
from icmoe_monai.imageio.dicom.header import Header


class Stored(NamedTuple):
    """The values of one frame.

    Attributes:
        values: (H, W), or (H, W, 3) of RGB.
        bits: How many bits of a value count; those of its type where it is a float.
    """

    values: np.ndarray
    bits: int


def read_stored(image: Header, frame: int) -> Stored:
    """Decode the values of a frame.

    Args:
        image: The image.
        frame: Which frame, from 0.

    Raises:
        InputError: They cannot be decoded.
    """
    compressed = image.syntax.is_encapsulated and image.syntax != uid.RLELossless and is_known(image.syntax)
    codestream = _check_coded(image, frame) if compressed else None
    image.stream.seek(image.pixels_at)
    try:
        values = decode(image.syntax, image.stream, frame=frame, codestream=codestream, options=_options(image))
    except UndecodedError as error:
        advice, code = str(error), error.code
    else:
        return _in_rgb(image, _used_bits(image, values, codestream), codestream)
    raise InputError(f"{image.path} cannot be decoded{advice}.", code=code)


def _options(image: Header) -> dict[str, Any]:
    """Return what pydicom needs to know of the header; bits are chosen here, since pydicom knows no High Bit."""
    own = {"number_of_frames": image.num_frames, "pixel_keyword": image.keyword, "pixel_vr": image.vr}
    return as_pixel_options(image.dataset, **own, correct_unused_bits=False)


def _check_coded(image: Header, frame: int) -> Codestream:
    """Refuse a frame whose own header claims another size, more bits or other channels, before memory is taken."""
    tables = [image.dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    image.stream.seek(image.pixels_at)
    coded = get_frame(
        cast(Any, image.stream),
        frame,
        number_of_frames=image.num_frames,
        extended_offsets=cast(Any, tuple(tables) if all(tables) else None),
    )
    found = read_codestream(coded)
    samples, allocated = int(image.dataset.get("SamplesPerPixel") or 1), int(image.dataset.BitsAllocated)
    told = ""
    if (found.rows, found.columns) != (image.rows, image.columns):
        told = "another size than its header says"
    elif found.channels != samples:
        told = f"other channels than its header says ({found.channels}, not {samples})"
    elif found.precision > allocated:
        told = f"more bits than its header says ({found.precision}, not {allocated})"
    if told:
        raise InputError(f"{image.path} holds a frame of {told}: export it again.", code="damaged")
    return found


def _used_bits(image: Header, values: np.ndarray, codestream: Codestream | None) -> Stored:
    """Cut the sample out of its word, and extend its sign."""
    width = 8 * values.dtype.itemsize
    if values.dtype.kind == "f":
        return Stored(values, width)
    values = values.astype(values.dtype.newbyteorder("="))
    stored = int(image.dataset.BitsStored)
    held = width if codestream is None else codestream.precision
    top = image.dataset.get("HighBit")
    low = int(stored - 1 if top is None else top) + 1 - stored
    if not 0 <= low <= held - stored:  # a High Bit that cannot be, or a frame that holds the samples alone
        low = 0
    bits = min(stored, held)
    if codestream is None or not codestream.lossy or held == bits:
        return Stored(_cut(values, low, bits), bits)
    values = _cut(values, low, held - low)
    kind = np.iinfo(values.dtype)
    return Stored(values.clip(kind.min >> (width - bits), kind.max >> (width - bits)), bits)


def _cut(values: np.ndarray, low: int, bits: int) -> np.ndarray:
    """Return so many bits of each value from the bit `low` on; the highest of them is the sign of a signed type."""
    width = 8 * values.dtype.itemsize
    return np.right_shift(np.left_shift(values, width - low - bits), width - bits)


def _in_rgb(image: Header, stored: Stored, codestream: Codestream | None) -> Stored:
    """Make colours RGB, from those that the frame itself says it holds, or else from those of the header."""
    if stored.values.ndim == 2:
        return stored
    colour = codestream.colour if codestream is not None else ""
    if (colour or image.dataset.PhotometricInterpretation) not in (YBR, "YBR_FULL_422"):
        return stored
    if stored.bits > 8:
        raise InputError(f"{image.path} holds YBR colour of more than 8 bits: convert it to RGB.", code="unsupported")
    return stored._replace(values=convert_color_space(stored.values.astype(np.uint8), YBR, RGB))
