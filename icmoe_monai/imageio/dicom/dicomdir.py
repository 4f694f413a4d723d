"""DICOMDIR files: which images each lists."""

from __future__ import annotations

import os

from pydicom import dcmread

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.guard import guarded
from icmoe_monai.imageio.dicom.header import inflated
from icmoe_monai.imageio.image_file import open_file

_IMAGE_RECORD = "IMAGE"


@guarded
def read_dicomdir(path: str) -> list[str]:
    """Return the absolute paths of the image files that a DICOMDIR lists, whether they exist or not.

    Args:
        path: The DICOMDIR.

    Raises:
        InputError: The file is no DICOMDIR, is damaged, or leads out of its folder.
    """
    with open_file(path) as file:
        records = dcmread(inflated(path, file), force=True).get("DirectoryRecordSequence")
    if records is None:
        raise InputError(f"{path} is no DICOMDIR: correct the path.")
    folder = os.path.dirname(os.path.abspath(path))
    paths = []
    for record in records:
        parts = record.get("ReferencedFileID")
        if record.get("DirectoryRecordType") != _IMAGE_RECORD or not parts:
            continue
        parts = [parts] if isinstance(parts, str) else list(parts)
        if any(part in ("", ".", "..") or set(part) & set("/\\:\0") for part in parts):
            raise InputError(f"{path} leads out of its own folder: read the image files without it.")
        paths.append(os.path.join(folder, *parts))
    return list(dict.fromkeys(paths))
