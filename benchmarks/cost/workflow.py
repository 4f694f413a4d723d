"""Measure the parts of the inference workflow: reading, the network, writing, and what a run costs once.

    python -m benchmarks.cost.workflow --num_images 20 --longest_side 256

The output is one line of JSON. The images are phantoms at 512 pixels; everything runs in one process, one part after
the other. `benchmarks.cost.inference_workflow` runs this command for several numbers of images, each in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from benchmarks.cost.inference import build_workflow, make_images
from benchmarks.cost.measure import now, peak_memory


class WorkflowClock:
    """Handler: add up the seconds of reading, of the network with its windows and vote, and of writing.

    Args:
        device: Device on which the evaluator runs.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds = {"reading": 0.0, "network": 0.0, "writing": 0.0}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; the time of writing includes the handlers attached before this one."""
        for event in (Events.GET_BATCH_STARTED, Events.ITERATION_STARTED):
            engine.add_event_handler(event, self._note)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._end, "reading")
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._end, "network")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end, "writing")

    def _note(self) -> None:
        self._last = now(self.device)

    def _end(self, part: str) -> None:
        self.seconds[part] += now(self.device) - self._last
        self._note()


def measure(num_images: int, side: int, longest_side: int, device: str) -> dict[str, Any]:
    """Run the workflow over phantoms, and return its seconds, those of its parts, and the peak memory.

    The part `once` is the time that a run takes beside its images: reading and checking the weights, and the report.
    """
    clock = WorkflowClock(device)
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder, "in"), num_images, side)
        flow = build_workflow(Path(folder), device=device, num_workers=0, longest_side=longest_side)
        clock.attach(flow.parser.get_parsed_content("evaluator"))
        start = now(device)
        found: dict[str, Any] = peak_memory(flow.run, device)
        seconds = now(device) - start
    parts = clock.seconds | {"once": seconds - sum(clock.seconds.values())}
    found |= {"num_images": num_images, "side": side, "longest_side": longest_side, "seconds": round(seconds, 4)}
    return found | {"parts": {part: round(spent, 4) for part, spent in parts.items()}}


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts of the workflow, and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=20)
    parser.add_argument("--side", type=int, default=512, help="of the images")
    parser.add_argument("--longest_side", type=int, default=256, help="to which the network's images are resized")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    print(json.dumps(measure(options.num_images, options.side, options.longest_side, options.device)))  # noqa: T201


if __name__ == "__main__":
    main()
