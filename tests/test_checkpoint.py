import logging

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from icmoe_monai.checkpoint import CheckpointLoader, PretrainedTrunk, check_state
from icmoe_monai.errors import InputError
from icmoe_monai.network import ICMoE
from icmoe_monai.tensor_files import save_checkpoint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("bias"), r"bias is missing from it; 1 of 2 tensors differ"),
        (lambda state: state.update(extra=torch.ones(1)), r"it has extra, which the network has not; 1 of 2"),
        (lambda state: state.update(weight=torch.ones(5, 2)), r"weight is \(5, 2\) in the file and \(3, 2\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_told_by_the_first_difference(change, sentence):
    network = nn.Linear(2, 3)
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(InputError, match=sentence):
        check_state(state, network, "a.pt")


def test_bare_weights_start_a_fresh_training(tmp_path):
    network, other = nn.Linear(2, 3), nn.Linear(2, 3)
    save_checkpoint(other.state_dict(), tmp_path / "best.pt")
    engine = Engine(lambda engine, batch: None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    CheckpointLoader(str(tmp_path / "best.pt"), {"model": network, "optimizer": optimizer}).attach(engine)
    engine.run([0], max_epochs=1)
    assert torch.equal(network.weight, other.weight)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_resumed_schedule_keeps_this_runs_plan(tmp_path):
    """More epochs, or another rate, on resuming: how far it has come is loaded, not where it was to end."""

    def schedule(lr: float, factor: float) -> torch.optim.lr_scheduler.LRScheduler:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=lr)
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=factor)

    old, new = schedule(1.0, 0.1), schedule(0.5, 0.9)
    old.optimizer.step()
    old.step()
    network = nn.Linear(1, 1)
    save_checkpoint({"model": network.state_dict(), "lr_scheduler": old.state_dict()}, tmp_path / "last.pt")
    loader = CheckpointLoader(str(tmp_path / "last.pt"), {"model": network, "lr_scheduler": new})
    loader(Engine(lambda engine, batch: None))
    assert (new.last_epoch, new.gamma, new.base_lrs) == (1, 0.9, [0.5])


def test_a_finished_training_says_how_to_go_on(tmp_path):
    network = nn.Linear(1, 1)
    done = Engine(lambda engine, batch: None)
    done.run([0, 1], max_epochs=3)
    save_checkpoint({"model": network.state_dict(), "trainer": done.state_dict()}, tmp_path / "last.pt")
    engine = Engine(lambda engine, batch: None)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    CheckpointLoader(str(tmp_path / "last.pt"), {"model": network, "optimizer": optimizer}).attach(engine)
    with pytest.raises(InputError, match=r"end of epoch 3, and max_epochs is 2: nothing is left to train; raise"):
        engine.run([0, 1], max_epochs=2)


@pytest.mark.parametrize(
    ("steps", "rows", "sentence"),
    [
        (5, 1, r"with 2 steps an epoch, and this one has 5: resume with the same images"),
        (2, 2, r"trained other weights"),
    ],
    ids=["epoch-length", "parameters"],
)
def test_a_training_of_another_kind_is_not_resumed(steps, rows, sentence, tmp_path):
    network = nn.Linear(1, 1)
    done = Engine(lambda engine, batch: None)
    done.run([0, 1], max_epochs=1)
    old = torch.optim.SGD([nn.Parameter(torch.ones(1)) for _ in range(rows)], lr=1.0)
    content = {"model": network, "optimizer": old, "trainer": done}
    save_checkpoint({name: part.state_dict() for name, part in content.items()}, tmp_path / "last.pt")
    engine = Engine(lambda engine, batch: None)
    new = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    CheckpointLoader(str(tmp_path / "last.pt"), {"model": network, "optimizer": new}).attach(engine)
    with pytest.raises(InputError, match=sentence):
        engine.run([0] * steps, max_epochs=2)


@pytest.mark.parametrize("prefix", ["", "image_encoder."])
def test_a_trunk_is_loaded_under_sams_names(prefix, tmp_path):
    network, other = ICMoE(), ICMoE()
    state = {prefix + name: value for name, value in other.encoder.state_dict().items()}
    if prefix:
        state["mask_decoder.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "trunk.pth")
    PretrainedTrunk(network, str(tmp_path / "trunk.pth"))(Engine(lambda engine, batch: None))
    assert torch.equal(network.encoder.pos_embed, other.encoder.pos_embed)


def test_no_trunk_is_said_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        PretrainedTrunk(ICMoE(train_trunk=True))(Engine(lambda engine, batch: None))
    assert "No pretrained encoder (pretrained: null): its 4.0 million weights start at random, or" in caplog.text
