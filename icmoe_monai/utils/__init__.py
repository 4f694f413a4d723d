"""Helpers for all subpackages: files, locks, schemas, several processes, precision, memory, engines and statistics.

May import errors and version.
"""

from __future__ import annotations

from icmoe_monai.utils.distributed import check_torchrun, leave_at_exit, share_cases, share_volumes
from icmoe_monai.utils.locks import hold_folder, release_folder

__all__ = [
    "check_torchrun",
    "hold_folder",
    "leave_at_exit",
    "release_folder",
    "share_cases",
    "share_volumes",
]
