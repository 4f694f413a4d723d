"""Scores by the official protocols of public data sets (ISIC 2017 and 2018, BUSI, GlaS), in addition to `CaseMetrics`.

`ProtocolMetrics` writes `protocol.json` and, by case, `protocol.csv`. The protocols:

- `isic2017` and `isic2018`: for each image the Jaccard index, and the thresholded Jaccard index, which is 0 below 0.65;
  both are 1 if label and prediction are empty. The mean of the first ranks the challenge of 2017, the mean of the
  second that of 2018.
- `busi`: Dice and Jaccard of the images with a lesion; for the normal images (empty label) the *specificity*, which is
  the share of the images in which nothing is predicted, and the mean share of the image that is predicted.
- `glas`: object F1, object Dice and object Hausdorff distance (`objects`) of test A, of test B and of all images, both
  over all objects of a part together, as in the challenge, and as means over the images.

The objects of a label (GlaS) are read from its file if this numbers the objects, as the files of the archive do; else
from `instances/STEM.*` beside the folder of the masks. The objects of a prediction are its connected components.

Intervals are 95% percentile bootstrap intervals over the images, or over groups of images (patients) where these are
known; null for a single image or group.

Letters: E experts; H W image.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from icmoe_monai.data.releases import OFFICIAL, find_part
from icmoe_monai.data.splits import checksum
from icmoe_monai.errors import InputError
from icmoe_monai.evaluation.objects import ObjectScores, ObjectSums, compare_objects, label_objects, object_scores
from icmoe_monai.imageio.read import read_objects
from icmoe_monai.transforms.votes import EXPERT_NAMES, voting_methods
from icmoe_monai.utils.distributed import gathered, is_first
from icmoe_monai.utils.engines import CaseHandler, split_items
from icmoe_monai.utils.files import write_csv, write_json
from icmoe_monai.utils.statistics import bootstrap_interval, count_groups, rounded

JACCARD_THRESHOLD = 0.65
_RANKING = {"isic2017": "jaccard", "isic2018": "thresholded_jaccard"}
_SCORES = {  # name of the mean: its column, by group
    "all": {"jaccard": "jaccard", "thresholded_jaccard": "thresholded_jaccard"},
    "lesions": {"dice": "dice", "jaccard": "jaccard"},
    "normals": {"specificity": "nothing_predicted", "predicted_share": "predicted_share"},
}
_GLAS_PART = re.compile(r"(test[AB])_\d+")

Row = dict[str, float]


class ProtocolMetrics(CaseHandler):
    """Handler: score every case and method by the protocol of a public data set.

    Writes `protocol.json` and `protocol.csv`. Needs `SplitVotesd` in the evaluator's postprocessing and a label in
    every item, as `CaseMetrics` does; in the list of handlers it belongs after `CaseMetrics`. All classes above 0 are
    foreground. With several processes, the first one writes the scores of all.

    `protocol.json`: `protocol`; `ranking`, the score by which the challenge ranks (ISIC), or null; `cases`, by group of
    images: their `number`, the `sha256` of their names, `part`, the part of the official release that consists of these
    images, if there is one, and `num_groups`, the number of groups such as patients, or null; `methods`, by method and
    group of images: scores with `mean` and `interval` (GlaS: `pooled`, `interval`, `mean_of_images`); `settings`.

    Args:
        output_dir: Folder of the two files.
        protocol: isic2017, isic2018, busi or glas.
        expert_names: The E names, as given to `SplitVotesd`.
        min_object_pixels: Predicted objects with fewer pixels do not count (GlaS).
        num_bootstrap: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If the protocol is unknown, or the objects of a case's label cannot be read.

    Example:
        >>> import json, tempfile, torch
        >>> from icmoe_monai.transforms.votes import SplitVotesd
        >>> split = SplitVotesd(expert_names=("only",))
        >>> pred = torch.tensor([[[0.9, 0.9]], [[0.9, 0.9]], [[1.0, 1.0]]])
        >>> item = split({"pred": pred, "label": torch.tensor([[[1, 0]]]), "name": "a"})
        >>> evaluator = Engine(lambda engine, batch: [batch])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ProtocolMetrics(output_dir=folder, protocol="isic2018", expert_names=("only",)).attach(evaluator)
        ...     state = evaluator.run([item])
        ...     json.loads(Path(folder, "protocol.json").read_text())["methods"]["voted"]["all"]["jaccard"]["mean"]
        0.5
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        protocol: str,
        expert_names: Sequence[str] = EXPERT_NAMES,
        min_object_pixels: int = 1,
        num_bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        if protocol not in OFFICIAL:
            raise InputError(f"protocol must be none or one of {', '.join(OFFICIAL)}, got {protocol!r}.")
        self.output_dir = Path(output_dir)
        self.protocol = protocol
        self.methods = voting_methods(expert_names)
        self.min_object_pixels = min_object_pixels
        self.num_bootstrap = num_bootstrap
        self.seed = seed
        self._names: list[str] = []
        self._patients: list[str | None] = []
        self._rows: dict[str, list[Row]] = {}

    def started(self, engine: Engine) -> None:
        """Clear the results of an earlier run."""
        self._names, self._patients, self._rows = [], [], {method: [] for method in self.methods}

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases of one iteration."""
        for item in split_items(engine):
            label = _mask(item["label"])
            objects = _read_label_objects(item, tuple(label.shape)) if self.protocol == "glas" else None
            self._names.append(str(item.get("name", f"case {len(self._names) + 1}")))
            self._patients.append(item.get("group"))
            for method in self.methods:
                predicted = _mask(item[method])
                row = _mask_row(predicted, label) if objects is None else self._object_row(predicted, objects)
                self._rows[method].append(row)

    def completed(self, engine: Engine) -> None:
        """Gather the scores of all processes, write the files and log the scores of the vote."""
        self._names, self._patients = gathered(self._names), gathered(self._patients)
        self._rows = {method: gathered(rows) for method, rows in self._rows.items()}
        if is_first():
            self._write()

    def _write(self) -> None:
        groups = self._groups()
        methods = {
            method: {group: self._summary(group, rows, chosen) for group, chosen in groups.items()}
            for method, rows in self._rows.items()
        }
        settings = {name: getattr(self, name) for name in ("min_object_pixels", "num_bootstrap", "seed")}
        content = {
            "protocol": self.protocol,
            "ranking": _RANKING.get(self.protocol),
            "cases": {group: self._cases(chosen) for group, chosen in groups.items()},
            "methods": methods,
            "settings": settings,
        }
        write_csv(self.output_dir / "protocol.csv", list(self._lines()))
        write_json(self.output_dir / "protocol.json", content)
        for group, scores in methods["voted"].items():
            told = ", ".join(f"{name} {next(iter(score.values()))}" for name, score in scores.items())
            logging.getLogger(__name__).info("%s, %s (%d images): %s", self.protocol, group, len(groups[group]), told)

    def _object_row(self, predicted: Tensor, objects: np.ndarray) -> Row:
        sums = compare_objects(label_objects(predicted.numpy(), min_pixels=self.min_object_pixels), objects)
        return {**object_scores([sums])._asdict(), **sums._asdict()}

    def _groups(self) -> dict[str, list[int]]:
        """Return the indices of the images of each group."""
        everything = range(len(self._names))
        if self.protocol == "busi":
            has_lesion = [row["label_share"] > 0 for row in self._rows["voted"]]
            return {
                "lesions": [i for i in everything if has_lesion[i]],
                "normals": [i for i in everything if not has_lesion[i]],
            }
        groups: dict[str, list[int]] = {}
        if self.protocol == "glas":
            parts = [match and match[1] for match in map(_GLAS_PART.fullmatch, self._names)]
            groups = {part: [i for i in everything if parts[i] == part] for part in ("testA", "testB") if part in parts}
        return {**groups, "all": list(everything)}

    def _cases(self, chosen: Sequence[int]) -> dict[str, Any]:
        names = [self._names[i] for i in chosen]
        num_groups = count_groups([self._patients[i] for i in chosen])
        part = find_part(self.protocol, names)
        return {"number": len(names), "sha256": checksum(names), "part": part, "num_groups": num_groups}

    def _summary(self, group: str, rows: list[Row], chosen: Sequence[int]) -> dict[str, dict[str, Any]]:
        rows = [rows[i] for i in chosen]
        patients = [self._patients[i] for i in chosen]
        if self.protocol == "glas":
            return self._object_summary(rows, patients)
        columns = _SCORES[group].items()
        return {name: self._mean(np.array([row[column] for row in rows]), patients) for name, column in columns}

    def _mean(self, column: np.ndarray, patients: Sequence[str | None]) -> dict[str, Any]:
        mean = round(float(column.mean()), 6) if len(column) else None
        return {"mean": mean, "interval": self._interval(np.mean, column, patients)}

    def _object_summary(self, rows: list[Row], patients: Sequence[str | None]) -> dict[str, dict[str, Any]]:
        sums = np.array([[row[field] for field in ObjectSums._fields] for row in rows])
        summary = {}
        for k, name in enumerate(ObjectScores._fields):

            def pooled(chosen: np.ndarray, k: int = k) -> float:
                return object_scores([ObjectSums(*sums[chosen].sum(0).tolist())])[k]

            summary[name] = {
                "pooled": round(pooled(np.arange(len(rows))), 6),
                "interval": self._interval(pooled, np.arange(len(rows)), patients, vectorized=False),
                "mean_of_images": round(float(np.mean([row[name] for row in rows])), 6),
            }
        return summary

    def _interval(
        self,
        statistic: Callable[..., Any],
        column: np.ndarray,
        patients: Sequence[str | None],
        *,
        vectorized: bool = True,
    ) -> list[float] | None:
        ends = bootstrap_interval(
            statistic,
            column,
            num_samples=self.num_bootstrap,
            seed=self.seed,
            vectorized=vectorized,
            groups=patients,
        )
        return None if ends is None else [rounded(end) for end in ends]

    def _lines(self) -> Iterator[dict[str, Any]]:
        for i, name in enumerate(self._names):
            for method in self.methods:
                scores = {key: f"{value:.10g}" for key, value in self._rows[method][i].items()}
                yield {"case": name, "method": method, **scores}


def _mask(label_map: Any) -> Tensor:
    return convert_to_tensor(label_map, track_meta=False, device="cpu")[0] > 0


def _mask_row(predicted: Tensor, label: Tensor) -> Row:
    # not by MONAI, whose scores are float32: 13 / 20 is below the threshold of 0.65 there
    areas = int(predicted.sum()) + int(label.sum())
    shared = int((predicted & label).sum())
    jaccard = shared / (areas - shared) if areas else 1.0
    return {
        "dice": 2 * shared / areas if areas else 1.0,
        "jaccard": jaccard,
        "thresholded_jaccard": jaccard if jaccard >= JACCARD_THRESHOLD else 0.0,
        "label_share": float(label.double().mean()),
        "predicted_share": float(predicted.double().mean()),
        "nothing_predicted": float(not predicted.any()),
    }


def _read_label_objects(item: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Read the numbered objects (H, W) of a case's label."""
    path = Path(str(getattr(item["label"], "meta", {}).get("filename_or_obj")))
    if item.get("label_kind") != "instances":
        found = sorted((path.parent.parent / "instances").glob(f"{escape(path.stem)}.*"))
        if len(found) != 1:
            raise InputError(
                f"The protocol glas needs the numbered objects of {path} in a file instances/{path.stem}.* beside the "
                f"masks' folder, got {len(found)} files: add it, or evaluate with --protocol none."
            )
        path = found[0]
    objects = read_objects(str(path))
    if objects.shape != shape:
        raise InputError(
            f"{path} is {objects.shape[1]}x{objects.shape[0]}, its mask {shape[1]}x{shape[0]}: correct one."
        )
    return objects
