"""What inference leaves on disk: masks, probability maps and one report.

Every file is first written beside its place and then moved there, so a reader finds a whole file or none. Masks are
upright, (H, W) as the input is displayed. Letters: K output channels (1: sigmoid, else softmax), H W image size.
"""

from __future__ import annotations

import colorsys
import errno
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import monai
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms.io.dictionary import SaveImaged
from PIL import Image

from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.version import __version__

# Okabe and Ito's colours, which the colour-blind can tell apart; class 0, the background, is black.
CLASS_COLOURS = (
    *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)),
    *((240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
_SECONDS_BETWEEN_REPORTS = 30.0
_REMEDIES = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota there",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Make the folder writable",
    errno.EROFS: "The disk is read-only: make it writable",
    errno.ENAMETOOLONG: "Shorten the names of the input files",
}


class SaveImage2Dd(SaveImaged):
    """Write the mask of each case as a PNG that lies on the input pixel for pixel.

    `<output_dir>/masks/<name>.png` holds 0 and 255 for K = 1, and class indices with visible palette colours for K > 1;
    both have 8 bits. Probability maps are grey PNGs of 16 bits (value / 65535) in `<output_dir>/probabilities/`:
    `<name>.png` for K = 1, `<name>_class1.png`, ... otherwise. The mask is written last: where it is, the case is done.

    The class is a `SaveImaged` because MONAI Label leaves out transforms of that class; nothing of it is used here,
    since its writers transpose images and name files by their stem alone.

    Args:
        output_dir: Folder of the results.
        keys: Key or keys of the probabilities, (K, H, W) in [0, 1] and at the input's own size. Each item also needs
            `name`, the input's POSIX path relative to the dataset.
        out_channels: K, at most 256.
        probability_maps: Whether to write the probability maps too.
        threshold: A pixel is foreground if its probability is above this; K = 1 only.

    Raises:
        InputError: If a name is absolute or holds "..", a prediction is NaN, or a file cannot be written.

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
        output_dir: str | Path,
        keys: str | tuple[str, ...] = "pred",
        out_channels: int = 1,
        probability_maps: bool = False,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, output_ext=".png", print_log=False)
        if not 1 <= out_channels <= 256:
            raise ValueError(f"out_channels must be 1 to 256, got {out_channels}.")
        self.output_dir = Path(output_dir)
        self.out_channels = out_channels
        self.probability_maps = probability_maps
        self.threshold = threshold

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write one case.

        Args:
            data: The item.

        Returns:
            The item with `mask_path` (POSIX, relative to `output_dir`), `mask_shape` (H, W) and `foreground_pixels`
            (one count per foreground class), all plain Python values.
        """
        item = dict(data)
        name = _checked_name(str(item["name"]))
        for key in map(str, self.keys):
            probabilities = self._probabilities(item[key], name)
            if self.probability_maps:
                self._write_probability_maps(probabilities, name)
            if self.out_channels == 1:
                classes = (probabilities[0] > self.threshold).astype(np.uint8)
                image = Image.fromarray(classes * np.uint8(255))
            else:
                classes = probabilities.argmax(0).astype(np.uint8)
                image = Image.fromarray(classes)
                image.putpalette(_palette())
            path = Path("masks", name).with_suffix(".png")
            _write_png(self.output_dir / path, image)
            counts = np.bincount(classes.ravel(), minlength=max(self.out_channels, 2))
            item["mask_path"] = path.as_posix()
            item["mask_shape"] = (int(classes.shape[0]), int(classes.shape[1]))
            item["foreground_pixels"] = [int(count) for count in counts[1:]]
        return item

    def _probabilities(self, prediction: Any, name: PurePath) -> np.ndarray:
        array = torch.as_tensor(prediction).detach().float().cpu().numpy()
        if array.ndim != 3 or array.shape[0] != self.out_channels:
            raise ValueError(f"pred must be ({self.out_channels}, H, W) for {name}, got {array.shape}.")
        if not np.isfinite(array).all():
            raise InputError(
                f"The prediction of {name.as_posix()} is not a number in places, so it has no mask: the checkpoint or "
                "the image is damaged. Load another checkpoint, or take the image out."
            )
        if array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ValueError(
                f"pred must be probabilities for {name}, got {array.min():.3g} to {array.max():.3g}: "
                "put Activationsd before SaveImage2Dd."
            )
        return array

    def _write_probability_maps(self, probabilities: np.ndarray, name: PurePath) -> None:
        levels = np.rint(np.clip(probabilities, 0.0, 1.0) * 65535).astype(np.uint16)
        folder = self.output_dir / "probabilities"
        if self.out_channels == 1:
            _write_png((folder / name).with_suffix(".png"), Image.fromarray(levels[0]))
        for index in range(1, self.out_channels):
            path = (folder / name).with_name(f"{name.stem}_class{index}.png")
            _write_png(path, Image.fromarray(levels[index]))


class InferenceReport:
    """Write `<output_dir>/report.json`: what was segmented, with which settings, and how much foreground was found.

    The file is there from the start of a run, so that a folder that cannot be written ends the run at once, and is
    renewed about every 30 seconds. `complete` is true only if every case is done; after an exception or Ctrl-C the
    cases done so far are written and the exception goes on. ignite runs the first handler of an exception only, so
    put this handler before `StatsHandler` and `CheckpointSaver`.

    A report may leave the clinic, so it holds no path of this machine: names are relative to the dataset, masks to
    `output_dir`, of a path among the settings only the last part is kept, and of an exception only its class. Names
    themselves are kept: a folder called after a patient appears.

    Args:
        output_dir: Folder of the results.
        settings: Plain values that say how the masks were made: checkpoint, voting, image size, ...

    Example:
        >>> import tempfile
        >>> evaluator = Engine(lambda engine, batch: [batch])
        >>> case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 3), "foreground_pixels": [3]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     InferenceReport(output_dir=folder, settings={"checkpoint": "/home/me/model.pt"}).attach(evaluator)
        ...     state = evaluator.run([case])
        ...     report = json.loads(Path(folder, "report.json").read_text())
        >>> report["complete"], report["settings"], report["cases"][0]["foreground_share"]
        (True, {'checkpoint': 'model.pt'}, [0.5])
    """

    def __init__(self, *, output_dir: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.output_dir = Path(output_dir)
        self.settings = dict(settings or {})
        self.cases: list[dict[str, Any]] = []
        self._complete = False
        self._last_case = self._last_report = 0.0

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: The evaluator, whose postprocessing holds `SaveImage2Dd`.
        """
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.TERMINATE, self.completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.exception_raised)

    def started(self, engine: Engine) -> None:
        """Begin an empty report."""
        self.cases, self._complete, self._last_case = [], False, time.monotonic()
        self._write(stopped_by=None)

    def iteration_completed(self, engine: Engine) -> None:
        """Add the cases of one batch; `seconds` is the time since the case before, reading and writing included."""
        now = time.monotonic()
        items = case_items(engine)
        for item in items:
            height, width = item["mask_shape"]
            self.cases.append(
                {
                    "name": str(item["name"]),
                    "height": height,
                    "width": width,
                    "mask": item["mask_path"],
                    "foreground_pixels": item["foreground_pixels"],
                    "foreground_share": [pixels / (height * width) for pixels in item["foreground_pixels"]],
                    "seconds": round((now - self._last_case) / len(items), 4),
                }
            )
        self._last_case = now
        if now - self._last_report > _SECONDS_BETWEEN_REPORTS:
            self._write(stopped_by=None)

    def completed(self, engine: Engine) -> None:
        """Write the whole report; it stays incomplete if `engine.terminate()` cut the run short."""
        self._complete = not engine.should_terminate
        self._write(stopped_by=None)

    def exception_raised(self, engine: Engine, error: BaseException) -> None:
        """Write what is there, then raise the exception again, which ignite would otherwise drop."""
        if not self._complete:
            try:
                self._write(stopped_by=type(find_input_error(error) or error).__name__)
            except InputError as second:
                logging.getLogger(__name__).warning("The report is not up to date. %s", second)
        raise error

    def _write(self, *, stopped_by: str | None) -> None:
        report = {
            "complete": self._complete,
            "stopped_by": stopped_by,
            "num_cases": len(self.cases),
            "versions": {"icmoe_monai": __version__, "monai": monai.__version__, "torch": str(torch.__version__)},
            "settings": _without_folders(self.settings),
            "cases": self.cases,
        }
        write_json(self.output_dir / "report.json", report)
        self._last_report = time.monotonic()


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is whole or not there; folders on the way are made.

    Args:
        path: Where the file shall be; a file already there is replaced once the new one is whole.
        write: Writes the file at the path it is given, which has the same suffix and lies in the same folder.

    Raises:
        InputError: If the system refuses, for example because the disk is full or read-only.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "Look whether something else lies in its place")
        raise InputError(
            f"Cannot write {path.name} in {path.parent}: {error.strerror or error}. {remedy}, or choose another folder."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically: UTF-8, indented, a number that is not finite as null.

    Args:
        path: Where the file shall be.
        content: Mappings, sequences, strings, numbers (NumPy's too), paths, None.

    Raises:
        InputError: If the file cannot be written.
    """
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 holds surrogates; escaped they are JSON and come back as the same name.
    data = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def case_items(engine: Engine) -> list[dict[str, Any]]:
    """Return the cases of the last iteration of a MONAI evaluator, what was read and what was made of it together.

    Args:
        engine: The evaluator; decollated batches and plain lists of items both work.

    Returns:
        One dict per case.
    """
    batch: Any = engine.state.batch
    output: Any = engine.state.output
    if not isinstance(batch, list):
        return [dict(item) for item in output]
    return [{**read, **made} for read, made in zip(batch, output, strict=True)]


def _checked_name(name: str) -> PurePath:
    path = PurePath(name)
    if not path.name or path.anchor or ".." in path.parts:
        raise InputError(
            f"The case name {name!r} leads out of the output folder: names must be relative and without '..'."
        )
    return path


def _write_png(path: Path, image: Image.Image) -> None:
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def _palette() -> list[int]:
    # All 256 entries: with fewer Pillow packs several pixels into a byte, which some viewers do not read.
    turns = range(256 - len(CLASS_COLOURS))
    further = [colorsys.hsv_to_rgb(0.618034 * turn % 1.0, 0.6, 0.9) for turn in turns]
    colours = [*CLASS_COLOURS, *(tuple(round(255 * part) for part in colour) for colour in further)]
    return [part for colour in colours for part in colour]


def _plain(content: Any) -> Any:
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    return str(content) if isinstance(content, PurePath) else content


def _without_folders(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_folders(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_folders(value) for value in content]
    if isinstance(content, (str, PurePath)):
        text = str(content)
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(text).is_absolute():
                return kind(text).name
    return content
