"""DICOMDIR files: which images each lists.

File IDs are in upper case; where a disc's file system has no such case, a system may show its files in lower case, or
with the version ";1" after their names (ISO 9660).
"""

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
    disc = _Disc(os.path.dirname(os.path.abspath(path)))
    paths = []
    for record in records:
        parts = record.get("ReferencedFileID")
        if record.get("DirectoryRecordType") != _IMAGE_RECORD or not parts:
            continue
        parts = [parts] if isinstance(parts, str) else list(parts)
        if any(part in ("", ".", "..") or set(part) & set("/\\:\0") for part in parts):
            raise InputError(f"{path} leads out of its own folder: read the image files without it.")
        paths.append(disc.find(parts))
    return list(dict.fromkeys(paths))


class _Disc:
    """The files below a DICOMDIR's folder, found by the names that it calls them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._names: dict[str, dict[str, str]] = {}

    def find(self, parts: list[str]) -> str:
        """Return the path of a listed file, spelt as the disc spells it; as listed where there is none."""
        path = self.folder
        for part in parts:
            exists = os.path.lexists(os.path.join(path, part))
            path = os.path.join(path, part if exists else self._names_in(path).get(part.upper(), part))
        return path

    def _names_in(self, folder: str) -> dict[str, str]:
        if folder not in self._names:
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            self._names[folder] = {name.partition(";")[0].rstrip(".").upper(): name for name in names}
        return self._names[folder]
