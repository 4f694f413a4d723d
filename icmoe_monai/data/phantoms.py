"""Drawing of computer-made pictures that imitate three modalities: dermoscopy, breast ultrasound, stained glands.

Each function draws one picture, uint8 RGB (H, W, 3), and its mask, bool (H, W). Nothing is taken from a patient or a
data set. The object's brightness, colour and border vary, and lookalikes lie around it, so that a threshold cannot
find it; the border is ambiguous in parts, and the mask runs through the middle of the transition.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter  # type: ignore[attr-defined]

from icmoe_monai.data.textures import blob, grid, noise, ridges, sigmoid, specks

Drawing = tuple[np.ndarray, np.ndarray]

# optical density in R, G, B: haematoxylin as Ruifrok and Johnston (2001) measured it, eosin paler, as scanners show it
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.13, 0.92, 0.40])
_DYNAMIC_RANGE_DB = 48
_RIM_DEPTH = 1 / 3  # of a lesion's depth


def draw_dermoscopy(
    rng: np.random.Generator, shape: tuple[int, int], *, rim: float = 1.0, softness: float = 1.0
) -> Drawing:
    """Draw a pigmented lesion on skin: fuzzy border, pigment network, hairs, dark corners.

    Args:
        rng: Source of everything random.
        shape: (H, W).
        rim: How much the lesion's rim looks like lesion: at 0 it looks like skin, so that the visible border is that of
            the core; at 1 like lesion, so that it is that of the mask.
        softness: Factor of the border's width.

    Example:
        >>> image, mask = draw_dermoscopy(np.random.default_rng(0), (60, 80))
        >>> image.shape, image.dtype, mask.shape, mask.dtype
        ((60, 80, 3), dtype('uint8'), (60, 80), dtype('bool'))
    """
    rows, cols = grid(shape)
    skin = np.array([222, 176, 150]) + rng.normal(0, 10) + rng.normal(0, 4, 3)
    image = skin + noise(rng, shape, 25)[..., None] * [5, 7, 7] + noise(rng, shape, 7)[..., None] * [1.5, 4, 3.5]
    image += noise(rng, shape, 0.8)[..., None] * 2.5
    field = blob(rng, shape, centre=(0.5, 0.5), radius=rng.uniform(0.2, 0.36), roughness=rng.uniform(0.05, 0.14))
    # the border is sharp on one side and fades on the other
    side = np.cos(np.arctan2(rows - 0.5, cols - 0.5) - rng.uniform(0, 6.3))
    width = softness * (0.035 + 0.13 * np.clip(0.5 + 0.5 * side + 0.2 * noise(rng, shape, 12), 0, 1) ** 2)
    share = sigmoid((field + 0.05 * noise(rng, shape, 3)) / width) * _rim_share(field, rim)
    strength = rng.uniform(0.4, 1.15)
    pigment = 0.62 + 0.16 * noise(rng, shape, 14) + 0.1 * noise(rng, shape, 4) + 0.3 * np.clip(field, 0, 0.6)
    pigment += rng.uniform(0.1, 0.3) * _network(rng, shape, 2.4) * sigmoid(2 * noise(rng, shape, 18))
    pigment += 0.5 * specks(rng, shape, int(rng.integers(5, 40)), (1, 2.6), field > 0.1)
    brown = np.array([98, 112, 108]) + rng.normal(0, 1, 3) * [12, 5, 8]
    image -= share[..., None] * (strength * np.clip(pigment, 0.15, 1.6))[..., None] * brown
    if rng.random() < 0.35:  # a blue-white veil
        veil = share * sigmoid((blob(rng, shape, (0.45, 0.55), 0.14, 0.2) - 0.1) / 0.15) * 0.6
        image += veil[..., None] * (np.array([125, 130, 150]) - image)
    freckles = specks(rng, shape, int(rng.integers(0, 14)), (1.0, 3.0), field < -0.25)
    image -= freckles[..., None] * rng.uniform(0.2, 0.6) * brown
    image = _add_hairs(rng, image, int(rng.choice([0, 3, 9, 18])))
    image *= _dark_corners(rng, shape)[..., None]
    return _to_uint8(image), field > 0


def draw_ultrasound(
    rng: np.random.Generator, shape: tuple[int, int], *, rim: float = 1.0, softness: float = 1.0
) -> Drawing:
    """Draw a breast in ultrasound: tissue layers in speckle, a dark lesion, its shadow or enhancement.

    Args:
        rng: Source of everything random.
        shape: (H, W).
        rim: How much the lesion's rim looks like lesion: at 0 it looks like tissue, so that the visible border is that
            of the core; at 1 like lesion, so that it is that of the mask.
        softness: Factor of the border's width.

    Example:
        >>> image, mask = draw_ultrasound(np.random.default_rng(0), (60, 80))
        >>> bool((image[..., 0] == image[..., 2]).all()), bool(0 < mask.mean() < 0.5)
        (True, True)
    """
    rows, cols = grid(shape)
    wavy = rows + 0.03 * noise(rng, shape, 22)
    # echo strength in dB: skin, fat lobules with septa, glandular tissue, muscle
    echo = np.full(shape, -14.0) + 2.5 * noise(rng, shape, (3, 9)) + 3 * noise(rng, shape, (10, 26))
    fat, muscle = rng.uniform(0.18, 0.32), rng.uniform(0.72, 0.88)
    echo += np.where(wavy < fat, -9.0 + 11 * ridges(rng, shape, (7, 16)), 0)
    echo += np.where(wavy > muscle, -8.0 + 9 * ridges(rng, shape, (2.2, 24)), 0)
    echo += 12 * np.exp(-(((wavy - muscle) / 0.018) ** 2)) + 16 * np.exp(-(((rows - 0.02) / 0.022) ** 2))
    for _ in range(rng.integers(1, 4)):  # lobules of fat, which are no lesion
        lobule = blob(rng, shape, (rng.uniform(0.3, 0.7), rng.uniform(0, 1)), rng.uniform(0.05, 0.1), 0.1, 0.5)
        echo -= rng.uniform(3, 7) * sigmoid(lobule / 0.25)
    malignant = rng.random() < 0.4
    centre = (rng.uniform(0.38, 0.6), rng.uniform(0.3, 0.7))
    radius = rng.uniform(0.11, 0.2)
    flat = rng.uniform(0.8, 1.15) if malignant else rng.uniform(0.5, 0.75)
    field = blob(rng, shape, centre, radius, rng.uniform(0.12, 0.2) if malignant else rng.uniform(0.03, 0.07), flat)
    width = (0.16 if malignant else 0.06) * (1 + 0.6 * np.clip(noise(rng, shape, 14), -1, 2))
    width = softness * np.maximum(width, 0.03)
    inside = sigmoid((field + 0.06 * noise(rng, shape, 3)) / width) * _rim_share(field, rim)
    halo = np.exp(-(((field + 0.12) / 0.14) ** 2))
    echo += inside * (-rng.uniform(9, 17) - echo * 0.55 - 14 * 0.55) + 3.5 * halo * rng.random()
    echo += 10 * specks(rng, shape, int(rng.integers(0, 9)), (0.6, 1.2), field > 0.2)
    behind = _behind(field)
    echo += behind * (-rng.uniform(6, 15) if malignant else rng.uniform(-2, 6))
    for _ in range(rng.integers(0, 3)):  # shadows that come from no lesion
        echo -= rng.uniform(4, 10) * np.exp(-(((cols - rng.uniform(0, 1)) / rng.uniform(0.01, 0.04)) ** 2)) * rows
    grey = _speckle(rng, echo - 9 * rows + 3 * np.exp(-(((rows - 0.45) / 0.25) ** 2)))
    return _to_uint8(np.repeat(_add_scale(rng, grey)[..., None], 3, axis=2)), field > 0


def draw_glands(rng: np.random.Generator, shape: tuple[int, int]) -> Drawing:
    """Draw a stained section: glands with a rim of epithelium and a lumen, between them stroma with cells.

    Args:
        rng: Source of everything random.
        shape: (H, W).

    Example:
        >>> image, mask = draw_glands(np.random.default_rng(0), (60, 80))
        >>> image.shape, bool(0 < mask.mean() < 1)
        ((60, 80, 3), True)
    """
    height, width = shape
    field = np.full(shape, -1.0)  # signed, about pixels / 15 from the nearest gland's edge
    for _ in range(int(rng.integers(30, 70))):
        radius = rng.uniform(0.1, 0.24)
        centre = (rng.uniform(-0.05, 1.05), rng.uniform(-0.05, 1.05))
        gland = blob(rng, shape, centre, radius, rng.uniform(0.05, 0.12), rng.uniform(0.6, 1.6))
        gland *= radius * min(shape) / 15
        if not ((gland > -0.2) & (field > 0)).any():
            field = np.maximum(field, gland)
    mask = field > 0
    depth = distance_transform_edt(mask)
    thick = rng.uniform(9, 14) * (1 + 0.2 * noise(rng, shape, 10))
    lumen = sigmoid((depth - thick) / 1.2)
    edge = sigmoid(field * 15 / (0.7 + 0.9 * sigmoid(2 * noise(rng, shape, 18))))
    fibres = ridges(rng, shape, (1.6, 5)) if rng.random() < 0.5 else ridges(rng, shape, (5, 1.6))
    gaps = sigmoid((noise(rng, shape, (5, 7)) - 1.5) * 6)  # tears and fat: pale, yet no lumen
    eosin = (1 - edge) * (0.5 + 0.35 * fibres + 0.08 * noise(rng, shape, 8)) * (1 - 0.85 * gaps)
    eosin += edge * (1 - lumen) * (0.33 + 0.06 * noise(rng, shape, 2)) + edge * lumen * 0.06
    goblets = specks(rng, shape, int(mask.sum() / 180 * rng.uniform(0, 1)), (1.8, 3.2), (depth > 5) & (lumen < 0.5))
    eosin *= 1 - 0.75 * goblets
    blue = edge * (1 - lumen) * (0.16 + 0.04 * noise(rng, shape, 2)) * (1 - 0.6 * goblets) + 0.03
    rim = (depth > 1.5) & (depth < 6)
    nuclei = specks(rng, shape, int(rim.sum() / 11), (1.5, 2.5), rim, along=depth)
    nuclei = np.maximum(nuclei, specks(rng, shape, int(height * width / 220), (1.0, 1.9), (depth == 0) & (gaps < 0.5)))
    crowd = (noise(rng, shape, 14) > 1.1) & (depth == 0)  # lymphocytes, as dark as epithelium
    nuclei = np.maximum(nuclei, 0.9 * specks(rng, shape, int(crowd.sum() / 22), (1.4, 2.0), crowd))
    blue += nuclei * rng.uniform(0.55, 0.85) * (1 + 0.2 * noise(rng, shape, 1))
    strength = rng.uniform(0.7, 1.2, 2)
    density = strength[0] * blue[..., None] * _HAEMATOXYLIN * 1.5 + strength[1] * eosin[..., None] * _EOSIN * 0.75
    image = 244 * np.exp(-np.clip(density, 0, None)) + noise(rng, shape, 0.6)[..., None] * 3
    return _to_uint8(image), mask


def core_of(mask: np.ndarray) -> np.ndarray:
    """Return the core of a lesion: the lesion without its rim, the outer third of its depth; bool, (H, W).

    Args:
        mask: Mask of the lesion, bool, (H, W).
    """
    return _depth(mask) > _RIM_DEPTH


def _depth(mask: np.ndarray) -> np.ndarray:
    """Return how deep each pixel lies in the mask: 0 at the border, 1 at the deepest point."""
    depth = distance_transform_edt(mask)
    return depth / max(depth.max(), 1)


def _rim_share(field: np.ndarray, rim: float) -> np.ndarray:
    """Return how much of the lesion shows at each pixel: all of it in the core, `rim` of it in the rim and beyond."""
    return rim + (1 - rim) * sigmoid((_depth(field > 0) - _RIM_DEPTH) / 0.03)


def _network(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Draw a mesh of dark lines around paler holes."""
    return ridges(rng, shape, (cell, cell)) - 0.4


