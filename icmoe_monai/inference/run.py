"""The control of an inference run: when cases are recorded and reports written, how processes wait, how a run ends."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from ignite.engine import Engine, Events
from monai.engines.evaluator import SupervisedEvaluator

from icmoe_monai.errors import FailedCasesError, InputError, find_input_error
from icmoe_monai.inference.journal import CASE, SENT, VOLUME, Journal
from icmoe_monai.inference.report import InferenceReport, failed_record
from icmoe_monai.inference.report_page import MOST_THUMBNAILS
from icmoe_monai.inference.volumes import VolumeWriter, tell_remarks
from icmoe_monai.utils.distributed import collect, is_first
from icmoe_monai.utils.engines import case_items
from icmoe_monai.utils.files import is_of_one_name
from icmoe_monai.utils.turns import taking_turns

_SECONDS_BETWEEN_REPORTS = 30.0
_MOST_NOTES = 20  # of cases, in the report's list of notes
_logger = logging.getLogger(__name__)
_MOST_WAITING = 4  # cases whose files are not written yet; each holds its picture in memory


class Sender(Protocol):
    """Whatever sends a run's files on."""

    def send(self, journal: Journal) -> None:
        """Send what was not sent yet, and record each file in the journal."""


class InferenceRun:
    """Handler: record each case once its files are written, and keep the report and the volumes up to date.

    `report.json` is written at the start of a run, so that a folder that cannot be written ends the run at once, and is
    renewed about every 30 seconds; the other two files of the report are written at the end, also of a stopped run. The
    report includes the cases of earlier runs into the folder. Its `complete` is true only if every case was tried; an
    exception or Ctrl-C is raised again once the report is written. A run with failed cases ends with a
    `FailedCasesError`, once everything is written. ignite runs the first handler of an exception only, so put this
    handler before `StatsHandler` and `CheckpointSaver`.

    Of several processes the first writes the report and the volumes. At its end each process waits for the others, and
    the first takes over their records; a process that was stopped by an exception raises it then.

    Args:
        journal: Journal in which each case is recorded as it is done.
        cases: All cases, in the order of the report.
        report: Report of the run, which makes the records and writes the files.
        volumes: Writer of the volumes, called with each recorded case; None for no volumes.
        sender: Sends the volumes' files on, at the end of a run in which every case was tried; None for nobody.

    Example:
        >>> import json, tempfile
        >>> evaluator = Engine(lambda engine, batch: [batch])
        >>> case = {"name": "a.jpg", "mask_path": "masks/a.png", "mask_shape": (2, 3), "foreground_pixels": [3]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(output_dir=folder)
        ...     cases = journal.missing([{"name": "a.jpg"}])
        ...     InferenceRun(journal=journal, cases=cases, report=InferenceReport(output_dir=folder)).attach(evaluator)
        ...     state = evaluator.run([case])
        ...     report = json.loads((journal.output_dir / "report.json").read_text())
        >>> report["complete"], report["cases"][0]["foreground_pixels"]
        (True, [3])
    """

    def __init__(
        self,
        *,
        journal: Journal,
        cases: Sequence[Mapping[str, Any]],
        report: InferenceReport,
        volumes: VolumeWriter | None = None,
        sender: Sender | None = None,
    ) -> None:
        self.journal = journal
        self.cases = {case["name"]: case for case in cases}
        self.report = report
        self.volumes = volumes
        self.sender = sender
        self._num_frames = Counter(case.get("source") for case in cases)
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
        """Begin the journal, and write the report so far and the volumes that earlier runs left unwritten."""
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
        self._renew_report()

    def iteration_completed(self, engine: Engine) -> None:
        """Record the cases of one batch; `seconds` is the time since the case before, reading and writing included."""
        now = time.monotonic()
        items = case_items(engine)
        for item in items:
            self._writing.append((self._record(item, (now - self._last_case) / len(items)), item.get("writing")))
        self._note(most_waiting=_MOST_WAITING)
        self._last_case = now
        if is_first() and now - self._last_report > _SECONDS_BETWEEN_REPORTS:
            self._renew_report()

    def completed(self, engine: Engine) -> None:
        """Write the whole report; it stays incomplete if `engine.terminate()` cut the run short.

        Raises:
            FailedCasesError: If cases failed, or files could not be sent.
        """
        self._note()
        self._complete = not engine.should_terminate
        content = self._finish(None)
        if self._complete and is_first() and (told := [*_failed_cases(content), *_not_sent(content)]):
            raise FailedCasesError(" ".join(told))

    def exception_raised(self, engine: Engine, error: BaseException) -> None:
        """Write the report so far, then raise the exception again, which ignite would otherwise drop."""
        if not self._complete:
            try:
                try:
                    self._note()
                finally:  # even if recording fails, since the other processes wait
                    self._finish(type(find_input_error(error) or error).__name__)
            except InputError as second:
                _logger.warning("The report is not up to date. %s", second)
        raise error

    def _record(self, item: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        source = item.get("source")
        return self.report.record(item, seconds=seconds, tell_frame=source is not None and self._num_frames[source] > 1)

    def _note(self, *, most_waiting: int = 0) -> None:
        """Record the cases whose files are written, in order; wait for files while more than `most_waiting` are not.

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
        """Return the record once its files are written, or as failed if the system refuses these files' names."""
        try:
            small = writing.result()
        except InputError as error:
            if not is_of_one_name(error):
                raise
            told = str(error).replace(str(self.journal.output_dir), "output_dir")
            return failed_record(record, told, error.code)
        if small is not None and len(self._thumbnails) < MOST_THUMBNAILS:
            self._thumbnails[record["overlay"]] = small
        return record

    def _add(self, record: dict[str, Any]) -> None:
        self.journal.add(CASE, record)
        if self.volumes is not None and is_first():
            self.volumes.add(record["name"])

    def _finish(self, stopped_by: str | None) -> dict[str, Any]:
        """Write and return the whole report of all processes, which wait until it is written."""
        is_repeated, self._finished = self._finished, True
        if not is_repeated:
            stopped_by = self._take_over(stopped_by)
            self._complete = self._complete and stopped_by is None
        try:
            if self.sender is not None and self._complete and not is_repeated and is_first():
                self.sender.send(self.journal)
        finally:  # also if that was stopped
            content = self._content(stopped_by)
            if is_first():
                self.report.write(content, thumbnails=self._thumbnails)
                if not is_repeated:
                    _logger.info("The report: %s", self.report.output_dir / "report.html")
        if not is_repeated:
            collect(None)  # where one process has ended with an error, torchrun ends the others
        return content

    def _take_over(self, stopped_by: str | None) -> str | None:
        """Wait for the other processes, record their cases, and return the exception that stopped any process."""
        done = [] if is_first() else list(self.journal.records(CASE).values())
        parts = collect((done, self._thumbnails, stopped_by))
        if is_first():
            for records, thumbnails, _ in parts[1:]:
                self._thumbnails |= thumbnails
                for record in records:
                    self._add(record)
            self.journal.drop_parts()
        return next((name for _, _, name in parts if name is not None), None)

    def _renew_report(self) -> None:
        self.report.renew(self._content(stopped_by=None))
        self._last_report = time.monotonic()

    def _content(self, stopped_by: str | None) -> dict[str, Any]:
        records = self.journal.records(CASE)
        volumes = list(self.journal.records(VOLUME).values())
        files = [file for volume in volumes for file in volume["files"]]
        sent = [one for one in self.journal.records(SENT).values() if one["file"] in {file["file"] for file in files}]
        no_objects = {
            name: volume["reason_code"]
            for volume in volumes
            for name in volume["of"]
            if volume.get("reason_code") and records.get(name, {}).get("status") == "done"
        }
        return self.report.content(
            [records[name] for name in self.cases if name in records],
            volumes=files,
            no_objects=no_objects,
            notes=tell_remarks(volume for volume in volumes if volume["name"] in self.cases)
            + _notes_of(records, self.cases)
            + [one["error"] for one in sent if one["error"]][:_MOST_NOTES],
            sent=sent,
            model=self.journal.model,
            settings=self.journal.settings,
            complete=self._complete,
            stopped_by=stopped_by,
        )


def _failed_cases(content: Mapping[str, Any]) -> Iterator[str]:
    failed = [case for case in content["cases"] if case["status"] == "failed"]
    if failed:
        others = "the others are done" if len(failed) < len(content["cases"]) else "so there are no masks"
        yield (
            f"{len(failed)} of {len(content['cases'])} images could not be used, {others}; report.json says why. "
            f"The first: {failed[0]['error']}"
        )


def _not_sent(content: Mapping[str, Any]) -> Iterator[str]:
    failed = [one for one in content["sent"] if one["status"] == "failed"]
    if failed:
        yield (
            f"{len(failed)} of {len(content['sent'])} DICOM objects could not be sent; report.json says why, and the "
            f"same command sends them. The first: {failed[0]['error']}"
        )


def _notes_of(records: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Return the notes of the cases, of many the first and the number of the others."""
    told = [note for name in names if (note := records.get(name, {}).get("note"))]
    more = len(told) - _MOST_NOTES
    rest = [f"{more} more images have a note: see their lines in report.json."] if more > 0 else []
    return told[:_MOST_NOTES] + rest


def run_missing(evaluator: SupervisedEvaluator) -> None:
    """Run an evaluator over the missing cases; if there are none, only its handlers of a run's start and end.

    Args:
        evaluator: The evaluator, built over the missing cases.
    """
    evaluator.network.eval()  # else MONAI switches every part's mode and back for each case
    if evaluator.state.epoch_length:
        evaluator.run()
        return
    _logger.info("No case is left to segment: those done already are done again with --overwrite True.")
    with taking_turns([evaluator]):
        pass  # it takes no turn
