"""Image files in and out: pictures, NIfTI and DICOM as upright RGB, masks as class numbers, label volumes.

May import utils.
"""

from __future__ import annotations
