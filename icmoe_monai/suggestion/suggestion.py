"""A suggestion: after an inference run over a pool, choose images of it, and write list, page and drafts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from monai.engines.evaluator import SupervisedEvaluator

from icmoe_monai.calibration.file import Calibration
from icmoe_monai.data.splits import shuffle_key
from icmoe_monai.errors import FailedCasesError, InputError
from icmoe_monai.inference.journal import CASE, Journal
from icmoe_monai.inference.run import run_missing
from icmoe_monai.suggestion.drafts import DRAFTS, IMAGES, MASKS, check_no_drafts, write_drafts
from icmoe_monai.suggestion.looking import FrozenLook, Labelled, digest_of_picture
from icmoe_monai.suggestion.page import render_suggestion
from icmoe_monai.suggestion.ranking import Ranking, rank_images
from icmoe_monai.suggestion.reasons import Figures, percentile
from icmoe_monai.utils.distributed import is_first
from icmoe_monai.utils.files import write_atomically, write_csv, write_json

VALUES, TABLE, PAGE = "suggestions.json", "suggestions.csv", "suggestions.html"
SUGGEST, DISAGREEMENT, PREDICTED_DICE, RANDOM = "suggest", "disagreement", "predicted_dice", "random"
_NOT_RANKED: dict[str, float | None] = dict.fromkeys(
    ("score", "among_all", "among_labelled", "distance", "distance_percentile")
)
ORDERS = (SUGGEST, DISAGREEMENT, PREDICTED_DICE, RANDOM)
_logger = logging.getLogger(__name__)


class Suggestion:
    """Choose the images of a pool to label next, and write why, and the model's masks as drafts.

    Args:
        journal: Journal of the inference run over the pool.
        cases: The images of the pool to choose from.
        number: How many to choose.
        by: One of `ORDERS`: what to choose by.
        labelled: The labelled images, as `find_labelled` lists them; None: those that the calibration was fitted with,
            by its prototypes.
        calibration: The calibration that the run applies.
        look: Returns the pooled features of cases, once the network has its weights.
        labels: Names of the foreground classes.
        seed: Seed of what is drawn at random.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        cases: Sequence[Mapping[str, Any]],
        number: int,
        by: str,
        labelled: Labelled | None,
        calibration: Any,
        look: FrozenLook,
        labels: Sequence[str],
        seed: int = 0,
    ) -> None:
        self.journal = journal
        self.output_dir = Path(journal.output_dir)
        self.cases = {case["name"]: case for case in cases}
        self.number, self.by, self.seed = number, by, seed
        self.labelled = labelled
        self.calibration = calibration
        self.labels = list(labels)
        self.look = look

    def check(self) -> None:
        """Check what can be checked before the run.

        Raises:
            InputError: If the folder holds drafts, there is nothing to choose by, or the run is of whole slides.
        """
        if not isinstance(self.calibration, Calibration):
            raise InputError("Images to label are chosen whole, not of slides: leave out --config inference_large.")
        check_no_drafts(self.output_dir)
        predicts = self.calibration.is_there and self.calibration.content["quality"]
        if self.by == PREDICTED_DICE and not predicts:
            raise InputError(
                "--by predicted_dice needs a calibration that predicts the Dice score: calibrate the weights first "
                "(icmoe calibrate DATA --checkpoint FILE), or choose by something else."
            )
        if self.by == SUGGEST and self.labelled is None and self.calibration.ood is None:
            _logger.warning(
                "Nothing tells which images are labelled already, so that only the pool's own variety counts: give "
                "--labelled DATASET, the set that the model was trained on."
            )

    def make(self) -> None:
        """Choose, and write all files.

        Raises:
            InputError: If no image of the pool could be segmented, or a file cannot be read or written.
        """
        records = {
            name: record
            for name, record in self.journal.records(CASE).items()
            if name in self.cases and record["status"] == "done"
        }
        if not records:
            raise InputError("No image of the pool could be segmented, so none is suggested; report.json says why.")
        figures = [Figures.of(records[name]) for name in self.cases if name in records]
        content, chosen = self._choose(figures)
        taken = () if self.labelled is None else self.labelled.stems
        drawn = write_drafts([self.cases[figure.name] for figure in chosen], records, self.output_dir, taken=taken)
        for image, (_, classes, stem) in zip(content["images"], drawn, strict=True):
            image |= {
                "is_empty": not classes.any(),
                "image": f"{DRAFTS}/{IMAGES}/{stem}.png",
                "mask": f"{DRAFTS}/{MASKS}/{stem}.png",
            }
        write_json(self.output_dir / VALUES, content)
        write_csv(self.output_dir / TABLE, content["images"])
        page = render_suggestion(content, [(picture, classes) for picture, classes, _ in drawn], self.labels)
        write_atomically(self.output_dir / PAGE, lambda path: path.write_bytes(page.encode()))
        _logger.info("%d of %d images are suggested: %s", len(chosen), len(figures), self.output_dir / PAGE)
        _logger.info("Correct the masks in %s, and train on them with what is labelled.", self.output_dir / DRAFTS)

    def _choose(self, figures: Sequence[Figures]) -> tuple[dict[str, Any], list[Figures]]:
        """Return the content of `suggestions.json`, as yet without the drafts, and the chosen images in its order."""
        num_known = 0
        if self.by == SUGGEST:
            figures, ranking, num_known = self._rank(figures)
            places, further = ranking.places, _further(ranking)
        else:
            ordered = order(figures, self.by, seed=self.seed)
            places = list(islice(self._without_doubles(ordered, figures), self.number))
            further = [dict(_NOT_RANKED, score=score_of(figures[place], self.by)) for place in places]
        disagreements = [figure.disagreement for figure in figures]
        images = [
            {
                "rank": rank,
                **figures[place]._asdict(),
                "disagreement_percentile": percentile(figures[place].disagreement, disagreements),
                **of_rank,
            }
            for rank, (place, of_rank) in enumerate(zip(places, further, strict=True), start=1)
        ]
        content = {
            "by": self.by,
            "num_pool": len(figures),
            "num_known": num_known,
            "model": self.journal.model,
            "calibration": self.calibration.file,
            "images": images,
        }
        return content, [figures[place] for place in places]

    def _without_doubles(self, places: Sequence[int], figures: Sequence[Figures]) -> Iterator[int]:
        """Go through places, and pass over an image whose picture is, pixel for pixel, that of an earlier one."""
        seen = set()
        for place in places:
            case = self.cases[figures[place].name]
            digest = digest_of_picture(case["source"], case["frame"])
            if digest not in seen:
                seen.add(digest)
                yield place

    def _rank(self, figures: Sequence[Figures]) -> tuple[list[Figures], Ranking, int]:
        """Return the images whose features are known, their ranking, and how many images are known."""
        _logger.info("Looking at how unlike the %d images are.", len(figures))
        seen = self.look([self.cases[figure.name] for figure in figures])
        figures = [figure for figure in figures if figure.name in seen]
        features = np.stack([seen[figure.name] for figure in figures])
        known = None if self.calibration.ood is None else self.calibration.ood.prototypes.centres
        if self.labelled is not None:
            of_labelled = self.look(self.labelled.training)
            if not of_labelled:
                raise InputError("None of the labelled training images can be read: correct --labelled.")
            known = np.stack(list(of_labelled.values()))
        doubts = [figure.doubt for figure in figures]
        return figures, rank_images(features, known, doubts, number=self.number), 0 if known is None else len(known)


