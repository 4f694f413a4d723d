"""PNG, JPEG and WebP files, upright, by Pillow.

The EXIF orientation is applied, to images and masks alike.

Decisions, for images: what is transparent becomes black, but for a picture that is transparent everywhere;
`greys.show` says which numbers of more than 8 bits become black and white; colour profiles are not applied. Files of
several frames are refused, but for the preview pictures that phones append to a JPEG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.imageio import png
from icmoe_monai.imageio.greys import show
from icmoe_monai.imageio.image_file import TRANSPARENT, BoundedFile, ImageFile
from icmoe_monai.imageio.masks import check_palette, flat_greys, flat_numbers

# Named, so that Pillow tries no decoder that nobody asked for (EPS would start Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "F")
_WHITE_IS_ZERO = 0
# What libjpeg does not read, by the number of the start-of-frame marker.
_JPEG_KINDS = dict.fromkeys((3, 7, 11, 15), "lossless") | dict.fromkeys((5, 6, 13, 14), "hierarchical")
_JPEG_KINDS |= {9: "arithmetically coded", 10: "arithmetically coded", 0x37: "JPEG-LS coded"}


class PictureFile(ImageFile):
    """A PNG, JPEG or WebP file, which holds one picture.

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

    suffixes = (".png", ".jpg", ".jpeg", ".webp")

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        self._png = png.read_kind(file.head())
        with _told(path, file):
            self._start()

    @property
    def num_frames(self) -> int:
        """1."""
        return 1

    @property
    def size(self) -> tuple[int, int]:
        """The upright (H, W), of the header; but a PNG is decoded, as its orientation may follow the pixels."""
        with self._asked():
            picture = self._checked(0)
            width, height = picture.size
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; of a PNG, only one that stands before the pixels."""
        with self._asked():
            picture = self._checked(0)
            is_told = picture.format != "PNG" or "exif" in picture.info
            found = picture.getexif().get(ExifTags.Base.Orientation, 1) if is_told else 1
            return found if found in range(1, 9) else 1

    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return the picture's colours.

        Args:
            frame: 0.

        Returns:
            float32 (H, W, 3), RGB in 0..255.

        Raises:
            InputError: It cannot be decoded.
        """
        with self._asked():
            picture = self._decode(frame)
            if self._png.is_deep_colour:
                samples = self._deep_samples()
                opacity = png.opacity_of_deep(samples, self._png, picture.info.get("transparency"))
                return self._over_black(png.rgb_of_deep(samples, self._png), opacity)
            opacity = self._opacity_of_greys(picture)
            if opacity is not None:
                return self._over_black(_colours(_without_opacity(picture)), opacity)
            self.note = TRANSPARENT if _hides_all(picture) else ""
            return _colours(picture)

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Return the numbers that a mask stores, unscaled; a palette's indices, not its colours.

        Args:
            frame: 0.

        Returns:
            The values, (H, W), 0 where transparent; and whether they were stored without loss, as JPEG and one kind of
            WebP do not.

        Raises:
            InputError: It cannot be decoded, or its colour channels differ, or its palette contradicts its numbers.
        """
        with self._asked():
            picture = self._decode(frame)
            if picture.format in ("JPEG", "MPO") or is_lossy_webp(self.file):
                opacity = np.asarray(picture.getchannel("A")) if picture.mode == "RGBA" else None
                return flat_greys(self.path, np.asarray(_to_rgb(picture)), opacity), False
            values = self._deep_samples() if self._png.is_deep_colour else np.asarray(picture)
            has_opacity = picture.getbands()[-1] in ("A", "a")
        if picture.mode == "P":
            check_palette(self.path, values, np.reshape(picture.getpalette() or [], (-1, 3)))
        if picture.mode == "L":  # Pillow shows greys of fewer than 8 bits by multiples
            values = values // self._png.multiple
        if has_opacity:
            return flat_numbers(self.path, values[..., :-1], values[..., -1]), True
        opacity = png.opacity_of_marked(values, picture.info.get("transparency"))
        return flat_numbers(self.path, values if values.ndim == 3 else values[..., None], opacity), True

    def check_pixels(self) -> None:
        """Decode all pixels, to find a damaged file.

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
        self._picture: Image.Image = Image.open(self.file, formats=_FORMATS)
        self._is_broken = False
        self._is_summed = False

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Start anew after an error: Pillow tells of damage once, and then takes what it has for the picture."""
        try:
            with _told(self.path, self.file):
                if self._is_broken:
                    self._start()
                yield
        except InputError:
            self._is_broken = True
            raise

    def _decode(self, frame: int) -> Image.Image:
        """Return the picture, decoded and upright."""
        picture = self._checked(frame)
        if self._png.bits is not None and not self._is_summed:
            png.check_sums(self.file)
            self._is_summed = True
        ImageOps.exif_transpose(picture, in_place=True)
        picture.load()
        return picture

    def _opacity_of_greys(self, picture: Image.Image) -> np.ndarray | None:
        """Return the opacity of greys one of which is transparent, (H, W) in 0..1; None of other pictures.

        Pillow knows none of greys of 1 and 16 bits, and compares the grey as stored with the multiples of 2 and 4 bits.
        """
        if self._png.colour_type != png.GREY:
            return None
        return png.opacity_of_marked(np.asarray(picture) // self._png.multiple, picture.info.get("transparency"))

    def _deep_samples(self) -> np.ndarray:
        self.file.seek(0)
        return png.read_deep(self.file.read(), self._png)

    def _checked(self, frame: int) -> Image.Image:
        """Return the picture, not yet decoded."""
        if frame:
            raise InputError(
                f"{self.path} holds one picture, and none has the number {frame} from 0.", code="no_such_frame"
            )
        _check_kind(self.path, self._picture)
        return self._picture


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
        if picture.format == "TIFF":
            _check_tiff(name, picture)
        upright = ImageOps.exif_transpose(picture)
        rgb = _colours(upright, white_is_zero=_is_white_zero(picture))
        if upright.mode == "1" or _is_deep(upright):  # of which Pillow knows no transparent grey
            opacity = png.opacity_of_marked(np.asarray(upright), upright.info.get("transparency"))
            return rgb if opacity is None or not opacity.any() else rgb * opacity[..., None]
        return rgb


@contextmanager
def _told(path: str, file: BoundedFile | None = None) -> Iterator[None]:
    """Turn all that Pillow raises into a sentence; of a sound JPEG that it does not read, into a true one."""
    try:
        yield
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{path} has too many pixels for one picture: cut it into tiles.", code="too_large") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, with the file's texts in it
        kind = "" if file is None else _unread_jpeg_kind(file)
        if kind:
            raise InputError(
                f"{path} is a {kind} JPEG, which is not read here: save it as PNG or TIFF.", code="unsupported"
            ) from None
        is_png = file is not None and not file.closed and png.is_png(file.head())
        if isinstance(error, UnidentifiedImageError) and not is_png:  # which Pillow raises for a damaged chunk, too
            sentence = "is no PNG, JPEG, TIFF, BMP or WebP image: convert it to one or remove it"
            raise InputError(f"{path} {sentence}.", code="unsupported") from None
        raise InputError(
            f"{path} cannot be decoded ({kind_of(error)}): copy it again or remove it.", code="damaged"
        ) from None


def _unread_jpeg_kind(file: BoundedFile) -> str:
    """Return what is special about a JPEG that Pillow does not read; "" of other files."""
    with suppress(OSError, IndexError):
        file.seek(0)
        data = file.read()
        place = 2
        while data.startswith(b"\xff\xd8") and place + 9 < len(data) and data[place] == 0xFF:
            marker = data[place + 1]
            number, bits = marker - 0xC0, data[place + 4]
            if (0 <= number < 16 and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
                return _JPEG_KINDS.get(number, "" if bits == 8 else f"{bits}-bit")
            place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return ""


def is_lossy_webp(file: BoundedFile) -> bool:
    """Tell whether a file is a WebP with loss, by its first chunk of pixels; opacity has one of its own only there.

    Args:
        file: A file of any kind.
    """
    file.seek(0)
    head = file.read(12)
    if head[8:] != b"WEBP":
        return False
    kind, place = b"VP8X", 12
    while kind in (b"VP8X", b"ICCP"):  # which come before it
        file.seek(place)
        chunk = file.read(8)
        kind, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        place += 8 + length + length % 2
    return kind in (b"VP8 ", b"ALPH")


def _check_kind(path: str, picture: Image.Image) -> None:
    num_frames = getattr(picture, "n_frames", 1)
    if num_frames > 1 and picture.format not in ("MPO", "TIFF"):
        raise InputError(f"{path} holds {num_frames} frames: save each as a file of its own.", code="unsupported")
    if picture.mode not in _MODES and not picture.mode.startswith("I;16"):
        raise InputError(
            f"{path} is stored in the colour mode {picture.mode}: convert it to RGB or greyscale.", code="unsupported"
        )


def _check_tiff(name: str, picture: Image.Image) -> None:
    """Refuse TIFFs whose numbers Pillow changes."""
    tags = picture.tag_v2  # type: ignore[attr-defined]
    bits, formats = (np.unique(tags.get(tag, 1)).tolist() for tag in (258, 339))
    if max(bits) > 8 and tags.get(277, 1) > 1:
        fault = f"{max(bits)} bits and several channels"
    elif 12 in bits or (formats, bits) in (([2], [8]), ([1], [32])):
        fault = f"{'signed' if formats == [2] else 'unsigned'} {max(bits)} bits"
    else:
        return
    raise InputError(
        f"{name} is a TIFF of {fault}, of which Pillow does not keep the numbers: give its path.", code="unsupported"
    )


def _colours(picture: Image.Image, *, white_is_zero: bool = False) -> np.ndarray:
    """Return the colours of a decoded, upright picture."""
    if not _is_deep(picture):
        return np.asarray(_to_rgb(picture), dtype=np.float32)
    grey = show(np.asarray(picture))
    if white_is_zero:  # Pillow inverts such a TIFF of 8 bits, not of more
        grey = 255 - grey
    return np.repeat(grey[..., None], 3, axis=2)


def _without_opacity(picture: Image.Image) -> Image.Image:
    """Return a copy of a picture without a colour that is transparent."""
    picture = picture.copy()
    picture.info.pop("transparency", None)
    return picture


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
    if _hides_all(layer):
        return layer.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")


def _hides_all(picture: Image.Image) -> bool:
    """Tell whether a picture is transparent everywhere, so that its opacity counts for nothing."""
    return picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() == (0, 0)
