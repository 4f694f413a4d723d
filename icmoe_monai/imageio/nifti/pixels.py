"""NIfTI volumes as stacks of upright slices, by nibabel.

A volume is cut along its stored third axis; a 2-D file is one slice. Slices are upright as a radiologist sees them: by
the affine the axes of the slices are swapped and reversed, never resampled, so that rows run towards the patient's
back, in coronal and sagittal slices towards the feet, and columns towards the left, in sagittal slices towards the
back. A file without an affine (no sform, no qform) has its first axis along the columns, not reversed.

nibabel reads the header; the voxels are read here, piece by piece, because a header may announce more than the memory
holds. Decisions, for images: grey goes from the 0.5 to the 99.5 percentile of the whole volume's finite values to
0..255, so that all slices share one window; where these two are the same value, from the minimum to the maximum; what
is not finite becomes 0, and so does a constant volume. Colour is taken as it is, and what is transparent becomes
black, but for a slice that is transparent everywhere.

Letters: X, Y, Z the stored axes; H, W an upright slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.greys import apply_window, find_window, opacity_of, white_of
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile
from icmoe_monai.imageio.masks import flat_numbers
from icmoe_monai.imageio.nifti.header import QUIET, SUFFIXES, Layout, cut_short, read_layout, unpacked
from icmoe_monai.imageio.sight import no_values

_CHUNK_BYTES = 2**24


class NiftiFile(ImageFile):
    """A NIfTI volume; its frames are its slices.

    The voxels of the volume read last are kept, so that its slices may be read one by one, each with the file opened
    anew, and the file is decompressed once.

    Args:
        path: The file, for messages.
        file: The same file, open at its beginning.

    Raises:
        InputError: It is no NIfTI volume, is damaged, or holds less than its header says.

    Example:
        >>> import tempfile
        >>> import nibabel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nibabel.save(nibabel.Nifti1Image(np.ones((40, 30, 2), np.uint8), None), f"{folder}/a.nii")
        ...     with NiftiFile.open(f"{folder}/a.nii") as volume:
        ...         print(volume.num_frames, volume.size, volume.values(1)[0].shape)
        2 (30, 40) (30, 40)
    """

    suffixes = SUFFIXES
    is_volume = True

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        self._layout = read_layout(path, file)
        self._source = _Source(path, file.modified_ns, file.num_bytes, file, self._layout)

    @property
    def num_frames(self) -> int:
        """How many slices the volume has, from its header."""
        return self._layout.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """A slice's upright (H, W), from the header."""
        return self._layout.size

    @QUIET
    def rgb(self, frame: int = 0) -> np.ndarray:
        """Return the colours of a slice.

        Args:
            frame: Which slice, along the stored third axis.

        Returns:
            float32 (H, W, 3), RGB in 0..255, NaN where a voxel is not finite.

        Raises:
            InputError: The volume cannot be read, has no such slice, or no finite value.
        """
        plane = self._read_slice(frame)
        if plane.dtype.names:
            colours = np.stack([plane[name] for name in "RGB"], axis=-1).astype(np.float32)
            return self._over_black(colours, opacity_of(plane["A"]) if "A" in plane.dtype.names else None)
        if self._layout.channels > 1:
            colours = plane[..., :3] * np.float32(255 / white_of(_read_voxels(self._source)[..., :3]))
            return self._over_black(colours, opacity_of(plane[..., 3]) if self._layout.channels == 4 else None)
        window = _window(self._source)
        if window is None:
            raise no_values(self.path)
        grey = apply_window(_to_scale(plane, self._layout), *window).astype(np.float32)
        return np.repeat(grey[..., None], 3, axis=2)

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        """Return the numbers of a slice of a mask: as stored, but scaled where the header has a scale.

        Args:
            frame: Which slice, along the stored third axis.

        Returns:
            The values, (H, W); and True, for NIfTI stores without loss.

        Raises:
            InputError: The volume cannot be read, has no such slice, or its colour channels differ.
        """
        plane = self._read_slice(frame)
        if plane.dtype.names:
            colours = np.stack([plane[name] for name in "RGB"], axis=-1)
            return flat_numbers(self.path, colours, plane["A"] if "A" in plane.dtype.names else None), True
        if self._layout.channels > 1:
            opacity = plane[..., 3] if self._layout.channels == 4 else None
            return flat_numbers(self.path, plane[..., :3], opacity), True
        if self._layout.scale is None:
            return np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("=")), True
        values = _to_scale(plane, self._layout)
        whole = values.round()
        # a label saved through a scale comes back a little off
        return (whole if np.allclose(values, whole, rtol=0, atol=1e-3) else values), True

    def check_pixels(self) -> None:
        """Read all voxels, to find a damaged file.

        Raises:
            InputError: They cannot be read.
        """
        _read_voxels(self._source)

    def _read_slice(self, frame: int) -> np.ndarray:
        layout = self._layout
        if not 0 <= frame < layout.shape[2]:
            raise InputError(
                f"{self.path} has {layout.shape[2]} slices, and none has the number {frame} from 0: correct it.",
                code="no_such_frame",
            )
        return layout.turn.apply(_read_voxels(self._source)[:, :, frame])


@dataclass(frozen=True)
class _Source:
    """An open volume, equal to another if its path is the same and the file has not changed between."""

    path: str
    modified_ns: int
    num_bytes: int
    file: BoundedFile = field(compare=False)
    layout: Layout = field(compare=False)


@lru_cache(maxsize=1)  # a compressed file has to be read from its beginning for every slice
def _read_voxels(source: _Source) -> np.ndarray:
    """Return all voxels as stored, (X, Y, Z), or (X, Y, Z, C) of C colours along the fifth axis."""
    layout = source.layout
    shape = layout.shape if layout.channels == 1 else (*layout.shape, layout.channels)
    num_bytes = math.prod(shape) * layout.dtype.itemsize
    data = bytearray()
    with unpacked(source.path, source.file) as content:
        to_skip = int(layout.header["vox_offset"])
        while to_skip > 0 and (skipped := len(content.read(min(to_skip, _CHUNK_BYTES)))):
            to_skip -= skipped
        while len(data) < num_bytes and (chunk := content.read(min(num_bytes - len(data), _CHUNK_BYTES))):
            data += chunk
        if content is not source.file:
            _read_to_end(content, max(num_bytes, _CHUNK_BYTES))
    if len(data) < num_bytes:
        raise cut_short(source.path)
    voxels = np.frombuffer(data, dtype=layout.dtype).reshape(shape, order="F")
    voxels.flags.writeable = False
    return voxels


def _read_to_end(content: BinaryIO, most: int) -> None:
    """Read what follows the voxels of a compressed file, within bounds: only at its end is its checksum compared."""
    while most > 0 and (chunk := content.read(min(most, _CHUNK_BYTES))):
        most -= len(chunk)


@lru_cache(maxsize=64)
@QUIET
def _window(source: _Source) -> tuple[float, float] | None:
    """Return which scaled values become 0 and 255; None where no voxel is finite."""
    voxels = _read_voxels(source)
    finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels
    if not finite.size:
        return None
    low, high = sorted(_to_scale(np.array(find_window(finite)), source.layout).tolist())  # a negative slope reverses
    return low, high


@QUIET
def _to_scale(values: np.ndarray, layout: Layout) -> np.ndarray:
    values = values.astype(np.float64)
    return values if layout.scale is None else values * layout.scale[0] + layout.scale[1]
