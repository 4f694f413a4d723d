"""How well each expert's features separate the classes, by t-SNE and by cosines, for two networks to compare.

Features are maps of one window per case, at three depths: `features`, the map that an expert passes to its decoder
(stride 16; the last level of its network where there is no encoder); `decoded`, the map that this decoder returns;
`embeddings`, the map on which the contrastive loss acts, if the network has a semantic expert. A *point* is the feature
vector of one cell (position) of such a map, of which all pixels have the same class. Only the label and a seed decide
which cells are drawn, so that two networks are compared at the same places.

Letters: E experts; D channels of a map; H W window; n points.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop, SpatialPad
from monai.utils.type_conversion import convert_to_tensor
from scipy.stats import mannwhitneyu
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.data.splits import take_evenly
from icmoe_monai.errors import InputError
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput, unwrapped

NO_CLASS = -1
_MOST_PER_CLASS = 400  # points of a class that are compared in pairs, at most
_LEAST_PER_CLASS = 5
_AT16 = 3  # place of stride 16 among a network's levels


class Window(NamedTuple):
    """Hold one window of a case.

    Attributes:
        image: Normalised RGB, (3, H, W).
        label: Class numbers, (H, W); `NO_CLASS` outside the image.
    """

    image: Tensor
    label: Tensor


class Points(NamedTuple):
    """Hold the features and the classes of some cells.

    Attributes:
        features: Feature vectors, (n, D).
        classes: Class numbers, (n,).
    """

    features: np.ndarray
    classes: np.ndarray


class FeatureComparison:
    """Compare a network's features with those of a second network of the same kind, on the same windows of some cases.

    Args:
        network: The network to analyse.
        before: The network to compare with, such as the one that training started from.
        before_name: Name of `before` for titles, of which the last part of a path is taken; None: "before training".
        window_size: Side of the window that is cut from each case, pixels, a multiple of 16.
        num_windows: Number of cases, spread evenly over the run, of which a window is taken.
        num_points: About how many points are drawn at each depth, for each expert.
        seed: Seed of all random numbers.

    Raises:
        InputError: If `num_windows` or `num_points` is below 1.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        before: nn.Module,
        before_name: str | None = None,
        window_size: int = 256,
        num_windows: int = 40,
        num_points: int = 1000,
        seed: int = 0,
    ) -> None:
        if num_windows < 1 or num_points < 1:
            raise InputError(f"num_windows and num_points must be at least 1, got {num_windows} and {num_points}.")
        self.network = network
        self.before = before
        self.before_name = Path(before_name).name if before_name else "before training"
        self.window_size = window_size
        self.num_windows = num_windows
        self.num_points = num_points
        self.seed = seed
        self.windows: list[Window] = []
        self._chosen: set[int] = set()

    def start(self, num_cases: int) -> None:
        """Clear the windows of an earlier run, and choose the cases of which a window is kept.

        Args:
            num_cases: Number of cases of the run.

        Raises:
            InputError: If the network is an ensemble of folds.
        """
        if isinstance(unwrapped(self.network), FoldEnsemble):
            raise InputError(
                "An ensemble's folds have experts of their own: analyze one of them, such as fold_1/best.pt."
            )
        self.windows = []
        self._chosen = set(take_evenly(range(num_cases), min(self.num_windows, num_cases))[0])

    def add(self, index: int, image: Tensor, label: Tensor) -> None:
        """Keep the window of a case, if the case was chosen.

        Args:
            index: Number of the case in the run, from 0.
            image: Resized and normalised RGB, (3, h, w).
            label: Class numbers, (1, H, W), of any size.
        """
        if index in self._chosen:
            self.windows.append(take_window(image, label, self.window_size))

    def compare(self) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]:
        """Project the network's points to a plane, and compute the similarities of both networks' points.

        Returns:
            Three dicts: t-SNE coordinates (n, 2) and classes (n,) of the points of `network`, by depth and expert; the
            `similarity` of the points of `before`, and that of the points of `network`, both by "depth: expert". For a
            network that is no `ICMoE` (a baseline without experts over a trunk) a dict is empty.
        """
        drawing = {"num_points": self.num_points, "seed": self.seed}
        after = collect_points(self.network, self.windows, **drawing)
        before = collect_points(self.before, self.windows, **drawing)
        spread = {
            depth: {name: (flatten(points, seed=self.seed), points.classes) for name, points in by_expert.items()}
            for depth, by_expert in after.items()
        }
        similarities = [
            {
                f"{depth}: {name}": similarity(points, seed=self.seed)
                for depth, by_expert in each.items()
                for name, points in by_expert.items()
            }
            for each in (before, after)
        ]
        return spread, similarities[0], similarities[1]


def take_window(image: Tensor, label: Tensor, size: int) -> Window:
    """Cut a square window from the centre of an image and its label; a smaller image is padded.

    Args:
        image: Resized and normalised RGB, (3, h, w).
        label: Class numbers, (1, H, W), of any size; it is resized to the image's size.
        size: Side of the window, pixels.

    Returns:
        The window; its padding is 0 in the image and `NO_CLASS` in the label.

    Example:
        >>> take_window(torch.zeros(3, 48, 80), torch.zeros(1, 96, 160), 64).label.shape
        torch.Size([64, 64])
    """
    image, label = (convert_to_tensor(each, track_meta=False, device="cpu").float() for each in (image, label))
    label = F.interpolate(label[None], size=image.shape[1:], mode="nearest-exact")[0]
    crop = CenterSpatialCrop((size, size))
    image = SpatialPad((size, size))(crop(image))
    label = SpatialPad((size, size), value=NO_CLASS)(crop(label))
    return Window(torch.as_tensor(image), torch.as_tensor(label)[0].long())


