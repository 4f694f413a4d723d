"""A folder of results is held for one run at a time, and freed whatever becomes of the run."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from errno import ENOLCK
from multiprocessing import get_context
from pathlib import Path

import filelock
import pytest
from processes import in_two

from icmoe_monai.errors import InputError
from icmoe_monai.utils import locks
from icmoe_monai.utils.distributed import collect
from icmoe_monai.utils.locks import LOCK, hold_folder

FORK = get_context("fork")


def hold_elsewhere(folder: Path, *, with_child: bool = False):
    """Start a process that holds a folder, perhaps with a worker of its own that outlives it, and return it."""
    there = FORK.Event()

    def hold() -> None:
        held = hold_folder(str(folder), task="training")
        if with_child and os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        there.set()
        time.sleep(60)
        held.clear()

    process = FORK.Process(target=hold)
    process.start()
    assert there.wait(30)
    return process


def end(process) -> None:
    process.kill()
    process.join()


def test_another_run_is_told_who_holds_the_folder_until_that_one_is_killed(tmp_path):
    holder = hold_elsewhere(tmp_path / "out")
    try:
        for _ in range(2):  # who it is stays told
            with pytest.raises(InputError) as raised:
                hold_folder(str(tmp_path / "out"), task="inference")
            told = str(raised.value)
            assert f"out is in use by another run, training, process {holder.pid} on {socket.gethostname()}" in told
            assert f"since {time.strftime('%Y-')}" in told
    finally:
        end(holder)
    held = hold_folder(str(tmp_path / "out"), task="inference")
    assert json.loads((tmp_path / "out" / LOCK).read_text())["pid"] == os.getpid()
    held.clear()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_suspended_run_holds_its_folder_on(tmp_path):
    holder = hold_elsewhere(tmp_path)
    try:
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(InputError, match="is in use by another run, training"):
            hold_folder(str(tmp_path), task="inference")
    finally:
        end(holder)


def test_a_worker_that_outlives_a_killed_run_does_not_hold_on(tmp_path):
    end(hold_elsewhere(tmp_path, with_child=True))
    hold_folder(str(tmp_path), task="inference").clear()


def test_a_forked_worker_frees_nothing_at_its_end(tmp_path):
    held = hold_folder(str(tmp_path), task="training")
    worker = FORK.Process(target=held.clear)
    worker.start()
    worker.join()
    other = FORK.Process(target=lambda: hold_folder(str(tmp_path), task="inference"))
    other.start()
    other.join()
    assert (worker.exitcode, other.exitcode) == (0, 1)
    assert (tmp_path / LOCK).is_file()


def test_the_same_process_may_go_on_after_an_exception(tmp_path):
    def work() -> None:
        _ = hold_folder(str(tmp_path), task="training")
        raise RuntimeError("over")

    with pytest.raises(RuntimeError) as raised:
        work()
    again = hold_folder(str(tmp_path), task="training")  # by the same process, which still looks at the exception
    assert len(again) == 1
    assert "over" in str(raised.value)


def test_a_folder_that_a_run_made_and_left_empty_is_removed_again(tmp_path):
    kept, made, used = (tmp_path / name for name in ("kept", "made", "used"))
    kept.mkdir()
    for folder in (kept, made, used):
        held = hold_folder(str(folder), task="training")
        if folder == used:
            (folder / "mask.png").touch()
        held.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "used"]


def test_a_folder_that_another_run_removes_at_that_moment_is_made_again(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    acquire = filelock.FileLock.acquire

    def late(lock, **options):
        monkeypatch.undo()
        folder.rmdir()
        return acquire(lock, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    assert len(hold_folder(str(folder), task="training")) == 1


def test_processes_that_work_together_share_it(tmp_path):
    def work(index: int) -> list[int]:
        held = hold_folder(str(tmp_path / "out"), task="training")
        found = [len(held), json.loads((tmp_path / "out" / LOCK).read_text())["pid"] == os.getpid()]
        collect(None)  # the first does not end before
        return found

    assert in_two(work, tmp_path) == [[1, True], [0, False]]


def test_all_processes_that_work_together_are_told_that_it_is_held(tmp_path):
    holder = hold_elsewhere(tmp_path / "out")

    def work(index: int) -> list[str]:
        with pytest.raises(InputError) as raised:
            hold_folder(str(tmp_path / "out"), task="training")
        return [str(raised.value)]

    try:
        first, second = in_two(work, tmp_path)
    finally:
        end(holder)
    assert first == second
    assert f"process {holder.pid}" in first[0]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write \.run\.lock in .*file: .*choose another folder"):
        hold_folder(str(tmp_path / "file"), task="training")
    with pytest.raises(InputError, match=r"Cannot write \.run\.lock in .*: .*choose another folder"):
        hold_folder(str(tmp_path / ("a" * 300)), task="training")
    with pytest.raises(InputError, match="output_dir is not set"):
        hold_folder(None, task="training")


def test_where_the_file_system_knows_no_locks_a_warning_says_so(tmp_path, monkeypatch, caplog):
    class NoLocks(filelock.FileLock):
        def acquire(self, *args, **kwargs):
            raise OSError(ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "FileLock", NoLocks)
    assert hold_folder(str(tmp_path), task="training") == []
    assert "knows no locks" in caplog.text


def test_what_a_killed_run_left_half_written_is_removed_once_the_folder_is_held(tmp_path):
    (tmp_path / "masks").mkdir()
    left = [tmp_path / ".0123456789ab.pt", tmp_path / "masks" / ".0123456789ab.png"]
    kept = [tmp_path / "best.pt", tmp_path / "masks" / ".hidden.png"]
    for path in (*left, *kept):
        path.touch()
    held = hold_folder(str(tmp_path), task="inference")
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)
    held.clear()


def test_what_another_run_is_writing_in_a_folder_below_stays(tmp_path):
    """As a prediction into runs/mine/predictions, while runs/mine/best.pt is calibrated."""
    below = hold_folder(str(tmp_path / "predictions"), task="inference")
    (tmp_path / "predictions" / "masks").mkdir()
    written = [tmp_path / "predictions" / ".0123456789ab.json", tmp_path / "predictions/masks/.0123456789ab.png"]
    for path in written:
        path.touch()
    held = hold_folder(str(tmp_path), task="calibration")
    assert all(path.exists() for path in written)
    held.clear()
    below.clear()
    hold_folder(str(tmp_path), task="calibration").clear()
    assert not any(path.exists() for path in written)
