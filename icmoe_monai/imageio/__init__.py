"""Image files in and out: pictures, NIfTI and DICOM as upright RGB, masks as class numbers, label volumes.

May import utils.
"""

from __future__ import annotations

import logging

# What these libraries log of a file may hold its texts, which may name a patient; pydicom is silenced by `dicom.guard`.
# Whoever wants to hear them sets their level before importing this package, or after.
for _name in ("PIL", "nibabel", "tifffile"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
