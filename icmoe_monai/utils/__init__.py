"""Helpers for all subpackages: atomic files, several processes, precision, memory, engines and statistics.

May import errors and version.
"""

from __future__ import annotations

from icmoe_monai.utils.distributed import check_torchrun, share_cases, share_volumes

__all__ = [
    "check_torchrun",
    "share_cases",
    "share_volumes",
]
