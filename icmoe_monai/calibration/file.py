"""Calibration file: find and read it, check that it belongs to the model, and apply it to a case.

The workflow `fit_calibration` writes the file; inference and evaluation read it. It is one small JSON file of plain
numbers, described in docs/reliability.md. It is valid for one model, known by the SHA-256 of the checkpoint, and for
the settings that change the network's output (`OUTPUT_SETTINGS`); a file for another model or other settings is not
applied.

Letters: K output channels; H W image.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from icmoe_monai.calibration.appearance import APPEARANCE, Appearance, appearance_from
from icmoe_monai.calibration.area import AreaInterval, width_of
from icmoe_monai.calibration.conformal import controlled_mask
from icmoe_monai.calibration.ood import OutOfDistribution, out_of_distribution_from
from icmoe_monai.calibration.schema import FORMAT, find_damage
from icmoe_monai.calibration.score import Score, score_from
from icmoe_monai.calibration.temperature import temperature_from
from icmoe_monai.errors import InputError
from icmoe_monai.networks.pooling import FEATURES
from icmoe_monai.utils.files import check_file, digest_of, dump_json
from icmoe_monai.utils.schema import read_json
from icmoe_monai.weights.frozen import describe_model
from icmoe_monai.weights.recipe import EARLIER, SETTINGS

AUTO, NONE = "auto", "none"
UNLIKE = (
    "{} is unlike what the model was trained on, so that nothing tells how good its mask is, and no Dice is predicted: "
    "review it."
)
_OF_LIKE_IMAGES = ("predicted_dice", "no_lesion_probability", "no_lesion", "area_thresholds")
OUTPUT_SETTINGS = tuple(SETTINGS)
_OF_WINDOWS = ("backbone", "expert_depth", "image_size", "pixel_mean", "pixel_std", "amp")


class Calibration:
    """Hold the content of a calibration file and apply it; without a content, nothing is calibrated.

    Args:
        content: The file's content, as `read_calibration` returns it; None: nothing is calibrated.
        file: The file's name.
        digest: The file's SHA-256.
        reason: Why nothing is calibrated, in a sentence.

    Example:
        >>> nothing = Calibration(reason="none was asked for")
        >>> nothing.is_there, nothing.predict_dice({"soft_dice": 0.9})
        (False, None)
    """

    def __init__(
        self,
        content: Mapping[str, Any] | None = None,
        *,
        file: str | None = None,
        digest: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.is_there = content is not None
        self.content = dict(content or {})
        self.file, self.digest, self.reason = file, digest, reason
        self.ood: OutOfDistribution | None = None
        self._no_lesion: Score | None = None
        self._appearance: Appearance | None = None
        self._area: AreaInterval | None = None
        if not self.is_there:
            return
        self._temperature = temperature_from(self.content["temperature"])
        self.threshold = float(self.content["control"]["threshold"])
        quality, no_lesion = self.content["quality"], self.content["no_lesion"]
        self._quality = score_from(quality) if quality else None
        if no_lesion:
            self._no_lesion = score_from(no_lesion["score"])
            self._appearance = appearance_from(no_lesion[APPEARANCE]) if APPEARANCE in no_lesion else None
        known, area = self.content.get("out_of_distribution"), self.content.get("area")
        self.ood = out_of_distribution_from(known) if known else None
        self._area = AreaInterval(**area) if area else None
        self.names_digest = str(self.content["data"]["names_sha256"])

    @property
    def review_below(self) -> float | None:
        """The file's limit of the predicted Dice, below which review is advised; None if the file has none."""
        value = self.content["review_below"] if self.is_there else None
        return None if value is None else float(value)

    def judge(self, features: np.ndarray | None) -> dict[str, Any]:
        """Tell whether a case is out of distribution, unlike what the model was trained on.

        Args:
            features: The case's pooled features, (windows, F), or None.

        Returns:
            `ood_score`, above 1 where it is; `ood_percentile`, the share of validation images with a lower score, in
            per cent; and `out_of_distribution`. Each is None if no score was fitted.

        Raises:
            InputError: If the features are not as many as were fitted.
        """
        names = ("ood_score", "ood_percentile", "out_of_distribution")
        if self.ood is None or features is None:
            return dict.fromkeys(names)
        self._check_width(features, self.ood.prototypes.centres.shape[1])
        score = self.ood.score(features)
        return dict(zip(names, (score, self.ood.percentile(score), score > 1), strict=True))

    def probabilities(self, voted: Tensor, disagreement: Tensor) -> Tensor:
        """Calibrate the vote's probabilities.

        Args:
            voted: The vote's probabilities, (K, H, W).
            disagreement: The experts' disagreement, (1, H, W), 0..1.

        Returns:
            Calibrated probabilities, (K, H, W); `voted` unchanged if nothing is calibrated.
        """
        return self._temperature(voted, disagreement) if self.is_there else voted

    def predict_dice(self, features: Mapping[str, float]) -> float | None:
        """Predict the Dice score of a case's mask.

        Args:
            features: The case's `vote_features`.

        Returns:
            The expected Dice, 0..1, or None if no such prediction was fitted.
        """
        return self._quality(features) if self.is_there and self._quality else None

    def judge_lesion(self, features: Mapping[str, float], pooled: np.ndarray | None) -> dict[str, Any]:
        """Tell whether a case shows no lesion.

        Args:
            features: The case's `vote_features`.
            pooled: The case's pooled features, (windows, F), or None.

        Returns:
            `no_lesion_probability`, 0..1; and `no_lesion`, whether it is above the threshold that was fitted with it.
            Both are None if they were not fitted, or need pooled features and there are none, or none that are numbers.

        Raises:
            InputError: If the pooled features are not as many as were fitted.
        """
        names = ("no_lesion_probability", "no_lesion")
        if self._no_lesion is None or (self._appearance is not None and pooled is None):
            return dict.fromkeys(names)
        if self._appearance is not None and pooled is not None:
            self._check_width(pooled, len(self._appearance.weights))
            features = {**features, APPEARANCE: self._appearance(pooled)}
        probability = self._no_lesion(features)
        if isnan(probability):
            return dict.fromkeys(names)
        return dict(zip(names, (probability, probability > float(self.content["no_lesion"]["threshold"])), strict=True))

    def area_thresholds(self, features: Mapping[str, float]) -> tuple[float, float] | None:
        """Return the probabilities at which a lesion is as large, and as small, as its interval of areas allows.

        Args:
            features: The case's `vote_features`.

        Returns:
            The two thresholds, or None if no interval was fitted.
        """
        expected = self.predict_dice(features)
        if expected is None or self._area is None:
            return None
        return self._area.thresholds(width_of(expected, features["disagreement"]))

    def _check_width(self, pooled: np.ndarray, fitted: int) -> None:
        if pooled.shape[-1] != fitted:
            raise InputError(
                f"The calibration {self.file} is of {fitted} pooled features, and this network has {pooled.shape[-1]}: "
                "calibrate again, or go without, --calibration none."
            )

    def summary(self) -> dict[str, Any]:
        """Return the facts on the calibration that a report states: its file, or why there is none, and its fit."""
        told = {key: self.content.get(key) for key in ("data", "control", "review_below", "area", "fit")}
        return {"file": self.file, "sha256": self.digest, "reason": self.reason, **told}


class WindowCalibration:
    """Tell of a large image, window by window, whether it is like what the model was trained on.

    Nothing else of a calibration holds for windows of a large image.

    Args:
        calibration: The calibration.

    Example:
        >>> WindowCalibration(Calibration(reason="none")).judge([])["out_of_distribution"] is None
        True
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.digest = calibration.digest

    def scores(self, features: np.ndarray) -> list[float]:
        """Return the score of each window, of pooled features (windows, F); none without a fitted score."""
        ood = self.calibration.ood
        return [] if ood is None else ood.window_scores(features)

    def judge(self, scores: Sequence[float]) -> dict[str, Any]:
        """Tell by all windows' scores whether an image is out of distribution: where more than half of them are.

        Args:
            scores: The scores.

        Returns:
            `windows_out_of_distribution`, the share of windows whose score is above 1; `ood_score`, the windows'
            median; and `out_of_distribution`. Each is None if there are no scores.
        """
        names = ("windows_out_of_distribution", "ood_score", "out_of_distribution")
        if not scores:
            return dict.fromkeys(names)
        share = float(np.mean(np.asarray(scores) > 1))
        return dict(zip(names, (share, float(np.median(scores)), share > 0.5), strict=True))

    def note(self, name: str) -> str:
        """Return the sentence on an image that is out of distribution."""
        return UNLIKE.format(name)

    def summary(self) -> dict[str, Any]:
        """Return the facts that a report states: the calibration's file, or why there is none."""
        told = self.calibration.summary()
        return {key: told[key] for key in ("file", "sha256", "reason", "data")}


class ApplyCalibrationd(MapTransform):
    """Transform: add calibrated probabilities, the risk-controlled mask and the predicted quality to a case.

    Adds `calibrated`, probabilities (K, H, W); `controlled`, the risk-controlled class map (1, H, W); and the plain
    values `predicted_dice`, `review` (whether it is advised), `no_lesion_probability`, `no_lesion`, `area_thresholds`,
    `ood_score`, `ood_percentile` and `out_of_distribution`, each None if it was not fitted. Nothing is added to a
    failed case, or if there is no calibration. But review is always advised of a case with a `note`, in which there is
    little to see; and of one that `is_blank` no more is said, since a calibration knows no such images.

    Of a case that is out of distribution nothing is said that holds only for images like the training's: the predicted
    Dice, no lesion and the areas' interval are None, review is advised, and a sentence is added to its `note`.

    Args:
        calibration: The calibration.
        keys: Key of the vote's probabilities, (K, H, W), at the input's own size. Each item also needs
            `TakeVoteFeaturesd`'s `vote_features`, and `disagreement` at the same size.
        review_below: Review is advised if the predicted Dice is below this value; None: the value in the file.

    Raises:
        InputError: If `review_below` is no number in 0..1.

    Example:
        >>> ApplyCalibrationd(calibration=Calibration(reason="none"))({"name": "a.png"})
        {'name': 'a.png'}
    """

    def __init__(
        self, *, calibration: Calibration, keys: str | Sequence[str] = "pred", review_below: float | None = None
    ) -> None:
        super().__init__(keys)
        self.calibration = calibration
        is_number = isinstance(review_below, (int, float)) and not isinstance(review_below, bool)
        if review_below is not None and not (is_number and 0 <= review_below <= 1):
            raise InputError(f"review_below must be a Dice score between 0 and 1, or null, got {review_below!r}.")
        self.review_below = calibration.review_below if review_below is None else review_below

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the results of the calibration added."""
        item = dict(data)
        if item.get("failure"):
            return item
        if self.calibration.is_there:
            item = self._apply(item)
        if item.get("out_of_distribution"):
            item["note"] = " ".join(filter(None, (item.get("note"), UNLIKE.format(item["name"]))))
        if item.get("note"):
            item["review"] = True
        if item.get("is_blank") or item.get("out_of_distribution"):
            item |= dict.fromkeys(_OF_LIKE_IMAGES)
        return item

    def _apply(self, item: dict[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(item):
            voted = convert_to_tensor(item[key], track_meta=False).float()
            apart = convert_to_tensor(item["disagreement"], track_meta=False).float()
            item["calibrated"] = self.calibration.probabilities(voted, apart)
            item["controlled"] = controlled_mask(voted, self.calibration.threshold)
        features = item["vote_features"]
        expected = self.calibration.predict_dice(features)
        item["predicted_dice"] = expected
        item["review"] = None if expected is None or self.review_below is None else expected < self.review_below
        item["area_thresholds"] = self.calibration.area_thresholds(features)
        return (
            item
            | self.calibration.judge_lesion(features, item.get(FEATURES))
            | self.calibration.judge(item.get(FEATURES))
        )


def find_window_calibration(
    path: str | None, *, checkpoint: str | Path | None, settings: Mapping[str, Any]
) -> WindowCalibration:
    """Read what a calibration tells of windows of large images; arguments and errors as of `find_calibration`.

    Only those settings must be the calibration's that change how a window is seen.
    """
    return WindowCalibration(find_calibration(path, checkpoint=checkpoint, settings=settings, names=_OF_WINDOWS))


def find_calibration(
    path: str | None,
    *,
    checkpoint: str | Path | None,
    settings: Mapping[str, Any],
    names: Sequence[str] = OUTPUT_SETTINGS,
) -> Calibration:
    """Read the calibration that a run is to use, and check that it belongs to the model and the settings.

    Args:
        path: The file; "auto": the file beside the checkpoint (`calibration_path`), if it exists and was fitted with
            these settings; "none" or None: no calibration.
        checkpoint: File of the network's weights. It identifies the model: it contains the encoder, or accepts no
            encoder but the one it was trained with.
        settings: The values of `OUTPUT_SETTINGS`.
        names: Which of them must be as they were when it was fitted.

    Returns:
        The calibration, or one without a content whose `reason` says why there is none.

    Raises:
        InputError: If the file cannot be read, or belongs to another model, or if a file that was named (not "auto")
            was fitted with other settings.
    """
    if path is None or path == NONE:
        return Calibration(reason="No calibration was asked for.")
    file = Path(calibration_path(checkpoint) if path == AUTO else path)
    if path == AUTO and not file.is_file():
        return Calibration(reason=f"There is no {file.name} beside the checkpoint.")
    content = read_calibration(file)
    found, model = content["model"], describe_model(checkpoint)
    if model["sha256"] not in (None, found.get("sha256")):  # None: no such checkpoint, which its loader reports
        told = [f"{one.get('checkpoint')} (SHA-256 {str(one.get('sha256'))[:12]})" for one in (found, model)]
        raise InputError(
            f"The calibration {file.name} is of another model: it was fitted to {told[0]}, and this is {told[1]}. "
            "Calibrate this one, or go without, --calibration none."
        )
    now = json.loads(dump_json({name: settings[name] for name in names}))
    fitted = EARLIER | content["settings"]
    changed = [f"{name} {fitted.get(name)} and here {now[name]}" for name in now if fitted.get(name) != now[name]]
    if changed:
        sentence = f"The calibration {file.name} was fitted with other settings ({', '.join(changed)})"
        if path != AUTO:
            raise InputError(f"{sentence}: use those, calibrate with these, or go without, --calibration none.")
        logging.getLogger(__name__).warning("%s, so nothing is calibrated.", sentence)
        return Calibration(reason=f"{sentence}.")
    return Calibration(content, file=file.name, digest=digest_of(file))


def read_calibration(path: str | Path) -> dict[str, Any]:
    """Read the content of a calibration file, and check it.

    Args:
        path: The file.

    Returns:
        The content, which is as `SCHEMA` says.

    Raises:
        InputError: If the file is missing, damaged, or no calibration of this version.
    """
    check_file(str(path))
    try:
        content = read_json(Path(path).read_bytes(), str(path))
    except InputError as error:
        raise InputError(f"{error}: calibrate again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no calibration of this version ({FORMAT}): calibrate again.")
    damage = find_damage(content)
    if damage is not None:
        raise InputError(f"The calibration {path} is damaged, {damage}: calibrate again.")
    return content


def calibration_path(checkpoint: str | Path | None) -> str:
    """Return the path of a checkpoint's calibration: beside the checkpoint, `<stem>.calibration.json`.

    Args:
        checkpoint: File of the network's weights.

    Example:
        >>> calibration_path("runs/mine/best.pt")
        'runs/mine/best.calibration.json'
    """
    return str(Path(checkpoint or "model").with_suffix(".calibration.json"))
