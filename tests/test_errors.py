"""How a process of MONAI's ends with an error that its user can mend."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from icmoe_monai.errors import (
    FailedCasesError,
    InputError,
    Terminated,
    _one_sentence,
    show_input_errors,
    take_sigterm,
)


def wrapped(cause: InputError) -> RuntimeError:
    """Return an exception as MONAI raises it, with its cause."""
    error = RuntimeError("Failed to instantiate component")
    error.__cause__ = cause
    return error


def test_an_error_is_one_sentence_and_some_failed_cases_have_a_status_of_their_own(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", _one_sentence)
    for cause in (InputError("correct the path."), FailedCasesError("1 of 3 images failed.")):
        error = wrapped(cause)
        if isinstance(cause, FailedCasesError):
            with pytest.raises(SystemExit) as raised:
                _one_sentence(type(error), error, None)
            assert raised.value.code == 3
        else:
            _one_sentence(type(error), error, None)  # and Python ends with 1
        assert capsys.readouterr().err == f"\nerror: {cause}\n"


def test_a_hook_around_this_one_is_left_to_end_the_process(capsys, monkeypatch):
    """As PyTorch's, which writes what it has caught once this one has returned."""
    monkeypatch.setattr(sys, "excepthook", lambda *error: _one_sentence(*error))
    error = wrapped(FailedCasesError("1 of 3 images failed."))
    sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == "\nerror: 1 of 3 images failed.\n"


def test_other_processes_than_monais_keep_their_hook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_input_errors()
    assert sys.excepthook is sys.__excepthook__


@pytest.mark.parametrize(("stopped", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_what_is_stopped_ends_without_a_traceback_whatever_came_before(stopped, status, capsys):
    error = stopped()
    error.__context__ = InputError("a file that was missing, and then found")
    with pytest.raises(SystemExit) as raised:
        _one_sentence(stopped, error, None)
    assert raised.value.code == status
    assert capsys.readouterr().err == "\nstopped\n"


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None], ids=["none", "ignored", "own"])
def test_sigterm_ends_a_process_as_ctrl_c_does_unless_somebody_else_handles_it(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        take_sigterm()
        if handler == signal.SIG_DFL:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        else:
            assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, before)
