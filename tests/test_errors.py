"""How a process of MONAI's ends with an error that its user can mend."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
from monai.data.dataloader import DataLoader

from icmoe_monai.errors import (
    FailedCasesError,
    InputError,
    Terminated,
    _one_sentence,
    find_input_error,
    in_our_words,
    kind_of,
    print_any_name,
    show_input_errors,
    take_sigterm,
)

PACKAGE = Path(__file__).parents[1] / "icmoe_monai"
# what they tell of is no image: the arguments that a checkpoint's network lacks, and a calibration
OUR_ERRORS = ("InputError", "TransferError")
TELLS_ON_PURPOSE = ("networks/blueprint.py", "calibration/file.py")


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


@pytest.mark.parametrize(
    "kind", ["errors.InputError", "imageio.image_file.NotAnImageError", "slides.tiff.UnreadableImageError"]
)
def test_of_an_error_in_another_process_the_sentence_is_told_and_no_traceback(kind):
    caught = f"Caught {kind} in DataLoader worker process 0.\nTraceback ...\nValueError: Miller\n"
    text = f"{caught}\nicmoe_monai.{kind}: a is bad.\n"
    found = find_input_error(RuntimeError(text))
    assert type(found) is InputError
    assert str(found) == "a is bad."


def test_the_kind_of_an_exception_holds_nothing_of_its_text():
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads('{\n"Miller": }')
    errors = [ValueError("Miller"), KeyError("Miller"), OSError("Miller"), OSError(28, "Miller"), raised.value,
              UnicodeDecodeError("utf-8", b"Miller", 0, 1, "Miller")]  # fmt: skip
    kinds = [kind_of(error) for error in errors]
    assert kinds == [
        "ValueError",
        "KeyError",
        "OSError",
        "No space left on device",
        "line 2, column 11",
        "UnicodeDecodeError",
    ]


@pytest.mark.parametrize(
    "error", [InputError("as it is"), MemoryError("as it is"), KeyboardInterrupt("as it is")], ids=repr
)
def test_what_is_no_complaint_of_a_library_passes(error):
    with pytest.raises(type(error), match="as it is"), in_our_words("a is bad", "copy it"):
        raise error


def told_exceptions(tree: ast.AST) -> Iterator[int]:
    """Yield the lines in which a text holds that of an exception which is none of this package's."""
    for handler in ast.walk(tree):
        kinds = ast.unparse(handler.type) if isinstance(handler, ast.ExceptHandler) and handler.type else "InputError"
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None or kinds in OUR_ERRORS:
            continue
        for node in ast.walk(handler):
            if isinstance(node, ast.FormattedValue) and ast.unparse(node.value) == handler.name:
                yield node.lineno


def test_no_sentence_holds_the_text_of_a_librarys_exception():
    code = "try:\n    read()\nexcept {} as error:\n    raise InputError(f'bad ({{error{}}})')"
    assert [*told_exceptions(ast.parse(code.format("Exception", "!r")))] == [4]
    assert [*told_exceptions(ast.parse(code.format("(OSError, ValueError)", "")))] == [4]
    assert not [*told_exceptions(ast.parse(code.format("InputError", "")))]
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).as_posix() not in TELLS_ON_PURPOSE]
    assert len(paths) > 100
    found = [
        f"{path.relative_to(PACKAGE)}:{line}" for path in paths for line in told_exceptions(ast.parse(path.read_text()))
    ]
    assert found == []


def test_an_output_that_lacks_a_sign_prints_its_number(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(UnicodeEncodeError):
        output.write("Łódź.png")
    print_any_name()
    output.write("Łódź.png é")
    output.flush()
    assert output.buffer.getvalue() == b"\\u0141\xf3d\\u017a.png \xe9"


# Python 3.12 warns of every fork of a process with threads
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_data_loader_serves_on_after_a_sigterm_to_all_processes():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        take_sigterm()
        batches = iter(DataLoader(list(range(12)), num_workers=1))
        next(batches)
        (worker,) = active_children()
        os.kill(worker.pid, signal.SIGTERM)
        assert [int(batch) for batch in batches] == list(range(1, 12))
        del batches
    finally:
        signal.signal(signal.SIGTERM, before)
