"""The transform that writes an image's mask, overlay and probability maps, upright, (H, W) as the input is displayed.

Letters: K output channels (1: sigmoid, else softmax), H W image size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from monai.transforms.io.dictionary import SaveImaged
from monai.utils.type_conversion import convert_to_tensor
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference.measures import measure
from icmoe_monai.transforms.votes import decide
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.visualize.overlay import class_colour, draw_overlay, thumbnail


class SaveImage2Dd(SaveImaged):
    """Transform: decide and measure each case's mask, and write it as a PNG that matches the input pixel for pixel.

    Further maps are written if set, and nothing at all without an `output_dir`.

    `<output_dir>/masks/<name>.png` holds 0 and 255 for K = 1, and class indices with visible palette colours for K > 1;
    both have 8 bits. Probability maps are grey PNGs of 16 bits (value / 65535) in `<output_dir>/probabilities/`:
    `<name>.png` for K = 1, `<name>_class1.png`, ... otherwise; they hold the item's `calibrated` probabilities where
    it has them. The item's risk-controlled mask, `controlled`, is in `<output_dir>/controlled/`. Overlays, the image
    with the classes outlined, are in `<output_dir>/overlays/`. The mask is written last, so that a case with a mask is
    done. `<name>` is the case's name without the suffix of its kind of file.

    The class is a `SaveImaged` because MONAI Label leaves out transforms of that class; nothing of `SaveImaged` is used
    here, since its writers transpose images and name files by their stem alone.

    Args:
        output_dir: Folder of the results; None: nothing is written.
        keys: Key or keys of the probabilities, (K, H, W) in [0, 1] and at the input's own size. Each item also needs
            `name`, the input's POSIX path relative to the dataset.
        out_channels: K, at most 256.
        probability_maps: Whether to write the probability maps too.
        disagreement_maps: Whether to write the item's `disagreement`, (1, H, W) in 0..1, like a probability map, to
            `<output_dir>/disagreement/`.
        overlays: Whether to write the overlays, which takes the item's `picture`, uint8 (H, W, 3).
        labels: Names of the foreground classes, for the overlays; "class 1", ... by default.
        background: Write in a thread, while the network goes on; the item's `writing` is then a future that is done
            when the files are there, with the overlay's `thumbnail` if there is an overlay, or holds the error.

    A case with a `failure` is passed over. A prediction that is NaN becomes the failure of its case where the item has
    that key, and an error otherwise.

    Raises:
        InputError: If a name is absolute or holds "..", a prediction is NaN, or a file cannot be written.
        ValueError: If `out_channels` is out of range, or a prediction has another shape or holds no probabilities.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveImage2Dd(output_dir=folder)
        ...     item = save({"pred": torch.tensor([[[0.9, 0.1, 0.6]]]), "name": "patient 1/a b.jpg"})
        ...     print(np.asarray(Image.open(f"{folder}/{item['mask_path']}")))
        [[255   0 255]]
        >>> item["mask_path"], item["mask_shape"], item["foreground_pixels"]
        ('masks/patient 1/a b.png', (1, 3), [2])
    """

    def __init__(
        self,
        *,
        output_dir: str | Path | None,
        keys: str | tuple[str, ...] = "pred",
        out_channels: int = 1,
        probability_maps: bool = False,
        disagreement_maps: bool = False,
        overlays: bool = False,
        labels: Sequence[str] | None = None,
        background: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir or "", output_ext=".png", print_log=False)
        if not 1 <= out_channels <= 256:
            raise ValueError(f"out_channels must be 1 to 256, got {out_channels}.")
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.out_channels = out_channels
        self.probability_maps = probability_maps
        self.disagreement_maps = disagreement_maps
        self.overlays = overlays
        self.labels = list(labels or [f"class {k}" for k in range(1, max(out_channels, 2))])
        if len(self.labels) != max(out_channels, 2) - 1:
            raise InputError(f"labels must name {max(out_channels, 2) - 1} foreground classes, got {self.labels}.")
        is_apart = background and output_dir is not None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writing") if is_apart else None

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write one case.

        Args:
            data: The item; `source`, the image's file, and `frame` give the scale of areas, or `scale` does, and
                `area_thresholds` of the probabilities their interval.

        Returns:
            The item with the mask as `classes`, uint8 (H, W), the `probabilities` to tell, float32 (K, H, W), and the
            values of `measure`; where files are written also with `mask_path` and `overlay_path` (POSIX, relative to
            `output_dir`) and `mask_shape` (H, W). All but the two arrays are plain Python values.
        """
        item = dict(data)
        if item.get("failure"):
            return item
        name = _checked_name(str(item["name"]))
        for key in map(str, self.keys):
            try:
                probabilities = self._probabilities(item[key], name)
                classes = decide(torch.from_numpy(probabilities))[0].numpy()
                frame, num_classes = int(item.get("frame", 0)), max(self.out_channels, 2)
                source, scale = item.get("source"), item.get("scale")
                ends = _ends(probabilities, item.get("area_thresholds"))
                item |= measure(classes, num_classes=num_classes, source=source, frame=frame, scale=scale, ends=ends)
            except InputError as error:
                if "failure" not in item:
                    raise
                item["failure"] = str(error).replace(str(item.get("source")), name.as_posix())
                item["failure_code"] = error.code
                return item
            if item.get("calibrated") is not None:
                probabilities = _array(item["calibrated"])
            item |= {"classes": classes, "probabilities": probabilities}
            if self.output_dir is not None:
                self._write(item, self.output_dir, PurePath(split_suffix(name.as_posix())[0]))
        return item

    def _write(self, item: dict[str, Any], folder: Path, stem: PurePath) -> None:
        classes = item["classes"]
        item["mask_path"] = Path("masks", f"{stem}.png").as_posix()
        item["mask_shape"] = (int(classes.shape[0]), int(classes.shape[1]))
        mask = mask_picture(classes, self.out_channels)
        further = self._further_images(item, stem)
        if self.overlays:
            item["overlay_path"] = Path("overlays", f"{stem}.png").as_posix()
            picture, spacing = np.asarray(item["picture"]), item["spacing_mm"]

        def write() -> bytes | None:
            small = None
            for path, image in further():
                write_png(folder / path, image)
            if self.overlays:
                overlay = draw_overlay(picture, classes, labels=self.labels, spacing=spacing)
                write_png(folder / item["overlay_path"], overlay, effort=1)  # 6 takes as long as the network
                small = thumbnail(overlay, size=mask.size, num_labels=len(self.labels))
            write_png(folder / item["mask_path"], mask)
            return small

        if self._thread is None:
            write()
        else:
            item["writing"] = self._thread.submit(write)

    def _further_images(
        self, item: dict[str, Any], stem: PurePath
    ) -> Callable[[], Iterator[tuple[str | Path, Image.Image]]]:
        """Add the paths of the further images to the item, and return a function for the thread to make them."""
        controlled = None if item.get("controlled") is None else _array(item["controlled"])[0].astype(np.uint8)
        disagreement = _array(item["disagreement"])[0] if self.disagreement_maps else None
        for name, there in (("controlled", controlled is not None), ("disagreement", disagreement is not None)):
            if there:
                item[f"{name}_path"] = Path(name, f"{stem}.png").as_posix()

        def images() -> Iterator[tuple[str | Path, Image.Image]]:
            if self.probability_maps:
                paths = probability_paths(stem, self.out_channels)
                maps = item["probabilities"][-len(self.labels) :]
                yield from ((path, _sixteen_bits(values)) for path, values in zip(paths, maps, strict=True))
            if disagreement is not None:
                yield item["disagreement_path"], _sixteen_bits(disagreement)
            if controlled is not None:
                yield item["controlled_path"], mask_picture(controlled, self.out_channels)

        return images

    def _probabilities(self, prediction: Any, name: PurePath) -> np.ndarray:
        array = _array(prediction)
        if array.ndim != 3 or array.shape[0] != self.out_channels:
            raise ValueError(f"pred must be ({self.out_channels}, H, W) for {name}, got {array.shape}.")
        if not np.isfinite(array).all():
            raise InputError(
                f"The prediction of {name.as_posix()} is not a number in places, so it has no mask: the checkpoint or "
                "the image is damaged. Load another checkpoint, or take the image out.",
                code="not_finite",
            )
        if array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ValueError(
                f"pred must be probabilities for {name}, got {array.min():.3g} to {array.max():.3g}: "
                "put Activationsd before SaveImage2Dd."
            )
        return array


