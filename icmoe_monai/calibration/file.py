"""A calibration file: what was fitted on validation images, the model and settings that it holds for, and its use.

`calibration.fit` writes it; inference and evaluation read it. It is one small JSON of plain numbers, described in
docs/reliability.md. It is tied to the model by the SHA-256 of the checkpoint, and to the settings that change what the
network says; for anything else it is refused.

Letters: K output channels; H W image.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from icmoe_monai.calibration.conformal import controlled_mask
from icmoe_monai.calibration.score import score_from
from icmoe_monai.calibration.temperature import temperature_from
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import check_file, digest_of, dump_json
from icmoe_monai.weights.frozen import describe_model

FORMAT = "icmoe_monai calibration 1"
AUTO, NONE = "auto", "none"
OUTPUT_SETTINGS = (
    "voting", "best_expert", "experts", "expert_depth", "backbone", "out_channels", "image_size", "longest_side",
    "overlap", "pixel_mean", "pixel_std", "amp",
)  # fmt: skip


class Calibration:
    """What a calibration file says, or that there is none.

    Args:
        content: The file's content; None: nothing is calibrated.
        file: The file's name.
        digest: Its SHA-256.
        reason: Why nothing is calibrated, in a sentence.

    Raises:
        InputError: If a part of the content is missing or no number.

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
        if not self.is_there:
            return
        try:
            self._temperature = temperature_from(self.content["temperature"])
            self.threshold = float(self.content["control"]["threshold"])
            quality, no_lesion = self.content["quality"], self.content["no_lesion"]
            self._quality = score_from(quality) if quality else None
            self._no_lesion = score_from(no_lesion["score"]) if no_lesion else None
            self.names_digest = str(self.content["data"]["names_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The calibration {file} is damaged ({error!r}): calibrate again.") from error

    @property
    def review_below(self) -> float | None:
        """The predicted Dice under which the file advises review, or None."""
        value = self.content.get("review_below")
        return None if value is None else float(value)

    def probabilities(self, voted: Tensor, disagreement: Tensor) -> Tensor:
        """Return calibrated probabilities, (K, H, W); the vote's own if nothing is calibrated.

        Args:
            voted: The vote's probabilities, (K, H, W).
            disagreement: The experts' disagreement, (1, H, W).
        """
        return self._temperature(voted, disagreement) if self.is_there else voted

    def predict_dice(self, features: Mapping[str, float]) -> float | None:
        """Return the Dice score that is to be expected of a case's mask, or None if that was not fitted.

        Args:
            features: The case's `vote_features`.
        """
        return self._quality(features) if self.is_there and self._quality else None

    def no_lesion_probability(self, features: Mapping[str, float]) -> float | None:
        """Return the probability that a case shows no lesion, or None if that was not fitted.

        Args:
            features: The case's `vote_features`.
        """
        return self._no_lesion(features) if self.is_there and self._no_lesion else None

    def says_no_lesion(self, features: Mapping[str, float]) -> bool | None:
        """Return the answer, which is the probability against the threshold that was chosen with it.

        Args:
            features: The case's `vote_features`.
        """
        probability = self.no_lesion_probability(features)
        return None if probability is None else probability >= float(self.content["no_lesion"]["threshold"])

    def summary(self) -> dict[str, Any]:
        """Return what a report says of it."""
        told = {key: self.content.get(key) for key in ("data", "control", "review_below", "fit")}
        return {"file": self.file, "sha256": self.digest, "reason": self.reason, **told}


class ApplyCalibrationd(MapTransform):
    """Add to a case what a calibration makes of it; with none, or for a failed case, nothing.

    Adds `calibrated`, probabilities (K, H, W); `controlled`, the risk-controlled class map (1, H, W); and the plain
    values `predicted_dice`, `review`, `no_lesion_probability`, `no_lesion`, each None where it was not fitted.

    Args:
        calibration: The calibration.
        keys: Key of the vote's probabilities, (K, H, W), at the input's own size. Each item also needs
            `TakeVoteFeaturesd`'s `vote_features`, and `disagreement` at the same size.
        review_below: The predicted Dice under which review is advised; None takes the file's.

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
        """Return a copy of the item with the parts added."""
        item = dict(data)
        if item.get("failure") or not self.calibration.is_there:
            return item
        for key in self.key_iterator(item):
            voted = convert_to_tensor(item[key], track_meta=False).float()
            apart = convert_to_tensor(item["disagreement"], track_meta=False).float()
            item["calibrated"] = convert_to_dst_type(self.calibration.probabilities(voted, apart), item[key])[0]
            item["controlled"] = controlled_mask(voted, self.calibration.threshold)
        features = item["vote_features"]
        expected = self.calibration.predict_dice(features)
        item["predicted_dice"] = expected
        item["review"] = None if expected is None or self.review_below is None else expected < self.review_below
        item["no_lesion_probability"] = self.calibration.no_lesion_probability(features)
        item["no_lesion"] = self.calibration.says_no_lesion(features)
        return item


def find_calibration(
    path: str | None,
    *,
    checkpoint: str | Path | None,
    settings: Mapping[str, Any],
) -> Calibration:
    """Read the calibration that a run is to use, and refuse one of another model.

    Args:
        path: The file; "auto": the one beside the checkpoint (`calibration_path`) where it is there and was made with
            these settings; "none" or None: none.
        checkpoint: File of the network's weights. It holds the encoder, or refuses any but its own, and so tells the
            model from all others.
        settings: The values of `OUTPUT_SETTINGS`.

    Raises:
        InputError: If the file cannot be read, or holds for another model, or a named one for other settings.
    """
    if path is None or path == NONE:
        return Calibration(reason="No calibration was asked for.")
    file = Path(calibration_path(checkpoint) if path == AUTO else path)
    if path == AUTO and not file.is_file():
        return Calibration(reason=f"There is no {file.name} beside the checkpoint.")
    content = read_calibration(file)
    found, model = content["model"], describe_model(checkpoint)
    if model["sha256"] not in (None, found.get("sha256")):  # a checkpoint that is not there is the loader's to tell
        names = [f"{one.get('checkpoint')} (SHA-256 {str(one.get('sha256'))[:12]})" for one in (found, model)]
        raise InputError(
            f"The calibration {file.name} is of another model: it was fitted to {names[0]}, and this is {names[1]}. "
            "Calibrate this one, or go without, --calibration none."
        )
    now = json.loads(dump_json({name: settings[name] for name in OUTPUT_SETTINGS}))
    changed = [name for name in OUTPUT_SETTINGS if content["settings"].get(name) != now[name]]
    if changed:
        sentence = f"The calibration {file.name} was fitted with other settings ({', '.join(changed)} differ)"
        if path != AUTO:
            raise InputError(f"{sentence}: use those, calibrate with these, or go without, --calibration none.")
        logging.getLogger(__name__).warning("%s, so nothing is calibrated.", sentence)
        return Calibration(reason=f"{sentence}.")
    return Calibration(content, file=file.name, digest=digest_of(file))


def read_calibration(path: str | Path) -> dict[str, Any]:
    """Read the content of a calibration file.

    Args:
        path: The file.

    Raises:
        InputError: If it is no such file.
    """
    check_file(str(path))
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is no calibration, or damaged: calibrate again.") from error
    has_parts = isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("model", "settings"))
    if not has_parts or content.get("format") != FORMAT:
        raise InputError(f"{path} is no calibration of this version ({FORMAT}): calibrate again.")
    return content


def calibration_path(checkpoint: str | Path | None) -> str:
    """Return where the calibration of a checkpoint is looked for: beside it, `<stem>.calibration.json`.

    Args:
        checkpoint: File of the network's weights.

    Example:
        >>> calibration_path("runs/mine/best.pt")
        'runs/mine/best.calibration.json'
    """
    return str(Path(checkpoint or "model").with_suffix(".calibration.json"))
