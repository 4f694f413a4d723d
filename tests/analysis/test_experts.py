"""The analysis through its config: any number of experts and classes, what it compares with, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import put_demo_set
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from PIL import Image

from icmoe_monai.analysis.experts import ExpertAnalysis, read_training
from icmoe_monai.analysis.shift_metrics import ShiftMetrics
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.networks.icmoe import EXPERTS, ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.utils import distributed
from icmoe_monai.weights.checkpoint import save_weights

ROOT = Path(__file__).parents[2]
CONFIGS = [str(ROOT / "configs" / name) for name in ("train.json", "evaluate.json", "analyze.yaml")]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
METRICS = """epoch,iteration,train_loss,val_mean_dice,val_vote_entropy,val_disagreement,val_load_basic,val_load_semantic
1,2,1.5,0.3,0.9,0.2,0.95,0.05
2,4,1.2,,,,,
3,6,1.0,0.5,0.8,0.1,0.6,0.4
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """The demo set; its test masks alone hold two classes, in a second folder."""
    folder = tmp_path_factory.mktemp("data")
    put_demo_set(folder / "set")
    put_demo_set(folder / "classes")
    for path in (folder / "classes" / "masks").iterdir():
        mask = np.asarray(Image.open(path)) > 0
        right = np.arange(mask.shape[1]) >= mask.shape[1] // 2
        Image.fromarray((mask.astype(np.uint8) * (1 + right)).astype(np.uint8)).save(path)
    return folder


def analyse(dataset: Path, folder: Path, experts: tuple[str, ...] = EXPERTS, K: int = 1, **overrides: object) -> Path:
    torch.manual_seed(0)
    network = ICMoE(experts=experts, out_channels=K, train_trunk=True, detail=ImagePyramid())
    save_weights(network, folder / "best.pt")
    settings = {
        "pretrained": None, "experts": list(experts), "out_channels": K, "checkpoint": str(folder / "best.pt"),
        "dataset_dir": str(dataset / ("set" if K == 1 else "classes")), "output_dir": str(folder / "out"),
        "image_size": 64, "num_workers": 0, "device": "cpu", "num_phantoms": 1, "num_points": 60, "num_pictures": 2,
    }  # fmt: skip
    flow = ConfigWorkflow(
        config_file=CONFIGS, workflow_type="train", logging_file=False, run_id="analyzing", **settings | overrides
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    return folder / "out"


def test_all_experts_are_looked_into(dataset, tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    other = ICMoE(train_trunk=True, detail=ImagePyramid())
    save_weights(other, tmp_path / "other.pt")
    out = analyse(dataset, tmp_path, compare_with=str(tmp_path / "other.pt"), training_dir=str(tmp_path))
    content = json.loads((out / "analysis.json").read_text())
    assert content["num_cases"] == 3
    assert content["before"] == "other.pt"
    assert list(content["features"]) == [
        *(f"{depth}: {name}" for depth in ("features", "decoded") for name in EXPERTS), "embeddings: semantic",
    ]  # fmt: skip
    assert set(content["pairs"]) == {"basic, semantic", "basic, adaptive", "semantic, adaptive"}
    assert sum(content["votes"][f"load_{name}"] for name in EXPERTS) == pytest.approx(1, abs=1e-4)
    assert content["dead_experts"] == [name for name in EXPERTS if content["votes"][f"load_{name}"] < 0.1]
    assert content["training"]["dead_in_epochs"] == {"basic": [], "semantic": [1]}
    assert [row["epoch"] for row in content["training"]["epochs"]] == [1, 3]
    assert content["ambiguity"]["rim"]["num_pictures"] == 7
    names = ("tsne", "similarity", "load", "regions", "pairs", "positions", "wins", "training", "ambiguity")
    assert {path.stem for path in (out / "figures").iterdir()} == set(names)
    page = (out / "analysis.html").read_text()
    assert page.count("<img ") == len(names)
    assert str(tmp_path) not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experts", "K"), [(("basic",), 1), (("basic", "adaptive"), 3)], ids=["one expert", "two experts, classes"]
)
def test_fewer_experts_and_more_classes(dataset, tmp_path, experts, K):
    out = analyse(dataset, tmp_path, experts, K)
    content = json.loads((out / "analysis.json").read_text())
    assert content["before"] == "before training"
    assert ("pairs" in content) == (len(experts) > 1)
    assert content["training"] is None
    assert content["dead_experts"] == [] or len(experts) > 1
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert {"tsne", "similarity", "ambiguity"} <= drawn
    assert ("wins" in drawn) == (len(experts) > 1)


@pytest.mark.slow
def test_an_analysis_is_the_same_when_it_is_repeated(dataset, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    texts = [(analyse(dataset, folder, ("basic",)) / "analysis.json").read_text() for folder in folders]
    assert texts[0] == texts[1]


def test_an_untrained_network_of_other_experts_cannot_be_compared(dataset, tmp_path):
    save_weights(ICMoE(experts=["basic", "adaptive"], train_trunk=True, detail=ImagePyramid()), tmp_path / "other.pt")
    with pytest.raises((RuntimeError, InputError)) as raised:
        analyse(dataset, tmp_path, ("basic",), compare_with=str(tmp_path / "other.pt"))
    assert "does not fit this network" in str(find_input_error(raised.value))


@pytest.mark.parametrize("text", [None, "epoch,train_loss\n1,0.5\n"], ids=["no file", "never validated"])
def test_a_training_without_metrics_is_refused(tmp_path, text):
    if text:
        (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.csv (is not there|has no validated epoch)"):
        read_training(str(tmp_path))


@pytest.mark.parametrize("make", [lambda to: ExpertAnalysis(output_dir=to, features=None, ambiguity=None),
                                  lambda to: ShiftMetrics(output_dir=to)], ids=["analysis", "shifts"])  # fmt: skip
def test_several_processes_are_refused_since_each_would_write_its_share_as_the_whole(make, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 2)
    with pytest.raises(InputError, match="needs one process, got 2"):
        make(tmp_path).started(Engine(lambda engine, batch: None))
    assert not list(tmp_path.iterdir())
