"""Processes that a command starts, which are stopped with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from icmoe_monai.errors import InputError
from icmoe_monai.utils import children as room
from icmoe_monai.utils.children import Children, run_side_by_side


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


def test_a_process_tells_its_status_and_writes_into_its_log(tmp_path):
    children = Children()
    for status in (0, 3):
        code = python(f"print('status {status}')", f"raise SystemExit({status})")
        assert children.execute(code, tmp_path / "log", os.environ) == status
    assert (tmp_path / "log").read_text() == "status 0\nstatus 3\n"
    assert children.running == []


def stop_when_ready(children: Children, code: list[str], folder: Path, ended: list[int]) -> None:
    """Run code that writes the file "ready", stop it then, and note its exit status."""
    thread = threading.Thread(target=lambda: ended.append(children.execute(code, folder / "log", os.environ)))
    thread.start()
    while not (folder / "ready").exists():
        time.sleep(0.05)
    children.stop()
    thread.join(10)


def test_processes_that_are_stopped_may_save(tmp_path):
    children, ended = Children(), []
    saved = tmp_path / "saved"
    code = python(
        "import signal, sys, time",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "try:",
        f"    open({str(tmp_path / 'ready')!r}, 'w')",
        "    time.sleep(60)",
        "except KeyboardInterrupt:",
        f"    open({str(saved)!r}, 'w')",
        "    sys.exit(1)",
    )
    stop_when_ready(children, code, tmp_path, ended)
    assert saved.exists()
    assert ended == [1]
    assert children.execute(python("pass"), tmp_path / "log", os.environ) == 1  # nothing starts any more


def test_a_process_that_does_not_stop_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_SECONDS_TO_SAVE", 0.2)
    children, ended = Children(), []
    code = python(
        "import signal, time",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        f"open({str(tmp_path / 'ready')!r}, 'w')",
        "time.sleep(60)",
    )
    stop_when_ready(children, code, tmp_path, ended)
    assert ended == [-signal.SIGKILL]


@pytest.mark.parametrize("patience", [60.0, 0.2], ids=["saves", "is stubborn"])
def test_a_process_ends_soon_after_the_one_that_started_it_was_killed(patience):
    child = python(
        "import signal, time",
        "try:",
        "    print('ready', flush=True)",
        "    time.sleep(60)",
        "except KeyboardInterrupt:",
        "    print('saved', flush=True)",
        f"    time.sleep({0 if patience > 1 else 60})",
    )
    parent = python(  # the file alone, for its package takes seconds to import
        "from importlib import util",
        f"spec = util.spec_from_file_location('children', {room.__file__!r})",
        "children = util.module_from_spec(spec)",
        "spec.loader.exec_module(children)",
        f"children._SECONDS_TO_SAVE = {patience}",
        f"children.Children().execute({child})",
    )
    with subprocess.Popen(parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        told, _ = process.communicate(timeout=300)  # until nobody is left who could write
    assert told == "saved\n"


def test_a_command_that_cannot_start_says_why_and_fails(tmp_path):
    assert Children().execute(["no such program"], tmp_path / "log") == 1
    assert "no such program: No such file or directory" in (tmp_path / "log").read_text()


def test_failures_are_in_the_order_of_the_tasks_whichever_is_first():
    late = threading.Event()

    def work(task: str) -> None:
        if task == "a":
            assert late.wait(30)
        if task != "c":
            raise InputError(f"{task} failed")

    def told(task: str, error: BaseException | None) -> None:
        if task == "b":
            late.set()

    failed = run_side_by_side(["a", "b", "c"], work, jobs=2, told=told, stop=lambda: None)
    assert [(task, str(error)) for task, error in failed.items()] == [("a", "a failed"), ("b", "b failed")]
