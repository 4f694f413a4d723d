"""Measure on a GPU everything that is measured of cost, and what can be tried there only, in at most 12 minutes.

    python -m benchmarks.cost.gpu --output FILE.json

Every part is a command of its own in a process of its own, with a time limit; one that fails, hangs or is not there is
named in the file with the reason, and the rest goes on. The file is written anew after each part, so that a stop
leaves what there is. First comes what has never run on a GPU, then the rest. Without a card nothing runs, and the exit
status is 1; `--device cpu --quick` runs everything with tiny sizes, to test the command itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.command import names_in, sigterm_as_ctrl_c, tell
from benchmarks.cost.measure import hardware
from benchmarks.cost.rows import ROOT
from icmoe_monai.utils.children import watched
from icmoe_monai.utils.files import write_json

MINUTES = 12.0
_OUTPUT, _PLACE = "OUTPUT", "PLACE"  # in a part's words


class Part(NamedTuple):
    """Hold one part of the measurement.

    Attributes:
        name: Its name in the file.
        words: A module and its arguments, without the device; OUTPUT stands for the file that it writes, PLACE for a
            folder where it may write.
        quick: Arguments in place of those, of tiny sizes.
        seconds: How long it may take.
        needs: Packages without which it is not tried.
        takes_device: Whether it takes `--device`.
    """

    name: str
    words: str
    quick: str
    seconds: float
    needs: tuple[str, ...] = ()
    takes_device: bool = True


_WAYS = "benchmarks.cost.switches --output OUTPUT --network default --switches"
_EXPORT = "bundle export --tensorrt --output_dir PLACE/exported --num_images"
PARTS = (
    Part("default beside its rivals, with peak memory", "benchmarks.cost.rivals --output OUTPUT --repeats 10",
         "benchmarks.cost.rivals --output OUTPUT --repeats 1 --sides 32 --batch_size 2 --window 32", 90),
    Part("default by part, beside the card's limits",
         "benchmarks.cost.roofline --output OUTPUT --product 8192 --megabytes 2048",
         "benchmarks.cost.roofline --output OUTPUT --side 32 --batch_size 2 --window 32 --image 64 --product 64 "
         "--megabytes 1 --repeats 1", 90),
    Part("default in bfloat16 and channels-last", f"{_WAYS} bfloat16 'channels last' --repeats 10",
         f"{_WAYS} bfloat16 --size 32 --batch_size 2 --repeats 1", 60),
    Part("default compiled", f"{_WAYS} compiled --repeats 10", f"{_WAYS} compiled --size 32 --batch_size 2 --repeats 1",
         150),
    Part("back ends of attention", "benchmarks.cost.attention --output OUTPUT",
         "benchmarks.cost.attention --output OUTPUT --backbone vit_t --size 64 --repeats 1", 60),
    Part("several cards", "benchmarks.cost.cards --output OUTPUT",
         "benchmarks.cost.cards --output OUTPUT --side 32 --batch_size 2 --repeats 1", 90),
    Part("TensorRT", f"{_EXPORT} 2", f"{_EXPORT} 1", 120, needs=("torch_tensorrt", "tensorrt"), takes_device=False),
    Part("windows in PyTorch", "benchmarks.cost.runtimes --output OUTPUT --images 10",
         "benchmarks.cost.runtimes --output OUTPUT --images 1 --side 64 --repeats 1", 40),
    Part("a predictor", "benchmarks.cost.predictor --output OUTPUT",
         "benchmarks.cost.predictor --output OUTPUT --side 64 --longest_side 64 --repeats 1", 40),
    Part("training over SAM's encoder", "benchmarks.cost.training --output OUTPUT --settings vit_t:256:8 --rounds 1",
         "benchmarks.cost.training --output OUTPUT --settings vit_t:64:2 --rounds 1 --steps 1", 120),
    Part("inference over SAM's encoder",
         "benchmarks.cost.inference_workflow --output OUTPUT --sides 256 512 1024 2048 --workflows 10:256 "
         "--packs vit_t:256 vit_b:512 --repeats 3",
         "benchmarks.cost.inference_workflow --output OUTPUT --window 32 --sides 32 64 --workflows 2:64 "
         "--packs vit_t:32 --repeats 1", 90),
    Part("SAM's encoder", "benchmarks.cost.encoder --output OUTPUT --sizes 1024 --repeats 3",
         "benchmarks.cost.encoder --output OUTPUT --backbone vit_t --sizes 64 --dtypes float32 --repeats 1", 90),
    Part("the network over SAM's encoder", "benchmarks.cost.network --output OUTPUT --repeats 3",
         "benchmarks.cost.network --output OUTPUT --backbone vit_t --size 64 --repeats 1", 60),
    Part("ways to run the network over SAM's encoder",
         "benchmarks.cost.switches --output OUTPUT --switches bfloat16 compiled --repeats 10",
         "benchmarks.cost.switches --output OUTPUT --switches bfloat16 --size 32 --batch_size 2 --repeats 1", 120),
    Part("ensembles of folds", "benchmarks.cost.folds --output OUTPUT --images 10 --repeats 1",
         "benchmarks.cost.folds --output OUTPUT --networks default:32 --folds 2 --images 1 --repeats 1", 60),
    Part("many images", "benchmarks.cost.inference --output OUTPUT --num_images 50 --memory_images",
         "benchmarks.cost.inference --output OUTPUT --num_images 2 --side 64 --longest_side 64 --memory_images", 60),
    Part("parts of the inference workflow", "benchmarks.cost.workflow --num_images 20",
         "benchmarks.cost.workflow --num_images 1 --side 64 --longest_side 64", 40),
    Part("how it grows", "benchmarks.cost.growth --output OUTPUT --things side folds",
         "benchmarks.cost.growth --output OUTPUT --things experts --side 64", 90),
    Part("a slide", "benchmarks.cost.large --output OUTPUT --side 4000 --crop 2000 --small 0",
         "benchmarks.cost.large --output OUTPUT --side 1024 --crop 0 --small 0", 60),
    Part("a plan's time", "benchmarks.cost.plan_time demo PLACE/plan --output OUTPUT --epochs 2",
         "benchmarks.cost.plan_time demo PLACE/plan --output OUTPUT --epochs 1 --min_steps 3 --image_size 64 "
         "--longest_side 64", 90),
)  # fmt: skip
_QUICK_SECONDS = 150.0  # of a part of tiny sizes, on a busy machine


def measure(parts: Sequence[Part], content: dict[str, Any], output: Path, *, device: str, quick: bool) -> None:
    """Run the parts one after the other, and write the file after each.

    Args:
        parts: The parts, the most wanted first.
        content: What the file holds besides; the parts come into it.
        output: The file.
        device: Where they run.
        quick: Whether the sizes are tiny.
    """
    content["parts"] = {part.name: {"status": "not run", "said": "The measurement ended before it."} for part in parts}
    end = time.monotonic() + 60 * content["minutes"]
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            place = Path(folder, str(number))
            place.mkdir()
            limit = min(_QUICK_SECONDS if quick else part.seconds, end - time.monotonic())
            content["parts"][part.name] = found = run_part(part, place, device=device, quick=quick, limit=limit)
            write_json(output, content)
            tell(f"{part.name}: {found['status']}" + (f": {found['said']}" if "said" in found else ""))


def run_part(part: Part, place: Path, *, device: str, quick: bool, limit: float) -> dict[str, Any]:
    """Run one part in a process of its own.

    Args:
        part: The part.
        place: A folder for its files.
        device: Where it runs.
        quick: Whether its sizes are tiny.
        limit: Seconds after which it is stopped, with all processes that it began.

    Returns:
        `status`: done, failed, stopped, not there, or not run; `seconds`; `said`, why it is not done; `result`, the
        content of the file that it wrote, or of its last line.
    """
    absent = [package for package in part.needs if find_spec(package) is None]
    if absent:
        return {"status": "not there", "said": f"{' and '.join(absent)} is not installed here."}
    if limit <= 0:
        return {"status": "not run", "said": "No time was left."}
    words = _words(part, place, device=device, quick=quick)
    start = time.monotonic()
    with Path(place, "out").open("w") as out, Path(place, "err").open("w") as err:
        process = subprocess.Popen(
            [*watched(seconds=0), sys.executable, "-m", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    seconds = round(time.monotonic() - start, 1)
    command = {"command": part.quick if quick else part.words, "seconds": seconds}
    if status is None:
        return {"status": "stopped", "said": f"It took longer than {limit:.0f} seconds.", **command}
    if status != 0:
        return {"status": "failed", "said": _last_line(place / "err") or f"Exit status {status}.", **command}
    return {"status": "done", **command, "result": _result(place)}


def _words(part: Part, place: Path, *, device: str, quick: bool) -> list[str]:
    words = shlex.split(part.quick if quick else part.words)
    words = [str(place / "found.json") if word == _OUTPUT else word.replace(_PLACE, str(place)) for word in words]
    return [*words, "--device", device] if part.takes_device else words


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still there, and those that it began."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()  # its standard input is closed, too


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else ""


def _result(place: Path) -> Any:
    written = [path for path in (place / "found.json", place / "exported" / "exported.json") if path.is_file()]
    text = written[0].read_text() if written else _last_whole_line(place / "out")
    try:
        return json.loads(text)
    except ValueError:
        return None


def _last_whole_line(path: Path) -> str:
    return path.read_text(errors="replace").strip().rpartition("\n")[2]


def _chosen(names: list[str] | None) -> Iterator[Part]:
    for part in PARTS:
        if names is None or any(name in part.name for name in names):
            yield part


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the file, and return the exit status: 1 without a card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test the command itself")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together")
    parser.add_argument("--parts", help="only those whose names hold one of these words, with commas between")
    options = parser.parse_args(arguments)
    is_cuda = torch.device(options.device).type == "cuda"
    if is_cuda and not torch.cuda.is_available():
        sys.stderr.write("PyTorch sees no CUDA card here: run it where there is one, or test it by --device cpu.\n")
        return 1
    content = {
        "device": options.device, "quick": options.quick, "minutes": options.minutes,
        "cards": torch.cuda.device_count() if is_cuda else 0, "cuda": torch.version.cuda,
        "hardware": hardware(options.device),
    }  # fmt: skip
    parts = list(_chosen(names_in(options.parts)))
    try:
        with sigterm_as_ctrl_c():
            measure(parts, content, options.output, device=options.device, quick=options.quick)
    except KeyboardInterrupt:
        tell(f"stopped; {options.output} holds what was done")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
