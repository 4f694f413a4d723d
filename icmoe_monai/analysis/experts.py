"""Analysis of each expert in an evaluation: its features, its share of the vote, and where it is right or wrong.

The handler `ExpertAnalysis` writes `analysis.json`, the page `analysis.html`, which contains all figures and loads
nothing from the internet, and the same figures as files in `figures/`. docs/analysis.md explains the figures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from matplotlib.figure import Figure
from PIL import Image

from icmoe_monai.analysis import figures as analysis_figures
from icmoe_monai.analysis import pictures as analysis_pictures
from icmoe_monai.analysis import pixels as pixel_analysis
from icmoe_monai.analysis.ambiguity import AmbiguityTest
from icmoe_monai.analysis.features import FeatureComparison
from icmoe_monai.analysis.page import render_analysis
from icmoe_monai.analysis.pixels import CasePixels, case_maps, look_at_pixels
from icmoe_monai.data.splits import take_evenly
from icmoe_monai.errors import InputError
from icmoe_monai.evaluation.votes import vote_statistics
from icmoe_monai.imageio.read import read_image
from icmoe_monai.transforms.votes import EXPERT_NAMES
from icmoe_monai.utils.distributed import check_one_process
from icmoe_monai.utils.engines import CaseHandler, split_items, versions
from icmoe_monai.utils.files import read_csv, without_folders, write_atomically, write_json

_PICTURE_SIDE = 320


class ExpertAnalysis(CaseHandler):
    """Handler: report what each expert contributes to the vote, over all cases of an evaluation.

    Needs `SplitVotesd` in the evaluator's postprocessing, a label in every case and batches of one case. The files are
    written after the last case. With a single expert, comparisons of experts are left out, and the page says so.

    Args:
        output_dir: Folder of the results.
        features: Compares the network's features with those of another network.
        ambiguity: Segments phantoms of known ambiguity.
        expert_names: The E names, as given to `SplitVotesd`.
        num_pictures: Number of cases to show.
        training_dir: Output folder of the training, whose `metrics.csv` is read; None: the page has no part on the
            training.
        dead_below: An expert whose load (share of the pixels at which it has the largest vote) is below this share
            counts as dead.
        seed: Seed for drawing the pixels whose votes are shown.
        bundle_info: Settings to note in the results, such as the checkpoint; absolute paths are cut to their last part.

    Raises:
        InputError: If a case has no label, the folder cannot be written, or `training_dir` holds no validated epochs.

    Example:
        >>> read_training(None)
        []
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        features: FeatureComparison,
        ambiguity: AmbiguityTest,
        expert_names: Sequence[str] = EXPERT_NAMES,
        num_pictures: int = 6,
        training_dir: str | None = None,
        dead_below: float = 0.1,
        seed: int = 0,
        bundle_info: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.features = features
        self.ambiguity = ambiguity
        self.expert_names = tuple(expert_names)
        self.num_pictures = num_pictures
        self.training = read_training(training_dir)
        self.dead_below = dead_below
        self.seed = seed
        self.settings = {"versions": versions(), "seed": seed, **without_folders(dict(bundle_info or {}))}
        self._cases: list[CasePixels] = []
        self._votes: list[dict[str, float]] = []
        self._shown: list[dict[str, Any]] = []
        self._chosen: set[int] = set()

    def started(self, engine: Engine) -> None:
        """Clear the results of an earlier run, and choose the cases to show.

        Raises:
            InputError: If there are several processes.
        """
        check_one_process("An analysis")
        num_cases = engine.state.epoch_length or 0
        self._cases, self._votes, self._shown = [], [], []
        self._chosen = set(take_evenly(range(num_cases), min(self.num_pictures, num_cases))[0])
        self.features.start(num_cases)

    def iteration_completed(self, engine: Engine) -> None:
        """Measure the cases of one iteration, and keep pictures of the chosen ones."""
        for item in split_items(engine):
            index = len(self._cases)
            if item.get("label") is None:
                raise InputError(f"{item['name']} has no label: analyse labelled cases only.")
            self._cases.append(look_at_pixels(item, seed=[self.seed, index]))
            self._votes.append(vote_statistics(item["expert_probabilities"], item["votes"], self.expert_names))
            self.features.add(index, item["image"], item["label"])
            if index in self._chosen:
                self._shown.append(_shown_case(item))

    def completed(self, engine: Engine) -> None:
        """Compare the features, segment the phantoms, and write all results."""
        logger = logging.getLogger(__name__)
        names = self.expert_names
        logger.info("Comparing features on %d windows.", len(self.features.windows))
        spread, before, after = self.features.compare()
        logger.info("Segmenting phantoms of known ambiguity.")
        ambiguity, phantoms = self.ambiguity.run(self.output_dir / "phantoms")
        votes = {key: round(float(np.mean([each[key] for each in self._votes])), 6) for key in self._votes[0]}
        loads = {name: votes[f"load_{name}"] for name in names}
        content = {
            "num_cases": len(self._cases),
            "experts": list(names),
            "before": self.features.before_name,
            "dead_below": self.dead_below,
            "dead_experts": [name for name, load in loads.items() if len(names) > 1 and load < self.dead_below],
            "votes": votes,
            **pixel_analysis.summarise(self._cases, names),
            "features": {
                key: {"before": _numbers(before.get(key)), "after": _numbers(found)} for key, found in after.items()
            },
            "ambiguity": {"look": self.ambiguity.look, **ambiguity},
            "training": self._summarise_training(),
            "settings": self.settings,
        }
        figures: dict[str, Figure] = {}
        if spread:
            figures["tsne"] = analysis_pictures.draw_spread(spread)
            titles = (self.features.before_name, "this network")
            figures["similarity"] = analysis_pictures.draw_similarity(before, after, titles)
        if len(names) > 1:
            figures["load"] = analysis_figures.draw_load(loads, self.dead_below)
            figures["regions"] = analysis_figures.draw_votes(self._cases, names)
            figures["pairs"] = analysis_figures.draw_pairs(content["pairs"], names)
            figures["positions"] = analysis_figures.draw_positions(self._cases, names)
            if self._shown:
                figures["wins"] = analysis_pictures.draw_wins(self._shown, names)
        columns = self._load_columns()
        if columns:
            figures["training"] = analysis_figures.draw_training(self.training, columns, self.dead_below)
        figures["ambiguity"] = analysis_pictures.draw_ambiguity(ambiguity, phantoms)
        self._write(content, {name: analysis_figures.to_png(figure) for name, figure in figures.items()})
        logger.info("The page: %s", self.output_dir / "analysis.html")

    def _load_columns(self) -> dict[str, str]:
        """Return the columns of the training's table that hold the experts' loads."""
        columns = {name: f"val_load_{name}" for name in self.expert_names}
        seen = {key for row in self.training for key in row}
        return {name: column for name, column in columns.items() if column in seen and len(columns) > 1}

    def _summarise_training(self) -> dict[str, Any] | None:
        columns = self._load_columns()
        if not columns:
            return None
        keys = ("epoch", "train_loss", "val_mean_dice", "val_vote_entropy", "val_disagreement", *columns.values())
        dead = {
            name: [int(row["epoch"]) for row in self.training if row.get(column, 1) < self.dead_below]
            for name, column in columns.items()
        }
        return {
            "dead_in_epochs": dead,
            "epochs": [{key: row[key] for key in keys if key in row} for row in self.training],
        }

    def _write(self, content: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        write_json(self.output_dir / "analysis.json", content)
        for name, png in pictures.items():
            path = self.output_dir / "figures" / f"{name}.png"
            write_atomically(path, lambda temporary, png=png: temporary.write_bytes(png))  # type: ignore[misc]
        page = render_analysis(content, pictures).encode()
        write_atomically(self.output_dir / "analysis.html", lambda temporary: temporary.write_bytes(page))


def read_training(training_dir: str | None) -> list[dict[str, float]]:
    """Read the validated epochs from the `metrics.csv` of a training.

    Args:
        training_dir: Output folder of the training; None: no epochs.

    Returns:
        The rows that have validation results, each with its numbers by column; empty cells are left out.

    Raises:
        InputError: If the folder has no `metrics.csv`, or this file has no validated epoch.
    """
    if training_dir is None:
        return []
    path = Path(training_dir) / "metrics.csv"
    if not path.is_file():
        raise InputError(f"{path} is not there: training_dir must be the output_dir of a training.")
    rows = [{key: float(value) for key, value in row.items() if value} for row in read_csv(path)]
    validated = [row for row in rows if any(key.startswith("val_") for key in row)]
    if not validated:
        raise InputError(f"{path} has no validated epoch: give the output_dir of a training that was validated.")
    return validated


def _numbers(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the summary numbers of a `similarity`, without its arrays of cosines."""
    return None if found is None else {key: found[key] for key in ("means", "separation", "auc")}


def _shown_case(item: Mapping[str, Any]) -> dict[str, Any]:
    decisions, _, label = case_maps(item, _PICTURE_SIDE)
    image = Image.fromarray(read_image(str(item["image"].meta["filename_or_obj"])).astype(np.uint8))
    picture = np.asarray(image.resize(label.shape[::-1], Image.Resampling.LANCZOS))
    return {"name": str(item["name"]), "image": picture, "label": label, "right": decisions == label}
