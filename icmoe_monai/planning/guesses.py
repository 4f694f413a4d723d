"""A quick guess at every mask by networks that have not seen it, and what it says of masks: swapped, or inverted.

The frozen ImageNet pyramid's features of a thumbnail, a linear map of them that is fitted to the masks of the other
folds by ridge regression: seconds of work, and good enough to tell a mask from another image's. How well two fit is the
correlation of guess and mask over the cells of a grid.

Letters: N images; C cells of the grid; D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.planning.faults import FAULT, Fault, Finding, mask_file
from icmoe_monai.planning.looks import Look
from icmoe_monai.weights.pyramid import load_pyramid_weights

LEAST_IMAGES = 12  # so few masks say little of each other
_FINE_UP_TO = 1000  # images, of which thumbnails of 256 pixels are looked at; of more, of 128
_FINE, _COARSE = 256, 128
_STRIDE = 8  # pixels of a cell
_FOLDS = 5
_RIDGE = 1e-3
_BATCH = 8
_PROJECTED = 96  # of the features at stride 16
# Of the six public sets that this was tried on, no two clean masks fit each other's images better by more than the
# greater of this and what the tail of all pairs lets expect.
_LEAST_GAIN, _LEAST_GAIN_OF_COARSE = 0.25, 0.5
_TAIL = (4, 19)  # places in the list of gains, from which the largest by chance is estimated
_INVERTED = -0.3  # correlation; a mask that only was guessed badly has no less
_TYPICAL = 0.3  # correlation that the median mask must have for the guess to mean anything
_AT_BORDER = 0.5  # of the border, by which an inverted mask differs from the others'


class Guesses(NamedTuple):
    """Hold how well guesses and masks fit.

    Attributes:
        places: Places of the N cases in the list.
        fit: Correlation of every case's guess (row) and every case's mask (column), (N, N).
    """

    places: list[int]
    fit: np.ndarray


def guess_masks(looks: Sequence[Look], pyramid: str | Path, *, progress: bool | None = None) -> Guesses | None:
    """Guess the masks of a set, each without having seen it.

    Args:
        looks: What was seen of the cases; masks that are empty or full, do not fit, or are of a blank image, of which
            there is nothing to guess, are left out.
        pyramid: File of the image pyramid's weights, in whose name `{size}` may stand for the size.
        progress: Show a bar; None: on a terminal only.

    Returns:
        The guesses, or None of too few masks.
    """
    places = [
        n
        for n, look in enumerate(looks)
        if look.fits and not look.is_blank and look.mask and 0 < look.mask.foreground < 1
    ]
    if len(places) < LEAST_IMAGES:
        return None
    used = [looks[place] for place in places]
    features = _features(used, pyramid, progress)
    side = round(features.shape[1] ** 0.5)
    masks = torch.stack([_cells(look, side) for look in used])
    guesses = _cross_validated(features, masks, _folds(used))
    return Guesses(places, (_unit(guesses) @ _unit(masks).T).numpy())


def find_doubtful(looks: Sequence[Look], guesses: Guesses) -> list[Fault]:
    """Find masks that seem to be swapped with another image's, or inverted.

    Args:
        looks: What was seen of the cases.
        guesses: How well guesses and masks fit.
    """
    own = guesses.fit.diagonal()
    if np.median(own) < _TYPICAL:
        return []
    inverted = tuple(_find_inverted(looks, guesses))
    taken = {finding.places[0] for finding in inverted}
    swapped = tuple(_find_swapped(looks, guesses, taken))
    kinds = (
        ("swapped_masks", "Masks that fit each other's image", swapped,
         "Look at both images: if the masks were exchanged, exchange them back."),
        ("inverted_mask", "Masks that seem inverted", inverted,
         "Look at the mask: 0 is the background; exchange its two values if they are the wrong way round."),
    )  # fmt: skip
    return [Fault(kind, FAULT, title, remedy, found) for kind, title, found, remedy in kinds if found]


def _find_swapped(looks: Sequence[Look], guesses: Guesses, taken: set[int]) -> list[Finding]:
    fit = guesses.fit
    own = fit.diagonal()
    gains = np.triu(fit + fit.T - own[:, None] - own[None, :], 1)
    best: list[tuple[float, int, int]] = []
    used = {n for n, place in enumerate(guesses.places) if place in taken}
    for flat in np.argsort(-gains, axis=None)[: 200 * len(fit)]:
        one, other = divmod(int(flat), len(fit))
        if one < other and not {one, other} & used:
            best.append((float(gains[one, other]), one, other))
            used |= {one, other}
        if len(best) > _TAIL[1]:
            break
    near, far = (best[min(place, len(best) - 1)][0] for place in _TAIL) if best else (0.0, 0.0)
    floor = _LEAST_GAIN if len(fit) <= _FINE_UP_TO else _LEAST_GAIN_OF_COARSE
    least = max(floor, near + (near - far))
    found = []
    for gain, one, other in best:
        crossed = min(fit[one, other] - own[one], fit[other, one] - own[other])
        if gain > least and crossed > 0 and len(best) > 1:
            places = (guesses.places[one], guesses.places[other])
            files = tuple(mask_file(looks[place]) for place in places)
            told = (
                f"{files[0]} and {files[1]} each fit the other's image better: a quick guess at the masks correlates "
                f"{own[one]:.2f} and {own[other]:.2f} with them as they are, {fit[one, other]:.2f} and "
                f"{fit[other, one]:.2f} exchanged."
            )
            found.append(Finding(told, files, places))
    return found


def _find_inverted(looks: Sequence[Look], guesses: Guesses) -> list[Finding]:
    borders = np.array([looks[place].mask.at_border for place in guesses.places])  # type: ignore[union-attr]
    found = []
    for place, own, border in zip(guesses.places, guesses.fit.diagonal(), borders, strict=True):
        is_at_other_border = abs(border - np.median(borders)) > _AT_BORDER and (borders > 0.5).mean() < 0.1
        if own < (0.0 if is_at_other_border else _INVERTED):
            mask = looks[place].mask
            told = (
                f"{mask_file(looks[place])} covers {100 * mask.foreground:.0f} % of the image and "  # type: ignore[union-attr]
                f"{100 * border:.0f} % of its border, and a quick guess at it correlates {own:.2f}: its complement "
                "fits better."
            )
            found.append(Finding(told, (mask_file(looks[place]),), (place,)))
    return found


def _folds(looks: Sequence[Look]) -> np.ndarray:
    """Return the fold of every case; groups stay together."""
    groups = sorted({look.group or look.name for look in looks})
    order = np.random.default_rng(0).permutation(len(groups)) % _FOLDS
    fold_of = dict(zip(groups, order.tolist(), strict=True))
    return np.array([fold_of[look.group or look.name] for look in looks])


@torch.inference_mode()
def _features(looks: Sequence[Look], pyramid: str | Path, progress: bool | None) -> Tensor:
    """Return the features of the thumbnails' cells, float16 (N, C, D)."""
    network = ImagePyramid(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0)).eval()
    load_pyramid_weights(pyramid, network)
    generator = torch.Generator().manual_seed(0)
    projection = torch.linalg.qr(torch.randn(network.channels[3], _PROJECTED, generator=generator))[0]
    side = _FINE if len(looks) <= _FINE_UP_TO else _COARSE
    starts = range(0, len(looks), _BATCH)
    hide = None if progress is None else not progress
    parts = []
    for start in tqdm(starts, "Guessing masks", disable=hide):
        pictures = np.stack([look.picture for look in looks[start : start + _BATCH] if look.picture is not None])
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
        images = F.adaptive_avg_pool2d(images, min(side, images.shape[-1]))
        parts.append(_features_of(network, projection, images).half())
    return torch.cat(parts)


