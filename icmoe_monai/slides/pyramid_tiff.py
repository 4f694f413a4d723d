"""Write a pyramidal tiled TIFF, which slide viewers open, row by row and in bounded memory.

Each level has half the size of the level before (every second pixel of every second row), in tiles of 256 x 256 pixels
with deflate compression. Tiles are compressed as soon as their rows are complete, and are kept in a temporary file
without a name beside the result, which the system removes when the process ends. The TIFF is written at the end and
gets its name only then, so that it is either complete or absent.

Letters: H W size of a level; S samples of a pixel; h rows that are added at once.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import tifffile

from icmoe_monai.utils.files import refusal, write_atomically

_TILE = 256
_SMALLEST = 512  # the last level fits into a square of this side
_BIG = 3_900_000_000  # bytes of tiles from which BigTIFF is needed; a classic TIFF holds at most 4 GB


class PyramidWriter:
    """Write rows of pixels to a pyramidal TIFF, within a `with` block.

    If an exception leaves the block, no file is made.

    Args:
        path: The TIFF to write.
        shape: (H, W) of the whole image.
        num_samples: S; three samples are shown as red, green and blue.
        spacing_um: Micrometres between rows and between columns, for the resolution tags; None: no such tags.

    Raises:
        InputError: If the system refuses to write, for example because the disk is full.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with PyramidWriter(f"{folder}/a.tif", shape=(700, 1200)) as writer:
        ...         for _ in range(7):
        ...             writer.add(np.full((100, 1200), 255, np.uint8))
        ...     with tifffile.TiffFile(f"{folder}/a.tif") as file:
        ...         [level.shape for level in file.series[0].levels]
        [(700, 1200), (350, 600), (175, 300)]
    """

    def __init__(
        self,
        path: str | Path,
        *,
        shape: tuple[int, int],
        num_samples: int = 1,
        spacing_um: tuple[float, float] | None = None,
    ) -> None:
        self.path = Path(path)
        self.num_samples = num_samples
        self.spacing_um = spacing_um
        sizes = [shape]
        while max(sizes[-1]) > _SMALLEST:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._waiting = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - closed at the end of the block
        except OSError as error:
            raise refusal(self.path, error) from error
        self._levels = [_Level(size, num_samples, self._waiting) for size in sizes]

    def __enter__(self) -> PyramidWriter:
        """Return this writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write the file, unless an exception left the block.

        Raises:
            InputError: If the system refuses to write.
            ValueError: If rows are missing.
        """
        try:
            if error is None:
                write_atomically(self.path, self._write)
        finally:
            with suppress(OSError):  # closing may fail on a full disk, but the temporary file is not needed any more
                self._waiting.close()

    def add(self, rows: np.ndarray) -> None:
        """Add the next rows of the image.

        Args:
            rows: uint8, (h, W) or (h, W, S).

        Raises:
            InputError: If the system refuses to write.
        """
        rows = rows.reshape(*rows.shape[:2], self.num_samples)
        try:
            for level in self._levels:
                first = level.num_rows % 2
                level.add(rows)
                rows = rows[first::2, ::2]
        except OSError as error:
            raise refusal(self.path, error) from error

    def _write(self, path: Path) -> None:
        with tifffile.TiffWriter(path, bigtiff=self._waiting.tell() > _BIG) as file:
            for k, level in enumerate(self._levels):
                resolution = None
                if self.spacing_um is not None:
                    resolution = tuple(10_000 / (2**k * step) for step in self.spacing_um[::-1])
                file.write(
                    level.tiles(),
                    shape=(*level.size, self.num_samples) if self.num_samples > 1 else level.size,
                    dtype=np.uint8,
                    tile=(_TILE, _TILE),
                    compression="zlib",
                    photometric="rgb" if self.num_samples == 3 else "minisblack",
                    planarconfig="contig" if self.num_samples > 1 else None,
                    subifds=len(self._levels) - 1 if k == 0 else None,
                    subfiletype=min(k, 1),
                    resolution=resolution,
                    resolutionunit=None if resolution is None else "CENTIMETER",
                    metadata=None,
                    software="icmoe_monai",
                )


class _Level:
    """Hold one level of the pyramid: rows that do not fill a row of tiles yet, and where its compressed tiles are."""

    def __init__(self, size: tuple[int, int], num_samples: int, waiting: IO[bytes]) -> None:
        self.size = size
        self.num_rows = 0
        self._rows = np.zeros((_TILE, -(-size[1] // _TILE) * _TILE, num_samples), dtype=np.uint8)
        self._waiting = waiting
        self._places: list[tuple[int, int]] = []

    def add(self, rows: np.ndarray) -> None:
        """Add rows, uint8 (h, W, S)."""
        while len(rows):
            first = self.num_rows % _TILE
            part, rows = rows[: _TILE - first], rows[_TILE - first :]
            self._rows[first : first + len(part), : self.size[1]] = part
            self.num_rows += len(part)
            if self.num_rows % _TILE == 0 or self.num_rows == self.size[0]:
                self._keep_tiles()

    def _keep_tiles(self) -> None:
        for left in range(0, self._rows.shape[1], _TILE):
            data = zlib.compress(self._rows[:, left : left + _TILE].tobytes())
            self._places.append((self._waiting.tell(), len(data)))
            self._waiting.write(data)
        self._rows[:] = 0

    def tiles(self) -> Iterator[bytes]:
        """Yield the compressed tiles, row by row.

        Raises:
            ValueError: If rows are missing.
        """
        if self.num_rows != self.size[0]:
            raise ValueError(f"all {self.size[0]} rows must be added before the end, got {self.num_rows}.")
        end = self._waiting.tell()
        for place, size in self._places:
            self._waiting.seek(place)
            yield self._waiting.read(size)
        self._waiting.seek(end)
