"""PNG, JPEG, TIFF, BMP and WebP files, upright, by Pillow.

The EXIF orientation is applied, to images and masks alike.

Decisions, for images: what is transparent becomes black; data of more than 8 bits (16- or 32-bit integers, floats) goes
linearly from the image's own minimum..maximum to 0..255, and a constant image to 0; colour of 16 bits a channel is read
by its high byte, which is all that Pillow gives; colour profiles are not applied. A TIFF may hold several pages, of
which the caller names one; other files of several frames are refused, but for the preview pictures that phones append
to a JPEG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.imageio.greys import apply_window
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

# Named, so that Pillow tries no decoder that nobody asked for (EPS would start Ghostscript).
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "F")
_WHITE_IS_ZERO = 0


class PictureFile(ImageFile):
    """A PNG, JPEG, TIFF, BMP or WebP file; the frames are the pages of a TIFF, and 1 of all others.

    Args:
        path: The file, for messages.
        file: The same file, open at its beginning.

    Raises:
        InputError: It is none of these, or its header is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30), 5).save(f"{folder}/a.png")
        ...     with PictureFile.open(f"{folder}/a.png") as picture:
        ...         print(picture.num_frames, picture.size, picture.rgb()[0, 0], picture.values()[0][0, 0])
        1 (30, 40) [5. 5. 5.] 5
    """

    suffixes = SUFFIXES

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        with _told(path):
            self._start()

    @property
    def num_frames(self) -> int:
        """How many pages a TIFF holds, and 1 for all other pictures."""
        with self._asked():
            picture = self._turn_to(0)
            return getattr(picture, "n_frames", 1) if picture.format == "TIFF" else 1

    @property
    def size(self) -> tuple[int, int]:
        """The upright (H, W), of the header; but a PNG is decoded, as its orientation may follow the pixels."""
        with self._asked():
            picture = self._turn_to(0)
            width, height = picture.size
            # Pillow gives a TIFF's size upright already
            turned = picture.format != "TIFF" and picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)

    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return a picture's colours.

        Args:
            frame: Which page of a TIFF.

        Returns:
            float32 (H, W, 3), RGB in 0..255.

        Raises:
            InputError: The page cannot be decoded or does not exist.
        """
        with self._asked():
            picture = self._decode(frame)
            return _colours(picture, white_is_zero=_is_white_zero(picture))

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Return the numbers that a mask stores, unscaled; a palette's indices, not its colours.

        Args:
            frame: Which page of a TIFF.

        Returns:
            The values, (H, W), 0 where transparent; and whether they were stored without loss (JPEG does not).

        Raises:
            InputError: The page cannot be decoded or does not exist, its colour channels differ, or it has no colour
                but black and yet is transparent in parts.
        """
        with self._asked():
            picture = self._decode(frame)
            if picture.format in ("JPEG", "MPO") or "jpeg" in str(picture.info.get("compression", "")):
                return np.asarray(picture.convert("L")), False
            values = np.asarray(picture)
            bands = picture.getbands()
        if values.ndim == 2:
            return values, True
        if bands[-1] in ("A", "a"):
            alpha, values = values[..., -1:], np.where(values[..., -1:] == 0, 0, values[..., :-1])
            if not values.any() and (alpha != alpha.flat[0]).any():
                raise InputError(
                    f"{self.path} is drawn in transparency alone, and black where it is seen: save it in one channel, "
                    "0 for the background."
                )
        if (values[..., :1] != values).any():
            raise InputError(
                f"{self.path} is in colour, and a mask is not: save it in one channel, 0 for the background."
            )
        return values[..., 0], True

    def check_pixels(self) -> None:
        """Decode all pixels of the first page, to find a damaged file.

        Raises:
            InputError: They cannot be decoded.
        """
        with self._asked():
            self._decode(0)

    def close(self) -> None:
        """Close the file, and let go of what was decoded."""
        self._picture.close()
        super().close()

    def _start(self) -> None:
        self.file.seek(0)
        # Never Image.open(path): then Pillow maps an uncompressed TIFF into memory, and scrambles it where it is turned
        self._picture: Image.Image = Image.open(self.file, formats=_FORMATS)
        self._checked_frame: int | None = None
        self._is_broken = False

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Start anew after an error: Pillow tells of damage once, and then takes what it has for the picture."""
        try:
            with _told(self.path):
                if self._is_broken:
                    self._start()
                yield
        except InputError:
            self._is_broken = True
            raise

    def _decode(self, frame: int) -> Image.Image:
        """Return a page, decoded and upright."""
        picture = self._turn_to(frame)
        ImageOps.exif_transpose(picture, in_place=True)
        picture.load()
        return picture

    def _turn_to(self, frame: int) -> Image.Image:
        """Return a page, checked and not yet decoded."""
        picture = self._picture
        if frame != self._checked_frame:
            if frame != picture.tell():
                picture.seek(frame)
            _check_kind(self.path, picture)
            self._checked_frame = frame
        return picture


def rgb_of_picture(picture: Image.Image, name: str) -> np.ndarray:
    """Return the colours of a picture that Pillow holds, as those of its file; of several pages, of the current one.

    Args:
        picture: The picture, which stays as it is; its EXIF orientation is applied.
        name: What an error calls it.

    Returns:
        float32 (H, W, 3), RGB in 0..255.

    Raises:
        InputError: It cannot be decoded, or is of a kind that is not read.
    """
    with _told(name):
        _check_kind(name, picture)
        return _colours(ImageOps.exif_transpose(picture), white_is_zero=_is_white_zero(picture))


def stretch(values: np.ndarray) -> np.ndarray:
    """Take the finite minimum..maximum to 0..255, and a constant image to 0.

    Args:
        values: Grey values, (H, W).

    Returns:
        float32 (H, W).
    """
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape, dtype=np.float32)
    return apply_window(values, finite.min(), finite.max()).astype(np.float32)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn all that Pillow raises into a sentence."""
    try:
        yield
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path} has too many pixels for one picture: cut it into tiles.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is no PNG, JPEG, TIFF, BMP or WebP image: convert it to one or remove it.") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, with the file's texts in it
        raise InputError(f"{path} cannot be decoded ({kind_of(error)}): copy it again or remove it.") from None


def _check_kind(path: str, picture: Image.Image) -> None:
    num_frames = getattr(picture, "n_frames", 1)
    if num_frames > 1 and picture.format not in ("MPO", "TIFF"):
        raise InputError(f"{path} holds {num_frames} frames: save each as a file of its own.")
    if picture.mode not in _MODES and not picture.mode.startswith("I;16"):
        raise InputError(f"{path} is stored in the colour mode {picture.mode}: convert it to RGB or greyscale.")


def _colours(picture: Image.Image, *, white_is_zero: bool) -> np.ndarray:
    """Return the colours of a decoded, upright page."""
    if not _is_deep(picture):
        return np.asarray(_to_rgb(picture), dtype=np.float32)
    grey = stretch(np.asarray(picture))
    if white_is_zero:  # Pillow inverts such a TIFF of 8 bits, not of more
        grey = 255 - grey
    return np.repeat(grey[..., None], 3, axis=2)


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _is_white_zero(picture: Image.Image) -> bool:
    if picture.format != "TIFF":
        return False
    return bool(picture.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO)  # type: ignore[attr-defined]


def _to_rgb(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
