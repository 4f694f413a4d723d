import logging

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.training.checkpoints import LastCheckpoint
from icmoe_monai.weights.frozen import describe_trunk, frozen_parts, has_frozen_trunk
from icmoe_monai.weights.handlers import LoadFrozen, TrunkChangedError, UntouchedTrunk
from icmoe_monai.weights.pyramid import save_pyramid_weights
from icmoe_monai.weights.sam import save_sam_weights, trunk_fingerprint
from icmoe_monai.weights.tensor_files import read_checkpoint


def run(network: nn.Module, step=lambda: None) -> None:
    """Train two steps, between what `UntouchedTrunk` does."""
    engine = Engine(lambda engine, batch: step())
    UntouchedTrunk(network).attach(engine)
    engine.run([0, 1], max_epochs=2)


def test_a_trunk_is_loaded_before_the_first_step(tmp_path, caplog):
    network, other = ICMoE(), ICMoE()
    save_sam_weights(other.encoder, tmp_path / "trunk.safetensors")
    engine = Engine(lambda engine, batch: None)
    LoadFrozen(network=network, pretrained=str(tmp_path / "trunk.safetensors")).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0], max_epochs=1)
    assert trunk_fingerprint(network.encoder) == trunk_fingerprint(other.encoder)
    assert f"Loaded the encoder (4.0 million weights) from {tmp_path}" in caplog.text
    assert "it stays as it is" in caplog.text


def test_a_trunk_that_will_be_trained_is_said_to_be(tmp_path, caplog):
    network = ICMoE(train_trunk=True)
    save_sam_weights(ICMoE().encoder, tmp_path / "trunk.safetensors")
    with caplog.at_level(logging.INFO):
        LoadFrozen(network=network, pretrained=str(tmp_path / "trunk.safetensors"))(Engine(lambda engine, batch: None))
    assert "it is trained like the rest" in caplog.text


def test_no_trunk_is_said_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        LoadFrozen(network=ICMoE(train_trunk=True), training=True)(Engine(lambda engine, batch: None))
    assert "No pretrained encoder (pretrained: null): its 4.0 million weights start at random, or" in caplog.text


def test_a_pyramid_is_loaded_before_the_first_step(tmp_path, caplog):
    network, other = ICMoE(detail=ImagePyramid()), ImagePyramid()
    save_pyramid_weights(other, tmp_path / "pyramid.safetensors")
    engine = Engine(lambda engine, batch: None)
    LoadFrozen(network=network, pyramid=str(tmp_path / "pyramid.safetensors")).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0], max_epochs=1)
    assert trunk_fingerprint(network.detail) == trunk_fingerprint(other)
    assert f"Loaded the image pyramid detail from {tmp_path}" in caplog.text


def test_a_frozen_pyramid_without_weights_is_an_error_and_a_trained_stem_needs_none():
    with pytest.raises(InputError, match=r"pyramid has no weights: name its file with --pyramid"):
        LoadFrozen(network=ICMoE(detail=ImagePyramid()), training=True)(Engine(lambda engine, batch: None))
    LoadFrozen(network=ICMoE(), training=True)(Engine(lambda engine, batch: None))
    LoadFrozen(network=nn.Linear(1, 1), pyramid="no file")(Engine(lambda engine, batch: None))


def test_a_part_without_a_file_is_left_to_the_checkpoint_where_nothing_is_trained(caplog):
    network = ICMoE(detail=ImagePyramid())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        LoadFrozen(network=network)(Engine(lambda engine, batch: None))
    assert caplog.text == ""
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_missing_trunk_is_said_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"no weights at .*trunk\.pth: name a file, .* or one of sam_vit_b"):
        LoadFrozen(network=ICMoE(), pretrained=str(tmp_path / "trunk.pth"))(Engine(lambda engine, batch: None))


def test_a_training_proves_that_it_left_the_trunk_alone(caplog):
    network = ICMoE(detail=ImagePyramid())
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)

    def step() -> None:
        network(torch.randn(2, 3, 32, 32)).logits.sum().backward()
        optimizer.step()

    before, pyramid = trunk_fingerprint(network.encoder), trunk_fingerprint(network.detail)
    with caplog.at_level(logging.INFO):
        run(network, step)
    assert f"The encoder is untouched by this training: fingerprint {before}" in caplog.text
    assert f"The detail is untouched by this training: fingerprint {pyramid}" in caplog.text


