"""BMP files of every kind that Windows and OS/2 write uncompressed or run-length encoded.

Pillow garbles run lengths of 4 bits and knows few layouts of bit fields. The format is small: "Bitmap Storage" in
Microsoft's documentation of the Windows GDI has it whole. Read are 1, 2, 4, 8, 16, 24 and 32 bits a pixel. A fourth
channel counts as opacity where the header gives a mask for it; what a run-length encoded picture skips is index 0.

Letters: H W size of the picture.
"""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager

import numpy as np

from icmoe_monai.errors import DamagedError, InputError, in_our_words
from icmoe_monai.imageio.greys import opacity_of
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile, max_pixels
from icmoe_monai.imageio.masks import check_palette, flat_numbers

_CORE, _INFO = 12, 40  # bytes of the header of OS/2, and the least of Windows
_NONE, _RLE8, _RLE4, _FIELDS, _ALPHA_FIELDS = 0, 1, 2, 3, 6
_BITS = (1, 2, 4, 8, 16, 24, 32)
_END_OF_ROW, _END, _JUMP = 0, 1, 2
_MOST_PER_BYTE = 255  # pixels; a run takes two bytes, and the others allow for jumps
_DEFAULT_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


class BmpFile(ImageFile):
    """A BMP file, which holds one picture.

    Args:
        path: The file, for messages.
        file: The same file, open at its beginning.

    Raises:
        InputError: It is no BMP, is damaged, or is of a kind that is not read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), (7, 8, 9)).save(f"{folder}/a.bmp")
        ...     with BmpFile.open(f"{folder}/a.bmp") as picture:
        ...         print(picture.size, picture.rgb()[0, 0])
        (30, 40) [7. 8. 9.]
    """

    suffixes = (".bmp",)
    magics = (b"BM",)

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        if not file.head().startswith(self.magics):
            raise InputError(f"{path} is no BMP: convert it to one or remove it.", code="unsupported")
        with self._told():
            self._read_header()

    @property
    def num_frames(self) -> int:
        """1."""
        return 1

    @property
    def size(self) -> tuple[int, int]:
        """The (H, W), from the header."""
        return self._size

    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return the picture's colours; what is transparent is black.

        Args:
            frame: 0.

        Returns:
            float32 (H, W, 3), RGB in 0..255.

        Raises:
            InputError: It cannot be decoded.
        """
        with self._told():
            colours, opacity = self._colours(self._numbers(frame))
        return self._over_black(colours.astype(np.float32), None if opacity is None else opacity_of(opacity))

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Return the numbers that a mask stores; a palette's indices, not its colours.

        Args:
            frame: 0.

        Returns:
            The values, (H, W), 0 where transparent; and True, for BMP stores without loss.

        Raises:
            InputError: It cannot be decoded, its colour channels differ, or its palette contradicts its numbers.
        """
        with self._told():
            numbers = self._numbers(frame)
            if self._bits <= 8:
                check_palette(self.path, numbers, self._palette)
                return numbers, True
            colours, opacity = self._colours(numbers)
        return flat_numbers(self.path, colours, opacity), True

    def _read_header(self) -> None:
        head = self.file.read(14)
        (length,) = struct.unpack("<I", self.file.read(4))
        if length < _CORE or (length > _CORE and length < 16):
            raise DamagedError(f"its header has {length} bytes")
        rest = self.file.read(min(length, 124) - 4)
        rest += bytes(max(_INFO - 4 - len(rest), 0)) if length > _CORE else b""
        if length == _CORE:
            width, height, _, self._bits = struct.unpack("<HHHH", rest[:8])
            self._compression, num_colours = _NONE, 0
        else:
            width, height, _, self._bits, self._compression = struct.unpack("<iiHHI", rest[:16])
            (num_colours,) = struct.unpack("<I", rest[28:32])
        self._size = (abs(height), width)
        self._is_upright = height < 0
        self._pixels_at = struct.unpack("<I", head[10:14])[0]
        if not (width > 0 and height and self._pixels_at >= 14 + length):
            raise DamagedError(f"it claims {width} x {height} pixels")
        if width * abs(height) > max_pixels():
            raise InputError(
                f"{self.path} has too many pixels for one picture ({width} x {abs(height)}): cut it.", code="too_large"
            )
        self._check_kind()
        self._masks = self._read_masks(rest, length)
        self._palette = self._read_palette(length, num_colours)

    def _check_kind(self) -> None:
        compression, bits = self._compression, self._bits
        sound = {_NONE: _BITS, _RLE8: (8,), _RLE4: (4,), _FIELDS: (16, 32), _ALPHA_FIELDS: (16, 32)}
        if bits not in sound.get(compression, ()):
            raise InputError(
                f"{self.path} is a BMP of {bits} bits a pixel with compression {compression}, which is not read here: "
                "save it as PNG.",
                code="unsupported",
            )

    def _read_masks(self, rest: bytes, length: int) -> tuple[int, ...]:
        """Return which bits of a pixel are red, green, blue and opacity; the latter 0 where there is none."""
        if self._bits not in _DEFAULT_MASKS:
            return ()
        if self._compression == _NONE:
            return _DEFAULT_MASKS[self._bits]
        if length >= 52:  # they are part of the header
            stored = rest[36 : 52 if length >= 56 else 48]
        else:
            stored = self.file.read(16 if self._compression == _ALPHA_FIELDS else 12)
        masks = struct.unpack(f"<{len(stored) // 4}I", stored)
        return (*masks, 0)[:4]

    def _read_palette(self, length: int, num_colours: int) -> np.ndarray:
        """Return the colours of the indices, uint8 (N, 3); indices beyond it are black."""
        palette = np.zeros((256, 3), dtype=np.uint8)
        if self._bits > 8:
            return palette
        size = 3 if length == _CORE else 4
        self.file.seek(14 + length)
        most = min(num_colours or (self._pixels_at - 14 - length) // size, 1 << self._bits)
        stored = np.frombuffer(self.file.read(most * size), np.uint8)
        colours = stored[: len(stored) // size * size].reshape(-1, size)[:, 2::-1]
        if not len(colours):
            raise DamagedError("it has no palette")
        palette[: len(colours)] = colours
        return palette

    def _numbers(self, frame: int) -> np.ndarray:
        """Return what each pixel stores, (H, W): an index, or its bits; of 24 bits, uint8 (H, W, 3)."""
        if frame:
            raise InputError(
                f"{self.path} holds one picture, and none has the number {frame} from 0.", code="no_such_frame"
            )
        self.file.seek(self._pixels_at)
        if self._compression in (_RLE8, _RLE4):
            numbers = _run_lengths(self.file.read(), self._size, is_rle4=self._compression == _RLE4)
        else:
            numbers = self._unpacked()
        return numbers if self._is_upright else numbers[::-1]

    def _unpacked(self) -> np.ndarray:
        (height, width), bits = self._size, self._bits
        stride = -(-width * bits // 32) * 4
        data = self.file.read(height * stride)
        if len(data) < (height - 1) * stride + -(-width * bits // 8):
            raise DamagedError("it ends too early")
        # some programs leave out what fills up the last row
        rows = np.frombuffer(data + bytes(height * stride - len(data)), np.uint8).reshape(height, stride)
        if bits == 24:
            return rows[:, : width * 3].reshape(height, width, 3)
        if bits >= 8:
            return rows[:, : width * bits // 8].copy().view(f"<u{bits // 8}")
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        return ((rows[..., None] >> shifts) & ((1 << bits) - 1)).reshape(height, -1)[:, :width]

    def _colours(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return colours, (H, W, 3) in 0..255, and opacity, (H, W) in 0..255."""
        if self._bits <= 8:
            return self._palette[numbers], None
        if self._bits == 24:
            return numbers[..., ::-1], None
        channels = [_field(numbers, mask) for mask in self._masks]
        return np.stack(channels[:3], axis=-1), channels[3] if self._masks[3] else None

    def _told(self) -> AbstractContextManager[None]:
        """Turn all that a damaged file makes raise into a sentence."""
        return in_our_words(f"{self.path} cannot be decoded", "copy it again or remove it")


def _field(pixels: np.ndarray, mask: int) -> np.ndarray:
    """Take the bits of a mask to 0..255, uint8 of the same shape."""
    if not mask:
        return np.zeros(pixels.shape, dtype=np.uint8)
    shift = (mask & -mask).bit_length() - 1
    values = (pixels & pixels.dtype.type(mask & ((1 << pixels.itemsize * 8) - 1))) >> pixels.dtype.type(shift)
    return np.rint(values * (255 / (mask >> shift))).astype(np.uint8)


def _run_lengths(data: bytes, size: tuple[int, int], *, is_rle4: bool) -> np.ndarray:
    """Return the indices of a run-length encoded picture, uint8 (H, W), in the order of the file."""
    height, width = size
    if height * width > len(data) * _MOST_PER_BYTE:
        raise DamagedError("it ends too early")
    indices = np.zeros((height, width), dtype=np.uint8)
    row = column = place = 0
    while row < height:
        if place + 2 > len(data):
            raise DamagedError("it ends too early")
        count, code = data[place], data[place + 1]
        place += 2
        if count:
            run = np.resize(_two(bytes([code])) if is_rle4 else np.uint8(code), count)
            indices[row, column : column + count] = run[: max(width - column, 0)]
            column += count
        elif code == _END_OF_ROW:
            row, column = row + 1, 0
        elif code == _END:
            break
        elif code == _JUMP:
            if place + 2 > len(data):
                raise DamagedError("it ends too early")
            row, column, place = row + data[place + 1], column + data[place], place + 2
        else:
            num_bytes = -(-code // 2) if is_rle4 else code
            stored = data[place : place + num_bytes]
            if len(stored) < num_bytes:
                raise DamagedError("it ends too early")
            run = (_two(stored) if is_rle4 else np.frombuffer(stored, np.uint8))[:code]
            indices[row, column : column + code] = run[: max(width - column, 0)]
            column, place = column + code, place + num_bytes + num_bytes % 2
    return indices


def _two(data: bytes) -> np.ndarray:
    """Return the two indices of each byte, uint8."""
    stored = np.frombuffer(data, np.uint8)
    return np.stack([stored >> 4, stored & 15], axis=-1).ravel()
