"""Whether there is anything to see in an image: values that are finite, and not the same everywhere.

Letters: H, W image size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.image_file import ImageFile


class Sight(NamedTuple):
    """An image as it is segmented.

    Attributes:
        rgb: float32 (H, W, 3), RGB in 0..255, without NaN.
        note: A sentence where its opacity counts for nothing, pixels had no finite value, or all are the same; else "".
        is_blank: Whether all pixels are the same, so that nothing can be told of the image.
    """

    rgb: np.ndarray
    note: str
    is_blank: bool


def look(image: ImageFile, frame: int = 0) -> Sight:
    """Read a frame, and tell whether there is anything to see in it.

    Args:
        image: The open file.
        frame: Which frame, slice or page, from 0.

    Raises:
        InputError: It cannot be read, or has no finite value; a slice of a volume that has some is black.
    """
    rgb = image.rgb(frame)
    return judge(image.path, rgb, may_be_empty=image.is_volume, note=image.note)


def judge(name: str, rgb: np.ndarray, *, may_be_empty: bool = False, note: str = "") -> Sight:
    """Tell whether there is anything to see in an image.

    Args:
        name: What to call the image.
        rgb: float32 (H, W, 3), RGB in 0..255, NaN where there is no finite value.
        may_be_empty: Whether no pixel needs a finite value.
        note: What was noticed as it was read, in words that go on its name.

    Raises:
        InputError: No pixel has one.

    Example:
        >>> judge("a.png", np.full((2, 2, 3), 7, np.float32)).note
        'a.png is the same in all its pixels, so there is nothing to see in it: look at it.'
    """
    lacking = np.isnan(rgb[..., 0] + rgb[..., 1] + rgb[..., 2])  # any() over an axis of three is slow
    if lacking.all() and not may_be_empty:
        raise no_values(name)
    if lacking.any():
        rgb = np.where(lacking[..., None], np.float32(0), rgb)
    is_blank = all((row == rgb[0, 0]).all() for row in rgb)  # most images differ in their first row
    told = [f"{name} {note}"] if note else []
    if lacking.any():
        share = f"{100 * lacking.mean():.3g} %"
        told.append(f"{name} has no finite value in {share} of its pixels, which are taken as black")
    if is_blank:
        told.append(f"{name} is the same in all its pixels, so there is nothing to see in it")
    return Sight(rgb, f"{'; '.join(told)}: look at it." if told else "", is_blank)


def no_values(name: str) -> InputError:
    """Return the error of an image without a finite value.

    Args:
        name: What to call the image.
    """
    return InputError(
        f"{name} has no finite value, only NaN or infinite ones: export it again or take it out.", code="no_values"
    )
