"""Calibrate probabilities by a temperature, which may depend on the experts' disagreement, and a bias per class.

  T(x)  = exp(t + c d(x))                       d(x): the experts' disagreement at the pixel, 0..1
  P'(x) = softmax_k(log P_k(x) / T(x) + b_k)    b_0 = 0

For K = 1 this is sigmoid(logit P / T + b). There are four variants, each fitted by the least negative log-likelihood of
pixels of the calibration images: t alone (temperature scaling, Guo et al., arXiv 1706.04599), t and b (Platt scaling),
t and c, and all three. Candidates are t alone and the variants with at least ten images for each number to fit. The
candidate with the least negative log-likelihood in cross-validation over images is taken; if it is not less than that
of P itself, P is left unchanged. P' replaces the probabilities only; the mask stays the one of the vote's P.

A fit uses a sample of the pixels of every image, drawn with equal probability and weighted by the number of pixels that
each stands for, so that memory does not grow with the images' size.

Letters: K output channels; C = max(K, 2) classes; H W image; N sampled pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from icmoe_monai.calibration.folds import deal
from icmoe_monai.networks.voting import as_distribution

NUM_BINS = 15
_EPS = 1e-6  # probabilities are clamped as for the vote's logits
_IMAGES_FOR_EACH = 10  # images needed for each number that is fitted
_NUM_FOLDS = 5
_VARIANTS = ((False, False), (True, False), (False, True), (True, True))  # with a bias, with disagreement


class Temperature(NamedTuple):
    """Hold the fitted map from P to P', as a calibration file stores it.

    Attributes:
        temperature: exp(t), the temperature at disagreement 0.
        disagreement: c.
        bias: b, (C,).

    Example:
        >>> halved = Temperature(temperature=2.0, disagreement=0.0, bias=(0.0, 0.0))
        >>> P = torch.tensor([0.8]).reshape(1, 1, 1)
        >>> round(float(halved(P, torch.zeros(1, 1, 1))), 4)  # sigmoid(logit(0.8) / 2)
        0.6667
    """

    temperature: float
    disagreement: float
    bias: tuple[float, ...]

    def __call__(self, voted: Tensor, disagreement: Tensor) -> Tensor:
        """Return the calibrated probabilities P', (K, H, W).

        Args:
            voted: The vote's probabilities P, (K, H, W).
            disagreement: d, (1, H, W), 0..1.
        """
        T = (self.disagreement * disagreement).exp_().mul_(self.temperature)
        if voted.shape[0] == 1:
            return torch.logit(voted.float(), eps=_EPS).div_(T).add_(self.bias[1] - self.bias[0]).sigmoid_()
        return torch.softmax(_log_probabilities(voted) / T + T.new_tensor(self.bias)[:, None, None], dim=0)


class PixelSample(NamedTuple):
    """Hold sampled pixels of one or several images.

    Attributes:
        log_probabilities: log P of all classes, (N, C).
        disagreement: d, (N,).
        classes: Class numbers of the label, (N,).
        weights: Number of pixels of the image that each sampled pixel stands for, (N,).
        images: Index of the image of each pixel, (N,).

    Example:
        >>> flat = torch.full((1, 2, 2), 0.5), torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
        >>> sample = sample_pixels(*flat, image=0, num_pixels=2)
        >>> sample.classes.tolist(), sample.weights.tolist()
        ([1, 1], [2.0, 2.0])
    """

    log_probabilities: np.ndarray
    disagreement: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    images: np.ndarray


def sample_pixels(
    voted: Tensor, disagreement: Tensor, label: Tensor, *, image: int, num_pixels: int, seed: int = 0
) -> PixelSample:
    """Draw a random sample of the pixels of one image, without replacement.

    Args:
        voted: P, (K, H, W).
        disagreement: d, (1, H, W).
        label: Class map, (1, H, W).
        image: Index of the image, which is also a part of the seed.
        num_pixels: Number of pixels to draw; all are taken if the image has fewer.
        seed: Seed of the draw.
    """
    size = label.numel()
    rng = np.random.default_rng([seed, image])
    chosen = torch.from_numpy(np.sort(rng.choice(size, min(num_pixels, size), replace=False)))
    P = voted.flatten(1)[:, chosen].unsqueeze(-1)
    return PixelSample(
        _log_probabilities(P).squeeze(-1).T.double().numpy(),
        disagreement.flatten()[chosen].double().numpy(),
        label.flatten()[chosen].long().numpy(),
        np.full(len(chosen), size / len(chosen)),
        np.full(len(chosen), image),
    )


def fit_temperature(
    samples: Sequence[PixelSample], *, groups: Sequence[str] | None = None, seed: int = 0
) -> tuple[Temperature, dict[str, Any]]:
    """Fit the variants for which there are enough images, and return the best one.

    Args:
        samples: Sampled pixels, one sample per image, at least one.
        groups: The group of each image, which cross-validation does not divide; None: each is one.
        seed: Seed of the folds of cross-validation.

    Returns:
        The fitted map; and a report with the `variant` and, of the sampled pixels before and after calibration, the
        negative log-likelihood (`nll_before`, `nll_after`) and the calibration error (`ece_before`, `ece_after`). The
        values after calibration are cross-validated; for a single image or group, which gets t alone, they are None.
    """
    whole = _joined(samples)
    unchanged = Temperature(1.0, 0.0, (0.0,) * _num_classes(whole))
    before = {"nll_before": _nll(_Z(whole, unchanged), whole)}
    before["ece_before"] = _sample_ece(whole.log_probabilities, whole)
    folds = deal(groups or len(samples), _NUM_FOLDS, seed=seed)
    if folds.max() < 1:
        fitted = _fit(whole, *_VARIANTS[0])
        return fitted, {"variant": "temperature", **before, "nll_after": None, "ece_after": None}
    losses, errors = [], []
    variants = [variant for variant in _VARIANTS if _suffices(len(samples), _num_classes(whole), *variant)]
    for variant in variants:
        z = np.empty_like(whole.log_probabilities)
        for fold in range(folds.max() + 1):
            fitted = _fit(_joined([s for s, f in zip(samples, folds, strict=True) if f != fold]), *variant)
            held_out = np.repeat(folds == fold, [len(sample.classes) for sample in samples])
            z[held_out] = _Z(PixelSample(*(part[held_out] for part in whole)), fitted)
        losses.append(_nll(z, whole))
        errors.append(_sample_ece(z, whole))
    best = int(np.argmin(losses))
    if losses[best] >= before["nll_before"]:
        after = {name.replace("before", "after"): value for name, value in before.items()}
        return unchanged, {"variant": "none", **before, **after}
    with_bias, with_disagreement = variants[best]
    words = ["temperature", *["bias"] * with_bias, *["disagreement"] * with_disagreement]
    told = {"variant": " + ".join(words), **before, "nll_after": losses[best], "ece_after": errors[best]}
    return _fit(whole, with_bias, with_disagreement), told


def bin_sums(probabilities: Tensor, label: Tensor) -> np.ndarray:
    """Sum an image's pixels by bin of confidence; the sums of several images add up to the sums of all.

    Args:
        probabilities: (K, H, W).
        label: Class map, (1, H, W).

    Returns:
        For each bin the number of pixels, the sum of their confidences and the number of right ones, (3, NUM_BINS). For
        K = 1 the confidence is the probability of foreground, and a pixel is right if the label is foreground there;
        for K > 1 it is the probability of the top class, and a pixel is right if the label has this class.
    """
    p = probabilities.double()
    confidence, top = (p[0], torch.ones_like(label[0])) if len(p) == 1 else p.max(0)
    return _bin_sums(confidence.cpu().numpy().ravel(), (label[0] == top).cpu().numpy().ravel(), None)


def calibration_error(sums: np.ndarray) -> float:
    """Return the expected calibration error, sum_b n_b / n |mean confidence_b - share right_b|.

    Args:
        sums: The result of `bin_sums`, or a sum of several.
    """
    return float(np.abs(sums[1] - sums[2]).sum() / sums[0].sum())


def _bin_sums(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    weights = np.ones(len(bins)) if weights is None else weights
    return np.stack([np.bincount(bins, part * weights, NUM_BINS) for part in (np.ones(len(bins)), confidence, right)])


def _sample_ece(z: np.ndarray, sample: PixelSample) -> float:
    p = np.exp(log_softmax(z, axis=1))
    if p.shape[1] == 2:
        return calibration_error(_bin_sums(p[:, 1], sample.classes == 1, sample.weights))
    return calibration_error(_bin_sums(p.max(1), p.argmax(1) == sample.classes, sample.weights))


def _log_probabilities(voted: Tensor) -> Tensor:
    """Return log P of all classes, (C, H, W), for probabilities (K, H, W)."""
    P = as_distribution(voted.float()[None, None])[0, 0]
    return P.clamp(_EPS, 1 - _EPS).log()


def _joined(samples: Sequence[PixelSample]) -> PixelSample:
    return PixelSample(*map(np.concatenate, zip(*samples, strict=True)))


def _num_classes(sample: PixelSample) -> int:
    return int(sample.log_probabilities.shape[1])


def _Z(sample: PixelSample, fitted: Temperature) -> np.ndarray:  # noqa: N802 (the logits' letter)
    T = fitted.temperature * np.exp(fitted.disagreement * sample.disagreement)
    return np.asarray(sample.log_probabilities / T[:, None] + np.array(fitted.bias))


def _nll(z: np.ndarray, sample: PixelSample) -> float:
    chosen = np.take_along_axis(log_softmax(z, axis=1), sample.classes[:, None], axis=1)[:, 0]
    return float(-np.average(chosen, weights=sample.weights))


def _suffices(num_images: int, num_classes: int, with_bias: bool, with_disagreement: bool) -> bool:
    num_fitted = 1 + with_bias * (num_classes - 1) + with_disagreement
    return num_fitted == 1 or num_images >= _IMAGES_FOR_EACH * num_fitted


def _fit(sample: PixelSample, with_bias: bool, with_disagreement: bool) -> Temperature:
    C = _num_classes(sample)
    w = sample.weights / sample.weights.sum()
    is_class = np.eye(C)[sample.classes]

    def unpack(x: np.ndarray) -> Temperature:
        bias = (0.0, *map(float, x[2:])) if with_bias else (0.0,) * C
        return Temperature(float(np.exp(x[0])), float(x[1]), bias)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        fitted = unpack(x)
        z = _Z(sample, fitted)
        log_p = log_softmax(z, axis=1)
        by_z = (np.exp(log_p) - is_class) * w[:, None]
        by_t = -(by_z * (z - np.array(fitted.bias))).sum(1)  # dz/dt = -(z - b)
        gradient = np.array([by_t.sum(), (by_t * sample.disagreement).sum() * with_disagreement, *by_z.sum(0)[1:]])
        return -float((log_p * is_class * w[:, None]).sum()), gradient[: len(x)]

    start = np.zeros(2 + (C - 1) * with_bias)
    # bounds of t, c and b: if all pixels are right at any confidence, t would otherwise go to minus infinity
    bounds = [(-4.0, 4.0), (-8.0, 8.0), *[(-8.0, 8.0)] * (len(start) - 2)]
    return unpack(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def temperature_from(content: Mapping[str, Any]) -> Temperature:
    """Return the map that a calibration file stores as `Temperature._asdict()`."""
    return Temperature(float(content["temperature"]), float(content["disagreement"]), tuple(content["bias"]))
