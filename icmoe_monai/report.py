"""The one report of an inference run, and the cases of an engine's iteration that reports are made of."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events

from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.files import write_json
from icmoe_monai.version import __version__

_SECONDS_BETWEEN_REPORTS = 30.0


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
        >>> import json, tempfile
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
            "versions": versions(),
            "settings": without_folders(self.settings),
            "cases": self.cases,
        }
        write_json(self.output_dir / "report.json", report)
        self._last_report = time.monotonic()


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


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"icmoe_monai": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


def without_folders(content: Any) -> Any:
    """Return settings with every absolute path cut to its last part: a report may leave this machine.

    Args:
        content: Mappings, sequences, strings, paths and other plain values.

    Example:
        >>> without_folders({"checkpoint": "/home/me/best.pt", "dataset_dir": "data/set"})
        {'checkpoint': 'best.pt', 'dataset_dir': 'data/set'}
    """
    if isinstance(content, Mapping):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_folders(value) for value in content]
    if isinstance(content, (str, PurePath)):
        text = str(content)
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(text).is_absolute():
                return kind(text).name
    return content
