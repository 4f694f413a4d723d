"""Compare the time that a plan says with the one that a training then takes, on a quiet machine.

    python -m benchmarks.cost.plan_time DATA runs/plan_time --output runs/plan_time.json --epochs 3

The set is planned as `icmoe plan` does; then the plan is trained for some epochs without stopping early. The ratio is
that of the whole training to what the plan says of as many epochs; within 0.75 and 1.25 is what is wanted. Further
words, such as `--image_size 64`, are settings of the plan.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.cost.measure import hardware
from icmoe_monai.__main__ import main as icmoe
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_json


def main(arguments: list[str] | None = None) -> None:
    """Plan, train, compare, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the dataset folder")
    parser.add_argument("folder", type=Path, help="where plan and training are written")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True)
    given, settings = parser.parse_known_args(arguments)
    planned = ["--max_epochs", str(given.epochs), "--device", given.device]
    _run(["plan", given.data, str(given.folder), *planned, *settings])
    content = json.loads((given.folder / "plan.json").read_text())
    start = time.monotonic()
    overlay = ["--config", str(given.folder / "plan.yaml"), "--patience", "1000", "--overwrite", "True"]
    _run(["train", given.data, str(given.folder / "run"), *overlay, "--device", given.device])
    seconds = time.monotonic() - start
    said = content["times"]["training"]
    found = {
        "data": Path(given.data).name, "epochs": given.epochs, "said_seconds": said, "seconds": seconds,
        "ratio": seconds / said, "settings": content["settings"], "times": content["times"],
        "hardware": hardware(given.device),
    }  # fmt: skip
    write_json(given.output, found)
    sys.stdout.write(f"said {said:.0f} s, took {seconds:.0f} s: {found['ratio']:.2f} times\n")


def _run(words: list[str]) -> None:
    if icmoe(words):
        raise InputError(f"icmoe {words[0]} has failed: see above.")


if __name__ == "__main__":
    main()
