"""The way in from Python: a model that is loaded once, and called with images.

It builds the parts of `configs/inference.json` that lie between an image and its results, and runs them in the order of
the workflow's evaluator, without the journal, the files and the report of a run.

Letters: B images in a pass; H W image.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import groupby
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from monai.bundle import ConfigParser

from icmoe_monai.commands.workflow import find_bundle, names_of_packs, pack_file
from icmoe_monai.data.cases import MIN_SIDE
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.imageio.memory import read_memory
from icmoe_monai.imageio.read import count_frames
from icmoe_monai.inference.inputs import name_of_frame
from icmoe_monai.inference.prediction import Prediction
from icmoe_monai.inferers.voting import like, with_features
from icmoe_monai.names import check_overrides, plain

# what a call has no use for: it returns results, and draws no pictures
_NO_FILES = {"output_dir": None, "demo_dir": None, "overlays": False}


class Predictor:
    """Segment images by one model, loaded once, with the results of `icmoe predict`.

    Several threads may call one predictor at a time.

    Attributes:
        network: The network, with its weights.
        inferer: The inferer that runs it over an image.
        device: Where it runs.

    Args:
        model: The name of a shipped model, skin or breast, or the path of a checkpoint, such as `runs/mine/best.pt`,
            whose recipe says all that its use needs.
        device: Device, such as cpu or cuda:0; None: CUDA where there is one.
        settings: Further settings of the inference by name, such as `{"calibration": "none"}`.

    Raises:
        InputError: If there is no such model, or it or a setting cannot be used.

    Example:
        >>> import numpy as np
        >>> found = Predictor("skin", device="cpu")(np.zeros((40, 30, 3), np.uint8))
        >>> found.mask.shape, found.measures["foreground_pixels"]
        ((40, 30), [0])
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        with _told():
            part = _parse(model, device, dict(settings or {})).get_parsed_content
            part("checks")
            self.device = torch.device(part("device"))
            self.network = part("network").eval()
            for name in ("load_frozen", "load_trained"):
                part(name)(None)
            self.inferer = part("inferer")
            self._transforms = _Transforms(part("preprocessing"), part("postprocessing"))

    @overload
    def __call__(self, images: Sequence[Any], *, frame: int | None = None) -> list[Prediction]: ...

    @overload
    def __call__(self, images: Any, *, frame: int | None = None) -> Any: ...

    def __call__(self, images: Any, *, frame: int | None = None) -> Prediction | list[Prediction]:
        """Segment one image, or a list of images, of which neighbours of one size pass the network together.

        Args:
            images: An image or a list of images: an array, (H, W) or (H, W, 3), of uint8, uint16 or floats in 0..1; a
                picture of Pillow's; the path of a picture, a DICOM or NIfTI file; or a data set of pydicom's.
            frame: Which frame, slice or page of a file or data set of several, from 0.

        Returns:
            What was found in the image, or a list of that in the list's order.

        Raises:
            InputError: If an image cannot be used; of a list, the sentence begins with the image's place, from 1.
        """
        with _full_precision(self.device):
            if not isinstance(images, (list, tuple)):
                return self._segment([self.prepare(images, "image", frame)])[0]
            items = []
            for place, image in enumerate(images, start=1):
                with _told(f"image {place} of the list: "):
                    items.append(self.prepare(image, f"image_{place}", frame))
            batches = (list(alike) for _, alike in groupby(items, key=lambda item: item["image"].shape))
            return [found for batch in batches for found in self._segment(batch)]

    def prepare(self, image: Any, name: str = "image", frame: int | None = None) -> dict[str, Any]:
        """Return the item that the workflow's preprocessing makes of an image.

        Args:
            image: An image, as a call takes it.
            name: What to call it, where it has no file name.
            frame: Which frame, slice or page, from 0.

        Raises:
            InputError: If the image cannot be used.
        """
        item = self._transforms.preprocessing(_case(image, name, frame))
        if item["failure"]:
            raise InputError(item["failure"], code=item["failure_code"])
        height, width = item["image"].meta["spatial_shape"]
        if min(height, width) < MIN_SIDE:
            raise InputError(f"{item['name']} has {width} x {height} pixels, fewer than a patch of "
                             f"{MIN_SIDE} x {MIN_SIDE}: leave it out.", code="too_small")  # fmt: skip
        return item | {"image": item["image"].to(self.device)}

    def _segment(self, items: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Segment images of one size, as many at a time as windows."""
        found = []
        size = self.inferer.sw_batch_size
        for batch in (items[start : start + size] for start in range(0, len(items), size)):
            with torch.no_grad():
                images = torch.stack([item["image"].as_tensor() for item in batch])
                voted, features = self.inferer.segment(images, self.network)
                for place, (item, maps) in enumerate(zip(batch, voted, strict=True)):
                    pred = with_features(like(maps, item["image"]), None if features is None else features[place])
                    done = self._transforms.postprocessing(item | {"pred": pred})
                    if done["failure"]:
                        raise InputError(done["failure"], code=done["failure_code"])
                    found.append(Prediction.of(done))
        return found


class _Transforms(threading.local):
    """The transforms before and after the network, a copy for each thread: MONAI's change themselves while they run.

    They are copied together, for the inversion afterwards belongs to the very transforms that it inverts.
    """

    def __init__(self, preprocessing: Any, postprocessing: Any) -> None:
        self.preprocessing, self.postprocessing = deepcopy((preprocessing, postprocessing))


def _parse(model: str | os.PathLike[str], device: str | torch.device | None, settings: dict[str, Any]) -> ConfigParser:
    """Return the workflow's config for a model, of which nothing is built yet."""
    root = find_bundle()
    packs = names_of_packs(root)
    files = [root / "configs" / "inference.json"]
    ours: dict[str, Any] = dict(_NO_FILES)
    if os.fspath(model) in packs:
        files.append(pack_file(root, os.fspath(model)))
    elif Path(model).is_file():
        ours["checkpoint"] = os.path.abspath(model)
    else:
        raise InputError(f"There is no model {os.fspath(model)}: give {' or '.join(packs)}, or a checkpoint's path.")
    if device is not None:
        ours["device"] = str(device)
    taken = sorted(settings.keys() & {*ours, "checkpoint", "device", "dataset_dir"})
    if taken:
        raise InputError(f"{taken[0]} is none of a predictor's settings: it is given otherwise, or has no use here.")
    config = ConfigParser.load_config_files([str(file) for file in files])
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    check_overrides(config, settings)
    parser = ConfigParser(config)
    parser.read_meta(str(root / "configs" / "metadata.json"))
    parser.update({name: plain(value) for name, value in (settings | ours).items()})
    return parser


def _case(image: Any, name: str, frame: int | None) -> dict[str, Any]:
    """Return an image as a case of the workflow: a file by its path, and all else by its pixels."""
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, Integral)):
        raise InputError(f"frame must be a whole number, from 0, got {frame!r}.")
    if not isinstance(image, (str, os.PathLike)):
        held = read_memory(image, frame=frame)
        return {"image": held.rgb, "scale": held.scale, "name": name}
    path = os.path.abspath(os.fsdecode(image))
    num_frames = count_frames(path)
    if frame is None and num_frames > 1:
        raise InputError(f"{path} holds {num_frames} frames, slices or pages: name one by frame, from 0.")
    file = Path(path).name
    called = file if num_frames == 1 else name_of_frame(file, frame or 0)
    return {"image": path, "source": path, "frame": frame or 0, "name": called}


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Leave the autocast that the caller's own network runs under; the inferer sets that of the settings."""
    with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def _told(place: str = "") -> Iterator[None]:
    """Raise the `InputError` that an exception goes back to, with the place where it is."""
    try:
        yield
    except Exception as error:
        cause = find_input_error(error)
        if cause is None:
            raise
        raise InputError(f"{place}{cause}") from error
