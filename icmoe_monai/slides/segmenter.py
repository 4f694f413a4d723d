"""Segment whole slides and panoramic images: each is read, segmented and written in strips, so that memory is bounded.

Letters: K output channels; E experts; H W image; h rows of a strip.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from ignite.engine import Engine
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.imageio.sight import judge as look_at
from icmoe_monai.networks.folds import merge_folds
from icmoe_monai.networks.icmoe import ICMoE, unwrapped
from icmoe_monai.networks.voting import unpack
from icmoe_monai.slides.geojson import OutlineWriter
from icmoe_monai.slides.images import LargeImage, UnreadableImageError, open_large_image
from icmoe_monai.slides.overview import Overview
from icmoe_monai.slides.pyramid_tiff import PyramidWriter
from icmoe_monai.slides.streaming import StreamingVotingInferer, Strip
from icmoe_monai.transforms.votes import decide
from icmoe_monai.utils.files import is_of_one_name, write_atomically
from icmoe_monai.utils.memory import peak_memory_mb
from icmoe_monai.visualize.overlay import draw_overlay

_SECONDS_BETWEEN_WORDS = 30.0
_logger = logging.getLogger(__name__)


class LargeSegmenter:
    """Segment a large image and write the results to files; serves as the `iteration_update` of an evaluator.

    Writes two pyramidal TIFF files, `masks/<name>.tif` (0 and 255, or class indices) and `votes/<name>.tif` (the vote
    of each expert, 0..255); `outlines/<name>.geojson`, what was found as polygons in pixels of the full size; and
    `overlays/<name>.png`, a small picture with outlines of the segmented areas. If an image cannot be read, or the
    system refuses the names of its result files, the case gets a `failure` and the run goes on.

    Args:
        network: The network.
        inferer: The streaming inferer.
        output_dir: Folder of the results.
        labels: Names of the foreground classes.
        level: Level of the images' pyramids to segment; 0 is the full size.
        um_per_pixel: Scale at which the images are segmented, in place of a level; None: that of the level.
        votes: Whether to write the votes.
        outlines: Whether to write the outlines.
        device: Device of the network.
        judge: Tells by the pooled features of windows whether an image is like what the model was trained on, a
            `calibration.file.WindowCalibration`; None: this is not told.

    Raises:
        InputError: If `level` is no whole number of at least 0, or is given beside `um_per_pixel`, if `votes` or
            `outlines` is neither True nor False, or there is not one label per foreground class; during a run, if a
            file cannot be written for another reason than its name.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
        >>> windows = SlidingWindowVotingInferer(roi_size=32)
        >>> inferer = StreamingVotingInferer(windows=windows, pixel_mean=[127] * 3, pixel_std=[60] * 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 30), (200, 90, 150)).save(f"{folder}/a.png")
        ...     segment = LargeSegmenter(network=ICMoE().eval(), inferer=inferer, output_dir=f"{folder}/out")
        ...     (case,) = segment(Engine(segment), {"image": f"{folder}/a.png", "name": "a.png"})
        ...     tifffile.imread(f"{folder}/out/{case['votes']}").shape, case["mask_path"], case["windows_run"]
        ((30, 40, 3), 'masks/a.tif', 2)
    """

    def __init__(
        self,
        *,
        network: ICMoE,
        inferer: StreamingVotingInferer,
        output_dir: str | Path,
        labels: Sequence[str] = ("foreground",),
        level: int = 0,
        um_per_pixel: float | None = None,
        votes: bool = True,
        outlines: bool = True,
        device: torch.device | str = "cpu",
        judge: Any = None,
    ) -> None:
        if isinstance(level, bool) or not isinstance(level, int) or level < 0:
            raise InputError(f"level must be a whole number of at least 0, got {level!r}.")
        if level and um_per_pixel is not None:
            raise InputError(
                f"level and um_per_pixel both say how large pixels are: give one, got {level} and {um_per_pixel}."
            )
        for name, value in (("votes", votes), ("outlines", outlines)):
            if not isinstance(value, bool):
                raise InputError(f"{name} must be True or False, got {value!r}.")
        num_classes = max(unwrapped(network).out_channels, 2) - 1
        if len(labels) != num_classes:
            raise InputError(f"labels must name {num_classes} foreground classes, got {list(labels)}.")
        self.network = network
        self.inferer = inferer
        self.output_dir = Path(output_dir)
        self.labels = list(labels)
        self.level = level
        self.um_per_pixel = um_per_pixel
        self.votes = votes
        self.outlines = outlines
        self.device = device
        self.judge = judge

    def __call__(self, engine: Engine, case: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Segment one image.

        Args:
            engine: The evaluator; not used.
            case: `image`, path of the file, and `name`, from which the names of the results are made.

        Returns:
            A list with the case only, to which the results that `InferenceReport` reports are added: paths, numbers of
            foreground pixels, areas, numbers of windows and memory; or `failure`, a sentence.

        Raises:
            InputError: If a file cannot be written for another reason than its name.
        """
        item, name = dict(case), str(case["name"])
        try:
            with open_large_image(str(case["image"]), level=self.level, um_per_pixel=self.um_per_pixel) as image:
                item |= self._segment(image, name)
        except UnreadableImageError as error:
            item |= {"failure": str(error).replace(str(case["image"]), name), "failure_code": error.code}
        except InputError as error:
            if not is_of_one_name(error):
                raise
            item |= {"failure": str(error).replace(str(self.output_dir), "output_dir"), "failure_code": error.code}
        return [item]

    def _segment(self, image: LargeImage, name: str) -> dict[str, Any]:
        stem = split_suffix(name)[0]
        overview = Overview(image)
        found: dict[str, Any] = {"mask_path": f"masks/{stem}.tif", "overlay_path": f"overlays/{stem}.png"}
        if self.votes:
            found["votes"] = f"votes/{stem}.tif"
        if self.outlines:
            found["outlines"] = f"outlines/{stem}.geojson"
        scores: list[float] = []
        pixels = self._write_strips(overview, name, found, scores)
        spacing = None if image.spacing_um is None else [step / 1000 for step in image.spacing_um]
        self._write_overview(overview, found)
        sight = look_at(name, overview.picture().astype(np.float32))
        known = {} if self.judge is None else self.judge.judge(scores)
        notes = [sight.note, self.judge.note(name) if known.get("out_of_distribution") else ""]
        found |= known | ({"note": " ".join(filter(None, notes)), "review": True} if any(notes) else {})
        return found | {
            "mask_shape": image.shape,
            "spacing_mm": spacing,
            "foreground_pixels": [int(count) for count in pixels],
            "foreground_share": [float(count) / (image.shape[0] * image.shape[1]) for count in pixels],
            "area_mm2": None if spacing is None else [float(count) * spacing[0] * spacing[1] for count in pixels],
            "windows_run": self.inferer.num_run,
            "windows_skipped": self.inferer.num_skipped,
            "peak_mb": peak_memory_mb(),
        }

    def _write_strips(self, image: Overview, name: str, found: Mapping[str, Any], scores: list[float]) -> np.ndarray:
        """Write mask, votes and outlines, add the windows' scores, and return the pixels of each foreground class."""

        def watch(features: Tensor) -> None:
            scores.extend(self.judge.scores(features.double().numpy()))

        network = unwrapped(self.network)
        num_folds = network.voting.num_folds
        pixels = np.zeros(len(self.labels) + 1, dtype=np.int64)
        with ExitStack() as stack:
            mask = stack.enter_context(self._writer(found["mask_path"], image))
            # entered later and so written before: if there is a mask, the others are complete
            votes = outlines = None
            if self.votes:
                num_experts = network.voting.num_experts // num_folds
                votes = stack.enter_context(self._writer(found["votes"], image, num_experts))
            if self.outlines:
                outlines = stack.enter_context(self._outline_writer(found["outlines"], image))
            strips = self.inferer(image, network, self.device, watch=watch if self.judge is not None else None)
            for strip in _with_progress(strips, name, image.shape[0]):
                voted = unpack(strip.prediction, network.out_channels)
                classes = self._decided(voted.probabilities, name)
                pixels += np.bincount(classes.ravel(), minlength=len(pixels))
                mask.add(classes * np.uint8(255) if network.out_channels == 1 else classes)
                if votes is not None:
                    votes.add(_as_bytes(merge_folds(voted, num_folds).votes))
                if outlines is not None:
                    outlines.add(classes, voted.probabilities.amax(0).cpu().numpy())
        return pixels[1:]

    def _writer(self, path: str, image: LargeImage, num_samples: int = 1) -> PyramidWriter:
        return PyramidWriter(
            self.output_dir / path, shape=image.shape, num_samples=num_samples, spacing_um=image.spacing_um
        )

    def _outline_writer(self, path: str, image: LargeImage) -> OutlineWriter:
        return OutlineWriter(
            self.output_dir / path,
            shape=image.shape,
            full_shape=image.levels[0],
            labels=self.labels,
            spacing_um=image.spacing_um,
        )

    def _decided(self, probabilities: Tensor, name: str) -> np.ndarray:
        if not bool(torch.isfinite(probabilities).all()):
            raise UnreadableImageError(
                f"The prediction of {name} is not a number in places, so it has no mask: the checkpoint is damaged. "
                "Load another one.",
                code="not_finite",
            )
        return decide(probabilities)[0].cpu().numpy()

    def _write_overview(self, overview: Overview, found: Mapping[str, Any]) -> None:
        classes = tifffile.imread(self.output_dir / found["mask_path"], level=overview.level)
        if len(self.labels) == 1:
            classes = classes // 255
        scale = 2**overview.level / 1000
        spacing = overview.spacing_um and (overview.spacing_um[0] * scale, overview.spacing_um[1] * scale)
        picture = draw_overlay(overview.picture(), classes, labels=self.labels, spacing=spacing)
        write_atomically(self.output_dir / found["overlay_path"], lambda path: picture.save(path, format="PNG"))


def _with_progress(strips: Iterator[Strip], name: str, height: int) -> Iterator[Strip]:
    """Yield the strips, and log the progress of the image about every 30 seconds."""
    last = time.monotonic()
    for strip in strips:
        yield strip
        if time.monotonic() - last > _SECONDS_BETWEEN_WORDS:
            last = time.monotonic()
            _logger.info("%s: %d %% done", name, 100 * (strip.top + strip.prediction.shape[1]) // height)


def _as_bytes(votes: Tensor) -> np.ndarray:
    """Return votes (E, h, W) in 0..1 as uint8 (h, W, E) in 0..255."""
    return (votes * 255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
