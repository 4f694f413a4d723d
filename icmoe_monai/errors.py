"""How a command ends before its work is done: by an error that a user can mend, by Ctrl-C, or by SIGTERM.

MONAI's config parser wraps every exception of a component twice ("Failed to instantiate ...", "Failed to evaluate ...")
and the command line prints the whole chain, the cause first and the wrapping last. `InputError` marks the causes that a
user can mend; in a `python -m monai.bundle` process `show_input_errors` makes the command line print just that cause.

SIGTERM, with which Kubernetes, Slurm and `kill` end a process, is made to end it as Ctrl-C does: with a
`KeyboardInterrupt`, upon which a run writes what it has.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import sys
import threading
from types import FrameType, TracebackType


class InputError(ValueError):
    """Signal a file, folder or setting of the user's that cannot be used; the message names it and says what to do.

    Attributes:
        exit_status: With what a command ends.
    """

    exit_status = 1


class FailedCasesError(InputError):
    """Signal that cases failed, while the others are done and their results are written."""

    exit_status = 3


class Terminated(KeyboardInterrupt):
    """Signal that the system has asked this process to end, by SIGTERM."""


def exit_status_of(stop: KeyboardInterrupt) -> int:
    """Return with what a command ends that was stopped: as shells have it, 128 and the number of the signal.

    Args:
        stop: What stopped it.

    Example:
        >>> exit_status_of(KeyboardInterrupt()), exit_status_of(Terminated())
        (130, 143)
    """
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def take_sigterm() -> None:
    """Make SIGTERM raise `Terminated` in this process, unless it has another handler or is ignored.

    The processes of data loaders and the like ignore it: whoever ends a job sends it to all processes at once, and a
    data loader must serve until its parent has ended in order.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    if multiprocessing.parent_process() is None:
        raise Terminated


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the `InputError` that caused an exception, or None.

    Args:
        error: Any exception; its causes and contexts are followed.

    Example:
        >>> try:
        ...     try:
        ...         raise InputError("images/a.png is empty: replace it.")
        ...     except InputError as cause:
        ...         raise RuntimeError("Failed to instantiate component") from cause
        ... except RuntimeError as error:
        ...     print(find_input_error(error))
        images/a.png is empty: replace it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        told = re.findall(r"^icmoe_monai\.errors\.InputError: (.*)$", str(error), flags=re.MULTILINE)
        if told:  # of an exception in a data loader's process only the text arrives
            return InputError(told[0])
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def show_input_errors() -> None:
    """Make a `python -m monai.bundle` command end in one sentence by an `InputError`, by Ctrl-C and by SIGTERM.

    It ends with the error's `exit_status`, 130 and 143. In any other process nothing changes.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.startswith("monai.bundle"):
        sys.excepthook = _one_sentence
        take_sigterm()


def _one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("\nstopped\n")
        raise SystemExit(exit_status_of(error))
    cause = find_input_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).debug("The whole traceback:", exc_info=(kind, error, trace))
    sys.stderr.write(f"\nerror: {cause}\n")
    # 1 is Python's own status; where PyTorch's hook for several processes calls this one, torchrun's status is 1 anyway
    if cause.exit_status != 1 and sys.excepthook is _one_sentence:
        raise SystemExit(cause.exit_status)
