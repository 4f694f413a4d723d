"""PNG, JPEG, TIFF, BMP and WebP files, upright, by Pillow.

Four functions that every decoder of a kind of file has: `count_frames`, `decode_rgb`, `decode_values`, `decode_size`.
Arrays are (row, column), upright: the EXIF orientation is applied, to images and masks alike. A file that cannot be
read is an `InputError`, one sentence with the file's name and the remedy.

Decisions, for images: what is transparent becomes black; data of more than 8 bits (16- or 32-bit integers, floats) goes
linearly from the image's own minimum..maximum to 0..255, and a constant image to 0; colour of 16 bits a channel is read
by its high byte, which is all that Pillow gives; colour profiles are not applied. A TIFF may hold several pages, of
which the caller names one; other files of several frames are refused, but for the preview pictures that phones append
to a JPEG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import check_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

# Named, so that Pillow tries no decoder that nobody asked for (EPS would start Ghostscript).
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "F")
_WHITE_IS_ZERO = 0


def count_frames(path: str) -> int:
    """Return the number of a TIFF's pages, and 1 for all other pictures.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be read.
    """
    with _opened(path, decode=False) as picture:
        return getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1


def decode_rgb(path: str, frame: int = 0) -> np.ndarray:
    """Return a picture's colours.

    Args:
        path: The file.
        frame: Which page of a TIFF.

    Returns:
        float32 (H, W, 3), RGB in 0..255.

    Raises:
        InputError: The file cannot be read.
    """
    with _opened(path, frame=frame) as picture:
        if not _is_deep(picture):
            return np.asarray(_to_rgb(picture), dtype=np.float32)
        grey = _stretch(np.asarray(picture))
        # Pillow inverts white-is-zero TIFF of 8 bits, not of more
        if picture.format == "TIFF" and picture.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=2)


def decode_values(path: str, frame: int = 0) -> tuple[np.ndarray, bool]:
    """Return the numbers that a mask stores, unscaled; a palette's indices, not its colours.

    Args:
        path: The file.
        frame: Which page of a TIFF.

    Returns:
        The values, (H, W), 0 where transparent; and whether they were stored without loss (JPEG does not).

    Raises:
        InputError: The file cannot be read, or its colour channels differ.
    """
    with _opened(path, frame=frame) as picture:
        if picture.format in ("JPEG", "MPO") or "jpeg" in str(picture.info.get("compression", "")):
            return np.asarray(picture.convert("L")), False
        values = np.asarray(picture)
        bands = picture.getbands()
    if values.ndim == 2:
        return values, True
    if bands[-1] in ("A", "a"):
        values = np.where(values[..., -1:] == 0, 0, values[..., :-1])
    if (values[..., :1] != values).any():
        raise InputError(f"{path} is in colour, and a mask is not: save it in one channel, 0 for the background.")
    return values[..., 0], True


def decode_size(path: str, *, whole: bool = False) -> tuple[int, int]:
    """Return a picture's upright (H, W).

    Args:
        path: The file.
        whole: Decode all pixels too, which finds a damaged file. Otherwise the header is enough, except for PNG, whose
            orientation may follow the pixels.

    Raises:
        InputError: The file cannot be read.
    """
    with _opened(path, decode=whole) as picture:
        width, height = picture.size
        # Pillow gives a TIFF's size upright already
        turned = picture.format != "TIFF" and picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str, *, decode: bool = True, frame: int = 0) -> Iterator[Image.Image]:
    check_file(path)
    # Never Image.open(path): then Pillow maps an uncompressed TIFF into memory, and scrambles it where it is turned.
    try:
        handle = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): make it readable or remove it.") from error
    with handle:
        yield from _decoded(path, handle, decode, frame)


def _decoded(path: str, handle: BinaryIO, decode: bool, frame: int) -> Iterator[Image.Image]:
    try:
        with Image.open(handle, formats=_FORMATS) as picture:
            if frame:
                picture.seek(frame)
            _check_kind(path, picture)
            if decode:
                ImageOps.exif_transpose(picture, in_place=True)
                picture.load()
            yield picture
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} has too many pixels for one picture ({error}): cut it into tiles.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no PNG, JPEG, TIFF, BMP or WebP image: convert it to one or remove it.") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise InputError(f"{path} cannot be decoded ({error}): copy it again or remove it.") from error


def _check_kind(path: str, picture: Image.Image) -> None:
    num_frames = getattr(picture, "n_frames", 1)
    if num_frames > 1 and picture.format not in ("MPO", "TIFF"):
        raise InputError(f"{path} holds {num_frames} frames: save each as a file of its own.")
    if picture.mode not in _MODES and not picture.mode.startswith("I;16"):
        raise InputError(f"{path} is stored in the colour mode {picture.mode}: convert it to RGB or greyscale.")


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")


def _stretch(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.float32)
    low, high = values[finite].min(), values[finite].max()
    span = high - low if high > low else 1.0
    return (np.where(finite, values - low, 0.0) * (255 / span)).clip(0, 255).astype(np.float32)
