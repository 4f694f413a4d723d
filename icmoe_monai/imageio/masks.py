"""What the numbers in a mask file mean: the values as stored, to class numbers, or a sentence that says why not."""

from __future__ import annotations

import numpy as np
from PIL import Image

from icmoe_monai.errors import InputError

_NUM_VALUES_NAMED = 6
LOSSY_THRESHOLD = 128
_LEAST_COLOUR = 64  # how far the channels of a colour lie apart; what loss does to a grey is less


def to_classes(
    path: str, values: np.ndarray, lossless: bool, *, out_channels: int = 1, instances: bool = False
) -> np.ndarray:
    """Turn the values that a mask file stores into class numbers.

    Args:
        path: The file, for messages.
        values: What it stores, (H, W).
        lossless: Whether it keeps every value, as JPEG and lossy WebP do not.
        out_channels: 1: the file holds 0 and one other value, which becomes 1. K > 1: it holds 0..K-1.
        instances: The file numbers objects; every value above 0 becomes 1, whatever `out_channels`.

    Returns:
        float32 (H, W).

    Raises:
        InputError: The values do not fit.

    Example:
        >>> to_classes("a.png", np.array([[0, 255]]), True).tolist()
        [[0.0, 1.0]]
    """
    if not lossless:
        values = _from_lossy(path, values, out_channels, instances)
    if instances:
        if values.min() < 0 or not _are_whole(values):
            raise InputError(
                f"{path} holds {_name_values(values)}, and objects are numbered 0, 1, 2, ...: change the mask."
            )
        return (values > 0).astype(np.float32)
    if out_channels == 1:
        foreground, most = values != 0, values.max()
        # one other value, if any: cheaper than listing the values of every mask
        if (foreground & (values != most)).any() or not 0 <= most < np.inf:
            raise InputError(
                f"{path} holds {_name_values(values)}, and a binary mask holds 0 and one value above it: "
                "set out_channels to the number of classes with the background, or save the mask in two values."
            )
        return foreground.astype(np.float32)
    if values.min() < 0 or values.max() >= out_channels or not _are_whole(values):
        raise InputError(
            f"{path} holds {_name_values(values)}, and with out_channels {out_channels} a mask holds the class numbers "
            f"0 to {out_channels - 1}, of which 0 is the background: change out_channels or the mask."
        )
    return values.astype(np.float32)


def flat_numbers(path: str, colours: np.ndarray, opacity: np.ndarray | None) -> np.ndarray:
    """Return the one number that each pixel of a mask stores in several channels.

    Args:
        path: The file, for messages.
        colours: (H, W, S).
        opacity: (H, W), where the file has it; transparent pixels are background, but not where all are.

    Returns:
        (H, W).

    Raises:
        InputError: The channels differ, the opacity alone tells pixels apart, or all is transparent and the same.
    """
    if opacity is not None and not opacity.any():
        if colours.any() and (colours == colours[0, 0]).all():
            raise InputError(
                f"{path} is transparent everywhere and the same in all its pixels, so that it cannot be known whether "
                "it is empty: save it in one channel, 0 for the background."
            )
        opacity = None
    values = colours[..., 0]
    if colours.shape[2] > 1 and (values[..., None] != colours).any():
        # what is transparent has any colour
        shown = colours if opacity is None else np.where(opacity[..., None] == 0, 0, colours)
        if (shown[..., :1] != shown).any():
            raise _coloured(path)
        values = shown[..., 0]
    if opacity is None:
        return values
    values = np.where(opacity == 0, values.dtype.type(0), values)
    if not values.any() and (opacity != opacity.flat[0]).any():
        raise InputError(
            f"{path} differs in its opacity alone, and a mask in its values: save it in one channel, 0 for the "
            "background."
        )
    return values


def flat_greys(path: str, colours: np.ndarray, opacity: np.ndarray | None = None) -> np.ndarray:
    """Return the one grey of each pixel of a mask that was stored with loss, as JPEG does.

    Args:
        path: The file, for messages.
        colours: RGB, uint8 (H, W, 3); transparent pixels black, but not where all are.
        opacity: As `flat_numbers` takes it.

    Returns:
        uint8 (H, W).

    Raises:
        InputError: It is in colour, or as `flat_numbers` says of its opacity.
    """
    if (colours.max(axis=2) - colours.min(axis=2) >= _LEAST_COLOUR).any():
        raise _coloured(path)
    return flat_numbers(path, np.asarray(Image.fromarray(colours).convert("L"))[..., None], opacity)


def check_palette(path: str, indices: np.ndarray, palette: np.ndarray) -> None:
    """Refuse a mask whose palette shows a target black and the background not: one of the two was meant otherwise.

    Args:
        path: The file, for messages.
        indices: What it stores, uint8 or uint16 (H, W).
        palette: The colours of the indices, (N, 3).

    Raises:
        InputError: It is such a mask.
    """
    if not len(palette) or not palette[0].any():
        return
    black = set(np.flatnonzero(~palette.any(axis=1)).tolist())
    shown_black = next((k for k in np.flatnonzero(np.bincount(indices.ravel())).tolist() if k in black), None)
    if shown_black is not None:
        raise InputError(
            f"{path} shows {shown_black} black, and 0 in another colour, so that it cannot be known which is the "
            "background: save it in one channel without a palette, 0 for the background."
        )


def _are_whole(values: np.ndarray) -> bool:
    """Tell whether all values are whole numbers, which NaN and infinite ones are not."""
    with np.errstate(invalid="ignore"):
        return values.dtype.kind in "bui" or not (values % 1 != 0).any()


def _coloured(path: str) -> InputError:
    return InputError(f"{path} is in colour, and a mask is not: save it in one channel, 0 for the background.")


def _from_lossy(path: str, values: np.ndarray, out_channels: int, instances: bool) -> np.ndarray:
    """Cut a mask that was stored with loss at half scale; what it cannot have kept is refused."""
    if out_channels > 1 or instances:
        raise InputError(f"{path} is stored with loss, which keeps no class numbers: save the mask as PNG.")
    foreground = values >= LOSSY_THRESHOLD
    if values.any() and not foreground.any():
        raise InputError(
            f"{path} is stored with loss and has no value above {values.max()}, and such masks are cut at "
            f"{LOSSY_THRESHOLD}: save it as PNG."
        )
    return foreground


def _name_values(values: np.ndarray) -> str:
    found = np.unique(values)
    named = ", ".join(f"{value:g}" for value in found[:_NUM_VALUES_NAMED].astype(float))
    return f"the values {named}" if len(found) <= _NUM_VALUES_NAMED else f"{len(found)} values ({named}, ...)"
