"""Compare PyTorch's back ends of attention in SAM's encoder: time, agreement, and which of them run here at all.

    python -m benchmarks.cost.attention --output attention.json

Each is asked for by `torch.nn.attention.sdpa_kernel`, in float32 and in bfloat16, in turns in one process, beside what
PyTorch chooses by itself in float32. A back end that has no kernel for these inputs is reported with its error.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.cost.encoder import DTYPES, build, encode
from benchmarks.cost.inference_workflow import draw
from benchmarks.cost.measure import give, hardware
from benchmarks.cost.switches import compare
from icmoe_monai.networks.sam import BACKBONES

BACK_ENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
WAYS = [f"{name}, {dtype}" for dtype in DTYPES for name in BACK_ENDS]


def build_run(way: str, image: Tensor, backbone: str) -> Callable[[], Tensor]:
    """Return a function that encodes an image by one of `WAYS`, or for "float32" as PyTorch chooses."""
    encoder = build("ours", backbone, image.shape[-1], str(image.device))
    if way == "float32":
        return lambda: encode(encoder, image, way)
    name, dtype = way.split(", ")

    def run() -> Tensor:
        with warnings.catch_warnings(), sdpa_kernel(BACK_ENDS[name]):
            warnings.simplefilter("ignore")  # why a kernel is not taken; the error says that there is none
            return encode(encoder, image, dtype)

    return run


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_b")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    image = draw(options.size, options.device)
    rows = compare(partial(build_run, backbone=options.backbone), image, WAYS, options.repeats)
    content = {
        "backbone": options.backbone, "image_size": options.size, "repeats": options.repeats,
        "hardware": hardware(options.device), "ways": rows,
    }  # fmt: skip
    give(content, options.output)


if __name__ == "__main__":
    main()
