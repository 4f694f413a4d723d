"""Label volumes: the class maps of a NIfTI volume's slices, written with the volume's own geometry."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header

from icmoe_monai.imageio.nifti.header import HEADERS, SUFFIXES, read_layout
from icmoe_monai.utils.files import write_atomically

_INTENT_LABEL = 1002
_GEOMETRY = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
)


def write_like(path: str | Path, *, source: str, slices: Sequence[np.ndarray]) -> None:
    """Write the class maps of a volume's slices as a volume of the same geometry.

    Shape, voxel sizes, units, sform and qform are the source's; descriptions, names and extensions stay behind, for
    they may name a patient.

    Args:
        path: Where the file shall be; .nii.gz is compressed, .nii is not.
        source: The volume whose slices were classified.
        slices: Class maps in 0..255, (H, W) each, upright, one per slice in the order of the slices.

    Raises:
        InputError: The source cannot be read or the file cannot be written.
        ValueError: The slices are not the source's in number, size or range.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"A NIfTI file must end in .nii or .nii.gz, got {path.name}.")
    layout = read_layout(source)
    if len(slices) != layout.shape[2]:
        raise ValueError(f"There must be one class map per slice, {layout.shape[2]}, got {len(slices)}.")
    voxels = np.empty(layout.shape, dtype=np.uint8, order="F")
    for z, classes in enumerate(slices):
        if classes.shape != layout.size or classes.min() < 0 or classes.max() > 255:
            raise ValueError(f"Class maps must be {layout.size} with 0..255, got {classes.shape} in slice {z}.")
        voxels[:, :, z] = layout.turn.undo(classes)
    head = _label_header(layout.header) + bytes(4)  # four zeros: no extension follows

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            if not path.name.lower().endswith(".gz"):
                file.write(head + voxels.tobytes(order="F"))
                return
            # without name and time the same result is the same file
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.write(head)
                packed.write(voxels.tobytes(order="F"))

    write_atomically(path, write)


def _label_header(source: Nifti1Header) -> bytes:
    header = type(source)(endianness=source.endianness)
    for name in _GEOMETRY:
        header[name] = source[name]
    if int(header["dim"][0]) >= 5:  # colours along the fifth axis stay behind
        header["dim"][5] = 1
    header.set_data_dtype(np.uint8)
    header["intent_code"] = _INTENT_LABEL
    header["vox_offset"] = len(header.binaryblock) + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = HEADERS[int(header["sizeof_hdr"])][1]
    return bytes(header.binaryblock)
