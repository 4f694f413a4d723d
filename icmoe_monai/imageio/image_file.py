"""What every kind of image file has in common: it is opened once, and then asked for its frames, size and pixels.

A format is one module with one class, which derives from `ImageFile`, and one entry in `read.FORMATS`; nothing else
knows the kinds apart. Arrays are (row, column), upright. A file that cannot be used is an `InputError`: one sentence
that names the file and the remedy.

Letters: H, W the size of an upright frame.
"""

from __future__ import annotations

import io
import math
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import ClassVar, TypeVar, cast

import numpy as np
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import check_file

_Kind = TypeVar("_Kind", bound="ImageFile")
# What `ImageFile.note` says of a picture whose opacity counts for nothing.
TRANSPARENT = "is transparent everywhere, so that its opacity is passed over"
_HEAD_BYTES = 132  # the first bytes of a file, by which its kind is told


class NotAnImageError(InputError):
    """A sound file that is no image to segment: of DICOM a structure set, a report, a segmentation, a DICOMDIR."""


class BoundedFile(io.BufferedReader):
    """A file that never takes more memory than it has bytes, whatever length its header claims.

    Args:
        source: The path of the file, or what it would hold.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, source: str | bytes) -> None:
        if isinstance(source, bytes):
            super().__init__(cast(io.RawIOBase, _Content(source)))
            self.num_bytes, self.modified_ns = len(source), 0
            return
        super().__init__(io.FileIO(source))
        status = os.fstat(self.fileno())
        self.num_bytes = status.st_size
        self.modified_ns = status.st_mtime_ns

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most so many bytes, in no more memory than the whole file takes.

        Args:
            size: How many bytes; None or a negative number: all that are left.
        """
        return super().read(size if size is None or size < 0 else min(size, self.num_bytes))

    def head(self) -> bytes:
        """Return the first bytes, 132 or fewer, and go to the beginning."""
        self.seek(0)
        head = self.read(_HEAD_BYTES)
        self.seek(0)
        return head


class _Content(io.BytesIO):
    """A file in memory; pydicom asks every file for its name."""

    name = ""


class ImageFile(ABC):
    """An image file that is open: how many frames it holds, how large they are, and their pixels.

    Opening checks the header; pixels are decoded when they are asked for, one frame at a time. An open file is for one
    thread; several may each open the same file. It is closed at the end of a `with` block.

    Attributes:
        suffixes: By which files of this kind are known, in lower case and with the dot.
        magics: What their first bytes are, where that tells; then a file's content decides, if it is at hand.
        any_name: Whether they may as well have any other name, so that their content tells.
        is_volume: Whether the frames of a file are slices of one image, and not images of their own.
        path: The file.
        file: What was opened; the subclass reads from it.
        note: What a user should know of the frame whose colours were returned last, behind its name; else "".

    Args:
        path: The file, for messages.
        file: The same file, open at its beginning. The image closes it.

    Raises:
        InputError: The file is not of this kind, or is damaged.
    """

    suffixes: ClassVar[tuple[str, ...]]
    magics: ClassVar[tuple[bytes, ...]] = ()
    any_name: ClassVar[bool] = False
    is_volume: ClassVar[bool] = False

    def __init__(self, path: str, file: BoundedFile) -> None:
        self.path = path
        self.file = file
        self.note = ""

    @classmethod
    def open(cls: type[_Kind], path: str) -> _Kind:
        """Open a file as one of this kind, whatever its name.

        Args:
            path: The file.

        Raises:
            InputError: It cannot be opened, is not of this kind, or is damaged.
        """
        file = open_file(path)
        try:
            return cls(path, file)
        except BaseException:
            file.close()
            raise

    @classmethod
    def recognises(cls, path: str, head: bytes) -> bool:
        """Tell whether a file is of this kind: by its content or its suffix, where the subclass knows no better.

        Args:
            path: The file.
            head: Its first bytes, 132 or fewer.
        """
        return head.startswith(cls.magics) if cls.magics and head else path.lower().endswith(cls.suffixes)

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """How many frames, slices or pages the file holds; no pixels are decoded."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """The upright (H, W) of the first frame, from the header where that tells."""

    @property
    def orientation(self) -> int:
        """How the pixels as stored lie, by EXIF's numbers 1 to 8: 1 is upright; ask before they are decoded."""
        return 1

    @property
    def is_whole_slide(self) -> bool:
        """Whether the file is a level of a whole slide, whose frames are tiles."""
        return False

    @property
    def series(self) -> str:
        """What the files that are slices of one stack have in common; "" where a file is none."""
        return ""

    @property
    def position(self) -> tuple[float, ...]:
        """Sorts the files of a series."""
        return ()

    @abstractmethod
    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return the colours of one frame; no other is decoded.

        Args:
            frame: Which frame, slice or page, from 0.

        Returns:
            float32 (H, W, 3), RGB in 0..255, NaN where the file has no finite value.

        Raises:
            InputError: There is no such frame, or it cannot be decoded.
        """

    @abstractmethod
    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Return the numbers that a frame of a mask stores.

        Args:
            frame: Which frame, slice or page, from 0.

        Returns:
            The values, (H, W), unscaled; and whether they were stored without loss (JPEG does not).

        Raises:
            InputError: There is no such frame, it cannot be decoded, or it can be no mask.
        """

    def _over_black(self, rgb: np.ndarray, opacity: np.ndarray | None) -> np.ndarray:
        """Put black behind colours, (H, W, 3), whose opacity in 0..1 is (H, W), or None where the file has none.

        Where it is transparent everywhere, nothing would be seen: whoever wrote it left the channel empty, as many
        programs do, so it counts for nothing, and a note says so.
        """
        self.note = ""
        if opacity is None:
            return rgb
        if not opacity.any():
            self.note = TRANSPARENT
            return rgb
        return np.where(opacity[..., None] == 0, np.float32(0), rgb * opacity[..., None])

    def check_pixels(self) -> None:
        """Decode all pixels, to find a damaged file.

        Raises:
            InputError: They cannot be decoded.
        """
        for frame in range(self.num_frames):
            self.rgb(frame)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self: _Kind) -> _Kind:
        """Return the open file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file at the end of the block."""
        self.close()


def open_file(path: str) -> BoundedFile:
    """Open a file that shall hold an image.

    Args:
        path: The file.

    Raises:
        InputError: There is no such file, it is empty, or the system refuses to open it.
    """
    check_file(path)
    try:
        return BoundedFile(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}): make it readable or remove it.", code="unreadable"
        ) from error


def read_head(path: str) -> bytes:
    """Return the first bytes of a file, for `ImageFile.recognises`; none where it cannot be read.

    Args:
        path: The file.
    """
    if os.path.isfile(path):
        with suppress(OSError), BoundedFile(path) as file:
            return file.head()
    return b""


def max_pixels() -> float:
    """Return how many pixels an image may have: as many as Pillow decodes, whose limit guards against bombs."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf
