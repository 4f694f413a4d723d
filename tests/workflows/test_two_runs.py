"""Two runs into one folder at once: the second ends with a sentence, and none takes the other's files."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest
from folders import put_demo, put_image

from icmoe_monai.__main__ import main
from icmoe_monai.utils.locks import LOCK, hold_folder

FORK = get_context("fork")
HERE = ["--num_workers", "0", "--device", "cpu"]
SMALL = [*HERE, "--recipe", "none", "--image_size", "32"]
# MONAI warns of configs being code at every workflow, and of its own loaders' defaults
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        put_image(folder / f"{i}.png")
    return folder


def words_of(command: str, images: Path, out: Path) -> list[str]:
    further = {
        "predict": [str(images), str(out), *SMALL],
        "packs": [str(images), str(out), *HERE, "--experts", "skin,breast"],
        "large": [str(images), str(out), *SMALL, "--config", "inference_large"],
        "train": [str(images), str(out), *HERE],
        "evaluate": [str(images), str(out), *HERE, "--checkpoint", str(out / "best.pt")],
        "calibrate": [str(images), *HERE, "--checkpoint", str(out / "best.pt")],
    }
    return [{"packs": "predict", "large": "predict"}.get(command, command), *further[command]]


@pytest.fixture
def held(tmp_path: Path):
    """A folder in which a run of another process is suspended."""
    out = tmp_path / "out"
    there = FORK.Event()

    def hold() -> None:
        kept = hold_folder(str(out), task="inference")
        there.set()
        signal.pause()
        kept.clear()

    process = FORK.Process(target=hold)
    process.start()
    assert there.wait(30)
    os.kill(process.pid, signal.SIGSTOP)
    yield out, process.pid
    process.kill()
    process.join()


@pytest.mark.parametrize("command", ["predict", "packs", "large", "train", "evaluate", "calibrate"])
def test_a_folder_in_which_a_run_is_suspended_is_left_alone(command, held, images, capsys):
    out, process = held
    assert main(words_of(command, images, out)) == 1
    told = capsys.readouterr().err.strip()
    assert f"out is in use by another run, inference, process {process} on " in told
    assert "\n" not in told
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_two_equal_runs_at_once_do_the_work_once(images, tmp_path):
    out, gate = tmp_path / "out", FORK.Barrier(2)

    def run() -> None:
        gate.wait(60)
        raise SystemExit(main(words_of("predict", images, out)))

    runs = [FORK.Process(target=run) for _ in range(2)]
    for process in runs:
        process.start()
    for process in runs:
        process.join(120)
    # the second finds the first at work, or done
    assert sorted(process.exitcode for process in runs) in ([0, 1], [0, 0])
    lines = [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]
    done = Counter(line["record"]["name"] for line in lines if line["kind"] == "case")
    assert done == {"0.png": 1, "1.png": 1, "2.png": 1}
    assert json.loads((out / "report.json").read_text())["complete"]
    assert not (out / LOCK).exists()


@pytest.fixture
def no_garbage_collector():
    """Leave what refers to itself alone, as Python does for any length of time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("command", ["predict", "packs", "large"])
def test_a_run_after_another_finds_the_folder_free(command, images, tmp_path, no_garbage_collector):
    for _ in range(2):
        assert main(words_of(command, images, tmp_path / "out")) == 0
        assert not list((tmp_path / "out").rglob(LOCK))


def test_a_training_and_what_follows_it_leave_the_folder_free(tmp_path, no_garbage_collector):
    data = put_demo(tmp_path / "set", train=4, val=4, test=2)
    short = ["--image_size", "32", "--max_epochs", "1", "--min_steps", "1", "--batch_size", "2"]
    further = {"train": short, "evaluate": [], "calibrate": ["--alpha", "0.4"]}
    for command, more in further.items():
        assert main([*words_of(command, data, tmp_path / "out"), *more]) == 0
        assert not list(tmp_path.rglob(LOCK))
