"""One script for a GPU: every part in a process of its own, and none that fails or hangs ends the others."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.cost import attention, cards, gpu

COST = Path(gpu.__file__).parent
NO_MEASUREMENTS = {"gpu", "tables", "figures"}
WITHIN_OTHERS = {"training_parts": "training"}


def test_without_a_card_it_says_so_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()


def part(name: str, words: str, seconds: float = 120, needs: tuple[str, ...] = ()) -> gpu.Part:
    return gpu.Part(name, words, words, seconds, needs, takes_device=False)


def test_a_part_that_fails_or_hangs_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('{"seconds": 3}')
    parts = [
        part("hangs", "timeit -n 1 'import threading; threading.Event().wait()'", seconds=0.5),
        part("fails", "json.tool missing.json"),
        part("is not there", "json.tool", needs=("no_such_package",)),
        part("is done", f"json.tool --compact {shlex.quote(str(tmp_path / 'a.json'))}"),
    ]
    written = []
    write = gpu.write_json
    monkeypatch.setattr(gpu, "write_json", lambda path, content: (written.append(path), write(path, content)))
    output = tmp_path / "gpu.json"
    gpu.measure(parts, {"minutes": 10.0}, output, device="cpu", quick=False)
    found = json.loads(output.read_text())["parts"]
    assert [one["status"] for one in found.values()] == ["stopped", "failed", "not there", "done"]
    assert "missing.json" in found["fails"]["said"]
    assert found["is not there"]["said"] == "no_such_package is not installed here."
    assert found["is done"]["result"] == {"seconds": 3}
    assert written == [output] * len(parts)


def test_what_no_time_is_left_for_is_named(tmp_path):
    gpu.measure([part("late", "json.tool")], {"minutes": 0.0}, tmp_path / "gpu.json", device="cpu", quick=False)
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["late"]["status"] == "not run"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system does not tell its processes there")
def test_a_part_ends_with_the_measurement_that_was_killed(tmp_path):
    hangs = "import os, threading; print(os.getpid(), flush=True); threading.Event().wait()"
    measurement = (
        "from pathlib import Path; from benchmarks.cost import gpu; "
        f"words = 'timeit -n 1 ' + repr({hangs!r}); "
        "part = gpu.Part('hangs', words, words, 600, takes_device=False); "
        f"gpu.run_part(part, Path({str(tmp_path)!r}), device='cpu', quick=False, limit=600)"
    )
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", measurement], cwd=gpu.ROOT) as process:
        assert becomes_true(lambda: out.is_file() and out.read_text().endswith("\n"))
        process.kill()
    part_of_it = Path("/proc", out.read_text().strip())
    assert becomes_true(lambda: not part_of_it.exists())


def becomes_true(condition) -> bool:
    end = time.monotonic() + 300
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def measurements() -> list[str]:
    commands = [path.stem for path in COST.glob("*.py") if "argparse.ArgumentParser(" in path.read_text()]
    return sorted(set(commands) - NO_MEASUREMENTS)


@pytest.mark.parametrize("name", measurements())
def test_every_benchmark_takes_a_device_and_is_a_part(name):
    assert 'parser.add_argument("--device"' in (COST / f"{name}.py").read_text()
    run = {shlex.split(words)[0] for part in gpu.PARTS for words in (part.words, part.quick)}
    assert f"benchmarks.cost.{WITHIN_OTHERS.get(name, name)}" in run


def test_parts_have_names_of_their_own_and_write_what_is_read():
    assert len({part.name for part in gpu.PARTS}) == len(gpu.PARTS)
    for one in gpu.PARTS:
        for words in (one.words, one.quick):
            assert {"OUTPUT", "PLACE/exported"} & set(shlex.split(words)) or "cost.workflow" in words, words


@pytest.mark.slow
def test_a_real_part_runs(tmp_path):
    arguments = ["--device", "cpu", "--quick", "--parts", "predictor", "--output", str(tmp_path / "gpu.json")]
    assert gpu.main(arguments) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert list(content["parts"]) == ["a predictor"]
    assert content["parts"]["a predictor"]["result"]["ratio"] > 0


@pytest.mark.slow
def test_back_ends_that_have_no_kernel_here_are_named(tmp_path):
    output = tmp_path / "attention.json"
    attention.main(
        ["--backbone", "vit_t", "--size", "32", "--repeats", "1", "--device", "cpu", "--output", str(output)]
    )
    ways = json.loads(output.read_text())["ways"]
    assert list(ways) == ["float32", *attention.WAYS]
    assert ways["math, float32"]["largest_difference"] < 1e-4
    assert "error" in ways["cuDNN, float32"]


@pytest.mark.slow
def test_processes_sum_their_gradients(tmp_path):
    output = tmp_path / "cards.json"
    cards.main(["--side", "32", "--batch_size", "2", "--repeats", "1", "--device", "cpu", "--output", str(output)])
    found = json.loads(output.read_text())
    assert (found["backend"], found["processes"], found["sum_is_right"]) == ("gloo", 2, True)
    assert found["sum_megabytes"] == pytest.approx(4 * found["trained_parameters"] / 1e6, abs=0.1)
