"""A run that is killed at any write, and started again, leaves what an undisturbed run leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import put_demo
from monai.bundle import ConfigWorkflow
from PIL import Image
from safetensors.torch import load_file

from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.utils.files import read_csv
from icmoe_monai.weights.tensor_files import read_metadata, save_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {"image_size": 64, "num_workers": 0, "device": "cpu"}
# MONAI warns of configs being code at every workflow
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def run(configs: list[str], kind: str, **overrides: Any) -> None:
    files = [str(CONFIGS / name) for name in configs]
    flow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **SMALL | overrides)
    flow.initialize()
    flow.run()
    flow.finalize()


def is_killed(work: Callable[[], None], *, at_write: int) -> bool:
    """Run something in a process of its own, which is killed before or after one of its files is put in place."""

    def run_and_die() -> None:
        replace, number = os.replace, count(1)

        def dying(*arguments: Any) -> None:
            is_last = next(number) == at_write
            if is_last and at_write % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*arguments)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = dying
        work()

    process = get_context("fork").Process(target=run_and_die)
    process.start()
    process.join(300)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def results_in(folder: Path) -> dict[str, Any]:
    """Return the content of each file by its path; of reports without times, and none of hidden files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        if name == "report.json":
            found[name] = without_seconds(json.loads(path.read_text()))
        elif name == "report.csv":
            found[name] = without_seconds(read_csv(path))
        elif name == "cases.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = {line["record"].get("name", ""): without_seconds(line) for line in lines}
        elif path.suffix == ".safetensors":  # whose metadata come in any order
            tensors = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
            found[name] = (read_metadata(path), tensors)
        elif name != "report.html":  # made of the report
            found[name] = path.read_bytes()
    return found


def without_seconds(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: without_seconds(value) for key, value in content.items() if key not in ("seconds", "peak_mb")}
    return [without_seconds(value) for value in content] if isinstance(content, list) else content


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("in"), np.random.default_rng(0)
    for name in ("a.png", "b.tif", "c.png"):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("configs", "writes"),
    [
        (["inference.json"], (2, 5, 8)),
        pytest.param(["inference.json", "inference_large.yaml"], (3, 6), marks=pytest.mark.slow),
    ],
    ids=["predict", "large"],
)
def test_inference_goes_on_where_it_was_killed(
    configs: list[str], writes: tuple[int, ...], images: Path, tmp_path: Path
) -> None:
    def work(output: str) -> None:
        run(configs, "infer", dataset_dir=str(images), output_dir=str(tmp_path / output), recipe="none")

    assert not is_killed(lambda: work("undisturbed"), at_write=0)
    assert [is_killed(lambda: work("killed"), at_write=write) for write in writes] == [True] * len(writes)
    assert not is_killed(lambda: work("killed"), at_write=0)
    undisturbed, killed = results_in(tmp_path / "undisturbed"), results_in(tmp_path / "killed")
    assert len(undisturbed) >= 9
    assert killed == undisturbed


@pytest.mark.slow
def test_a_calibration_is_whole_or_not_there(tmp_path: Path) -> None:
    dataset = put_demo(tmp_path / "set", train=2, val=10, test=1)
    for name in ("undisturbed", "killed"):
        torch.manual_seed(0)
        save_checkpoint(ICMoE(detail=ImagePyramid()).state_dict(), tmp_path / name / "best.pt")

    def work(name: str) -> None:
        configs = ["train.json", "evaluate.json", "calibrate.yaml"]
        run(configs, "train", run_id="calibrating", dataset_dir=str(dataset), alpha=0.3, pretrained=None,
            checkpoint=str(tmp_path / name / "best.pt"))  # fmt: skip

    assert not is_killed(lambda: work("undisturbed"), at_write=0)
    file = tmp_path / "killed" / "best.calibration.json"
    write = 1
    while is_killed(lambda: work("killed"), at_write=write):
        assert not file.exists() or json.loads(file.read_text())
        write += 2  # each time before the file is there
    assert write > 1
    assert results_in(tmp_path / "killed") == results_in(tmp_path / "undisturbed")


def test_a_cache_is_filled_where_the_killed_training_stopped(tmp_path: Path) -> None:
    dataset = put_demo(tmp_path / "set", train=2, val=1, test=1)
    # one image in a pass: what is left to compute after a kill would else pass in other batches, with other rounding
    short = {"max_epochs": 1, "min_steps": 1, "batch_size": 1, "cache_features": True, "num_views": 2}

    def work(name: str) -> None:
        folders = {"output_dir": str(tmp_path / name), "features_dir": str(tmp_path / name / "features")}
        run(["train.json", "cached.yaml"], "train", dataset_dir=str(dataset), **short, **folders)

    assert not is_killed(lambda: work("undisturbed"), at_write=0)
    assert [is_killed(lambda: work("killed"), at_write=write) for write in (2, 3)] == [True, True]
    assert not is_killed(lambda: work("killed"), at_write=0)
    undisturbed, killed = (results_in(tmp_path / name / "features") for name in ("undisturbed", "killed"))
    assert len(undisturbed) == 4
    assert killed == undisturbed
