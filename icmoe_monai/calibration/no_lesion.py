"""Whether an image shows a lesion at all: a probability from the vote's features, and the threshold for saying no.

Fitted only where the validation images hold enough of both kinds; otherwise nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icmoe_monai.calibration.score import fit_score

NO_LESION_FEATURES = ("peak", "foreground_share", "soft_dice", "disagreement")
_FEWEST_OF_A_KIND = 5


def fit_no_lesion(
    features: Sequence[Mapping[str, float]], is_empty: Sequence[bool], *, seed: int = 0
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Fit the probability that an image shows no lesion, and the threshold for saying so.

    The threshold is the one with the largest sensitivity + specificity of the predictions of cases left out of the fit.

    Args:
        features: `vote_features` of each image.
        is_empty: Whether its label is empty.
        seed: Of the folds.

    Returns:
        The file's part, or None if there are too few images of a kind; and what is to be told of it. `sensitivity` is
        the share of images with a lesion that are not called lesion-free, `specificity` the share of those without that
        are, both of cases left out.
    """
    empty = np.asarray(is_empty, dtype=bool)
    counts = {"num_with_lesion": int((~empty).sum()), "num_lesion_free": int(empty.sum())}
    if min(counts.values()) < _FEWEST_OF_A_KIND:
        kinds = f"{counts['num_with_lesion']} with a lesion, {counts['num_lesion_free']} without"
        reason = f"At least {_FEWEST_OF_A_KIND} images of each kind are needed, and there are {kinds}: not fitted."
        return None, {"sensitivity": None, "specificity": None, **counts, "reason": reason}
    score, left_out = fit_score(features, empty.astype(float).tolist(), features=NO_LESION_FEATURES, seed=seed)
    levels = np.unique(left_out)
    thresholds = np.append((levels[1:] + levels[:-1]) / 2, 0.5)
    youden = [(left_out[empty] >= t).mean() + (left_out[~empty] < t).mean() for t in thresholds]
    threshold = float(thresholds[int(np.argmax(youden))])
    told = {
        "sensitivity": float((left_out[~empty] < threshold).mean()),
        "specificity": float((left_out[empty] >= threshold).mean()),
    }
    return {"score": score._asdict(), "threshold": threshold}, {**told, **counts, "reason": None}
