"""Which pack of experts knows an image: the one whose training images it is least unlike, or none.

All images are looked at by the packs' frozen parts alone, before any pack runs. The slices of a volume are judged
together, by the mean of their scores.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_csv

FILE = "experts.csv"
_logger = logging.getLogger(__name__)


class PackChoice:
    """Choose a pack for each image by the packs' out-of-distribution scores.

    Args:
        judges: The packs' calibrations by name, each with an out-of-distribution score.

    Raises:
        InputError: If a calibration has no such score.
    """

    def __init__(self, judges: Mapping[str, Any]) -> None:
        without = [name for name, judge in judges.items() if judge.ood is None]
        if without:
            reason = judges[without[0]].reason or "The calibration is of an earlier version."
            raise InputError(
                "--experts auto chooses by how unlike the training's an image is, which no calibration tells of the "
                f"experts {without[0]}. {reason} Change that, or name the experts."
            )
        self.judges = judges

    def choose(
        self, cases: Sequence[Mapping[str, Any]], batches: Any, network: Any, inferer: Any, device: torch.device
    ) -> dict[str, dict[str, Any]]:
        """Look at images and choose.

        Args:
            cases: The images, each with its `name` and `group`.
            batches: What the network sees of them, one image each.
            network: A pack's network, whose frozen parts are all packs'.
            inferer: The inferer that cuts images into windows.
            device: Where the network runs.

        Returns:
            By the images' names, rows with `name`, `experts`, the chosen pack or None, and each pack's score; an image
            that cannot be read has no scores, and is the first pack's, whose report says so.
        """
        seen = {str(batch["name"][0]): self._scores(batch, network, inferer, device) for batch in batches}
        of_group: dict[str, list[dict[str, float]]] = {}
        groups = {case["name"]: case.get("group") or case["name"] for case in cases}
        for name, scores in seen.items():
            of_group.setdefault(groups[name], []).extend([scores] if scores else [])
        rows = {}
        for name in seen:
            found = of_group[groups[name]]
            scores = {pack: float(np.mean([one[pack] for one in found])) for pack in self.judges} if found else {}
            rows[name] = {"name": name, "experts": self._chosen(scores), **{f"{p}_score": s for p, s in scores.items()}}
        return rows

    def _scores(self, batch: Mapping[str, Any], network: Any, inferer: Any, device: torch.device) -> dict[str, float]:
        if (batch.get("failure") or [""])[0]:
            return {}
        with torch.no_grad():
            features = inferer.look(batch[CommonKeys.IMAGE].to(device), network)
        if features is None:
            raise InputError("--experts auto needs networks with frozen parts, and these have none: name the experts.")
        windows = features[0].double().cpu().numpy()
        return {name: judge.judge(windows)["ood_score"] for name, judge in self.judges.items()}

    def _chosen(self, scores: Mapping[str, float]) -> str | None:
        if not scores:
            return next(iter(self.judges))
        best = min(scores, key=lambda name: scores[name])
        return best if scores[best] <= 1 else None


def tell_choice(rows: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write the choice to `experts.csv`, and log how many images each pack has; without images there is no such file.

    Args:
        rows: The rows of `PackChoice.choose`.
        folder: Folder of the results.

    Raises:
        InputError: If the file cannot be written.
    """
    if not rows:
        (folder / FILE).unlink(missing_ok=True)  # of an earlier run, with other images
        return
    write_csv(folder / FILE, [{**row, "experts": row["experts"] or "none"} for row in rows.values()])
    counts = Counter(row["experts"] for row in rows.values())
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=str) if name)
    _logger.info("Which experts know the %d images: %s. See %s.", len(rows), told or "none", folder / FILE)
    if counts[None]:
        _logger.warning(
            "%d images are unlike what any of the experts were trained on, and have no masks; the first: %s.",
            counts[None],
            next(name for name, row in rows.items() if row["experts"] is None),
        )
