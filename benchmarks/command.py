"""What the commands share that run for long: they tell what is done, and may be stopped and called again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


def tell(line: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)  # noqa: T201


def names_in(text: str | None) -> list[str] | None:
    """Return the names of a list with commas, or None without any."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C in a `with` block."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
