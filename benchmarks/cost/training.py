"""Measure what training costs, seconds a step and peak memory, against what a user would train instead.

    python -m benchmarks.cost.training --output docs/results/training_cost.json

Each training is the trainer of `configs/train.json` over a backbone, with an overlay, in a process of its own, for its
peak memory; the processes take turns, `--rounds` times. It runs without validation, checkpoints and metrics. A step
lasts from the end of one step to the end of the next: taking a batch and augmenting it, forward, backward, update.
Images are phantoms, held in memory as the config holds them; cached features lie in files of this run. Weights are
random, since they do not change the cost, and nothing is downloaded.

The parts of a step are those of `benchmarks.cost.training_parts`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from PIL import Image

from benchmarks.cost.measure import hardware, in_own_process, now, peak_memory
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.settings import trainable_parameters
from icmoe_monai.utils.files import write_json

CONFIGS = Path(__file__).parents[2] / "configs"
TRAININGS = {
    "icmoe, cached": "cached.yaml",
    "icmoe": None,
    "LoRA in all blocks": "ablations/encoder/lora_all.yaml",
    "full fine-tuning": "ablations/encoder/full_finetuning.yaml",
    "SwinUNETR": "baselines/swin_unetr.yaml",
    "SegResNet": "baselines/segresnet.yaml",
    "UNet": "baselines/unet.yaml",
}
OF_THE_FOUNDATION = ("icmoe, cached", "icmoe", "full fine-tuning")  # compared for other backbones than vit_t
_DEPTHS = {"vit_t": 8, "vit_b": 12, "vit_l": 24, "vit_h": 32}
_KEPT = (
    "icmoe_monai.training.CacheFeatures",
    "icmoe_monai.training.GradientClipping",
    "LrScheduleHandler",
)
_PASS = 2  # batches in one pass over the images


class Setting(NamedTuple):
    """Hold the backbone, image size (pixels) and batch size of a comparison."""

    backbone: str
    image_size: int
    batch_size: int

    @property
    def trainings(self) -> list[str]:
        """Return the names of the trainings that are compared."""
        return list(TRAININGS if self.backbone == "vit_t" else OF_THE_FOUNDATION)


class StepClock:
    """Handler: note when each step of a trainer ended, and how long each batch took to arrive.

    Args:
        device: Device on which the trainer runs.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []
        self.reading: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start_reading)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._end_reading)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)

    def _start_reading(self) -> None:
        self._started = now(self.device)

    def _end_reading(self) -> None:
        self.reading.append(now(self.device) - self._started)

    def _end_step(self) -> None:
        self.ends.append(now(self.device))


def build(training: str, setting: Setting, folder: Path, device: str, num_steps: int) -> ConfigParser:
    """Return the configs of one training over phantoms in a folder, without what a step does not need."""
    overlay = TRAININGS[training]
    files = ("train.json", f"backbones/{setting.backbone}.yaml", overlay)
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in files if name]))
    cases = _draw_cases(folder, _PASS * setting.batch_size, setting.image_size)
    parser["cases"] = {"train": cases, "val": []}
    if not (overlay or "").startswith("baselines/"):
        parser["network_def#train_trunk"] = training == "full fine-tuning"
    parser["train#handlers"] = [handler for handler in parser["train#handlers"] if handler["_target_"] in _KEPT]
    parser["train#key_metric"] = None
    parser["validate"] = None
    changes = {
        **setting._asdict(), "device": device, "pretrained": None, "num_workers": 0, "num_views": 1,
        "max_epochs": 1, "epoch_length": num_steps,
        "output_dir": str(folder / "output"),
    }  # fmt: skip
    if training == "LoRA in all blocks":
        changes["expert_depth"] = _DEPTHS[setting.backbone]
    parser.update(changes)
    parser.parse()
    return parser


