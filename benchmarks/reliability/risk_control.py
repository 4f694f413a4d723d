"""Measure whether risk-controlled masks keep their false-negative rate, over random splits of labelled images.

    python -m benchmarks.reliability.risk_control --dataset_dir D --checkpoint C --output FILE.json

The network segments the validation and the test images, which it was not trained on, once. Then both are mixed, and
each of `--num_splits` random halves chooses a threshold for the other half. A split *holds* if the 95 % bootstrap
interval of the rate of the other half reaches down to alpha. No calibration is used or changed: the result says how
well the method keeps its promise where images are exchangeable, as a random split makes them. `official` is the same
measurement with the validation images for the threshold and the test images for the rate.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.utils.type_conversion import convert_to_tensor

from icmoe_monai.calibration.conformal import control_risk, level_index, miss_curve
from icmoe_monai.utils.engines import split_items
from icmoe_monai.utils.files import write_json
from icmoe_monai.utils.statistics import bootstrap_interval
from icmoe_monai.weights.frozen import describe_model

ROOT = Path(__file__).parents[2]
_NUM_BOOTSTRAP = 1000
_LOADERS = ("icmoe_monai.weights.LoadFrozen", "icmoe_monai.weights.CheckpointLoader")


def main() -> None:
    """Measure, write the file, and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--alpha", type=float, nargs="*", default=[0.05, 0.1, 0.2])
    parser.add_argument("--num_splits", type=int, default=20)
    parser.add_argument("--config", nargs="*", default=[], help="overlays over train.json and evaluate.json")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    curves = {split: _curves_of(split, arguments) for split in ("val", "test")}
    found = {
        "dataset": Path(arguments.dataset_dir).name,
        "model": describe_model(arguments.checkpoint),
        "num_images": {split: len(part) for split, part in curves.items()},
        "alphas": {
            f"{alpha:g}": {
                **random_splits(np.concatenate(list(curves.values())), alpha, num_splits=arguments.num_splits),
                "official": judge(curves["val"], curves["test"], alpha, seed=0),
            }
            for alpha in arguments.alpha
        },
    }
    if arguments.output:
        write_json(arguments.output, found)
    for alpha, result in found["alphas"].items():
        told = f"{result['mean_rate']:.3f}, {result['num_holding']} of {len(result['splits'])} splits hold"
        sys.stdout.write(f"alpha {alpha}: mean rate {told}; official {result['official']['rate']:.3f}\n")


def _curves_of(split: str, arguments: argparse.Namespace) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        configs = [ROOT / "configs" / "train.json", ROOT / "configs" / "evaluate.json", *arguments.config]
        names = ("dataset_dir", "checkpoint", "num_workers", "device")
        overrides: dict[str, Any] = {name: getattr(arguments, name) for name in names}
        flow = ConfigWorkflow(
            config_file=[str(path) for path in configs],
            workflow_type="train",
            logging_file=False,
            **overrides,
            split=split,
            output_dir=folder,
            calibration="none",
        )
        flow.initialize()
        handlers = flow.parser.get("validate#handlers")
        flow.parser["validate#handlers"] = [one for one in handlers if one["_target_"] in _LOADERS]
        evaluator = flow.parser.get_parsed_content("validate#evaluator")
        collected = CollectCurves()
        collected.attach(evaluator)
        evaluator.run()
    return np.stack(collected.curves)


class CollectCurves:
    """Handler: keep the `miss_curve` of each image; images without foreground have none."""

    def __init__(self) -> None:
        self.curves: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        """Register the handler."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Keep the curves of one iteration."""
        for item in split_items(engine):
            parts = (convert_to_tensor(item[key], track_meta=False, device="cpu") for key in ("probability", "label"))
            curve = miss_curve(*parts)
            if curve is not None:
                self.curves.append(curve)


def random_splits(curves: np.ndarray, alpha: float, *, num_splits: int) -> dict[str, Any]:
    """Choose a threshold on a random half of the images and judge it on the other half, several times.

    Args:
        curves: `miss_curve` of each image, (n, L).
        alpha: The false-negative rate to keep, 0..1.
        num_splits: Number of random splits.

    Returns:
        Mean and standard deviation of the rates, the number of splits that hold, and the splits.
    """
    splits = []
    for seed in range(num_splits):
        order = np.random.default_rng(seed).permutation(len(curves))
        half = len(curves) // 2
        splits.append(judge(curves[order[:half]], curves[order[half:]], alpha, seed=seed))
    rates = np.array([split["rate"] for split in splits])
    return {
        "mean_rate": float(rates.mean()),
        "std_of_rates": float(rates.std(ddof=1)) if num_splits > 1 else None,
        "num_holding": sum(split["holds"] for split in splits),
        "splits": splits,
    }


def judge(fitted: np.ndarray, others: np.ndarray, alpha: float, *, seed: int) -> dict[str, Any]:
    """Choose a threshold by some images' curves, and return the rate of other images at it, with its interval.

    Args:
        fitted: Curves that choose the threshold, (n, L).
        others: Curves of other images, (m, L).
        alpha: The false-negative rate to keep, 0..1.
        seed: Seed of the bootstrap.
    """
    control = control_risk(fitted, alpha=alpha)
    rates = others[:, level_index(control.threshold)]
    interval = bootstrap_interval(np.mean, rates, num_samples=_NUM_BOOTSTRAP, seed=seed)
    return {
        "threshold": control.threshold,
        "rate": float(rates.mean()),
        "interval": interval,
        "holds": interval is None or interval[0] <= alpha,
    }


if __name__ == "__main__":
    main()
