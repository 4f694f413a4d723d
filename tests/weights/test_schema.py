"""Checkpoints whose parts are not what they must be: one sentence, before anything is trained or segmented."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR

from icmoe_monai.commands.info import describe_file
from icmoe_monai.errors import InputError
from icmoe_monai.weights.checkpoint import load_weights, read_recipe
from icmoe_monai.weights.handlers import CheckpointLoader
from icmoe_monai.weights.recipe import find_recipe
from icmoe_monai.weights.tensor_files import save_checkpoint

WEIGHTS = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
NOTES = {"fingerprint": "abc", "source": "x"}


def told(read: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as raised:
        read(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        {"model": "text"}, {"model": None}, {"model": 5}, {"model": []}, {"model": {1: torch.ones(1)}},
        {"model": torch.ones(3)}, {"model": {"weight": "text", "bias": None}}, {"model": {}}, {},
        {"model": {**WEIGHTS, "weight": torch.ones(3, 2).to_sparse()}},
        {"model": {**WEIGHTS, "weight": torch.ones(3, 2, dtype=torch.complex64)}},
        {**WEIGHTS, "bias": torch.zeros(3).to_sparse()}, {"weight": 5, "bias": "x"},
        *({"model": WEIGHTS, "trunk": trunk} for trunk in
          ("text", 5, [1], {"source": "x"}, {"fingerprint": 5}, {"fingerprint": None},
           {"fingerprint": "a", "source": 5})),
    ],
    ids=lambda content: " ".join(f"{key}={str(value)[:20]}" for key, value in content.items()),
)  # fmt: skip
def test_weights_that_are_none_are_refused(content, tmp_path):
    save_checkpoint(content, tmp_path / "best.pt")
    assert str(tmp_path / "best.pt") in told(load_weights, nn.Linear(2, 3), tmp_path / "best.pt")


@pytest.mark.parametrize("model", ["text", None, 5, [1], {1: torch.ones(1)}], ids=str)
def test_info_tells_of_them_likewise(model, tmp_path):
    save_checkpoint({"model": model}, tmp_path / "best.pt")
    assert "holds no weights by name" in told(describe_file, tmp_path / "best.pt")


RECIPE = {"settings": {"image_size": 64}, "network": {"class": "ICMoE"}, "pretrained": None, "version": "1"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"settings": "text"}, "settings"), ({"settings": None}, "settings"), ({"network": "ICMoE"}, "network"),
        ({"network": {"rank": 8}}, "network"), ({"pretrained": 5}, "pretrained"), ({"pyramid": ["a"]}, "pyramid"),
        ({"segments": "lesion"}, "segments"), ({"segments": [{"name": "a"}]}, "segments"),
        ({"segments": [5]}, "segments"), ({"mask_values": "0"}, "mask_values"), ({"modality": 5}, "modality"),
        ({"training_set": 5}, "training_set"), ({"training_set": {"num_images": "many", "sha256": ""}}, "training_set"),
        ({"trunk": "text"}, "trunk"), ({"trunk": {"fingerprint": 1}}, "trunk"), ({"version": None}, "version"),
        ({"settings": torch.ones(2)}, "settings"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_none_is_refused_with_the_place(change, place, tmp_path):
    save_checkpoint({"model": WEIGHTS, "trunk": NOTES, "recipe": {**RECIPE, **change}}, tmp_path / "best.pt")
    for read in (read_recipe, find_recipe):
        sentence = told(read, tmp_path / "best.pt")
        assert "is damaged, " in sentence
        assert place in sentence


def test_a_recipe_of_safetensors_that_is_no_json_is_refused(tmp_path):
    from safetensors.torch import save_file

    for text, reason in (("{", "is no JSON"), ("[" * 50_000, "nested too deeply"), ("5", "is damaged")):
        save_file(WEIGHTS, tmp_path / "best.safetensors", metadata={"recipe": text})
        assert reason in told(read_recipe, tmp_path / "best.safetensors")


def training() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    network = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    return network, optimizer, ExponentialLR(optimizer, 0.9)


def state_of_a_training() -> dict[str, Any]:
    network, optimizer, schedule = training()
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule.step()
    parts = {"model": network, "optimizer": optimizer, "lr_scheduler": schedule}
    trainer = {"epoch_length": 1, "max_epochs": 2, "iteration": 1}
    return {**{key: part.state_dict() for key, part in parts.items()}, "trainer": trainer}


def resume(path: Path) -> None:
    network, optimizer, schedule = training()
    load_dict = {"model": network, "optimizer": optimizer, "lr_scheduler": schedule}
    engine = Engine(lambda engine, batch: None)
    engine.state.max_epochs, engine.state.epoch_length = 3, 1
    CheckpointLoader(str(path), load_dict)(engine)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule.step()


def change_moment(state: dict[str, Any], name: str, value: Any) -> None:
    notes = state["optimizer"]["state"][0]
    if value is ...:
        del notes[name]
    else:
        notes[name] = value


def test_a_sound_state_goes_on(tmp_path):
    save_checkpoint(state_of_a_training(), tmp_path / "last.pt")
    resume(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        *(("optimizer", lambda state, value=value: state.update(optimizer=value))
          for value in ("text", None, 5, [], {}, {"state": {}}, {"state": 5, "param_groups": 5}, torch.ones(1))),
        *(("optimizer", lambda state, name=name, value=value: change_moment(state, name, value))
          for name in ("exp_avg", "step") for value in ("text", None, torch.ones(7), [1], ...)),
        *(("optimizer", lambda state, value=value: state["optimizer"]["param_groups"][0].update(lr=value))
          for value in ("fast", None, math.nan, [1])),
        ("optimizer", lambda state: state["optimizer"]["param_groups"][0].pop("eps")),
        *(("lr_scheduler", lambda state, value=value: state.update(lr_scheduler=value))
          for value in ("text", None, [])),
        *(("lr_scheduler", lambda state, value=value: state["lr_scheduler"].update(last_epoch=value))
          for value in ("a", None, -1, 1.5)),
        *(("trainer", lambda state, value=value: state.update(trainer=value))
          for value in ("text", None, {}, {"epoch_length": "a"},
                        {"epoch_length": 1, "iteration": "a", "max_epochs": 2})),
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_refused_before_the_first_step(key, change, tmp_path):
    state = state_of_a_training()
    change(state)
    save_checkpoint(state, tmp_path / "last.pt")
    file = tmp_path / "last.pt"
    assert told(resume, file).startswith((f"The {key} in {file} is damaged", f"{file} is of a training that trained"))
