"""A node: it receives studies, has each predicted once it is complete, and sends the results, as the queue says.

Threads work side by side, and meet in the queue only: those of pynetdicom receive, the caller's predicts, and one for
each peer sends.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from icmoe_monai.errors import kind_of
from icmoe_monai.pacs.node.config import NodeConfig
from icmoe_monai.pacs.node.metrics import Metrics, StatusServer, free_bytes
from icmoe_monai.pacs.node.queue import Queue, Result
from icmoe_monai.pacs.node.receive import RECEIVED, Receiver
from icmoe_monai.pacs.node.send import NotSentError, Sender, make_sender
from icmoe_monai.utils.logs import fields

RESULTS = "results"
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_CLEANINGS = 3600.0
_SECONDS_TO_RECOVER = 5.0
_SECONDS_OF_A_DAY = 86400.0
_logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """Signal that a prediction was stopped in good order, and goes on when the node is started again."""


class NotPredictedError(Exception):
    """Signal that a study could not be predicted.

    Args:
        reason: Why, in a word, for logs and metrics.
        again: Whether it is worth another try.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again


class Predicted(NamedTuple):
    """What a prediction has made.

    Attributes:
        files: Paths of the results that are to be sent, below the folder of the study's results, by their UIDs.
        reason: What was not done, in a word; empty: all is done.
    """

    files: Mapping[str, str]
    reason: str = ""