def measure_training(training: str, setting: Setting, device: str, num_steps: int, warm_up: int) -> dict[str, Any]:
    """Run some steps, and return the seconds of each after the warm-up, of reading (median), and the peak memory.

    The memory is that of the whole run, filling the cache included.
    """
    clock = StepClock(device)
    with tempfile.TemporaryDirectory() as folder:
        parser = build(training, setting, Path(folder), device, warm_up + num_steps)

        def run() -> None:
            trainer = parser.get_parsed_content("train#trainer")
            clock.attach(trainer)
            trainer.run()

        found: dict[str, Any] = peak_memory(run, device)
        weights = trainable_parameters(parser.get_parsed_content("network"))
        found["trained_parameters"] = sum(weight.numel() for weight in weights)
    steps = [end - start for start, end in zip(clock.ends[warm_up - 1 :], clock.ends[warm_up:], strict=False)]
    found["all_step_seconds"] = [round(seconds, 4) for seconds in steps]
    found["reading_seconds"] = round(statistics.median(clock.reading[warm_up:]), 5)
    return found


def _draw_cases(folder: Path, number: int, side: int) -> list[dict[str, str]]:
    cases = []
    for index in range(number):
        case = {kind: str(folder / f"{kind}_{index}.png") for kind in ("image", "label")}
        for path, picture in zip(
            case.values(), draw_dermoscopy(np.random.default_rng(index), (side, side)), strict=True
        ):
            Image.fromarray(picture.astype(np.uint8)).save(path)
        cases.append(case)
    return cases


def parse(name: str) -> Setting:
    """Read a setting from BACKBONE:PIXELS:BATCH."""
    backbone, image_size, batch_size = name.split(":")
    return Setting(backbone, int(image_size), int(batch_size))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every training of every setting in turns, and the parts of a step."""
    steps = str(options.steps)
    shared = ["--device", options.device, "--steps", steps, "--warm_up", str(options.warm_up)]
    results: dict[str, Any] = {}
    for name in options.settings:
        setting = parse(name)
        rounds: dict[str, list[dict[str, Any]]] = {training: [] for training in setting.trainings}
        for _ in range(options.rounds):
            for training, found in rounds.items():
                one = ["--one", training, "--settings", name]
                found.append(in_own_process("benchmarks.cost.training", [*one, *shared]))
        parts = in_own_process("benchmarks.cost.training_parts", [name, "--device", options.device, "--steps", steps])
        results[name] = {
            **setting._asdict(),
            "trainings": {training: summarise(found) for training, found in rounds.items()},
            "parts": parts,
        }
    return results


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median seconds of a step over all rounds, the median peaks, and the seconds of every step."""
    steps = [seconds for one in rounds for seconds in one["all_step_seconds"]]
    found = {
        key: statistics.median(one[key] for one in rounds)
        for key in ("peak_mb", "peak_above_start_mb", "reading_seconds", "trained_parameters")
    }
    return {"step_seconds": statistics.median(steps), **found, "all_step_seconds": steps}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["vit_t:256:8", "vit_b:512:1"], help="BACKBONE:PIXELS:BATCH")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each training")
    parser.add_argument("--steps", type=int, default=4, help="timed, in a process")
    parser.add_argument("--warm_up", type=int, default=1, help="steps before them")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", choices=TRAININGS, help="measure one training, and nothing else")
    options = parser.parse_args(arguments)
    if options.one:
        setting = parse(options.settings[0])
        found = measure_training(options.one, setting, options.device, options.steps, options.warm_up)
        print(json.dumps(found))  # noqa: T201
        return
    results = compare(options)
    for name, result in results.items():
        for training, row in result["trainings"].items():
            print(f"{name} {training:20} {row['step_seconds']:8.3f} s {row['peak_mb']:8.0f} MB")  # noqa: T201
    content = {
        "rounds": options.rounds, "steps": options.steps, "warm_up": options.warm_up,
        "hardware": hardware(options.device), "results": results,
    }  # fmt: skip
    if options.output:
        write_json(options.output, content)


if __name__ == "__main__":
    main()