@pytest.mark.parametrize("part", ["encoder", "detail"])
def test_a_frozen_part_that_was_touched_is_an_error(part):
    network = ICMoE(detail=ImagePyramid())

    def touch() -> None:
        with torch.no_grad():
            next(getattr(network, part).parameters()).view(-1)[0] += 1e-3

    match = rf"frozen {part} has changed: [0-9a-f]{{64}} before, [0-9a-f]{{64}} after"
    with pytest.raises(TrunkChangedError, match=match):
        run(network, touch)


def test_nothing_is_saved_of_a_training_that_touched_the_trunk(tmp_path):
    network = ICMoE()

    def step(engine: Engine, batch: int) -> int:
        if engine.state.epoch == 2:
            network.encoder.requires_grad_(False).pos_embed.add_(1)
        return 0

    engine = Engine(step)
    UntouchedTrunk(network).attach(engine)
    LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt")).attach(engine)
    with pytest.raises(TrunkChangedError):
        engine.run([0], max_epochs=3)
    assert read_checkpoint(tmp_path / "last.pt")["trainer"]["iteration"] == 1


def test_weights_loaded_at_the_start_are_no_change():
    network = ICMoE()
    engine = Engine(lambda engine, batch: None)
    UntouchedTrunk(network).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: network.encoder.requires_grad_(False).pos_embed.add_(1))
    engine.run([0], max_epochs=1)
    engine.run([0], max_epochs=2)  # and once more with other weights


def test_a_trunk_that_is_trained_has_nothing_to_prove(caplog):
    with caplog.at_level(logging.INFO):
        run(ICMoE(train_trunk=True))
        run(nn.Linear(1, 1))
    assert "untouched" not in caplog.text


def test_what_is_noted_of_a_trunk():
    network = ICMoE()
    assert has_frozen_trunk(network)
    assert not has_frozen_trunk(nn.Linear(1, 1))
    noted = describe_trunk(network, "/home/somebody/trunk.pth")
    assert noted == {"fingerprint": trunk_fingerprint(network.encoder), "source": "trunk.pth"}
    assert describe_trunk(network)["source"] == ""
    network = ICMoE(detail=ImagePyramid())
    assert describe_trunk(network)["detail"] == trunk_fingerprint(network.detail)


def test_what_a_training_leaves_as_it_is():
    assert frozen_parts(ICMoE(detail=ImagePyramid())) == ["encoder", "detail"]
    assert frozen_parts(ICMoE()) == ["encoder"]
    assert frozen_parts(ICMoE(detail=ImagePyramid(), train_trunk=True)) == []  # its checkpoints are whole
    assert frozen_parts(nn.Linear(1, 1)) == []


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_later_start_keeps_what_was_trained_and_loads_what_is_frozen_again(training, tmp_path):
    frozen = ImagePyramid()
    save_pyramid_weights(frozen, tmp_path / "lite0.safetensors")
    save_pyramid_weights(ImagePyramid(size="lite1"), tmp_path / "lite1.safetensors")
    own = {"own_from": {"semantic": 32}, "own_network": {"adaptive": "lite1"}}
    network, engine = ICMoE(backbone=None, detail=ImagePyramid(), **own), Engine(lambda engine, batch: None)
    load = LoadFrozen(network=network, pyramid=str(tmp_path / "{size}.safetensors"), training=training)
    if training:
        load(engine)
        assert torch.equal(network.views["semantic"].to32[0][0].narrow.bias, frozen.to32[0][0].narrow.bias)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 1
    trained = {name: value.clone() for name, value in network.views.state_dict().items()}
    load(engine)  # as a federated client does in every round
    assert all(torch.equal(value, trained[name]) for name, value in network.views.state_dict().items())
    assert trunk_fingerprint(network.detail) == trunk_fingerprint(frozen)


def test_a_trained_encoder_begins_with_its_file_once(tmp_path):
    save_sam_weights(ICMoE().encoder, tmp_path / "trunk.safetensors")
    network, engine = ICMoE(train_trunk=True), Engine(lambda engine, batch: None)
    load = LoadFrozen(network=network, pretrained=str(tmp_path / "trunk.safetensors"), training=True)
    load(engine)
    with torch.no_grad():
        network.encoder.pos_embed += 1
    trained = trunk_fingerprint(network.encoder)
    load(engine)
    assert trunk_fingerprint(network.encoder) == trained
