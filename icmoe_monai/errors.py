"""How a command ends before its work is done: by an error that a user can mend, by Ctrl-C, or by SIGTERM.

An error is told in one sentence of our own words. A library's exception may repeat what it found in a file, and a file
may name a patient: `in_our_words` and `kind_of` are the only way from such an exception into a sentence. Its kind is
told, its text is not.

MONAI's config parser wraps every exception of a component twice ("Failed to instantiate ...", "Failed to evaluate ...")
and the command line prints the whole chain, the cause first and the wrapping last. `InputError` marks the causes that a
user can mend; in a `python -m monai.bundle` process `show_input_errors` makes the command line print just that cause.

SIGTERM, with which Kubernetes, Slurm and `kill` end a process, is made to end it as Ctrl-C does: with a
`KeyboardInterrupt`, upon which a run writes what it has.
"""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType, TracebackType

# What a program may know of a failure, by its code; a code's meaning never changes, though others may be added.
REASONS = {
    "unreadable": "the system does not let the file be read, or it is gone",
    "empty": "the file has no bytes",
    "damaged": "the file is cut short, contradicts itself or cannot be decoded: copy or export it again",
    "unsupported": "the file may be sound, but its kind is not read here: convert it as the sentence says",
    "no_decoder": "no decoder of its compression is installed: install one that the sentence names",
    "no_pixels": "a DICOM image without pixel data: retrieve or export it again",
    "no_values": "all pixels are NaN or infinite: export it again",
    "no_such_frame": "the file has fewer frames, slices or pages than it had when it was found",
    "too_small": "the image is smaller than the network's smallest patch",
    "too_large": "the image has too many pixels for the memory: cut it into tiles",
    "whole_slide": "a whole slide, which is segmented as a large image",
    "too_many_frames": "the file claims more frames than are read: split it",
    "leads_out": "a link that leads out of the input folder",
    "same_name": "another input has the same name but for its suffix: rename one",
    "not_finite": "the network's prediction is NaN: the checkpoint or the image is damaged",
    "not_written": "the system refuses a file of the result, such as for its name",
    "no_object": "the source allows no DICOM object that refers to it, or no volume; the mask is there",
    # of an archive, or of another node in the network
    "unreachable": "the archive did not answer: it is down, or the network or its name is wrong",
    "timed_out": "the archive took longer than the time that it was given: try again later",
    "not_trusted": "the archive's certificate is not trusted, or it does not encrypt: give its authority's",
    "no_access": "the archive refuses these credentials, or what they may do",
    "not_found": "the archive has no such study, series or instance",
    "busy": "the archive was too busy, also after waiting: try again later",
    "archive_error": "the archive answered with an error of its own",
    "bad_answer": "the archive's answer is cut short, or not what the standard says",
    "rejected": "the archive did not take the object; the sentence holds the standard's failure reason",
    "not_confirmed": "the archive neither confirmed nor rejected the object, and does not have it",
    "not_whole": "images of the object's series could not be retrieved, so that it was not stored",
    "other": "none of these; the sentence tells what",
}


class InputError(ValueError):
    """Signal a file, folder or setting of the user's that cannot be used; the message names it and says what to do.

    Args:
        message: The sentence.
        code: One of `REASONS`, for programs; by default that of the class.

    Attributes:
        exit_status: With what a command ends.
        code: One of `REASONS`.

    Raises:
        KeyError: If there is no such code.

    Example:
        >>> InputError("a.png is empty: replace it.", code="empty").code
        'empty'
    """

    exit_status = 1
    code = "other"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            _ = REASONS[code]
            self.code = code


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

    The processes that are forked from it, of data loaders and the like, are not reached by SIGTERM: whoever ends a job
    sends it to all processes at once, and a data loader must serve until its parent has ended in order.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
        _guard_children()


def _terminate(number: int, frame: FrameType | None) -> None:
    if multiprocessing.parent_process() is None:
        raise Terminated


@cache
def _guard_children() -> None:
    """Block SIGTERM in all processes that are forked from now on, as long as this one has a handler for it."""
    if hasattr(os, "register_at_fork"):  # there is none on Windows
        os.register_at_fork(after_in_child=_block_sigterm)


def _block_sigterm() -> None:
    # blocked and not ignored: PyTorch gives the processes of its data loaders a handler of its own, which ends them
    if callable(signal.getsignal(signal.SIGTERM)):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


class DamagedError(ValueError):
    """Signal that a file contradicts itself, in words of ours that go on a sentence, such as "it ends too early"."""


def kind_of(error: BaseException) -> str:
    """Return what kind of exception a library raised: the system's own words, the place in a JSON file, or the class.

    Of a `DamagedError`, which is ours, it is the text.

    Args:
        error: The exception, whose text may repeat what a file holds and is not told.

    Example:
        >>> kind_of(FileNotFoundError(2, "no Anna Miller")), kind_of(ValueError("PatientName: Anna Miller"))
        ('No such file or directory', 'ValueError')
    """
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    if isinstance(error, DamagedError):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    return type(error).__name__


@contextmanager
def in_our_words(fault: str, remedy: str, raised: type[InputError] = InputError) -> Iterator[None]:
    """Turn what a library raises in a `with` block into an `InputError`: fault, kind of exception, remedy.

    Its code is "damaged".

    An `InputError` and a lack of memory are passed on as they are.

    Args:
        fault: The file and what is wrong with it, such as "a.tif is damaged".
        remedy: What to do, such as "copy it again".
        raised: Class of the error.

    Raises:
        InputError: In place of the exception, which is not even the error's cause, since tracebacks tell causes.

    Example:
        >>> with in_our_words("a.tif is damaged", "copy it again"):
        ...     {}["Anna Miller"]
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: a.tif is damaged (KeyError): copy it again.
    """
    kind = ""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make libraries raise nearly anything
        kind = kind_of(error)
    if kind:
        raise raised(f"{fault} ({kind}): {remedy}.", code="damaged") from None


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
        told = re.findall(r"^icmoe_monai\.[\w.]+Error: (.*)$", str(error), flags=re.MULTILINE)
        if told:  # of an exception in a data loader's process only the text arrives
            return InputError(told[0])
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def show_input_errors() -> None:
    """Make a `python -m monai.bundle` command end in one sentence by an `InputError`, by Ctrl-C and by SIGTERM.

    It ends with the error's `exit_status`, 130 and 143, and prints any name. In any other process nothing changes.
    """
    if is_monai_command():
        print_any_name()
        sys.excepthook = _one_sentence
        take_sigterm()


def is_monai_command() -> bool:
    """Tell whether this process is a `python -m monai.bundle` command."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.startswith("monai.bundle")


def print_any_name() -> None:
    """Let this process print names that the encoding of its output lacks, by their numbers, instead of ending there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
