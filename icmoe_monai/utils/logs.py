"""The log as lines of JSON, for programs that collect logs: one object a line, without what a file may hold.

A library that reads files may repeat in a message what it found in one, and a file may name a patient. Of such
libraries' messages, and of exceptions, only the kind and the place are written.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

# libraries that read files or speak with archives
_READERS = (
    *("pydicom", "pynetdicom", "highdicom", "PIL", "tifffile", "nibabel", "openslide", "imagecodecs"),
    *("dicomweb_client", "requests", "urllib3", "retrying", "py.warnings"),
)
# as in configs/logging.conf: what they say is said by this package
_SILENT = {"ignite": logging.CRITICAL, "monai.bundle.workflows": logging.ERROR}

# loggers belong to the whole process: how many blocks silence each now, and which level it had before the first
_LOCK = threading.Lock()
_blocks: Counter[str] = Counter()
_levels: dict[str, int] = {}


class JsonFormatter(logging.Formatter):
    """Write a record as a JSON object: time, level, logger, message, and the fields that the record brings.

    A record brings fields by `extra={"fields": {...}}`.

    Example:
        >>> record = logging.LogRecord("pydicom", logging.WARNING, "read.py", 7, "Anna Miller", None, None)
        >>> json.loads(JsonFormatter().format(record))["message"]
        'said at read.py:7'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        told: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if is_ours(record.name) else f"said at {record.filename}:{record.lineno}",
        }
        told |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            told["exception"] = kind.__name__
            told["frames"] = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(trace)]
        return json.dumps(told, ensure_ascii=False, default=str)


def is_ours(logger: str) -> bool:
    """Return whether what a logger says may be repeated: it is not of a library that reads files.

    Args:
        logger: Name of the logger.
    """
    return logger.partition(".")[0] not in _READERS and logger not in _READERS


def fields(**values: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the `extra` of a record with these fields.

    Args:
        values: Plain values by name.
    """
    return {"fields": values}


def writes_json() -> bool:
    """Return whether this process writes its log as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def tell_end(what: str, sentence: str) -> None:
    """Tell how a command ended, in a line on standard error.

    Args:
        what: error or stopped.
        sentence: Why.
    """
    if writes_json():
        logging.getLogger(__name__).error("%s: %s", what, sentence)
    else:
        sys.stderr.write(f"\n{what}: {sentence}\n")


@contextmanager
def silenced(*loggers: str) -> Iterator[None]:
    """Silence loggers in a `with` block, for all threads; they are as before once no such block is left.

    Args:
        loggers: Names of the loggers, such as those of libraries that repeat what a file says.
    """
    with _LOCK:
        for name in loggers:
            _blocks[name] += 1
            if _blocks[name] == 1:
                _levels[name] = logging.getLogger(name).level
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _LOCK:
            for name in loggers:
                _blocks[name] -= 1
                if not _blocks[name]:
                    logging.getLogger(name).setLevel(_levels.pop(name))


@contextmanager
def json_log(stream: TextIO | None = None) -> Iterator[None]:
    """Write the log of this process as JSON in a `with` block, and nothing else of it.

    Args:
        stream: Where to; None: standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or is_ours(record.name))
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    levels = {name: logging.getLogger(name).level for name in _SILENT}
    for name, silent in _SILENT.items():
        logging.getLogger(name).setLevel(silent)
    shown = warnings.showwarning
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warnings.showwarning = shown
        for name, was in levels.items():
            logging.getLogger(name).setLevel(was)
        root.handlers[:] = before
        root.setLevel(level)
