"""Degradations of images that occur in practice (shifts): nine kinds at three strengths, which keep the geometry.

A shift is applied to the image as read, 0..255, before it is resized. Lengths (of blur, grain, strokes, resolution) are
relative to the image's longest side, so that a strength means the same at every image size; JPEG compresses the pixels
as they are, and so changes a large image less. All random numbers follow from a seed and the case's name and are the
same at every strength of a shift, so that a higher strength changes nothing but the amount.

Letters: H W the size of the image as read.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.image_reader import ImageReader
from monai.transforms import (
    AdjustContrast,
    CenterSpatialCrop,
    GaussianSmooth,
    RandGaussianNoise,
    RandSimulateLowResolution,
    Resize,
)
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.data.splits import take_evenly
from icmoe_monai.errors import InputError
from icmoe_monai.transforms.load import LABEL_KEY, LoadImage2Dd

STRENGTHS = (1, 2, 3)
CLEAN = "none"
_BLUR_SIDE = 256  # a blur's deviation is in pixels of an image of this longest side
_NOISE_GRAIN, _SPECKLE_GRAIN = 512, 256  # grains along the longest side
_HAIR, _PEN, _CALLIPER = (38, 28, 24), (74, 48, 128), (240, 228, 90)  # RGB; marks on grey images are yellow


class Shift(NamedTuple):
    """Hold one kind of degradation.

    Attributes:
        apply: Takes an image (3, H, W) in 0..255, an amount and a seed, and returns the degraded image.
        amounts: The amount at strengths 1 (mild), 2 (moderate) and 3 (severe).
        unit: Meaning and unit of the amount.
    """

    apply: Callable[[Tensor, float, int], Tensor]
    amounts: tuple[float, float, float]
    unit: str


class LoadShifted2Dd(LoadImage2Dd):
    """Transform: load a case as `LoadImage2Dd` does, and degrade its images by the case's `shift` and `strength`.

    Args:
        keys: Keys of the paths to load; "label" is that of the masks, which no shift changes.
        out_channels: Output channels K of the network.
        seed: Seed of the run; with the case's name it gives all random numbers.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30), 100).save(f"{folder}/a.png")
        ...     case = {"image": f"{folder}/a.png", "name": "a", "shift": "noise", "strength": 3}
        ...     noisy = LoadShifted2Dd("image")(case)["image"]
        >>> tuple(noisy.shape), bool(noisy.std() > 20)
        ((3, 30, 40), True)
    """

    def __init__(self, keys: KeysCollection = ("image", "label"), *, out_channels: int = 1, seed: int = 0) -> None:
        super().__init__(keys, out_channels=out_channels)
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Replace the paths of a case by the loaded arrays; images are shifted if the case's `strength` is above 0."""
        case = super().__call__(data, reader)
        if case.get("strength"):
            for key in self.key_iterator(case):
                if key != LABEL_KEY:
                    seed = case_seed(str(case["name"]), self.seed)
                    case[key] = shift_image(case[key], case["shift"], case["strength"], seed=seed)
        return case


def shift_image(image: Tensor, shift: str, strength: int, *, seed: int = 0) -> Tensor:
    """Degrade an image by a shift.

    Args:
        image: RGB, (3, H, W), 0..255.
        shift: Name of the shift, one of `SHIFTS`.
        strength: 1 to 3.
        seed: Seed of all random numbers.

    Returns:
        The degraded image, (3, H, W), 0..255, of the same type and with the same metadata.

    Example:
        >>> shift_image(torch.full((3, 8, 8), 100.0), "resolution", 1).shape
        torch.Size([3, 8, 8])
    """
    apply, amounts, _ = SHIFTS[shift]
    plain = convert_to_tensor(image, track_meta=False).float()
    shifted = convert_to_tensor(apply(plain, amounts[strength - 1], seed), track_meta=False).clamp(0, 255)
    return convert_to_dst_type(shifted, image, dtype=image.dtype)[0]


def shifted_cases(
    cases: Sequence[Mapping[str, Any]], *, shifts: Iterable[str], num_cases: int | None = None
) -> list[dict[str, Any]]:
    """Repeat each case under every condition: first clean, then with each shift at each strength.

    Args:
        cases: The cases.
        shifts: Names of the shifts, of `SHIFTS`, at least one.
        num_cases: Take at most this number of cases, at even steps; None: all.

    Returns:
        Copies of the cases with `shift` and `strength` added (`CLEAN` and 0 for a clean one), case by case.

    Raises:
        InputError: If a name is not in `SHIFTS`, or there is none.
    """
    shifts = list(shifts)
    unknown = [shift for shift in shifts if shift not in SHIFTS]
    if unknown or not shifts:
        raise InputError(f"shifts must be some of {', '.join(SHIFTS)}, got {', '.join(map(str, unknown)) or 'none'}.")
    if num_cases is not None and num_cases < len(cases):
        cases = take_evenly(cases, num_cases)[0]
    conditions = [(CLEAN, 0), *((shift, strength) for shift in shifts for strength in STRENGTHS)]
    return [{**case, "shift": shift, "strength": strength} for case in cases for shift, strength in conditions]


def case_seed(name: str, seed: int = 0) -> int:
    """Derive the seed of a case from its name and the seed of the run.

    Args:
        name: The case's name.
        seed: Seed of the run.

    Returns:
        An integer of 32 bits.
    """
    return zlib.crc32(os.fsencode(name), seed & 0xFFFFFFFF)


