"""Settings of a calibration that are shares."""

from __future__ import annotations

from typing import Any

from icmoe_monai.errors import InputError


def check_share(name: str, value: Any, *, with_ends: bool = False) -> None:
    """Refuse a setting that is not a share.

    Args:
        name: The setting.
        value: Its value.
        with_ends: Whether 0 and 1 are accepted.

    Raises:
        InputError: If it is not between 0 and 1.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 < value < 1 or (with_ends and value in (0, 1))):
        raise InputError(f"{name} must be a share between 0 and 1, got {value!r}.")
