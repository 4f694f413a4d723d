import pytest
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, SequentialLR

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.training.checkpoints import LastCheckpoint
from icmoe_monai.weights.checkpoint import (
    check_state,
    load_weights,
    precision_of,
    read_weights,
    save_weights,
    trained_state,
)
from icmoe_monai.weights.handlers import CheckpointLoader, _progress
from icmoe_monai.weights.sam import trunk_fingerprint
from icmoe_monai.weights.tensor_files import read_checkpoint, save_checkpoint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("bias"), r"bias is missing from it; 1 of 2 tensors differ"),
        (lambda state: state.update(extra=torch.ones(1)), r"it has extra, which the network has not; 1 of 2"),
        (lambda state: state.update(weight=torch.ones(5, 2)), r"weight is \(5, 2\) in the file and \(3, 2\)"),
        (lambda state: state.update(bias=torch.tensor([1, torch.nan, 1])), r"a\.pt holds numbers in bias that are not"),
    ],
    ids=["missing", "unknown", "shape", "not finite"],
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


FROZEN = {"backbone": "vit_t", "expert_depth": 1}


def differ(network: ICMoE) -> ICMoE:
    """Move every weight and statistic that a training on a frozen encoder moves."""
    for name, value in network.state_dict().items():
        if not name.startswith("encoder.") and value.is_floating_point():
            value.add_(torch.rand_like(value))
    return network


def same_trunk(network: ICMoE) -> ICMoE:
    other = ICMoE(**FROZEN)
    other.encoder.load_state_dict(network.encoder.state_dict())
    return other


def with_pyramid(pyramid: ImagePyramid, network: ICMoE) -> ICMoE:
    """Build a network on the same encoder and this pyramid."""
    other = ICMoE(**FROZEN, detail=pyramid)
    other.encoder.load_state_dict(network.encoder.state_dict())
    return other


@pytest.mark.parametrize("name", ["experts.pt", "experts.safetensors"])
def test_experts_come_back_onto_their_pyramid_and_no_other(name, tmp_path):
    pyramid = ImagePyramid()
    network = with_pyramid(pyramid, ICMoE(**FROZEN))
    save_weights(network, tmp_path / name)
    fingerprint = trunk_fingerprint(pyramid)
    stored = read_weights(tmp_path / name)
    assert stored["trunk"]["detail"] == fingerprint
    assert not [key for key in stored["model"] if key.startswith(("encoder.", "detail."))]
    load_weights(with_pyramid(pyramid, network), tmp_path / name)
    with pytest.raises(InputError, match=r"with an image pyramid and this network has another: .*--pyramid"):
        load_weights(with_pyramid(ImagePyramid(), network), tmp_path / name)
    with pytest.raises(InputError, match=r"with an image pyramid and this network has none: .*--pyramid"):
        load_weights(same_trunk(network), tmp_path / name)
    save_weights(same_trunk(network), tmp_path / name)
    with pytest.raises(InputError, match=r"with none and this network has an image pyramid: .*--pyramid"):
        load_weights(network, tmp_path / name)


@pytest.mark.parametrize("detail", [ImagePyramid, lambda: None], ids=["pyramid", "stem"])
def test_experts_start_a_training_that_also_trains_their_trunk(detail, tmp_path):
    """Fine-tuning all from experts: the encoder is theirs, though it will not stay."""
    network = ICMoE(**FROZEN, detail=detail())
    save_weights(network, tmp_path / "experts.pt")
    other = ICMoE(**FROZEN, detail=detail(), train_trunk=True)
    for part in ("encoder", "detail"):
        getattr(other, part).load_state_dict(getattr(network, part).state_dict())
    load_weights(other, tmp_path / "experts.pt")
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["experts.pt", "experts.safetensors"])
def test_experts_come_back_onto_their_trunk(name, tmp_path):
    network = differ(ICMoE(**FROZEN))
    save_weights(network, tmp_path / name, trunk_source="/home/somebody/sam_vit_b_01ec64.pth")
    assert b"somebody" not in (tmp_path / name).read_bytes()
    assert (tmp_path / name).stat().st_size < 0.25 * sum(4 * p.numel() for p in network.parameters())
    trained = sum(4 * p.numel() for key, p in network.named_parameters() if not key.startswith("encoder."))
    assert trained < (tmp_path / name).stat().st_size < 1.05 * trained  # names and the norms' statistics besides
    other = same_trunk(network)
    load_weights(other, tmp_path / name)
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["experts.pt", "experts.safetensors"])
def test_experts_are_refused_by_another_trunk(name, tmp_path):
    save_weights(ICMoE(**FROZEN), tmp_path / name, trunk_source="sam_vit_b")
    other = ICMoE(**FROZEN)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    sentence = (
        rf"{name} was trained on sam_vit_b with fingerprint [0-9a-f]{{12}}, .* encoder is another .* --pretrained"
    )
    with pytest.raises(InputError, match=sentence):
        load_weights(other, tmp_path / name)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_a_network_of_several_processes_is_written_and_read_by_what_it_wraps(tmp_path):
    wrapper = nn.ModuleDict({"module": ICMoE(**FROZEN)})
    wrapper.module = wrapper["module"]
    save_weights(wrapper, tmp_path / "experts.pt")
    assert read_checkpoint(tmp_path / "experts.pt")["model"].keys() == trained_state(wrapper.module).keys()
    load_weights(wrapper, tmp_path / "experts.pt")


