"""Fit a calibration on the validation images in one pass, and write it to a file; test images are never used.

Of an ensemble of folds, all images of the folds may take their place, each segmented by the network of the fold that it
was kept out of.

Six parts are fitted:

- calibrated probabilities (`temperature`);
- a prediction of a case's Dice score from its `vote_features` (`score`), if there are enough images;
- a threshold that controls the false-negative rate (`conformal`);
- the probability that a case shows no lesion at all (`no_lesion`), if there are enough images with and without one, for
  which the frozen features of training images are learnt from, too (`appearance`);
- an interval for a lesion's area (`area`);
- a score of how unlike the training's images a case is (`ood`), for which images of the training are looked at too.

Letters: n images; K output channels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from icmoe_monai.calibration.appearance import APPEARANCE, Appearance, LabelledFeatures, fit_appearance
from icmoe_monai.calibration.area import area_curves, fit_area_interval, widest_miss, width_of
from icmoe_monai.calibration.conformal import check_alpha, control_risk, miss_curve, miss_rate
from icmoe_monai.calibration.file import OUTPUT_SETTINGS
from icmoe_monai.calibration.no_lesion import fit_no_lesion
from icmoe_monai.calibration.ood import fit_out_of_distribution
from icmoe_monai.calibration.references import ReferenceImages, References, shows_lesion
from icmoe_monai.calibration.schema import FORMAT, SPLITS
from icmoe_monai.calibration.score import Score, fit_score
from icmoe_monai.calibration.shares import check_share
from icmoe_monai.calibration.temperature import PixelSample, fit_temperature, sample_pixels
from icmoe_monai.data.splits import OUT_OF_FOLD
from icmoe_monai.errors import InputError
from icmoe_monai.networks.pooling import FEATURES
from icmoe_monai.transforms.vote_features import dice_overlap
from icmoe_monai.utils.distributed import check_one_process
from icmoe_monai.utils.engines import CaseHandler, split_items, versions
from icmoe_monai.utils.files import write_json
from icmoe_monai.utils.statistics import rank_correlation
from icmoe_monai.weights.frozen import describe_model

_FEWEST_CASES = 10  # needed to fit the prediction of the Dice score
_MOST_PIXELS = 2**18  # sampled from all images together


def check_images(
    cases: Mapping[str, Sequence[Mapping[str, Any]]], *, split: str, alpha: float, out_channels: int = 1
) -> None:
    """Check that there are enough images for a calibration, before the network has seen any.

    Args:
        cases: The images by split, as `data.find_cases` lists them.
        split: Name of the split that is gone through; "val" and "out_of_fold" are accepted.
        alpha: The largest false-negative rate that is accepted on average.
        out_channels: K.

    Raises:
        InputError: If it is another split, or there are too few images with a lesion for alpha; the sentence says what
            would do.
    """
    _check_split(split)
    num_images = sum(shows_lesion(case, out_channels) for case in cases[split])
    check_alpha(alpha, num_images=num_images, of_folds=split == OUT_OF_FOLD)


class FitCalibration(CaseHandler):
    """Handler: fit a calibration to all cases of a run over the validation images, and write it to a file.

    Needs `TakeVoteFeaturesd` and `SplitVotesd` in the evaluator's postprocessing, with `disagreement` at the label's
    size, and one process. Of each image it keeps at most some thousand pixels, the curve of false-negative rates and
    the features.

    Args:
        path: The file to write.
        split: Name of the split that the evaluator goes through; "val" and "out_of_fold" are accepted.
        weights: The files of the model's weights, as `weights.describe_model` takes them: `checkpoint`, and perhaps
            `pretrained` and `pyramid`.
        settings: The values of `OUTPUT_SETTINGS`.
        alpha: The largest false-negative rate that is accepted on average.
        review_share: Share of the cases, if they are like the validation images, for which review is to be advised.
        out_channels: K.
        seed: Seed of the sampled pixels and of the folds of cross-validation.
        area_level: The share of lesions whose area its interval is to hold.
        lesion_sensitivity: The share of images with a lesion that must not be called lesion-free, on average.
        references: The images that the out-of-distribution score is fitted to, and what frozen features tell of
            lesions; None: neither.

    Raises:
        InputError: If the split is another, or a share is out of its range; during the run, if the
            file cannot be written, there are several processes, or there are too few images for `alpha`.

    Example:
        >>> given = {"path": "c.json", "weights": {"checkpoint": None}, "settings": {}}
        >>> FitCalibration(split="test", **given)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: A calibration is fitted on the validation images ... split 'test': ...
    """

    def __init__(
        self,
        *,
        path: str | Path,
        split: str,
        weights: Mapping[str, str | Path | None],
        settings: Mapping[str, Any],
        alpha: float = 0.1,
        review_share: float = 0.2,
        out_channels: int = 1,
        seed: int = 0,
        area_level: float = 0.9,
        lesion_sensitivity: float = 0.95,
        references: ReferenceImages | None = None,
    ) -> None:
        _check_split(split)
        check_alpha(alpha)
        check_share("area_level", area_level)
        check_share("lesion_sensitivity", lesion_sensitivity)
        check_share("review_share", review_share, with_ends=True)
        self.path, self.split = Path(path), split
        self.weights = dict(weights)
        self.settings = {name: settings[name] for name in OUTPUT_SETTINGS}
        self.alpha, self.review_share, self.out_channels, self.seed = alpha, review_share, out_channels, seed
        self.area_level, self.references = float(area_level), references
        self.lesion_sensitivity = lesion_sensitivity
        self.content: dict[str, Any] = {}
        self._forget()

    def _forget(self) -> None:
        self._names: list[str] = []
        self._pixels: list[PixelSample] = []
        self._curves: list[np.ndarray] = []
        self._missed: list[float] = []
        self._features: list[dict[str, float]] = []
        self._dice: list[float] = []
        self._is_empty: list[bool] = []
        self._area_misses: list[float | None] = []
        self._seen: list[np.ndarray | None] = []
        self._folds: list[int] = []
        self._groups: list[str] = []

    def started(self, engine: Engine) -> None:
        """Clear the data of an earlier run, and check before the first case that the file can be written.

        Raises:
            InputError: If the file cannot be written, or there are several processes.
        """
        check_one_process("A calibration")
        trial = self.path.with_name(".calibration.json")
        write_json(trial, {})
        trial.unlink()
        self._forget()
        self._num_pixels = int(np.clip(_MOST_PIXELS // (engine.state.epoch_length or 1), 256, 4096))

    def iteration_completed(self, engine: Engine) -> None:
        """Collect sampled pixels, false-negative rates, features and Dice of the cases of one iteration."""
        for item in split_items(engine):
            parts = (item[key] for key in ("probability", "disagreement", "voted", "label"))
            probability, apart, voted, label = (convert_to_tensor(p, track_meta=False, device="cpu") for p in parts)
            image = len(self._names)
            self._names.append(str(item.get("name", image)))
            self._pixels.append(
                sample_pixels(probability, apart, label, image=image, num_pixels=self._num_pixels, seed=self.seed)
            )
            curve = miss_curve(probability, label)
            self._is_empty.append(curve is None)
            if curve is not None:
                self._curves.append(curve.astype(np.float32))
                self._missed.append(miss_rate(voted, label) or 0.0)
            self._features.append(item["vote_features"])
            self._dice.append(mean_dice(voted, label, self.out_channels))
            areas = [int((label == k).sum()) for k in range(1, max(self.out_channels, 2))]
            self._area_misses.append(widest_miss(area_curves(probability), areas))
            self._seen.append(item.get(FEATURES))
            self._folds.append(int(item.get("fold", 0)))
            self._groups.append(str(item.get("group") or self._names[-1]))

    def completed(self, engine: Engine) -> None:
        """Fit the calibration, write the file and log a summary.

        Raises:
            InputError: If there are too few images for alpha.
        """
        control = control_risk(self._curves, alpha=self.alpha)  # may refuse: before anything is written
        default_rate = float(np.mean(self._missed))
        temperature, fit_of_temperature = fit_temperature(self._pixels, groups=self._groups, seed=self.seed)
        quality, fit_of_quality, review_below, left_out = self._fit_quality()
        area, fit_of_area = fit_area_interval(self._area_misses, self._widths(left_out), level=self.area_level)
        seen = [features for features in self._seen if features is not None]
        found = self.references.look() if self.references is not None and len(seen) == len(self._names) else None
        known, fit_of_known = self._fit_out_of_distribution(seen, found)
        no_lesion, fit_of_no_lesion = self._fit_no_lesion(seen, found)
        self.content = {
            "format": FORMAT,
            "model": describe_model(**self.weights),
            "settings": self.settings,
            "data": {
                "split": self.split,
                "num_images": len(self._names),
                "num_with_lesion": len(self._curves),
                "num_lesion_free": sum(self._is_empty),
                "mean_dice": float(np.mean(self._dice)),
                "names_sha256": names_digest(self._names),
            },
            "temperature": temperature._asdict(),
            "quality": quality and quality._asdict(),
            "review_below": review_below,
            "control": {**control._asdict(), "default_rate": default_rate},
            "no_lesion": no_lesion,
            "area": area and area._asdict(),
            "out_of_distribution": known,
            "fit": {
                "temperature": fit_of_temperature,
                "quality": fit_of_quality,
                "no_lesion": fit_of_no_lesion,
                "area": fit_of_area,
                "out_of_distribution": fit_of_known,
            },
            "versions": versions(),
        }
        write_json(self.path, self.content)
        logging.getLogger(__name__).info(
            "Calibrated on %d unseen images: calibration error %.3f to %.3f, false-negative rate at most %.2f at "
            "threshold %.3f (the default mask: %.2f). Written to %s.",
            len(self._names),
            fit_of_temperature["ece_before"],
            fit_of_temperature["ece_after"] or float("nan"),
            control.alpha,
            control.threshold,
            default_rate,
            self.path,
        )

    def _widths(self, predicted_dice: np.ndarray | None) -> list[float] | None:
        """Return w of each image for the intervals of areas, or None if no Dice is predicted."""
        if predicted_dice is None:
            return None
        pairs = zip(predicted_dice, self._features, strict=True)
        return [width_of(float(q), features["disagreement"]) for q, features in pairs]

    def _fit_out_of_distribution(
        self, seen: Sequence[np.ndarray], found: References | None
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        if self.references is None or found is None:
            return None, {"reason": "There are no features of training images: nothing tells what is unlike them."}
        training = None
        if found.training is not None and found.training_views is not None:
            training = np.concatenate([found.training.features, found.training_views])
        views = [found.views[name] for name in self._names]
        return fit_out_of_distribution(
            training, seen, views, false_alarms=self.references.false_alarms, folds=self._folds, seed=self.seed
        )

    def _fit_no_lesion(
        self, seen: Sequence[np.ndarray], found: References | None
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        figures: Sequence[Mapping[str, float]] = self._features
        appearance: Appearance | None = None
        told: dict[str, Any] = {}
        if found is not None:
            pooled = np.stack([windows.mean(0) for windows in seen])
            images = LabelledFeatures(pooled, np.array(self._is_empty), np.array(self._groups))
            appearance, taken, told = fit_appearance(found.training, images, folds=self._folds, seed=self.seed)
            if appearance is not None:
                pairs = zip(self._features, taken, strict=True)
                figures = [{**features, APPEARANCE: float(value)} for features, value in pairs]
        part, report = fit_no_lesion(
            figures, self._is_empty, sensitivity=self.lesion_sensitivity, groups=self._groups, seed=self.seed
        )
        if part is not None and appearance is not None:
            part[APPEARANCE] = appearance.to_file()
        return part, report | told

    def _fit_quality(self) -> tuple[Score | None, dict[str, Any], float | None, np.ndarray | None]:
        n = len(self._dice)
        if n < _FEWEST_CASES:
            reason = f"{n} images are fewer than {_FEWEST_CASES}: the Dice score is not predicted."
            return None, {"reason": reason}, None, None
        if len(set(self._groups)) < 2:
            reason = "All images are of one group, such as a patient: the Dice score is not predicted."
            return None, {"reason": reason}, None, None
        names = list(self._features[0])
        score, left_out = fit_score(self._features, self._dice, features=names, groups=self._groups, seed=self.seed)
        told = {
            "spearman": rank_correlation(left_out, self._dice),
            "mean_absolute_error": float(np.abs(left_out - self._dice).mean()),
            "mean_predicted": float(left_out.mean()),
            "mean_dice": float(np.mean(self._dice)),
        }
        return score, told, float(np.quantile(left_out, self.review_share)), left_out


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(
            f"A calibration is fitted on the validation images (split val), or on those that an ensemble's folds were "
            f"kept out of (split out_of_fold), got split {split!r}: the test images must stay unseen, and the training "
            "images are known by heart."
        )


def mean_dice(voted: Tensor, label: Tensor, out_channels: int) -> float:
    """Return the mean Dice score of a class map over the foreground classes.

    A class that neither mask nor label contains counts as 1.

    Args:
        voted: Class map of the mask, (1, H, W).
        label: Class map of the label, (1, H, W).
        out_channels: K.
    """
    classes = range(1, max(out_channels, 2))
    found, right = voted.cpu().numpy(), label.cpu().numpy()
    return float(np.mean([dice_overlap(found == k, right == k) for k in classes]))


def names_digest(names: Sequence[str]) -> str:
    """Return the SHA-256 of the sorted names of cases, so that runs over the same cases are known without the names."""
    text = "\n".join(sorted(names))
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()