def _further(ranking: Ranking) -> list[dict[str, float | None]]:
    """Return what a ranking says of each image that it has chosen; of distances only where something is known."""
    columns = zip(ranking.places, ranking.scores, ranking.among_all, ranking.among_labelled, strict=True)
    rows = []
    for place, *values in columns:
        distance = float(ranking.distances[place])
        ends = (distance, percentile(distance, ranking.distances)) if np.isfinite(distance) else (None, None)
        rows.append(dict(zip(_NOT_RANKED, (*values, *ends), strict=True)))
    return rows


def order(figures: Sequence[Figures], by: str, *, seed: int = 0) -> list[int]:
    """Return the places of all images by one figure alone, the one to label first first; ties by name.

    Args:
        figures: The images' figures.
        by: One of `ORDERS` but suggest.
        seed: Seed of a random order.
    """
    if by == RANDOM:
        return sorted(range(len(figures)), key=lambda place: shuffle_key(figures[place].name, seed))
    return sorted(range(len(figures)), key=lambda place: (-(score_of(figures[place], by) or 0), figures[place].name))


def score_of(figure: Figures, by: str) -> float | None:
    """Return the score of an image by one figure alone; an image of which no Dice is predicted has the highest."""
    if by == DISAGREEMENT:
        return figure.disagreement
    if by == PREDICTED_DICE:
        return 1.0 if figure.predicted_dice is None else 1 - figure.predicted_dice
    return None


def run_and_suggest(evaluator: SupervisedEvaluator, suggestion: Suggestion) -> None:
    """Segment the missing images of a pool, and make the suggestion, also where some of them cannot be used.

    Args:
        evaluator: The evaluator, built over the missing cases.
        suggestion: The suggestion.

    Raises:
        FailedCasesError: If images could not be used, once the suggestion is made.
    """
    failed: FailedCasesError | None = None
    try:
        run_missing(evaluator)
    except FailedCasesError as error:
        failed = error
    if is_first():
        suggestion.make()
    if failed is not None:
        raise failed
