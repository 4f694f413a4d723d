"""The hospital's network: images that come from an archive, and results that go back, over DICOMweb or DICOM itself.

May import inference and below. What it needs beside the package is the extra `pacs`.
"""

from __future__ import annotations

from icmoe_monai.pacs.credentials import read_credentials
from icmoe_monai.pacs.retrieval import retrieve_images
from icmoe_monai.pacs.storing import StoreObjects
from icmoe_monai.pacs.web import DICOMweb

__all__ = [
    "DICOMweb",
    "StoreObjects",
    "read_credentials",
    "retrieve_images",
]
