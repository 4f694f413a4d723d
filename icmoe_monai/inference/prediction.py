"""What a predictor says of one image.

Letters: K output channels (1: sigmoid, else softmax); H W image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils.type_conversion import convert_to_tensor

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import SUFFIXES, split_suffix
from icmoe_monai.inference.measures import PER_CLASS
from icmoe_monai.inference.report import CALIBRATED
from icmoe_monai.inference.writing import mask_picture, write_png

MEASURES = (*PER_CLASS, "spacing_mm", "reliability", *CALIBRATED)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Hold the mask of one image, and how far to trust it.

    Attributes:
        name: The image's file name, or of an image from memory `image`, and `image_3` of the third of a list.
        mask: Class numbers, uint8 (H, W), 0 the background, on the image's own pixel grid.
        probabilities: float32 (K, H, W) in 0..1, calibrated where the weights have a calibration.
        disagreement: How much the experts differ, float32 (H, W) in 0..1.
        predicted_dice: The Dice score to be expected of the mask; None without a calibration.
        review: Whether to have the mask reviewed; without a calibration None, or True where there is a note.
        measures: The values of the case in `report.json`: per foreground class `foreground_pixels`,
            `foreground_share`, `area_mm2` and `num_components`, and the ends of the areas' intervals,
            `foreground_pixels_low`, `foreground_pixels_high`, `area_mm2_low` and `area_mm2_high`; `spacing_mm`,
            `reliability`, `predicted_dice`, `review`, `no_lesion_probability`, `no_lesion`, `ood_score`,
            `ood_percentile` and `out_of_distribution`.
        note: A sentence where there is little or nothing to see in the image, or it is unlike the training's; else "".
        ood_score: How far the image is from those that the model was trained on, in units of the calibration's
            threshold; None without one.
        out_of_distribution: Whether that is above 1: then no Dice is predicted, and nothing else that holds only for
            images like the training's; None without a threshold.
        source: Path of the image's file; None of an image from memory.
    """

    name: str
    mask: np.ndarray
    probabilities: np.ndarray
    disagreement: np.ndarray
    predicted_dice: float | None
    review: bool | None
    measures: dict[str, Any]
    note: str = ""
    ood_score: float | None = None
    out_of_distribution: bool | None = None
    source: str | None = None

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Prediction:
        """Take the prediction out of an item of the inference workflow.

        Args:
            item: The item, as the workflow's postprocessing leaves it.
        """
        measures = {name: item.get(name) for name in MEASURES}
        return cls(
            name=item["name"],
            mask=item["classes"],
            probabilities=item["probabilities"],
            disagreement=convert_to_tensor(item["disagreement"], track_meta=False)[0].float().cpu().numpy(),
            predicted_dice=measures["predicted_dice"],
            review=measures["review"],
            measures=measures,
            note=item.get("note", ""),
            ood_score=measures["ood_score"],
            out_of_distribution=measures["out_of_distribution"],
            source=item.get("source"),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the mask as `icmoe predict` writes it, and replace a file that is there, but never the image.

        Args:
            path: A file, whose name ends in .png, or a folder, in which the mask is called as the image.

        Returns:
            Path of the file.

        Raises:
            InputError: If it cannot be written, would replace the image itself, or is called like a picture of another
                kind.
        """
        file = Path(path)
        if file.is_dir() or not file.name.lower().endswith(SUFFIXES):
            file = file / f"{split_suffix(self.name)[0]}.png"
        if file.suffix.lower() != ".png":
            raise InputError(
                f"{file} is no PNG, as which masks are written: give a name that ends in .png, or a folder."
            )
        if self.source is not None and file.exists() and os.path.samefile(file, self.source):
            raise InputError(f"{file} is the image itself: give another name or folder for its mask.")
        write_png(file, mask_picture(self.mask, len(self.probabilities)))
        return file
