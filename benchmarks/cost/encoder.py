"""Compare our encoder with SAM's literal attention and transformers': time, peak memory and agreement, in one run.

    python -m benchmarks.cost.encoder --output docs/results/encoder.json

All encoders have the same weights (random, relative positions included) and the same image. Times are taken in turns in
one process, peak memory in a process for each encoder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.cost.measure import hardware, in_own_process, largest_difference, peak_memory, time_in_turn
from benchmarks.cost.peers import HuggingFaceEncoder, explicit_encoder
from icmoe_monai.networks.sam import BACKBONES, SamImageEncoder, build_sam_encoder
from icmoe_monai.utils.files import write_json

ENCODERS = ("ours", "explicit bias", "transformers eager", "transformers sdpa")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(name: str, backbone: str, image_size: int, device: str) -> nn.Module:
    """Build one of `ENCODERS` with the same random weights."""
    torch.manual_seed(0)
    ours = draw_weights(build_sam_encoder(backbone))
    if name == "explicit bias":
        encoder: nn.Module = explicit_encoder(ours)
    elif name.startswith("transformers"):
        encoder = HuggingFaceEncoder(ours, image_size=(image_size, image_size), attention=name.split()[1])
    else:
        encoder = ours
    return encoder.eval().requires_grad_(False).to(device)


def draw_weights(encoder: SamImageEncoder) -> SamImageEncoder:
    """Draw random weights so that every term, relative positions included, changes a result of about unit scale."""
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "rel_pos" in name or name == "pos_embed":
                weight.normal_(std=0.3)
            elif weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
    return encoder


def compare(backbone: str, image_size: int, dtype: str, device: str, repeats: int) -> dict[str, dict]:
    """Measure time, peak memory and agreement of every encoder at one size and precision."""
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)).to(device)
    encoders = {name: build(name, backbone, image_size, device) for name in ENCODERS}
    rows = time_in_turn({name: lambda e=e: encode(e, image, dtype) for name, e in encoders.items()}, repeats, device)
    exact = encode(encoders["explicit bias"], image, "float32")
    for name, encoder in encoders.items():
        rows[name]["largest_difference"] = largest_difference(encode(encoder, image, dtype), exact)
        arguments = ["--memory-of", name, "--backbone", backbone, "--device", device]
        arguments += ["--sizes", str(image_size), "--dtypes", dtype]
        rows[name] |= in_own_process("benchmarks.cost.encoder", arguments)
    rows["scale of the result"] = {"standard_deviation": float(exact.std())}
    return rows


@torch.no_grad()
def encode(encoder: nn.Module, image: Tensor, dtype: str) -> Tensor:
    """Run an encoder in one of `DTYPES`."""
    with torch.autocast(image.device.type, DTYPES[dtype], enabled=dtype != "float32"):
        return encoder(image)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a line for each encoder, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_b")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512])
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", choices=ENCODERS, help="print the peak memory of one encoder, and nothing else")
    options = parser.parse_args(arguments)
    if options.memory_of:
        encoder = build(options.memory_of, options.backbone, options.sizes[0], options.device)
        image = torch.randn(1, 3, options.sizes[0], options.sizes[0], device=options.device)
        found = peak_memory(lambda: encode(encoder, image, options.dtypes[0]), options.device)
        print(json.dumps(found))  # noqa: T201
        return
    results = {}
    for size in options.sizes:
        for dtype in options.dtypes:
            rows = compare(options.backbone, size, dtype, options.device, options.repeats)
            results[f"{size} {dtype}"] = rows
            for name in ENCODERS:
                row = rows[name]
                print(  # noqa: T201
                    f"{size} px {dtype:8} {name:18} {row['seconds']:8.3f} s {row['peak_mb']:8.0f} MB "
                    f"difference {row['largest_difference']:.1e}"
                )
    content = {"backbone": options.backbone, "hardware": hardware(options.device), "results": results}
    if options.output:
        write_json(options.output, content)


if __name__ == "__main__":
    main()