class Node:
    """Run a node until it is stopped.

    Args:
        config: The node's config.
        folder: Folder of the node, which no other process uses.
        queue: The queue in that folder.
        predict: Segments the images in a folder into another, and returns the results; called in the thread of `run`.

    Raises:
        InputError: If a file that the config names cannot be used.
    """

    def __init__(
        self, config: NodeConfig, folder: Path, queue: Queue, predict: Callable[[Path, Path], Predicted]
    ) -> None:
        self.config = config
        self.folder = folder
        self.queue = queue
        self.metrics = Metrics(queue, folder)
        self._predict_folder = predict
        self._receiver = Receiver(config, folder, queue, self.metrics)
        self._senders = {
            name: make_sender(peer, ae=config.ae, timeout=config.timeout_seconds) for name, peer in config.peers.items()
        }
        self._stop = threading.Event()
        self._wake = threading.Event()  # there may be something to send
        self._sending: list[threading.Thread] = []

    def stop(self) -> None:
        """Take nothing new; `run` returns once what runs is done. May be called by a handler of signals."""
        self._stop.set()
        self._wake.set()

    @property
    def is_stopped(self) -> bool:
        """Whether the node was told to stop."""
        return self._stop.is_set()

    def run(self) -> None:
        """Receive, predict and send until `stop` is called.

        Raises:
            InputError: If a port cannot be listened at.
        """
        self.queue.restart()
        if unknown := sorted(self.queue.peers() - self._senders.keys()):
            _logger.warning("Results wait for %s, to which this config sends nothing.", ", ".join(unknown))
        address = (self.config.health_bind, self.config.health_port)
        status = StatusServer((address[0], address[1]), self.metrics, self.health) if address[1] is not None else None
        try:
            self._receiver.start()
            if status is not None:
                status.start()
            for name, sender in self._senders.items():
                thread = threading.Thread(target=self._send_all, args=(name, sender), name=f"to {name}", daemon=True)
                thread.start()
                self._sending.append(thread)
            _logger.info("%s listens at port %d of %s.", self.config.ae, self.config.port, self.config.bind)
            self._predict_all()
        finally:
            self.stop()
            self._receiver.stop()
            for thread in self._sending:
                thread.join()
            if status is not None:
                status.stop()

    def health(self) -> dict[str, Any]:
        """Return what `/health` tells."""
        free = free_bytes(self.folder)
        faults = {
            "stopping": self.is_stopped,
            "not_listening": not self._receiver.is_listening,
            "not_sending": not all(thread.is_alive() for thread in self._sending),
            "disk_full": free < self.config.reserve,
        }
        found = [name for name, is_so in faults.items() if is_so]
        return {
            "status": found[0] if found else "ok",
            "studies": self.queue.counts(),
            "results_waiting": self.queue.unsent(),
            "disk_free_bytes": free,
        }

    def _predict_all(self) -> None:
        """Predict what is complete, until the node is stopped; in between, remove what is not kept."""
        cleaned = -_SECONDS_BETWEEN_CLEANINGS
        while not self.is_stopped:
            with self._survive():
                self.queue.complete_quiet(self.config.quiet_seconds)
                study = self.queue.begin_prediction()
                if study is not None:
                    self._predict(study)
                    self._wake.set()
                    continue
                if self.config.keep_days is not None and time.monotonic() - cleaned > _SECONDS_BETWEEN_CLEANINGS:
                    self._remove_received(time.time() - self.config.keep_days * _SECONDS_OF_A_DAY)
                    cleaned = time.monotonic()
            self._stop.wait(min(_SECONDS_BETWEEN_LOOKS, self.config.quiet_seconds))

    def _predict(self, study: str) -> None:
        start = time.monotonic()
        _logger.info("Study %s: complete, its prediction begins.", study, extra=fields(study=study, state="predicting"))
        try:
            found = self._predict_folder(self.folder / RECEIVED / study, self.folder / RESULTS / study)
        except StoppedError:
            self.queue.give_back(study)
            return
        except NotPredictedError as error:
            self._fail(study, error.reason, again=error.again)
            return
        except Exception as error:  # one study must not end the node
            _logger.error("Study %s: an unforeseen error (%s).", study, kind_of(error), exc_info=True)
            self._fail(study, "internal", again=True)
            return
        seconds = time.monotonic() - start
        self.metrics.seconds.observe(seconds)
        results = {self.queue.digest(uid): file for uid, file in found.files.items()}
        self.queue.end_prediction(study, results, list(self._senders), found.reason)
        _logger.info(
            "Study %s: predicted in %.1f s, %d results.",
            *(study, seconds, len(results)),
            extra=fields(study=study, state="predicted", seconds=round(seconds, 3), results=len(results)),
        )

    def _fail(self, study: str, reason: str, *, again: bool) -> None:
        self.queue.fail_prediction(study, reason, again=again)
        state = self.queue.state_of(study)[0]
        _logger.error(
            "Study %s: not predicted (%s); it is %s now.",
            *(study, reason, state),
            extra=fields(study=study, state=state, reason=reason),
        )

    def _send_all(self, peer: str, sender: Sender) -> None:
        """Send what waits for a peer, until the node is stopped."""
        while not self.is_stopped:
            with self._survive():
                result = self.queue.begin_sending(peer)
                if result is not None:
                    self._send(result, sender)
                    continue
            self._wake.wait(_SECONDS_BETWEEN_LOOKS)
            if not self.is_stopped:
                self._wake.clear()

    def _send(self, result: Result, sender: Sender) -> None:
        told = {"study": result.study, "result": result.result, "peer": result.peer, "try": result.tries}
        try:
            outcome = sender.send(self.folder / RESULTS / result.study / result.file)
        except Exception as error:  # a peer may do anything
            reason = error.reason if isinstance(error, NotSentError) else "internal"
            self.queue.fail_sending(result, reason)
            self.metrics.unsent.labels(result.peer, reason).inc()
            _logger.warning(
                "Study %s: a result is not at %s (%s), try %d.",
                *(result.study, result.peer, reason, result.tries),
                extra=fields(**told, reason=reason),
            )
            return
        self.queue.end_sending(result)
        self.metrics.sent.labels(result.peer).inc()
        _logger.info("Study %s: a result is at %s (%s).", result.study, result.peer, outcome, extra=fields(**told))

    @contextmanager
    def _survive(self) -> Iterator[None]:
        """Wait where the queue or the disk refuses, as a full disk does, instead of ending the node."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            _logger.error("The queue or the disk refuses (%s): see whether there is space.", kind_of(error))
            self._stop.wait(_SECONDS_TO_RECOVER)

    def _remove_received(self, before: float) -> None:
        """Remove images that arrived before a moment, of studies that are settled since."""
        for study in self.queue.settled_before(before):
            folder = self.folder / RECEIVED / study
            for path in folder.glob("*.dcm"):
                if path.stat().st_mtime < before:
                    path.unlink()
            with suppress(OSError):  # a late image is there
                folder.rmdir()