@torch.no_grad()
def collect_points(
    network: nn.Module, windows: Sequence[Window], *, num_points: int = 1000, seed: int = 0
) -> dict[str, dict[str, Points]]:
    """Run a network on windows, and draw points from its feature maps.

    Args:
        network: The network.
        windows: The windows, at least one.
        num_points: About how many points to draw at each depth for each expert, equally many of each class if there
            are enough.
        seed: Seed for drawing the cells.

    Returns:
        The points by depth and expert; empty for a network that is no `ICMoE` (a baseline without experts over a
        trunk).
    """
    if not isinstance(network, ICMoE):
        return {}
    device = next(network.parameters()).device
    network.eval()
    training = _in_training(network) if "semantic" in network.expert_names else None
    num_classes = max(network.out_channels, 2)
    per_class = -(-num_points // (len(windows) * num_classes))
    drawn: dict[str, dict[str, list[Points]]] = {}
    for index, window in enumerate(windows):
        image = window.image[None].to(device)
        features, levels = network.expert_features(network.trunk(image)), network.levels(image)
        decoded, _ = network.decode(features, levels)
        if features.shape[2] == 0:  # there is no encoder: an expert's features are its network's
            at16 = [view(levels)[_AT16] for view in network.views.values()]
        else:
            at16 = list(features.unbind(dim=1))
        maps = {}
        if all(each.shape[1] for each in at16):
            maps["features"] = {name: each[0] for name, each in zip(network.expert_names, at16, strict=True)}
        maps["decoded"] = {name: each[0] for name, each in zip(network.expert_names, decoded, strict=True)}
        if training is not None:
            output: ICMoEOutput = training(image)
            maps["embeddings"] = {"semantic": output.embeddings[0]}
        for depth, by_expert in maps.items():
            for name, one in by_expert.items():
                points = _points(one.float().cpu(), window.label, num_classes, per_class, [seed, index])
                drawn.setdefault(depth, {}).setdefault(name, []).append(points)
    return {
        depth: {name: Points(*map(np.concatenate, zip(*parts, strict=True))) for name, parts in by_expert.items()}
        for depth, by_expert in drawn.items()
    }


def flatten(points: Points, *, seed: int = 0) -> np.ndarray:
    """Project points to a plane by t-SNE.

    Args:
        points: At least 4 points.
        seed: Seed of t-SNE.

    Returns:
        Coordinates, (n, 2), float32.
    """
    perplexity = min(30.0, (len(points.classes) - 1) / 3)
    spread = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=seed)
    return np.asarray(spread.fit_transform(points.features.astype(np.float32)))


def similarity(points: Points, *, seed: int = 0) -> dict[str, Any] | None:
    """Compute the cosine similarity of pairs of points within a class, and between foreground and background.

    Args:
        points: The points.
        seed: Seed for drawing the points to compare; of each class at most 400 are.

    Returns:
        `foreground`, `background` and `between`, the cosines (arrays) of the pairs of one foreground class, of two
        background points, and of a foreground with a background point; `means` of the three; `separation`, the mean of
        the first two means less the third; `auc`, the probability that a pair within a class is more alike than a pair
        of foreground and background. None if foreground or background has fewer than 5 points.
    """
    rng = np.random.default_rng(seed)
    taken = np.concatenate(
        [rng.permutation(np.flatnonzero(points.classes == c))[:_MOST_PER_CLASS] for c in np.unique(points.classes)]
    )
    classes, features = points.classes[taken], points.features[taken].astype(np.float64)
    if min((classes == 0).sum(), (classes > 0).sum()) < _LEAST_PER_CLASS:
        return None
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(len(taken), k=1)
    cosines = np.einsum("nd,md->nm", unit, unit)[first, second]
    a, b = classes[first], classes[second]
    groups = {
        "foreground": cosines[(a == b) & (a > 0)],
        "background": cosines[(a == b) & (a == 0)],
        "between": cosines[(a == 0) != (b == 0)],
    }
    means = {name: round(float(group.mean()), 6) for name, group in groups.items()}
    within = np.concatenate([groups["foreground"], groups["background"]])
    wins = float(mannwhitneyu(within, groups["between"]).statistic) / (len(within) * len(groups["between"]))
    separation = (means["foreground"] + means["background"]) / 2 - means["between"]
    return {**groups, "means": means, "separation": round(separation, 6), "auc": round(wins, 6)}


def _points(one: Tensor, label: Tensor, num_classes: int, per_class: int, seed: Sequence[int]) -> Points:
    """Draw cells of each class from a feature map (D, h, w), whose classes are those of a label (H, W)."""
    h, w = one.shape[1:]
    classes = pure_classes(label, (h, w), num_classes).flatten().numpy()
    rng = np.random.default_rng(seed)
    cells = np.concatenate([rng.permutation(np.flatnonzero(classes == c))[:per_class] for c in range(num_classes)])
    return Points(one.flatten(1).T.numpy()[cells], classes[cells])


def pure_classes(label: Tensor, size: tuple[int, int], num_classes: int) -> Tensor:
    """Return the class of every cell of a feature map: the one that all pixels of the cell have, else `NO_CLASS`.

    Args:
        label: Class numbers, (H, W).
        size: Size of the feature map, (h, w).
        num_classes: Number of classes.

    Returns:
        Class numbers of the cells, (h, w).
    """
    one_hot = torch.stack([label == c for c in range(num_classes)]).float()
    share, cell_class = F.adaptive_avg_pool2d(one_hot[None], size)[0].max(dim=0)
    return torch.where(share > 1 - 1e-6, cell_class, NO_CLASS)


def _in_training(network: ICMoE) -> ICMoE:
    """Return a copy in training mode, so that it returns an `ICMoEOutput`; batch normalisation stays in eval mode."""
    copied = copy.deepcopy(network).train()
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return copied
