"""Why an image is suggested: the figures of every image of the pool, and the chosen ones' in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Figures(NamedTuple):
    """Hold what a run says of one image of the pool.

    Attributes:
        name: Its name.
        disagreement: 1 - the mean Dice overlap of what any two experts found, 0..1.
        predicted_dice: The Dice to be expected of its mask; None without a calibration, or where it says nothing.
        out_of_distribution: Whether it is unlike what the model was trained on; None where nothing tells.
    """

    name: str
    disagreement: float
    predicted_dice: float | None = None
    out_of_distribution: bool | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Figures:
        """Take the figures of a case's record."""
        agreement = float(record["reliability"]["expert_agreement"])
        dice = record.get("predicted_dice")
        unlike = record.get("out_of_distribution")
        return cls(str(record["name"]), 1 - agreement, None if dice is None else float(dice), unlike)

    @property
    def doubt(self) -> float:
        """How doubtful its mask is, 0..1: the disagreement, or its mean with 1 - predicted Dice where that is known."""
        if self.predicted_dice is None:
            return self.disagreement
        return (self.disagreement + 1 - self.predicted_dice) / 2


def percentile(value: float, values: Sequence[float] | np.ndarray) -> float:
    """Return the share of values that are below one, in per cent."""
    return float(100 * np.mean(np.asarray(values) < value))


def told(image: Mapping[str, Any]) -> list[str]:
    """Return the reasons for an image in sentences.

    Args:
        image: Its entry in `suggestions.json`.
    """
    sentences = []
    if image["out_of_distribution"]:
        sentences.append("It is unlike what the model was trained on.")
    if image["among_all"] is not None:
        sentences.append(
            f"Its like are {100 * image['among_all']:.0f} % of all images, of which doubtful ones count more, and "
            f"{100 * image['among_labelled']:.0f} % of what is labelled or above."
        )
    if image["distance"] is not None:
        sentences.append(
            f"Its distance from the nearest labelled image is {image['distance']:.2f}, more than that of "
            f"{image['distance_percentile']:.0f} % of the pool."
        )
    sentences.append(
        f"Any two experts' masks overlap by a Dice of {1 - image['disagreement']:.2f} on average, less than in "
        f"{image['disagreement_percentile']:.0f} % of the pool."
    )
    if image["predicted_dice"] is not None:
        sentences.append(f"The draft's Dice is expected to be {image['predicted_dice']:.2f}.")
    if image["is_empty"]:
        sentences.append("Nothing was found in it: the draft is empty.")
    return sentences
