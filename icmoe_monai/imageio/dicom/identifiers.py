"""The UIDs by which an archive knows an image, read from the head of its file whether or not its pixels are sound."""

from __future__ import annotations

from typing import NamedTuple

from pydicom import dcmread

from icmoe_monai.imageio.dicom.attributes import uid_in
from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.imageio.dicom.header import inflated, is_dicom
from icmoe_monai.imageio.image_file import BoundedFile


class Identifiers(NamedTuple):
    """The UIDs of an image's study, series and instance; "" where there is none."""

    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""


def read_identifiers(path: str) -> Identifiers:
    """Return the UIDs of a DICOM file; of any other file, and of a damaged one, what there is.

    Args:
        path: The file.
    """
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    try:
        if not is_dicom(path):
            return Identifiers()
        with silence(), BoundedFile(path) as file:
            dataset = dcmread(inflated(path, file), stop_before_pixels=True, force=True, specific_tags=list(keywords))
            return Identifiers(*(uid_in(dataset, keyword) or "" for keyword in keywords))
    except Exception:  # a damaged file makes pydicom raise nearly anything
        return Identifiers()