def _add_hairs(rng: np.random.Generator, image: np.ndarray, num_hairs: int) -> np.ndarray:
    height, width = image.shape[:2]
    hairs = np.zeros((height, width))
    main = rng.uniform(0, np.pi)
    for _ in range(num_hairs):
        start = rng.uniform(0, 1, 2) * [height, width]
        turn = main + rng.normal(0, 0.5)
        step = np.array([np.sin(turn), np.cos(turn)]) * rng.uniform(0.3, 0.9) * max(height, width)
        bend = start + step / 2 + rng.normal(0, 0.12, 2) * [height, width]
        points = [start, bend, start + step]
        t = np.linspace(0, 1, 400)[:, None]
        curve = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
        row, col = np.round(curve).astype(int).T
        seen = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        hairs[row[seen], col[seen]] = np.maximum(hairs[row[seen], col[seen]], rng.uniform(0.5, 1))
    share = np.clip(gaussian_filter(hairs, 0.65) * 1.9, 0, 0.9)[..., None]
    return image + share * (np.array([52, 38, 32]) - image)


def _dark_corners(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    rows, cols = grid(shape)
    distance = np.hypot((rows - 0.5) * shape[0], (cols - 0.5) * shape[1]) / (0.5 * np.hypot(*shape))
    shade = 1 - rng.uniform(0.1, 0.4) * distance**2.5
    if rng.random() < 0.3:  # the tube of the dermatoscope
        shade = shade * sigmoid((rng.uniform(0.78, 0.95) - distance) / 0.012)
    return shade


def _behind(field: np.ndarray) -> np.ndarray:
    """Return where sound arrives through the lesion, 0..1."""
    through = np.maximum.accumulate(np.clip(field * 4, 0, 1), axis=0)
    return gaussian_filter(through * sigmoid(-field / 0.05), (1.5, 4))


def _speckle(rng: np.random.Generator, echo: np.ndarray) -> np.ndarray:
    """Draw speckle: the log-compressed envelope of scatterers under a point spread wider than deep; grey in 0..255."""
    amplitude = 10 ** (echo / 20)
    spread = (0.75, 1.5)
    scatter = [gaussian_filter(amplitude * rng.standard_normal(echo.shape), spread) for _ in range(2)]
    envelope = np.hypot(*scatter) / 0.35
    grey = 255 * (1 + 20 * np.log10(envelope + 1e-6) / _DYNAMIC_RANGE_DB)
    return gaussian_filter(grey.clip(0, 255), 0.45)


def _add_scale(rng: np.random.Generator, grey: np.ndarray) -> np.ndarray:
    """Add a black margin with depth marks, as scanners draw it, to half of the pictures."""
    if rng.random() < 0.5:
        grey[:, -8:] = 0
        grey[10 :: rng.integers(14, 26), -6:-3] = 190
    return grey


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.round(image).clip(0, 255).astype(np.uint8)
