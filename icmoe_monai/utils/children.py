"""Processes that a command starts, and that end in good order when it is stopped itself, or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

# a signal that comes as a thread begins to wait does not end the waiting, so that no wait may be without an end
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_SAVE = 60.0
_SECONDS_TO_END = 5.0
_ORPHANS = Path(__file__).with_name("orphans.py")
_Task = TypeVar("_Task", bound=Hashable)


class Children:
    """Start processes, and stop them: each is asked to save its state and end, and ended if it does not.

    Where this process ends without stopping them, as one that is killed, they are stopped all the same (but not on
    Windows).
    """

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []
        self.is_stopped = False
        self.lock = threading.Lock()

    def execute(
        self,
        command: Sequence[str],
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> int:
        """Run a command, and return its exit status; once stopped, 1 without running anything.

        Args:
            command: Words of the command.
            log: File to which its output is added; None: it goes where this process's goes.
            environment: Its environment; None: this process's.
            folder: Its working folder; None: this process's.
        """
        file = None if log is None else log.open("a")
        try:
            with self.lock:
                if self.is_stopped:
                    return 1
                # a session of its own, so that only `stop` passes Ctrl-C on, once: a second one would stop the saving
                process = subprocess.Popen(
                    [*watched(_SECONDS_TO_SAVE), *command],
                    cwd=folder,
                    env=None if environment is None else dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=None if file is None else subprocess.STDOUT,
                    start_new_session=True,
                )
                self.running.append(process)
            with process:
                status = process.wait()
            with self.lock:
                self.running.remove(process)
            return status
        finally:
            if file is not None:
                file.close()

    def stop(self) -> None:
        """Ask every process to save and end, and end those that do not."""
        with self.lock:
            self.is_stopped = True
        for number, patience in ((signal.SIGINT, _SECONDS_TO_SAVE), (signal.SIGKILL, _SECONDS_TO_END)):
            with self.lock:
                for process in self.running:
                    process.send_signal(number)
            end = time.monotonic() + patience
            while self.running and time.monotonic() < end:
                time.sleep(0.1)


def watched(seconds: float) -> list[str]:
    """Return the words that, before those of a command, let it end with this process; none on Windows.

    The command's standard input must be a pipe to which nobody writes.

    Args:
        seconds: How long the command may take to save.
    """
    return [sys.executable, "-I", "-S", str(_ORPHANS), str(seconds)] if hasattr(os, "fork") else []


def run_side_by_side(
    tasks: Sequence[_Task],
    work: Callable[[_Task], object],
    *,
    jobs: int,
    told: Callable[[_Task, BaseException | None], object],
    stop: Callable[[], object],
) -> dict[_Task, BaseException]:
    """Do tasks that each wait for a process, some at a time.

    Args:
        tasks: The tasks, in order.
        work: Does one.
        jobs: Number of tasks at a time.
        told: Called in this thread with every task that is done, and what it raised.
        stop: Ends the processes, after Ctrl-C.

    Returns:
        What the tasks that failed raised, in the order of the tasks.
    """
    failed: dict[_Task, BaseException] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures: dict[Future, _Task] = {pool.submit(work, task): task for task in tasks}
            order, waiting = list(futures), set(futures)
            while waiting:
                done, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                for future in sorted(done, key=order.index):
                    error = future.exception()
                    if error is not None:
                        failed[futures[future]] = error
                    told(futures[future], error)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop()
            raise
    return {task: failed[task] for task in tasks if task in failed}
