"""Command line `icmoe`, also `python -m icmoe_monai`: predict, listen, plan, train, evaluate and others."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from icmoe_monai.commands.experts import run_on_data
from icmoe_monai.commands.info import describe_file
from icmoe_monai.commands.listen import listen
from icmoe_monai.commands.plan import plan
from icmoe_monai.commands.predict import predict
from icmoe_monai.commands.quantize import quantize
from icmoe_monai.commands.suggest import suggest
from icmoe_monai.commands.words import read_words, take_log
from icmoe_monai.commands.workflow import find_bundle, names_of_packs
from icmoe_monai.data.prepare import main as prepare
from icmoe_monai.errors import InputError, exit_status_of, find_input_error, print_any_name, take_sigterm
from icmoe_monai.utils.logs import json_log, tell_end

_logger = logging.getLogger(__name__)
_STOPPED = {
    "predict": "the cases done so far are kept, and the same command goes on with the others",
    "suggest": "the images done so far are kept, and the same command goes on with the others",
    "train": "add --checkpoint OUT/last.pt to the same command to go on, if an epoch was done",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words of the command line; by default those of this process.

    Returns:
        The exit status: 0 if all is done, 1 if not, 3 if some cases failed and the others are done, 130 if the user
        stopped it, or 143 if the system did (SIGTERM).
    """
    before = signal.getsignal(signal.SIGTERM)
    take_sigterm()
    print_any_name()
    try:
        return _main(arguments)
    finally:
        if signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        words, log = take_log(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        tell_end("error", str(error))
        return error.exit_status
    if log != "json":
        return _end(words)
    with json_log():
        try:
            return _end(words)
        except Exception:
            _logger.critical("an unforeseen error", exc_info=True)
            return 1


def _end(words: list[str]) -> int:
    """Run a command, tell how it ended, and return its exit status."""
    try:
        _run(words)
    except KeyboardInterrupt as stop:
        tell_end("stopped", _going_on(words))
        return exit_status_of(stop)
    except Exception as error:
        cause = find_input_error(error) or _folder_is_gone(error)
        if cause is None:
            raise
        tell_end("error", str(cause))
        return cause.exit_status
    return 0


def _folder_is_gone(error: Exception) -> InputError | None:
    """Return what to tell where the working folder was removed, from which no path leads anywhere."""
    if isinstance(error, FileNotFoundError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return InputError("The working folder is gone: change into another, or give absolute paths.")
    return None


def _going_on(words: Sequence[str]) -> str:
    """Say how to go on with a command that was stopped."""
    options = {word.partition("=")[0] for word in words}
    if words[0] == "train" and "--folds" in options and "--fold" not in options:
        return "the same command goes on, without --overwrite"
    return _STOPPED.get(words[0], "the same command begins anew")


def _run(words: Sequence[str]) -> None:
    if words[:1] == ["prepare"]:
        prepare(words[1:])
        return
    root = find_bundle()
    given, overrides = read_words(words, names_of_packs(root))
    if given.command == "info":
        sys.stdout.write("".join(f"{line}\n" for line in describe_file(given.file)))
    else:
        own = {"predict": predict, "suggest": suggest, "plan": plan, "listen": listen, "quantize": quantize}
        own.get(given.command, run_on_data)(root, given, overrides)


if __name__ == "__main__":
    sys.exit(main())
