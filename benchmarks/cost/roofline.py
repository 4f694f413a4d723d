"""Measure how near each part of the default network is to what the machine reaches: a step, a window, an image's files.

    python -m benchmarks.cost.roofline --output docs/results/roofline.json

Round by round in one process: the parts of a training step, those of a window, those of an image from its file to the
written files, a large matrix product, and a copy of memory that no cache holds. Operations and bytes of a part are
those of `benchmarks.cost.counting`; of the parts of an image the bytes are the file's and the arrays' that go in and
come out. A part's limit is the longer of its operations at the matrix product's rate and its bytes at the copy's.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from monai.bundle import ConfigWorkflow
from monai.data import decollate_batch
from torch import Tensor

from benchmarks.command import tell
from benchmarks.cost.counting import Counter, beside_limit
from benchmarks.cost.default_parts import Watch, segment, take_step
from benchmarks.cost.inference import build_workflow, make_images
from benchmarks.cost.measure import Stopwatch, give, hardware, medians
from benchmarks.cost.rows import DEFAULT, build, draw_batch

T = TypeVar("T")
PRODUCT, COPY = "matrix product", "copy"
# what the transforms of configs/inference.json are called here; the others have their own names
_NAMES = {
    "LoadImage2Dd": "reading", "ResizeLongestd": "resizing", "NormalizeIntensityd": "normalising",
    "TakeVoteFeaturesd": "features of the vote", "TakeReliabilityd": "agreement", "Invertd": "resizing back",
    "ApplyCalibrationd": "calibration", "SaveImage2Dd": "writing", "DecideMaskd": "deciding",
}  # fmt: skip


class Machine:
    """The work by which a machine's limits are found.

    Args:
        product: Side of the two matrices.
        megabytes: Size of what is copied.
        device: Where it runs.
    """

    def __init__(self, *, product: int, megabytes: int, device: str) -> None:
        self.flops = 2 * product**3
        self.bytes = 2 * megabytes * 10**6  # read and written
        self._left, self._right = (torch.randn(product, product, device=device) for _ in range(2))
        self._source = torch.ones(megabytes * 10**6 // 4, device=device)
        self._target = torch.empty_like(self._source)

    def run(self, watch: Watch) -> None:
        """Run both."""
        watch(PRODUCT, lambda: self._left @ self._right)
        watch(COPY, lambda: self._target.copy_(self._source))


class ImageParts:
    """Run the inference workflow's transforms, and those alone, over an image's file.

    Args:
        folder: Where it may write.
        side: Side of the image in pixels.
        longest_side: To which the network's image is resized.
        device: Where the network runs.
    """

    def __init__(self, folder: Path, *, side: int, longest_side: int, device: str) -> None:
        make_images(folder / "in", 1, side)
        self.flow: ConfigWorkflow = build_workflow(folder, device=device, num_workers=0, longest_side=longest_side)
        part = self.flow.parser.get_parsed_content
        self.before, self.after = part("preprocessing").transforms, part("postprocessing").transforms
        (self.case,) = part("datalist")
        self.flow.run()  # which reads the weights
        network, inferer = part("network").eval(), part("inferer")
        ready = part("preprocessing")(dict(self.case))
        with torch.no_grad():
            (self.pred,) = decollate_batch(inferer(ready["image"][None].to(part("device")), network))
        self.bytes: dict[str, int] = {}

    def run(self, watch: Watch) -> None:
        """Read and prepare the image, and write what the network says of it; note the bytes of each part."""
        item: dict[str, Any] = dict(self.case)
        file = Path(item["image"]).stat().st_size
        for transform in self.before:
            item = self._run(transform, item, "image", file, watch)
        item["pred"] = self.pred.clone()
        for transform in self.after:
            item = self._run(transform, item, "pred", 0, watch)

    def _run(self, transform: Any, item: dict[str, Any], key: str, file: int, watch: Watch) -> dict[str, Any]:
        name = _NAMES.get(type(transform).__name__, type(transform).__name__)
        before = _size(item[key]) if isinstance(item[key], Tensor) else file
        found = watch(name, lambda: _done(transform(item)))
        self.bytes[name] = before + (self._written() if name == "writing" else _size(found[key]))
        return found

    def _written(self) -> int:
        output = Path(self.flow.parser.get_parsed_content("output_dir"))
        return sum(path.stat().st_size for path in output.rglob("*.png"))


def measure(
    step: tuple[int, int], window: int, image: int, machine: Machine, repeats: int, device: str
) -> dict[str, Any]:
    """Measure all parts.

    Args:
        step: Side of a step's images in pixels, and their number.
        window: Side of the window in pixels.
        image: Side of the image in pixels.
        machine: What finds the machine's limits.
        repeats: Number of rounds, after one that is not timed.
        device: Where the network runs.
    """
    row = build(DEFAULT, device, side=step[0])
    batch, (one, _) = draw_batch(*step, device), draw_batch(window, 1, device)
    with tempfile.TemporaryDirectory() as folder:
        files = ImageParts(Path(folder), side=image, longest_side=window, device=device)
        tasks: dict[str, Callable[[Watch], object]] = {
            "machine": machine.run,
            "step": lambda watch: take_step(row, *batch, watch),
            "window": lambda watch: segment(row.network, one, watch),
            "image": files.run,
        }
        counts = {name: _count(run) for name, run in tasks.items()}
        for part, size in files.bytes.items():
            counts["image"][part] = {"flops": 0, "bytes": size}
        watch, rounds = Stopwatch(device), {name: [] for name in tasks}
        for number in range(1 + repeats):
            for name, run in tasks.items():
                run(watch)
                rounds[name].append(watch.take_round())
            tell(f"round {number} of {repeats}")
    seconds = {name: medians(found[1:]) for name, found in rounds.items()}
    return results_of(counts, seconds, machine) | {"step_setting": step, "window_side": window, "image_side": image}


def results_of(
    counts: Mapping[str, Mapping[str, Mapping[str, int]]], seconds: Mapping[str, Mapping[str, float]], machine: Machine
) -> dict[str, Any]:
    """Return what the machine reaches, and every part beside that.

    Args:
        counts: `flops` and `bytes` of each part, by task.
        seconds: Seconds of each part, by task; "machine" has those of the product and the copy.
        machine: What was run for these.
    """
    limits = {
        "flops_per_second": machine.flops / seconds["machine"][PRODUCT],
        "bytes_per_second": machine.bytes / seconds["machine"][COPY],
    }
    parts = {
        task: {part: beside_limit(counts[task][part], spent, **limits) for part, spent in seconds[task].items()}
        for task in seconds
        if task != "machine"
    }
    return {"machine": limits, **parts}


def _count(run: Callable[[Watch], object]) -> dict[str, dict[str, int]]:
    counter = Counter()
    run(counter)
    return counter.counts


def _done(item: Any) -> dict[str, Any]:
    """Wait until an item's files are written, and return it."""
    if item.get("writing") is not None:
        item["writing"].result()
    return dict(item)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="of the images of a step")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--window", type=int, default=256, help="side of the window")
    parser.add_argument("--image", type=int, default=512, help="side of the image that is read and written")
    parser.add_argument("--product", type=int, default=2048, help="side of the matrices whose product is timed")
    parser.add_argument("--megabytes", type=int, default=256, help="size of what is copied")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    torch.set_num_threads(options.threads)
    if torch.device(options.device).type == "cuda":  # products as precise as the convolutions that they are to measure
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    machine = Machine(product=options.product, megabytes=options.megabytes, device=options.device)
    step = (options.side, options.batch_size)
    content = {
        "repeats": options.repeats, "hardware": hardware(options.device),
        **measure(step, options.window, options.image, machine, options.repeats, options.device),
    }  # fmt: skip
    give(content, options.output)


if __name__ == "__main__":
    main()