def _features_of(network: ImagePyramid, projection: Tensor, images: Tensor) -> Tensor:
    at2, at4, at8, at16 = network(images)
    size = at8.shape[-2:]
    deep = torch.einsum("bchw,cd->bdhw", at16, projection)
    levels = [
        F.adaptive_avg_pool2d(at2, size),
        F.adaptive_avg_pool2d(at4, size),
        at8,
        F.interpolate(deep, size=size, mode="bilinear", align_corners=False),
        F.adaptive_avg_pool2d(images / 255, size),
    ]
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    place = torch.stack([rows, columns, rows * rows, columns * columns, rows * columns, torch.ones_like(rows)])
    return torch.cat([*levels, place.expand(len(images), -1, -1, -1)], dim=1).flatten(2).transpose(1, 2)


def _cells(look: Look, side: int) -> Tensor:
    """Return a mask's share of each cell, (C,)."""
    share = torch.from_numpy(np.asarray(look.mask.share, np.float32))  # type: ignore[union-attr]
    return F.adaptive_avg_pool2d(share[None, None], side).flatten()


def _cross_validated(features: Tensor, masks: Tensor, folds: np.ndarray) -> Tensor:
    """Return what a ridge regression on the other folds says of every cell, (N, C)."""
    D = features.shape[2]
    squares, products = torch.zeros(_FOLDS, D, D), torch.zeros(_FOLDS, D)
    for fold, cells, mask in zip(folds, features, masks, strict=True):
        cells = cells.float()
        squares[fold] += cells.T @ cells
        products[fold] += cells.T @ mask
    guesses = torch.zeros_like(masks)
    for fold in range(_FOLDS):
        gram = squares.sum(0) - squares[fold]
        scale = gram.diagonal().clamp_min(1e-9).sqrt()
        scaled = gram / scale[:, None] / scale + _RIDGE * torch.eye(D)
        weights = torch.linalg.solve(scaled, (products.sum(0) - products[fold]) / scale) / scale
        for n in np.flatnonzero(folds == fold):
            guesses[n] = features[n].float() @ weights
    return guesses.clamp(0, 1)


def _unit(maps: Tensor) -> Tensor:
    """Return maps whose dot products are correlations."""
    centred = maps - maps.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
