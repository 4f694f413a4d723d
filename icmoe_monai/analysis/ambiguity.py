"""Phantoms whose ambiguity is known, and whether what the experts say rises with it.

Two families, each of the same few lesions drawn again and again with nothing changed but one number:

- *rim*: a third of the lesion's depth shows between nothing (the border is the core's) and all of the lesion (it is the
  outer one). Half way both borders are plausible; the known ambiguity is 4 r (1 - r) of the rim's share r;
- *softness*: the border is drawn sharper or wider; the known ambiguity is the width, as a factor of its usual one.

Measured are means over the *zone* in which the truth is open (the rim; around a soft border as wide a band on both
sides): the experts' `disagreement`, the `vote_entropy` and the voted probability's `uncertainty`, -sum p log p / log
max(K, 2). Letters: E experts; K output channels; H W phantom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils.type_conversion import convert_to_tensor
from PIL import Image
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]
from torch import Tensor, nn

from icmoe_monai.data.phantoms import core_of, draw_dermoscopy, draw_ultrasound
from icmoe_monai.errors import InputError
from icmoe_monai.networks.voting import confidence, disagreement
from icmoe_monai.transforms.vote_features import foreground
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.utils.statistics import rank_correlation, rounded

LOOKS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "dermoscopy": draw_dermoscopy,
    "ultrasound": draw_ultrasound,
}
LEVELS = {"rim": (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), "softness": (0.25, 0.5, 1.0, 2.0, 4.0)}
MEASURES = ("disagreement", "vote_entropy", "uncertainty")
_SHAPE = (200, 240)


class AmbiguityTest:
    """Segment phantoms of known ambiguity as an evaluation does its cases.

    Args:
        network: The network.
        inferer: The evaluation's voting inferer, with experts.
        preprocessing: The evaluation's.
        postprocessing: The evaluation's, with `SplitVotesd`.
        look: One of `LOOKS`: the one that is like what the network was trained for.
        num_phantoms: How many lesions.
        seed: Of everything random.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        inferer: Callable[..., Tensor],
        preprocessing: Callable[[Any], Any],
        postprocessing: Callable[[Any], Any],
        look: str = "dermoscopy",
        num_phantoms: int = 8,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.inferer = inferer
        self.preprocessing = preprocessing
        self.postprocessing = postprocessing
        self.look = look
        self.num_phantoms = num_phantoms
        self.seed = seed

    @torch.no_grad()
    def run(self, folder: str | Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """Write the phantoms, segment them and measure.

        Args:
            folder: Where the phantoms are written.

        Returns:
            What `summarise` makes of them, and by family the pictures of the first phantom at every level: `image`
            (H, W, 3), the `probability` of the foreground and the `disagreement`, (H, W).
        """
        self.network.eval()
        device = next(self.network.parameters()).device
        cases = make_ambiguous_set(folder, look=self.look, num_phantoms=self.num_phantoms, seed=self.seed)
        pictures: dict[str, list[dict[str, Any]]] = {family: [] for family in LEVELS}
        for case in cases:
            item = self.preprocessing({key: case[key] for key in ("image", "label", "name")})
            item["pred"] = self.inferer(item["image"][None].to(device), self.network)[0].cpu()
            item = self.postprocessing(item)
            case["measured"] = measure(case["zone"], item)
            if case["phantom"] == 0:
                voted, experts = (torch.as_tensor(item[key]) for key in ("probability", "expert_probabilities"))
                differing = disagreement(experts[None])[0]
                maps = {"probability": foreground(voted).numpy(), "disagreement": differing.numpy()}
                pictures[case["family"]].append({"image": np.asarray(Image.open(case["image"])), **maps})
        return summarise(cases), pictures


def make_ambiguous_set(
    folder: str | Path, *, look: str = "dermoscopy", num_phantoms: int = 8, seed: int = 0
) -> list[dict[str, Any]]:
    """Write the phantoms, `images/` and `masks/` (0, and 1 up to the outer border), and return them as cases.

    Args:
        folder: Where to.
        look: One of `LOOKS`.
        num_phantoms: How many lesions, each drawn at every level of both families.
        seed: Of everything random.

    Returns:
        Cases with `image`, `label`, `name`, `phantom`, `family`, `level`, `ambiguity` and the `zone`, bool (H, W).

    Raises:
        InputError: If there is no such look, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cases = make_ambiguous_set(folder, num_phantoms=1)
        >>> len(cases), cases[3]["name"], cases[3]["ambiguity"]
        (12, 'rim_0.5_000', 1.0)
    """
    if look not in LOOKS:
        raise InputError(f"look must be one of {', '.join(LOOKS)}, got {look!r}.")
    if num_phantoms < 1:
        raise InputError(f"num_phantoms must be at least 1, got {num_phantoms}.")
    return [
        _write(Path(folder), family, level, index, LOOKS[look], [seed, index])
        for family, levels in LEVELS.items()
        for index in range(num_phantoms)
        for level in levels
    ]


def measure(zone: np.ndarray, item: Mapping[str, Any]) -> dict[str, float]:
    """Return the means over a phantom's zone; without a second expert only the uncertainty.

    Args:
        zone: bool, (H, W).
        item: The phantom gone through `SplitVotesd`: `probability` (K, H, W), `expert_probabilities` (E, K, H, W) and
            `votes` (E, H, W).
    """
    keys = ("probability", "expert_probabilities", "votes")
    voted, experts, votes = (convert_to_tensor(item[key], track_meta=False, device="cpu").float() for key in keys)
    inside = torch.from_numpy(zone)
    measured = {"uncertainty": float(1 - confidence(voted[None, None])[0, 0][inside].mean())}
    if len(votes) == 1:
        return measured
    entropy = torch.special.entr(votes).sum(0) / log(len(votes))
    differing = disagreement(experts[None])[0]
    return {
        "disagreement": float(differing[inside].mean()),
        "vote_entropy": float(entropy[inside].mean()),
        **measured,
    }


def summarise(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return, by family, means by level and Spearman's correlation of the known ambiguity with each measure.

    Args:
        cases: Those of `make_ambiguous_set`, each with its `measured`.

    Returns:
        By family: `levels`, each with `level`, `ambiguity` and `mean`, `low` and `high` (quartiles over the phantoms)
        by measure; `spearman`, by measure: `pooled` over all pictures, and `within_phantoms`, the mean over phantoms.
    """
    return {family: _summarise_family([case for case in cases if case["family"] == family]) for family in LEVELS}


def _summarise_family(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    measures = [name for name in MEASURES if name in cases[0]["measured"]]
    levels = list(dict.fromkeys((case["level"], case["ambiguity"]) for case in cases))
    phantoms = list(dict.fromkeys(case["phantom"] for case in cases))
    entries = []
    for level, ambiguity in levels:
        column = {name: [c["measured"][name] for c in cases if c["level"] == level] for name in measures}
        entry: dict[str, Any] = {"level": level, "ambiguity": ambiguity}
        entry["mean"] = {name: rounded(np.mean(values)) for name, values in column.items()}
        for key, quartile in (("low", 25), ("high", 75)):
            entry[key] = {name: rounded(np.percentile(values, quartile)) for name, values in column.items()}
        entries.append(entry)
    spearman = {}
    for name in measures:
        within = [
            rho
            for phantom in phantoms
            if (rho := _rho([c for c in cases if c["phantom"] == phantom], name)) is not None
        ]
        spearman[name] = {"pooled": _rho(cases, name), "within_phantoms": rounded(np.mean(within)) if within else None}
    return {"num_pictures": len(cases), "num_phantoms": len(phantoms), "levels": entries, "spearman": spearman}


def _rho(cases: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = np.array([case["ambiguity"] for case in cases])
    rho = rank_correlation(known, np.array([case["measured"][name] for case in cases]))
    return None if rho is None else rounded(rho)


def _write(
    folder: Path, family: str, level: float, index: int, draw: Callable[..., Any], seed: Sequence[int]
) -> dict[str, Any]:
    # a lesion's stream of random numbers is the same at every level, so that nothing but the level differs
    image, mask = draw(np.random.default_rng(seed), _SHAPE, **{family: level})
    name = f"{family}_{level:g}_{index:03d}"
    paths = {"image": folder / "images" / f"{name}.png", "label": folder / "masks" / f"{name}.png"}
    for path, pixels in zip(paths.values(), (image, mask.astype(np.uint8)), strict=True):
        _save(path, pixels)
    return {
        **{key: str(path) for key, path in paths.items()},
        "name": name,
        "phantom": index,
        "family": family,
        "level": level,
        "ambiguity": round(4 * level * (1 - level), 6) if family == "rim" else level,
        "zone": _zone(mask, family),
    }


def _zone(mask: np.ndarray, family: str) -> np.ndarray:
    rim = mask & ~core_of(mask)
    if family == "rim":
        return rim
    return rim | (~mask & (distance_transform_edt(~mask) <= distance_transform_edt(mask)[rim].max(initial=1)))


def _save(path: Path, pixels: np.ndarray) -> None:
    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary))