def _blur(image: Tensor, sigma: float, seed: int) -> Tensor:
    H, W = image.shape[1:]
    sigma *= max(H, W) / _BLUR_SIDE
    margin = ceil(4 * sigma)  # MONAI's filter pads with black
    padded = F.pad(image[None], [margin] * 4, mode="replicate")[0]
    return torch.as_tensor(CenterSpatialCrop((H, W))(GaussianSmooth(sigma=sigma)(padded)))


def _resolution(image: Tensor, side: float, seed: int) -> Tensor:
    zoom = min(1.0, side / max(image.shape[1:]))
    lower = RandSimulateLowResolution(
        prob=1.0, downsample_mode="area", upsample_mode="bilinear", zoom_range=(zoom, zoom)
    )
    return torch.as_tensor(lower(image))


def _noise(image: Tensor, std: float, seed: int) -> Tensor:
    return image + _grain(image, std, _NOISE_GRAIN, seed)


def _speckle(image: Tensor, std: float, seed: int) -> Tensor:
    return image * (1 + _grain(image[:1], std, _SPECKLE_GRAIN, seed))


def _grain(image: Tensor, std: float, num_grains: int, seed: int) -> Tensor:
    """Return noise with a grain of one pixel, or coarser if the longest side has more pixels than `num_grains`.

    It has one channel for a grey image, else three.
    """
    H, W = image.shape[1:]
    scale = max(1.0, max(H, W) / num_grains)
    small = torch.zeros(1 if _is_grey(image) else 3, ceil(H / scale), ceil(W / scale))
    draw = RandGaussianNoise(prob=1.0, std=std, sample_std=False)
    draw.set_random_state(seed)
    noise = torch.as_tensor(draw(small))
    return torch.as_tensor(Resize((H, W), mode="bicubic")(noise)) if scale > 1 else noise


def _contrast(image: Tensor, gamma: float, seed: int) -> Tensor:
    return torch.as_tensor(AdjustContrast(gamma=gamma)(image))


def _colour_cast(image: Tensor, amount: float, seed: int) -> Tensor:
    """Multiply each channel by 1 + amount cos(angle), for angles a third of a turn apart; the first one is random."""
    hue = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    gains = 1 + amount * np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)
    return image * torch.as_tensor(gains, dtype=image.dtype)[:, None, None]


def _jpeg(image: Tensor, quality: float, seed: int) -> Tensor:
    """Compress by Pillow, with the colours at half the resolution, as cameras do."""
    file = io.BytesIO()
    _to_picture(image).save(file, format="JPEG", quality=int(quality), subsampling="4:2:0")
    return torch.from_numpy(np.array(Image.open(file), dtype=np.float32).transpose(2, 0, 1))


def _hair(image: Tensor, num_hairs: float, seed: int) -> Tensor:
    return _strokes(image, int(num_hairs), seed, colour=_HAIR, width=0.004, length=(0.3, 0.9))


def _marker(image: Tensor, num_strokes: float, seed: int) -> Tensor:
    colour = _CALLIPER if _is_grey(image) else _PEN
    return _strokes(image, int(num_strokes), seed, colour=colour, width=0.016, length=(0.2, 0.4))


def _strokes(
    image: Tensor, count: int, seed: int, *, colour: tuple[int, int, int], width: float, length: tuple[float, float]
) -> Tensor:
    """Draw bent lines from random positions; width and length are shares of the longest side."""
    rng = np.random.default_rng(seed)
    H, W = image.shape[1:]
    side = max(H, W)
    finer = 2  # drawn at twice the size, so that their edges are soft
    drawing = Image.new("L", (finer * W, finer * H))
    pen = ImageDraw.Draw(drawing)
    for _ in range(count):
        start, turn = rng.uniform(0, 1, 2) * [W, H], rng.uniform(0, 2 * np.pi)
        end = start + rng.uniform(*length) * side * np.array([np.cos(turn), np.sin(turn)])
        bend = (start + end) / 2 + rng.normal(0, 0.1, 2) * side
        t = np.linspace(0, 1, 60)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        thick = max(1, round(finer * width * side * rng.uniform(0.7, 1.3)))
        pen.line([tuple(point) for point in finer * curve], fill=225, width=thick, joint="curve")
    share = np.asarray(drawing.resize((W, H), Image.Resampling.BOX), dtype=np.float32) / 255
    ink = torch.tensor(colour, dtype=image.dtype)[:, None, None]
    return image + torch.from_numpy(share) * (ink - image)


def _is_grey(image: Tensor) -> bool:
    return bool((image == image[:1]).all())


def _to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


SHIFTS: dict[str, Shift] = {
    "blur": Shift(_blur, (1.0, 2.0, 4.0), f"deviation, pixels of {_BLUR_SIDE}"),
    "resolution": Shift(_resolution, (96, 56, 40), "longest side, pixels"),
    "noise": Shift(_noise, (10, 20, 40), "deviation, of 255"),
    "speckle": Shift(_speckle, (0.1, 0.2, 0.3), "deviation, share of the pixel"),
    "jpeg": Shift(_jpeg, (40, 20, 10), "quality"),
    "contrast": Shift(_contrast, (0.75, 0.55, 0.4), "gamma"),
    "colour_cast": Shift(_colour_cast, (0.08, 0.15, 0.25), "change of a channel"),
    "hair": Shift(_hair, (6, 14, 30), "hairs"),
    "marker": Shift(_marker, (2, 5, 10), "strokes"),
}
