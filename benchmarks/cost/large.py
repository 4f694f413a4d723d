"""Segment a slide of 20,000 x 20,000 pixels by `configs/inference_large.yaml`: time, memory, and equality of a crop.

    python -m benchmarks.cost.large --output docs/results/large.json

The slide is computer-made: phantoms of skin on the tiles of its left half, 24 different ones, and bare glass on the
right. The bundle's command segments it in a process of its own. A crop from its middle is then segmented twice in
another process, in strips without skipping glass, and whole in memory by `SlidingWindowVotingInferer`;
`pixels_that_differ` counts the pixels where the masks differ. `small_images` are as large as a window; each is read,
segmented and written by `configs/inference.json`, and its seconds are those of a folder of them without those of a
folder of one. `per_window` sets a window of the slide, read and written too, beside one of them.

    python -m benchmarks.cost.large --widths 20000 50000 100000 --output docs/results/large_widths.json

measures the memory of wide slides instead: 1,000 rows, skin on the first two tiles, the rest glass.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import NormalizeIntensity
from PIL import Image

from benchmarks.cost.measure import hardware, in_own_process
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.slides.images import open_large_image
from icmoe_monai.transforms.votes import decide
from icmoe_monai.utils.files import write_json
from icmoe_monai.utils.memory import peak_memory_mb

ROOT = Path(__file__).parents[2]
CONFIGS = [str(ROOT / "configs" / name) for name in ("inference.json", "inference_large.yaml")]
_TILE = 512
_NUM_DIFFERENT = 24
_GLASS = 240
_WINDOW = 256


def main() -> None:
    """Measure, write the file, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="of the slide")
    parser.add_argument("--crop", type=int, default=4_000, help="side of the crop; 0: none")
    parser.add_argument("--small", type=int, default=100, help="number of small images; 0: none")
    parser.add_argument("--widths", type=int, nargs="*", help="only measure the memory of slides so wide")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output")
    parser.add_argument("--compare", help="only compare the ways to segment the slide in this folder")
    arguments = parser.parse_args()
    if arguments.compare:
        sys.stdout.write(json.dumps(_compare(Path(arguments.compare), arguments.device)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        run = _measure_widths if arguments.widths else _measure
        found = run(Path(folder), arguments)
    found["hardware"] = hardware(arguments.device)
    if arguments.output:
        write_json(arguments.output, found)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    path, side = folder / "slide" / "slide.tif", arguments.side
    _write_slide(path, (side, side), -(-side // _TILE) // 2)
    found: dict[str, Any] = {
        "side": side,
        "file_mb": round(path.stat().st_size / 1e6, 1),
        **_run_command(path.parent, folder / "out", arguments.device),
    }
    if arguments.crop:
        _write_crop(path, folder / "crop" / "crop.tif", arguments.crop)
        crop = ["--compare", str(folder / "crop"), "--device", arguments.device]
        found["crop"] = in_own_process("benchmarks.cost.large", crop)
    if arguments.small:
        found["small_images"] = _small_images(folder / "small", arguments.small, arguments.device)
        of_slide = found["seconds"] / found["windows_run"]
        found["per_window"] = {"seconds": of_slide, "of_a_small_image": of_slide / found["small_images"]["seconds"]}
    return found


def _small_images(folder: Path, number: int, device: str) -> dict[str, Any]:
    """Return the seconds that each of some images of one window takes, without what a run takes by itself."""
    for name, count in (("one", 1), ("all", number + 1)):
        (folder / name).mkdir(parents=True)
        for place in range(count):
            picture = draw_dermoscopy(np.random.default_rng(place), (_WINDOW, _WINDOW))[0]
            Image.fromarray(picture).save(folder / name / f"{place}.png")
    of_one, of_all = (_seconds(folder / name, folder / f"{name}_out", CONFIGS[:1], device) for name in ("one", "all"))
    return {"side": _WINDOW, "number": number, "seconds": (of_all - of_one) / number}


def _measure_widths(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    peaks = {}
    for width in arguments.widths:
        _write_slide(folder / str(width) / "slide.tif", (1000, width), 2)
        peaks[width] = _run_command(folder / str(width), folder / f"{width}_out", arguments.device)["peak_mb"]
    return {"height": 1000, "peak_mb": peaks}


def _write_slide(path: Path, shape: tuple[int, int], num_skin: int) -> None:
    """Write a tiled TIFF, tile by tile; the first tiles of each row show skin."""
    pictures = [draw_dermoscopy(np.random.default_rng(k), (_TILE, _TILE))[0] for k in range(_NUM_DIFFERENT)]
    glass = np.full((_TILE, _TILE, 3), _GLASS, dtype=np.uint8)

    def tiles() -> Iterator[np.ndarray]:
        for row in range(-(-shape[0] // _TILE)):
            for column in range(-(-shape[1] // _TILE)):
                yield pictures[(5 * row + column) % _NUM_DIFFERENT] if column < num_skin else glass

    path.parent.mkdir()
    tifffile.imwrite(
        path, tiles(), shape=(*shape, 3), dtype=np.uint8, tile=(_TILE, _TILE), compression="zlib", photometric="rgb"
    )


def _write_crop(source: Path, path: Path, side: int) -> None:
    with open_large_image(str(source)) as image:
        corner = [(length - side) // 2 for length in image.shape]
        pixels = image.read(*corner, side, side)
    path.parent.mkdir()
    tifffile.imwrite(path, pixels, tile=(256, 256), compression="zlib", photometric="rgb")


def _run_command(folder: Path, output: Path, device: str) -> dict[str, object]:
    """Run the bundle's command, and return its report's entries on the one slide."""
    seconds = _seconds(folder, output, CONFIGS, device)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    told = ("windows_run", "windows_skipped", "peak_mb", "seconds", "foreground_share")
    settings = {name: report["settings"][name] for name in ("backbone", "image_size", "overlap", "skip_background")}
    sizes = {f"{kind}_mb": round((output / kind / "slide.tif").stat().st_size / 1e6, 1) for kind in ("masks", "votes")}
    return settings | {name: report["cases"][0][name] for name in told} | {"process_seconds": round(seconds, 1)} | sizes


def _seconds(folder: Path, output: Path, configs: list[str], device: str) -> float:
    """Return the seconds of a run of the bundle's inference, the start of its process included."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--dataset_dir", str(folder), "--output_dir", str(output), "--device", device], cwd=ROOT, check=True
    )
    return time.perf_counter() - start


def _compare(folder: Path, device: str) -> dict[str, object]:
    """Segment a slide in strips and in memory, and count the pixels where the masks differ."""
    logging.disable(logging.INFO)
    output = folder.with_name(f"{folder.name}_out")
    flow = ConfigWorkflow(
        config_file=CONFIGS, workflow_type="infer", logging_file=False, dataset_dir=str(folder),
        output_dir=str(output), device=device, skip_background=False,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    streamed, streamed_peak = tifffile.imread(output / "masks" / "crop.tif"), peak_memory_mb()
    pixels = torch.from_numpy(tifffile.imread(folder / "crop.tif").transpose(2, 0, 1).copy()).float()
    mean, std = (flow.parser.get_parsed_content(name) for name in ("pixel_mean", "pixel_std"))
    image = torch.as_tensor(NormalizeIntensity(subtrahend=mean, divisor=std, channel_wise=True)(pixels))
    with torch.no_grad():
        network = flow.parser.get_parsed_content("network").eval()
        prediction = flow.parser.get_parsed_content("inferer")(image[None].to(device), network)
    whole = decide(prediction[0, : network.out_channels])[0].cpu().numpy() * 255
    return {
        "side": len(streamed),
        "pixels_that_differ": int((streamed != whole).sum()),
        "foreground_share": round(float((whole > 0).mean()), 4),
        "peak_mb_in_strips": streamed_peak,
        "peak_mb_in_memory": peak_memory_mb(),
    }


if __name__ == "__main__":
    main()
