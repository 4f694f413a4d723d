"""Test on computer-made phantoms of known ambiguity: does the experts' disagreement rise with the ambiguity?

There are two families of phantoms. In a family the same few lesions are drawn repeatedly, and only one number, the
level, changes:

- *rim*: the rim is the outer third of the lesion's depth, and the level r is how much of the lesion it shows. At r = 0
  the rim looks like the surroundings (the visible border is the core's), at r = 1 like the lesion (the visible border
  is the outer one); at r = 0.5 both borders are plausible. The known ambiguity is 4 r (1 - r);
- *softness*: the level is the width of the border as a factor of its usual width. The known ambiguity is this factor.

Three measures are averaged over the *zone*, the pixels at which the truth is open (the rim; for a soft border also a
band of the same width outside the lesion):

- `disagreement` of the experts;
- `vote_entropy`, -sum_e w_e log w_e / log E of the votes w;
- `uncertainty`, -sum p log p / log max(K, 2) of the voted probability p.

Letters: E experts; K output channels; H W phantom.
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
    """Segment phantoms of known ambiguity as an evaluation segments its cases, and measure the experts' disagreement.

    Args:
        network: The network to test.
        inferer: The evaluation's voting inferer; its output must include the experts' probabilities and the votes.
        preprocessing: The evaluation's preprocessing.
        postprocessing: The evaluation's postprocessing, with `SplitVotesd`.
        look: Kind of image that the phantoms imitate, one of `LOOKS`: the one closest to the training images.
        num_phantoms: Number of lesions.
        seed: Seed of all random numbers.
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
        """Write the phantoms, segment them and summarise the measures.

        Args:
            folder: Folder to write the phantoms to.

        Returns:
            The summary that `summarise` returns; and, by family, the pictures of the first phantom at every level, each
            with `image` (H, W, 3) in 0..255, the `probability` of the foreground (H, W) and the `disagreement` (H, W).
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
    """Write the phantoms as PNG files, and return them as cases.

    The images are written to `images/` and the masks to `masks/` (0: background; 1: lesion up to its outer border).

    Args:
        folder: Folder to write to.
        look: Kind of image that the phantoms imitate, one of `LOOKS`.
        num_phantoms: Number of lesions, each drawn at every level of both families.
        seed: Seed of all random numbers.

    Returns:
        One case per lesion, family and level, each with the paths `image` and `label`, `name`, `phantom` (number of the
        lesion, from 0), `family`, `level`, `ambiguity` and `zone`, bool (H, W).

    Raises:
        InputError: If `look` is not in `LOOKS`, `num_phantoms` is below 1, or the folder cannot be written.

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
    """Return the three measures of a segmented phantom, averaged over its zone.

    Args:
        zone: bool, (H, W).
        item: The phantom after `SplitVotesd`, with `probability` (K, H, W), `expert_probabilities` (E, K, H, W) and
            `votes` (E, H, W).

    Returns:
        The means by name (`MEASURES`); for a single expert only `uncertainty`.
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
    """Summarise, for each family, the measures by level and their correlation with the known ambiguity.

    Args:
        cases: The cases of `make_ambiguous_set`, each with the result of `measure` added as `measured`.

    Returns:
        By family: `num_pictures`; `num_phantoms`; `levels`, each with `level`, `ambiguity` and, by measure, `mean` and
        the quartiles `low` and `high` over the phantoms; `spearman`, by measure Spearman's correlation with the known
        ambiguity: `pooled` over all pictures, and `within_phantoms`, the mean of the correlations within each phantom.
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
    # a lesion is drawn from the same random numbers at every level, so that nothing but the level differs
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
