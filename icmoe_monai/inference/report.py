"""The one report of an inference run: what was found in which image, and what made the masks."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ignite.engine import Engine, Events
from monai.engines.evaluator import SupervisedEvaluator

from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.inference.journal import CASE, NOTE, VOLUME, Journal
from icmoe_monai.inference.report_page import MOST_THUMBNAILS, render_report
from icmoe_monai.inference.volumes import VolumeWriter
from icmoe_monai.utils.distributed import collect, is_first
from icmoe_monai.utils.engines import case_items, versions
from icmoe_monai.utils.files import is_of_one_name, without_folders, write_atomically, write_csv, write_json

CALIBRATED = ("predicted_dice", "review", "no_lesion_probability", "no_lesion")
_FIGURES = ("foreground_pixels", "foreground_share", "area_mm2", "num_components", "reliability")
_SECONDS_BETWEEN_REPORTS = 30.0
_MOST_WAITING = 4  # cases whose files are not written yet; each holds its picture in memory


class InferenceReport:
    """Write `report.json`, `report.csv` and `report.html`: what was found in which image, and what made the masks.

    `report.json` is there from the start of a run, so that a folder that cannot be written ends the run at once, and is
    renewed about every 30 seconds; the other two are written at the end, a stopped run's too. Cases of earlier runs
    into the folder are in it. `complete` is true only if every case was tried; after an exception or Ctrl-C the
    exception goes on. A run with failed cases ends with an `InputError`, once everything is written. ignite runs the
    first handler of an exception only, so put this handler before `StatsHandler` and `CheckpointSaver`.

    Of several processes the first writes the report and the volumes. At its end each waits for the others, and the
    first takes over what they did; one that was stopped by an exception raises it then.

    A report may leave the clinic, so it holds no path of this machine: names are relative to the dataset, masks to
    `output_dir`, of an absolute path among the settings only the last part is kept, of an exception only its class.
    Names themselves are kept, unless the run is anonymous: a folder called after a patient appears.

    Args:
        journal: Where each case is noted as it is done.
        cases: All cases, in the order of the report.
        left_out: Name and reason of the files that are no images.
        labels: Names of the foreground classes.
        volumes: Who writes volumes, and is told of each case that is done.
        calibration: What is to be said of the run's calibration, as `Calibration.summary` returns it.
        further: Keys of the items that are told of each case beside the usual ones.

    Example:
        >>> import json, tempfile
        >>> evaluator = Engine(lambda engine, batch: [batch])
        >>> case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 3), "foreground_pixels": [3]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(output_dir=folder, settings={"checkpoint": "/home/me/model.pt"})
        ...     cases = journal.missing([{"name": "a.jpg"}])
        ...     InferenceReport(journal=journal, cases=cases).attach(evaluator)
        ...     state = evaluator.run([case])
        ...     report = json.loads((journal.output_dir / "report.json").read_text())
        >>> report["complete"], report["settings"], report["cases"][0]["foreground_pixels"]
        (True, {'checkpoint': 'model.pt'}, [3])
    """

    def __init__(
        self,
        *,
        journal: Journal,
        cases: Sequence[Mapping[str, Any]],
        left_out: Sequence[Mapping[str, str]] = (),
        labels: Sequence[str] = ("foreground",),
        volumes: VolumeWriter | None = None,
        calibration: Mapping[str, Any] | None = None,
        further: Sequence[str] = (),
    ) -> None:
        self.journal = journal
        self.cases = {case["name"]: case for case in cases}
        self._num_frames = Counter(case.get("source") for case in cases)
        self.left_out = [dict(file) for file in left_out]
        self.labels = list(labels)
        self.volumes = volumes
        self.calibration = without_folders(dict(calibration or {}))
        self.further = tuple(further)
        self._writing: deque[tuple[dict[str, Any], Future | None]] = deque()
        self._thumbnails: dict[str, bytes] = {}
        self._complete = self._finished = False
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
        """Write what earlier runs did, and volumes that they had no time for."""
        self._complete, self._finished, self._last_case = False, False, time.monotonic()
        self._writing.clear()
        self._thumbnails.clear()
        self.journal.begin()
        if not is_first():
            return
        if self.volumes is not None:
            self.volumes.start()
        for case in self.cases.values():
            if case.get("failure"):
                self._add(self._record(case, 0.0))
        self._write(self._content(stopped_by=None))

    def iteration_completed(self, engine: Engine) -> None:
        """Note the cases of one batch; `seconds` is the time since the case before, reading and writing included."""
        now = time.monotonic()
        items = case_items(engine)
        for item in items:
            self._writing.append((self._record(item, (now - self._last_case) / len(items)), item.get("writing")))
        self._note(most_waiting=_MOST_WAITING)
        self._last_case = now
        if now - self._last_report > _SECONDS_BETWEEN_REPORTS:
            self._write(self._content(stopped_by=None))

    def completed(self, engine: Engine) -> None:
        """Write the whole report; it stays incomplete if `engine.terminate()` cut the run short.

        Raises:
            InputError: If cases failed.
        """
        self._note()
        self._complete = not engine.should_terminate
        content = self._finish(None)
        failed = [case for case in content["cases"] if case["status"] == "failed"]
        if failed and self._complete and is_first():
            raise InputError(
                f"{len(failed)} of {len(content['cases'])} images could not be used, the others are done; report.json "
                f"says why. The first: {failed[0]['error']}"
            )

    def exception_raised(self, engine: Engine, error: BaseException) -> None:
        """Write what is there, then raise the exception again, which ignite would otherwise drop."""
        if not self._complete:
            try:
                try:
                    self._note()
                finally:  # whatever becomes of these, the other processes wait
                    self._finish(type(find_input_error(error) or error).__name__)
            except InputError as second:
                logging.getLogger(__name__).warning("The report is not up to date. %s", second)
        raise error

    def _note(self, *, most_waiting: int = 0) -> None:
        """Note the cases whose files are written, in order, and wait for them where too many are not.

        Raises:
            InputError: If a file could not be written.
        """
        while self._writing:
            record, writing = self._writing[0]
            if writing is not None and not writing.done() and len(self._writing) <= most_waiting:
                return
            self._writing.popleft()
            self._add(record if writing is None else self._written(record, writing))

    def _written(self, record: dict[str, Any], writing: Future) -> dict[str, Any]:
        """Return the record once its files are there, or as failed if the system refuses these very files."""
        try:
            small = writing.result()
        except InputError as error:
            if not is_of_one_name(error):
                raise
            sentence = str(error).replace(str(self.journal.output_dir), "output_dir")
            kept = {key: record[key] for key in ("name", "stamp", "frame", "seconds")}
            return {**dict.fromkeys(record), **kept, "status": "failed", "error": sentence}
        if small is not None and len(self._thumbnails) < MOST_THUMBNAILS:
            self._thumbnails[record["overlay"]] = small
        return record

    def _add(self, record: dict[str, Any]) -> None:
        self.journal.add(CASE, record)
        if self.volumes is not None and is_first():
            self.volumes.add(record["name"])

    def _finish(self, stopped_by: str | None) -> dict[str, Any]:
        """Write and return the whole report, of all processes, which wait until it is there."""
        is_repeated, self._finished = self._finished, True
        if not is_repeated:
            stopped_by = self._take_over(stopped_by)
            self._complete = self._complete and stopped_by is None
        content = self._content(stopped_by=stopped_by)
        self._write_all(content)
        if not is_repeated:
            collect(None)  # where one process has ended with an error, torchrun ends the others
        return content

    def _take_over(self, stopped_by: str | None) -> str | None:
        """Wait for the other processes, note what they did, and return the exception that stopped this or another."""
        done = [] if is_first() else list(self.journal.records(CASE).values())
        parts = collect((done, self._thumbnails, stopped_by))
        if is_first():
            for records, thumbnails, _ in parts[1:]:
                self._thumbnails |= thumbnails
                for record in records:
                    self._add(record)
            self.journal.drop_parts()
        return next((name for _, _, name in parts if name is not None), None)

    def _record(self, item: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        failure = item.get("failure") or None
        source, frame = item.get("source"), int(item.get("frame", 0))
        height, width = item.get("mask_shape", (None, None))
        record = {
            "name": str(item["name"]),
            "status": "failed" if failure else "done",
            "error": failure,
            "stamp": item.get("stamp"),
            "frame": frame if source is not None and self._num_frames[source] > 1 else None,
            "height": height,
            "width": width,
            "spacing_mm": item.get("spacing_mm"),
            "mask": item.get("mask_path"),
            "overlay": item.get("overlay_path"),
            "controlled": item.get("controlled_path"),
            "disagreement_map": item.get("disagreement_path"),
        }
        for key in (*_FIGURES, *CALIBRATED, *self.further):
            record[key] = item.get(key) if not failure else None
        return {**record, "seconds": round(seconds, 4)}

    def _content(self, *, stopped_by: str | None) -> dict[str, Any]:
        records = self.journal.records(CASE)
        volumes = self.journal.records(VOLUME).values()
        file_of = {name: volume["file"] for volume in volumes for name in volume["cases"]}
        cases = [{**records[name], "volume": file_of.get(name)} for name in self.cases if name in records]
        for case in cases:
            case.pop("stamp", None)
        notes = self.journal.records(NOTE)
        return {
            "complete": self._complete,
            "stopped_by": stopped_by,
            "num_cases": len(cases),
            "num_failed": sum(case["status"] == "failed" for case in cases),
            "versions": versions(),
            "model": self.journal.model,
            "settings": self.journal.settings,
            "calibration": self.calibration,
            "labels": self.labels,
            "left_out": self.left_out,
            "notes": [note["text"] for name, note in notes.items() if name in self.cases],
            "cases": cases,
        }

    def _write(self, content: Mapping[str, Any]) -> None:
        if not is_first():
            return
        write_json(self.journal.output_dir / "report.json", content)
        self._last_report = time.monotonic()

    def _write_all(self, content: Mapping[str, Any]) -> None:
        self._write(content)
        if not is_first():
            return
        folder = self.journal.output_dir
        write_csv(folder / "report.csv", [_row(case, self.labels) for case in content["cases"]])
        page = render_report(content, output_dir=folder, thumbnails=self._thumbnails).encode("utf-8", errors="replace")
        write_atomically(folder / "report.html", lambda temporary: temporary.write_bytes(page))


def run_missing(evaluator: SupervisedEvaluator) -> None:
    """Run an evaluator, or where all cases are done already only what stands at a run's start and end.

    Args:
        evaluator: The evaluator, built over the missing cases.
    """
    if evaluator.state.epoch_length:
        evaluator.network.eval()  # MONAI changes the mode of every part, there and back, for each case else
        evaluator.run()
    else:
        logging.getLogger(__name__).info("All cases are done already: --overwrite True does them again.")
        evaluator.fire_event(Events.STARTED)
        evaluator.fire_event(Events.COMPLETED)


def _row(case: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Return a case as a line of the CSV: one column per class where there are several."""
    row: dict[str, Any] = {}
    for key, value in case.items():
        if key == "reliability":
            row |= value or {}
        elif key == "spacing_mm":
            row |= dict(zip(("row_spacing_mm", "column_spacing_mm"), value or (None, None), strict=True))
        elif key in ("foreground_pixels", "foreground_share", "area_mm2", "num_components"):
            ends = [""] if len(labels) == 1 else [f"_{label}" for label in labels]
            missing = "uncalibrated" if key == "area_mm2" and case["status"] == "done" else None
            row |= {key + end: part for end, part in zip(ends, value or [missing] * len(ends), strict=True)}
        else:
            # a spreadsheet would take such a name for a formula
            is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
            row[key] = f"'{value}" if is_formula else value
    return row
