"""MONAI Label's active-learning strategy, which hands out the image to label next by the score of `icmoe suggest`.

It follows `monailabel.interfaces.tasks.strategy.Strategy` of MONAI Label 0.8.5, which is imported when a strategy is
made: this package needs no MONAI Label.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from icmoe_monai.errors import InputError
from icmoe_monai.suggestion.looking import mean_features
from icmoe_monai.suggestion.ranking import rank_images
from icmoe_monai.suggestion.reasons import Figures

_DESCRIPTION = "Images whose labels tell the most of the pool (IC-MoE)"
_logger = logging.getLogger(__name__)


def label_strategy(predict: Any) -> Any:
    """Make a strategy for `init_strategies` of a MONAI Label app.

    The first request looks at all images of the datastore, which takes as long as their prediction; later ones at those
    that are new. For another checkpoint make another strategy.

    Args:
        predict: A `Predictor`, of the model that the labelled images have trained.

    Returns:
        An instance of MONAI Label's `Strategy`. Called with a request and a datastore, it returns `{"id": image,
        "score": score}`, or None where no image is without a label.

    Raises:
        ImportError: If MONAI Label is not installed.
    """
    from monailabel.interfaces.tasks.strategy import Strategy

    scores = _Scores(predict)

    class Suggest(Strategy):
        """Hand out the image to label next."""

        def __init__(self) -> None:
            super().__init__(_DESCRIPTION)

        def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
            """Return the image's id and score, or None."""
            chosen = request.get("label_tag"), request.get("labels")
            unlabelled = sorted(datastore.get_unlabeled_images(*chosen))
            return scores.best(unlabelled, sorted(datastore.get_labeled_images(*chosen)), datastore)

    return Suggest()


class _Scores:
    """Score a datastore's images, of which each is looked at once.

    Args:
        predict: The predictor.
    """

    def __init__(self, predict: Any) -> None:
        self.predict = predict
        self._features: dict[str, np.ndarray | None] = {}
        self._figures: dict[str, Figures] = {}

    def best(self, unlabelled: Sequence[str], labelled: Sequence[str], datastore: Any) -> dict[str, Any] | None:
        """Return the id and score of the image to label next; None if there is none that can be read.

        Args:
            unlabelled: Ids of the images without a label.
            labelled: Ids of the others.
            datastore: What tells where they are.
        """
        known = [seen for image in labelled if (seen := self._look(image, datastore)) is not None]
        pool = [image for image in unlabelled if self._predicted(image, datastore)]
        if not pool:
            return None
        features = np.stack([seen for image in pool if (seen := self._features[image]) is not None])
        doubts = [self._figures[image].doubt for image in pool]
        ranking = rank_images(features, np.stack(known) if known else None, doubts, number=1)
        return {"id": pool[ranking.places[0]], "score": ranking.scores[0]}

    def _predicted(self, image: str, datastore: Any) -> bool:
        """Take the figures of an image, and tell whether it can be used."""
        if self._look(image, datastore) is None:
            return False
        if image not in self._figures:
            found = self.predict(datastore.get_image_uri(image))
            self._figures[image] = Figures.of({"name": image, **found.measures})
        return True

    def _look(self, image: str, datastore: Any) -> np.ndarray | None:
        """Return the features of an image, or None if it cannot be used, which is told once."""
        if image not in self._features:
            try:
                item = self.predict.prepare(datastore.get_image_uri(image))
            except InputError as error:
                _logger.warning("%s is passed over: %s", image, error)
                self._features[image] = None
                return None
            with torch.no_grad():
                features = mean_features(item["image"].as_tensor()[None], self.predict.inferer, self.predict.network)
            if features is None:
                raise InputError("The strategy needs a network with frozen parts, and this one has none.")
            self._features[image] = features
        return self._features[image]