def _ends(probabilities: np.ndarray, thresholds: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what each foreground class is at least and at most, bool (K - 1, H, W), by a low and a high threshold."""
    if thresholds is None:
        return None
    foreground = probabilities if len(probabilities) == 1 else probabilities[1:]
    low, high = thresholds
    return foreground >= np.float32(high), foreground >= np.float32(low)


def mask_picture(classes: np.ndarray, out_channels: int) -> Image.Image:
    """Return a mask as the picture that is written: 0 and 255 for K = 1, else class indices with a palette.

    Args:
        classes: The class map, uint8 (H, W).
        out_channels: K.
    """
    mask = Image.fromarray(classes * np.uint8(255) if out_channels == 1 else classes)
    if out_channels > 1:
        mask.putpalette(_palette())
    return mask


def probability_paths(stem: PurePath | str, out_channels: int) -> list[Path]:
    """Return the paths of a case's probability maps, relative to the output folder, one per foreground class.

    Args:
        stem: The case's name without the suffix of its kind of file.
        out_channels: K.
    """
    names = ["", *(f"_class{k}" for k in range(1, out_channels))]
    return [Path("probabilities", f"{stem}{name}.png") for name in (names[:1] if out_channels == 1 else names[1:])]


def _checked_name(name: str) -> PurePath:
    path = PurePath(name)
    if not path.name or path.anchor or ".." in path.parts:
        raise InputError(
            f"The case name {name!r} leads out of the output folder: names must be relative and without '..'."
        )
    return path


def _array(values: Any) -> np.ndarray:
    return np.asarray(convert_to_tensor(values, track_meta=False).detach().float().cpu().numpy())


def _sixteen_bits(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(values, 0.0, 1.0) * 65535).astype(np.uint16))


def write_png(path: Path, image: Image.Image, *, effort: int = 6) -> None:
    """Write a picture as PNG, complete or not at all.

    Args:
        path: The file.
        image: The picture.
        effort: How hard to compress, 0 to 9.

    Raises:
        InputError: If the system refuses.
    """
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG", compress_level=effort))


def _palette() -> list[int]:
    # All 256 entries: with fewer Pillow packs several pixels into a byte, which some viewers do not read.
    return [part for k in range(256) for part in class_colour(k)]
