"""Stored samples of a TIFF's page to RGB, and to the numbers of a mask.

Letters: H W size of a page or of a part of it; S samples of a pixel.
"""

from __future__ import annotations

import numpy as np

from icmoe_monai.errors import DamagedError, InputError
from icmoe_monai.imageio.greys import opacity_of, show
from icmoe_monai.imageio.masks import check_palette, flat_numbers
from icmoe_monai.imageio.tiff.page import CMYK, PALETTE, RGB, WHITE_IS_ZERO, YCBCR, Page, UnsupportedError

# What an extra sample is: opacity that the colours are multiplied by, or are not yet (associated, unassociated alpha).
_MULTIPLIED, _TRANSPARENT = 1, 2
_PLAIN_INKS = 1
_NUM_COLOURS = {RGB: 3, YCBCR: 3, CMYK: 4}
_WRITES_MASKS_AS_THEY_ARE = "tifffile"  # its bool arrays become white-is-zero, the numbers are stored unchanged


def check_colours(page: Page) -> None:
    """Refuse a page whose samples are no colours that are read.

    Args:
        page: The page.

    Raises:
        UnsupportedError: It is such a page.
    """
    needed = _NUM_COLOURS.get(page.photometric, 1)
    fault = ""
    if page.samples < needed:
        fault = f"has {page.samples} channels for the colours of {needed}: save it as RGB or greyscale"
    elif page.photometric == CMYK and page.tag(332, _PLAIN_INKS) != _PLAIN_INKS:
        fault = "stores other inks than CMYK: convert it to RGB"
    elif page.photometric == PALETTE and (page.bits > 16 or page.kind != "u"):
        fault = f"has a palette of {page.bits} bits: save it as RGB"
    elif page.photometric == WHITE_IS_ZERO and page.samples > 2:
        fault = f"has {page.samples} channels and white as zero: save it as RGB or greyscale"
    if fault:
        raise UnsupportedError(f"{page.path} {fault}.")


def to_rgb(samples: np.ndarray, page: Page) -> np.ndarray:
    """Return the colours of samples, whatever their opacity.

    Args:
        samples: (H, W, S), as `chunks.read_page` returns them.
        page: The page that they are of.

    Returns:
        float32 (H, W, 3), RGB in 0..255.

    Raises:
        DamagedError: The palette is damaged.
    """
    if page.photometric == PALETTE:
        rgb = _palette(page)[samples[..., 0]]
    elif page.photometric == CMYK:
        inks = _whole_range(samples[..., :4], page)
        rgb = (255 - inks[..., :3]) * ((255 - inks[..., 3:]) / 255)
    elif samples.shape[2] >= 3:
        bits = 8 if page.photometric == YCBCR else page.bits
        rgb = show(samples[..., :3], bits=bits)
    else:
        grey = show(samples[..., 0], bits=page.bits)
        rgb = np.repeat((255 - grey if page.photometric == WHITE_IS_ZERO else grey)[..., None], 3, axis=2)
    return rgb


def to_opacity(samples: np.ndarray, page: Page) -> np.ndarray | None:
    """Return how opaque samples are, if the page says so and its colours are not multiplied by it.

    Args:
        samples: (H, W, S), as `chunks.read_page` returns them.
        page: The page that they are of.

    Returns:
        float32 (H, W) in 0..1, or None.
    """
    place = _place_of(page, _TRANSPARENT)
    return None if place is None else opacity_of(samples[..., place], bits=page.bits)


def to_numbers(samples: np.ndarray, page: Page) -> np.ndarray:
    """Return the numbers that a mask stores, 0 where it is transparent.

    Args:
        samples: (H, W, S), as `chunks.read_page` returns them.
        page: The page that they are of.

    Returns:
        (H, W), unscaled; a palette's indices, not its colours.

    Raises:
        InputError: Its channels differ, or whether its zeros are the background cannot be known.
    """
    place = _place_of(page, _TRANSPARENT, _MULTIPLIED)
    num_colours = 1 if samples.shape[2] < 3 or page.photometric == PALETTE else min(samples.shape[2], 3)
    opacity = None if place is None else samples[..., place]
    values = flat_numbers(page.path, samples[..., :num_colours], opacity)
    _check_further(samples[..., num_colours:], values, opacity, page)
    if page.photometric == CMYK:
        raise InputError(f"{page.path} is in inks, and a mask is not: save it in one channel, 0 for the background.")
    if page.photometric == PALETTE:
        check_palette(page.path, values, _palette(page))
    if page.photometric == WHITE_IS_ZERO:
        _check_sense(values, page)
    return values


def _whole_range(values: np.ndarray, page: Page) -> np.ndarray:
    """Take the whole range of samples to 0..255."""
    if page.kind == "f":
        return np.nan_to_num(values.astype(np.float32) * 255).clip(0, 255)
    black = 0 if page.kind == "u" else 1 << page.bits - 1
    return ((values.astype(np.float64) + black) * (255 / ((1 << page.bits) - 1))).astype(np.float32)


def _check_sense(values: np.ndarray, page: Page) -> None:
    """Refuse white-is-zero masks that would be masks the other way round, too."""
    if page.kind != "u" or _WRITES_MASKS_AS_THEY_ARE in str(page.tag(305, "")):
        return
    if not values.any() or values.max() == (1 << page.bits) - 1:
        raise InputError(
            f"{page.path} stores white as zero, so that it cannot be known whether its zeros are the background: save "
            "it as PNG, 0 for the background."
        )


def _check_further(further: np.ndarray, values: np.ndarray, opacity: np.ndarray | None, page: Page) -> None:
    """Refuse a mask of which a channel without a meaning tells pixels apart otherwise than its values, (H, W, ...)."""
    target = values != 0
    for channel in np.moveaxis(further, 2, 0):
        is_known = opacity is not None and np.shares_memory(channel, opacity)
        if not is_known and (channel != channel.flat[0]).any() and ((channel != 0) != target).any():
            raise InputError(
                f"{page.path} has a further channel that differs from its first, so that it cannot be known which is "
                "the mask: save it in one channel, 0 for the background."
            )


def _place_of(page: Page, *kinds: int) -> int | None:
    """Return at which sample the first opacity of such kinds is; None where there is none."""
    num_colours = page.samples - len(page.extras)
    place = next((k for k, extra in enumerate(page.extras) if extra in kinds), None)
    return None if place is None or num_colours <= 0 else num_colours + place


def _palette(page: Page) -> np.ndarray:
    """Return the colours of all indices, float32 (N, 3) in 0..255."""
    values = np.asarray(page.tag(320, ()), dtype=np.float32)
    if values.size != 3 << page.bits:
        raise DamagedError(f"its palette has {values.size} numbers, and {3 << page.bits} are needed")
    colours = values.reshape(3, -1).T
    # 16 bits a colour; some programs write 8
    return np.floor(colours / 256) if colours.max() > 255 else colours
