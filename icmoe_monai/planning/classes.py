"""What the values in the masks of a set mean: one target or several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from icmoe_monai.planning.looks import MOST_VALUES, Look

MOST_CLASSES = 32  # of more, numbers of objects or greys are the likelier reading


class Classes(NamedTuple):
    """Hold how the masks of a set are to be read.

    Attributes:
        out_channels: As the setting: 1 for one target, K for classes 0 to K - 1.
        reason: Why, in a sentence.
        misfits: Places in the list of the masks that cannot be read so.
    """

    out_channels: int
    reason: str
    misfits: list[int]


def read_classes(looks: Sequence[Look], *, out_channels: int | None = None) -> Classes:
    """Decide how the masks of a set are to be read.

    Args:
        looks: What was seen of the cases.
        out_channels: The user's own number; None decides by the values.

    Example:
        >>> read_classes([]).out_channels
        1
    """
    masks = {place: look.mask for place, look in enumerate(looks) if look.mask is not None}
    above = {place: [value for value in mask.values if value] for place, mask in masks.items()}
    several = [place for place, values in above.items() if len(values) > 1 or min(values, default=1) < 0]
    values = sorted({value for listed in above.values() for value in listed})
    told = ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
    if out_channels is None:
        out_channels = _number(values, [masks[place].is_whole for place in masks], bool(several), len(masks))
    if out_channels == 1:
        reason = f"the masks hold 0 and {told or 'nothing else'}: one target."
        return Classes(1, reason, several)
    reason = f"the masks hold the class numbers 0, {told}."
    return Classes(out_channels, reason, [
        place for place, mask in masks.items() if not mask.is_whole or max(mask.values) >= out_channels
    ])  # fmt: skip


def _number(values: Sequence[float], are_whole: Sequence[bool], have_several: bool, num_masks: int) -> int:
    """Return the number of output channels that most masks fit."""
    if not values or not all(are_whole) or len(values) >= MOST_VALUES or max(values) > MOST_CLASSES:
        return 1
    are_all_numbers = values == list(range(1, len(values) + 1))
    return int(max(values)) + 1 if len(values) > 1 and (have_several or are_all_numbers) else 1