def test_experts_of_other_settings_are_refused_on_their_trunk(tmp_path):
    network = ICMoE(**FROZEN)
    save_weights(network, tmp_path / "experts.pt")
    other = ICMoE(**FROZEN, rank=4)
    other.encoder.load_state_dict(network.encoder.state_dict())
    with pytest.raises(InputError, match=r"adapted\.semantic\..* is .* in the file and .*; \d+ of \d+ tensors differ"):
        load_weights(other, tmp_path / "experts.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_the_whole_state_needs_no_trunk(name, tmp_path):
    network = differ(ICMoE(**FROZEN))
    save_weights(network, tmp_path / name, whole=True)
    assert read_checkpoint(tmp_path / name).keys() == network.state_dict().keys()  # bare, as MONAI's load wants it
    other = ICMoE(**FROZEN)
    load_weights(other, tmp_path / name)
    assert torch.equal(other.encoder.pos_embed, network.encoder.pos_embed)


def test_an_encoder_that_was_trained_is_in_the_file(tmp_path):
    network = ICMoE(**FROZEN, train_trunk=True)
    save_weights(network, tmp_path / "best.pt")
    assert read_checkpoint(tmp_path / "best.pt").keys() == network.state_dict().keys()


def test_a_training_of_experts_resumes_on_its_trunk_only(tmp_path):
    network = differ(ICMoE(**FROZEN))
    done = Engine(lambda engine, batch: 0)
    recipe = {"settings": {}, "pretrained": "sam_vit_b"}
    LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt"), recipe=recipe).attach(done)
    done.run([0], max_epochs=1)
    assert not any(name.startswith("encoder.") for name in read_checkpoint(tmp_path / "last.pt")["model"])
    other = same_trunk(network)
    CheckpointLoader(str(tmp_path / "last.pt"), {"model": other})(Engine(lambda engine, batch: None))
    assert torch.equal(
        other.gate.state_dict()[key := next(iter(other.gate.state_dict()))], network.gate.state_dict()[key]
    )
    with pytest.raises(InputError, match=r"last\.pt was trained on sam_vit_b with fingerprint"):
        CheckpointLoader(str(tmp_path / "last.pt"), {"model": ICMoE(**FROZEN)})(Engine(lambda engine, batch: None))


def test_a_schedule_of_others_goes_on_where_it_stopped():
    def schedule() -> SequentialLR:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        parts = [ExponentialLR(optimizer, 0.9), ExponentialLR(optimizer, 0.5)]
        return SequentialLR(optimizer, parts, milestones=[2])

    first, second = schedule(), schedule()
    for _ in range(4):
        first.optimizer.step()
        first.step()
    second.load_state_dict(_progress(first.state_dict()))
    assert [part.last_epoch for part in second._schedulers] == [part.last_epoch for part in first._schedulers]
    assert second.last_epoch == 4


@pytest.mark.parametrize("name", ["small.pt", "small.safetensors"])
def test_weights_can_be_written_rounded_and_are_loaded_as_they_were_otherwise(name, tmp_path):
    network, other = ICMoE(), ICMoE()
    variance = next(key for key in network.state_dict() if key.endswith("running_var"))
    network.state_dict()[variance][0] = 1e5  # infinite in half precision, as a trained network's was
    save_weights(network, tmp_path / f"whole_{name}", whole=True)
    save_weights(network, tmp_path / name, whole=True, dtype=torch.float16)
    assert (tmp_path / name).stat().st_size < 0.55 * (tmp_path / f"whole_{name}").stat().st_size
    assert precision_of(tmp_path / name) == torch.float16
    assert precision_of(tmp_path / f"whole_{name}") is None
    load_weights(other, tmp_path / name)
    for key, weight in other.state_dict().items():
        given = network.state_dict()[key]
        assert weight.dtype == given.dtype
        is_rounded = given.is_floating_point() and key != variance
        assert torch.equal(weight, given.half().to(given.dtype) if is_rounded else given), key
