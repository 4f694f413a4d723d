"""Federated training by MONAI's own client, from these configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folders import put_demo
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.training.federated import FROZEN
from icmoe_monai.weights import load_pyramid_weights, trunk_fingerprint
from icmoe_monai.weights.frozen import fingerprints

ROOT = Path(__file__).parents[2]
ROUNDS = 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_demo(tmp_path_factory.mktemp("data") / "set", train=4, val=2, test=1)


def client(name: str, seed: int, dataset: Path, folder: Path) -> MonaiAlgo:
    settings = {
        "output_dir": str(folder / name), "dataset_dir": str(dataset), "seed": seed, "image_size": 32,
        "decoder": "light",
        "min_steps": 1, "epoch_length": 1, "total_steps": ROUNDS, "batch_size": 2, "num_workers": 0, "cache_rate": 0.0,
        "device": "cpu", "val_interval": 100,
    }  # fmt: skip
    algo = MonaiAlgo(
        bundle_root=str(ROOT), local_epochs=1, train_kwargs=settings, config_evaluate_filename=None,
        config_filters_filename="configs/federated.yaml",
    )  # fmt: skip
    algo.initialize({ExtraItems.CLIENT_NAME: name})
    return algo


def size_of(weights: dict[str, Tensor]) -> int:
    return sum(weight.nbytes for weight in weights.values())


@pytest.mark.filterwarnings("ignore")  # MONAI's, on what a config may run
def test_two_clients_train_for_two_rounds_and_exchange_only_what_they_trained(dataset, tmp_path):
    own = {"semantic": "lite1", "adaptive": "lite2"}
    network = ICMoE(backbone=None, own_network=own, detail=ImagePyramid())
    trained = {name for name in network.state_dict() if not name.startswith(tuple(f"{p}." for p in FROZEN))}
    shared = {name: weight.clone() for name, weight in network.state_dict().items() if name in trained}
    first = {name: weight.clone() for name, weight in shared.items()}
    clients = [client(f"clinic_{seed}", seed, dataset, tmp_path) for seed in (0, 1)]
    for _ in range(ROUNDS):
        sent = []
        for algo in clients:
            algo.train(ExchangeObject(weights=dict(shared)))
            sent.append(algo.get_weights().weights)
        for weights in sent:
            assert weights.keys() == trained
            assert size_of(weights) == size_of(network.state_dict()) - size_of(network.detail.state_dict())
        for name, weight in shared.items():
            weight += torch.stack([weights[name].double() for weights in sent]).mean(dim=0).to(weight.dtype)
    assert any(not torch.equal(shared[name], first[name]) for name in shared)
    assert any(not torch.equal(sent[0][name], sent[1][name]) for name in shared)
    trunks = [fingerprints(algo.trainer.network) for algo in clients]
    assert trunks[0] == trunks[1]
    for algo in clients:
        algo.finalize()


@pytest.mark.filterwarnings("ignore")  # MONAI's, on what a config may run
def test_an_evaluation_is_of_the_weights_that_were_sent_on_the_frozen_parts_of_the_files(dataset, tmp_path):
    settings = {
        "output_dir": str(tmp_path / "out"), "dataset_dir": str(dataset), "image_size": 32, "longest_side": 32,
        "num_workers": 0, "device": "cpu", "split": "val", "num_bootstrap": 10,
    }  # fmt: skip
    algo = MonaiAlgo(
        bundle_root=str(ROOT), eval_kwargs=settings, config_train_filename=None, config_filters_filename=None
    )
    algo.initialize({ExtraItems.CLIENT_NAME: "clinic"})
    network = algo.evaluator.network
    sent = {name: torch.randn_like(weight) for name, weight in network.state_dict().items() if name.startswith("gate.")}
    algo.evaluate(ExchangeObject(weights=dict(sent)))
    assert all(torch.equal(network.state_dict()[name], weight) for name, weight in sent.items())
    shipped = ImagePyramid()
    load_pyramid_weights(ROOT / "models" / "efficientnet_lite0_imagenet.safetensors", shipped)
    assert fingerprints(network) == {"detail": trunk_fingerprint(shipped)}
    algo.finalize()
