"""Textures and shapes from which `phantoms` composes its pictures: noise, fibres, blobs and specks."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates  # type: ignore[attr-defined]
from skimage import draw


def grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return an image's row and column coordinates in 0..1, (H, 1) and (1, W).

    Args:
        shape: (H, W).
    """
    return np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None, :]


def noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float | tuple[float, float]) -> np.ndarray:
    """Return smooth noise of mean 0 and deviation 1, (H, W).

    Args:
        rng: Source of everything random.
        shape: (H, W).
        sigma: Grain, pixels; two numbers for (down, across).
    """
    smooth = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap", truncate=3)
    return (smooth - smooth.mean()) / smooth.std()


def ridges(rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Return bright crests on a dark ground in 0..1, (H, W), which look like septa or fibres.

    Args:
        rng: Source of everything random.
        shape: (H, W).
        sigma: Approximate distance between the crests, pixels (down, across).
    """
    bend = 4 * noise(rng, shape, 20)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    bent = map_coordinates(noise(rng, shape, sigma), [rows + bend, cols + bend], order=1, mode="wrap")
    return np.exp(-((bent / 0.35) ** 2))


def blob(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    roughness: float,
    flat: float = 1.0,
) -> np.ndarray:
    """Return an irregular ellipse, (H, W): 1 at its centre, 0 at its border, negative outside, in units of its radius.

    Args:
        rng: Source of everything random.
        shape: (H, W).
        centre: Row and column, 0..1.
        radius: Radius as a share of the image's shorter side.
        roughness: Roughness of the border; 0 gives an ellipse.
        flat: Height divided by width.
    """
    size = min(shape)
    y = (np.arange(shape[0]) - centre[0] * shape[0])[:, None] / (size * radius * flat**0.5)
    x = (np.arange(shape[1]) - centre[1] * shape[1])[None, :] / (size * radius / flat**0.5)
    angles = np.linspace(-np.pi, np.pi, 181)
    border = np.ones(181)
    for order in range(2, 9):
        border += roughness * rng.normal() / order**0.7 * np.cos(order * angles + rng.uniform(0, 6.3))
    return 1 - np.hypot(y, x) / np.maximum(np.interp(np.arctan2(y, x), angles, border), 0.3)


def specks(
    rng: np.random.Generator,
    shape: tuple[int, int],
    num_specks: int,
    radii: tuple[float, float],
    where: np.ndarray,
    along: np.ndarray | None = None,
) -> np.ndarray:
    """Return soft-edged ovals in 0..1 within a region, (H, W).

    Args:
        rng: Source of everything random.
        shape: (H, W).
        num_specks: Number of ovals.
        radii: Smallest and largest radius, pixels.
        where: True where a centre may lie, (H, W).
        along: A field along whose gradient the ovals are turned, (H, W); without it they are turned at random.
    """
    drawn = np.zeros(shape)
    spots = np.argwhere(where)
    if not len(spots):
        return drawn
    slope = np.gradient(gaussian_filter(along, 2)) if along is not None else None
    for row, col in spots[rng.integers(0, len(spots), num_specks)]:
        long, short = rng.uniform(*radii) * 1.35, rng.uniform(*radii) * 0.85
        turn = np.arctan2(slope[0][row, col], slope[1][row, col]) if slope is not None else rng.uniform(0, 3.1)
        inside = draw.ellipse(row, col, short, long, shape=shape, rotation=-turn)
        drawn[inside] = np.maximum(drawn[inside], rng.uniform(0.6, 1))
    return gaussian_filter(drawn, 0.6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logistic function of an array, without overflow.

    Args:
        x: Any array.
    """
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
