"""What the values in the masks of a set mean: one target or several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from icmoe_monai.planning.looks import MOST_VALUES, Look, MaskLook

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
        out_channels = _number(list(masks.values()))
    if out_channels == 1:
        reason = f"the masks hold 0 and {told or 'nothing else'}: one target."
        return Classes(1, reason, several)
    reason = f"the masks hold the class numbers 0, {told}."
    return Classes(out_channels, reason, [
        place for place, mask in masks.items() if not mask.is_whole or max(mask.values) >= out_channels
    ])  # fmt: skip


def _number(masks: Sequence[MaskLook]) -> int:
    """Return the number of output channels that most masks fit."""
    above = [[value for value in mask.values if value] for mask in masks]
    if any(len(values) > MOST_CLASSES and values == list(range(1, len(values) + 1)) for values in above):
        return 1  # objects are numbered, in the other masks too
    numbered = [
        values for mask, values in zip(masks, above, strict=True)
        if mask.is_whole and len(values) < MOST_VALUES and max(values, default=0) <= MOST_CLASSES
    ]  # fmt: skip
    known = sorted({value for values in numbered for value in values})
    have_several = any(len(values) > 1 for values in numbered)
    if len(known) < 2 or not (have_several or known == list(range(1, len(known) + 1))):
        return 1
    num_of_one = sum(len(values) < 2 and min(values, default=0) >= 0 for values in above)
    return int(max(known)) + 1 if len(numbered) >= num_of_one else 1
