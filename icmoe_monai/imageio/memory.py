"""Images that are in memory, as upright RGB: arrays, pictures of Pillow's and DICOM data sets.

A picture and a data set give what their files would give. Of an array, values of 8 bits are taken as they are; those of
16 bits as in a file, by `greys.show`; floats are 0 (black) to 1 (white).
"""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydicom import Dataset

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.dicom.pixels import DicomFile
from icmoe_monai.imageio.dicom.scale import Scale
from icmoe_monai.imageio.greys import show
from icmoe_monai.imageio.image_file import BoundedFile, max_pixels
from icmoe_monai.imageio.pictures import rgb_of_picture


class Held(NamedTuple):
    """An image from memory.

    Attributes:
        rgb: float32 (H, W, 3), upright, in 0..255; NaN where a data set has no finite value.
        scale: How large its pixels are, of a DICOM data set; None for other images.
    """

    rgb: np.ndarray
    scale: Scale | None = None


def read_memory(image: Any, *, frame: int | None = None) -> Held:
    """Read an image from memory.

    Args:
        image: An array, (H, W) or (H, W, 3), of uint8, uint16 or floats in 0..1; a picture of Pillow's; or a data set
            of pydicom's with its pixels.
        frame: Which frame of a data set, from 0; None: it must hold one.

    Raises:
        InputError: It is none of these, or cannot be used.

    Example:
        >>> read_memory(np.array([[0.0, 0.5, 1.0]])).rgb[0, :, 0].tolist()
        [0.0, 127.5, 255.0]
    """
    if isinstance(image, Dataset):
        return _read_dataset("the data set", image, frame)
    if frame is not None:
        raise InputError(
            "frame names a frame of a file or a data set, and arrays and pictures have none: leave it out."
        )
    if isinstance(image, Image.Image):
        if not all(image.size):
            raise InputError("the picture has no pixels: leave it out.")
        return Held(rgb_of_picture(image, "the picture"))
    if isinstance(image, np.ndarray):
        return Held(_rgb_of_array(np.asarray(image)))  # of a masked array, all values
    raise InputError(
        "an image is an array, a picture of Pillow's, a path or a DICOM data set, "
        f"got {type(image).__name__}: convert it."
    )


def _rgb_of_array(values: np.ndarray) -> np.ndarray:
    is_colour = values.ndim == 3 and values.shape[2] == 3
    if not values.size or not (is_colour or values.ndim == 2):
        raise InputError(f"an array must be (H, W) or (H, W, 3), got {values.shape}: turn it so.")
    if values.shape[0] * values.shape[1] > max_pixels():
        raise InputError(f"the array has too many pixels for one picture, {values.shape}: cut it into tiles.")
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # in either order of bytes
        greys = show(values)
    elif values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError("an array of floats holds NaN or infinite values: replace them.")
        if low < 0 or high > 1:
            raise InputError(
                f"an array of floats must hold 0 (black) to 1 (white), got {low:.12g} to {high:.12g}: "
                "divide it by its white, or clip it where only rounding is outside."
            )
        greys = values.astype(np.float32) * np.float32(255)
    else:
        raise InputError(f"an array must be uint8, uint16 or floats, got {values.dtype}: convert it.")
    return greys if is_colour else np.repeat(greys[..., None], 3, axis=2)


def _read_dataset(name: str, dataset: Dataset, frame: int | None) -> Held:
    with DicomFile(name, BoundedFile(_file_of(name, dataset))) as image:
        if frame is None and image.num_frames > 1:
            raise InputError(f"{name} holds {image.num_frames} frames: name one by frame, from 0.")
        return Held(image.rgb(frame or 0), image.scale(frame or 0))


@guarded
def _file_of(name: str, dataset: Dataset) -> bytes:
    """Return the bytes of a data set's file, which is checked and decoded like any other."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
