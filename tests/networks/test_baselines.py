"""Networks of MONAI's go through everything that IC-MoE goes through."""

import logging

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import BasicUNetPlusPlus, UNet
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, VotingInferer
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.baselines import Baseline, Ensemble, PyramidUNet
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.training.checkpoints import LastCheckpoint
from icmoe_monai.weights.checkpoint import load_weights, save_weights
from icmoe_monai.weights.frozen import fingerprints, has_frozen_trunk
from icmoe_monai.weights.handlers import CheckpointLoader, LoadFrozen, TrunkChangedError, UntouchedTrunk
from icmoe_monai.weights.pyramid import save_pyramid_weights
from icmoe_monai.weights.tensor_files import read_checkpoint


def unet(out_channels: int = 1) -> Baseline:
    network = UNet(spatial_dims=2, in_channels=3, out_channels=out_channels, channels=(4, 8), strides=(2,))
    return Baseline(network=network, out_channels=out_channels)


def pyramid_unet(*, train: bool) -> Baseline:
    return Baseline(network=PyramidUNet(detail=ImagePyramid(train=train), out_channels=1), out_channels=1)


@pytest.mark.parametrize("out_channels", [1, 3])
def test_the_interface_is_that_of_icmoe(out_channels):
    image, network = torch.randn(2, 3, 32, 48), unet(out_channels)
    ours = ICMoE(experts=["basic"], out_channels=out_channels)
    found, expected = network.train()(image), ours.train()(image)
    assert type(found) is type(expected)
    for name in ("logits", "expert_logits", "votes"):
        assert getattr(found, name).shape == getattr(expected, name).shape, name
    assert found.embeddings.shape[2:] == (0, 0)
    torch.testing.assert_close(found.expert_logits[:, 0], found.logits)
    torch.testing.assert_close(found.votes, torch.ones_like(found.votes))
    assert network.eval()(image).shape == ours.eval()(image).shape
    assert network.expert_maps(image).shape == ours.expert_maps(image).shape


@pytest.mark.parametrize("out_channels", [1, 3])
def test_the_vote_is_the_network_itself(out_channels):
    image, network = torch.randn(1, 3, 32, 32), unet(out_channels).eval()
    with torch.no_grad():
        logits, whole = network(image), VotingInferer(with_experts=True)(image, network)
        window = SlidingWindowVotingInferer(roi_size=32, with_experts=True)(image, network)
    expected = torch.sigmoid(logits) if out_channels == 1 else torch.softmax(logits, dim=1)
    for maps in (whole, window):
        torch.testing.assert_close(maps[:, :out_channels], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(maps[:, out_channels : 2 * out_channels], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(maps[:, -1], torch.ones(1, 32, 32))


def test_the_loss_without_its_expert_part_is_dice_and_cross_entropy():
    image, label = torch.randn(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()
    network, loss = unet().train(), ICMoELoss(experts=["basic"], expert_weight=0.0, balance_weight=0.0)
    output = network(image)
    torch.testing.assert_close(loss(output, label), loss.segmentation(output.logits, label))
    loss(output, label).backward()
    assert all(weight.grad is not None for weight in network.network.parameters())


def test_of_a_list_of_outputs_the_last_is_taken():
    for deep in (False, True):
        features = (8, 8, 8, 8, 8, 8)
        network = BasicUNetPlusPlus(2, in_channels=3, out_channels=1, features=features, deep_supervision=deep).eval()
        image = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(Baseline(network=network, out_channels=1).eval()(image), network(image)[-1])


@pytest.mark.parametrize("out_channels", [1, 3])
def test_members_of_an_ensemble_have_the_gradients_that_they_would_have_alone(out_channels):
    members = [unet(out_channels).network for _ in range(3)]
    image, label = torch.randn(2, 3, 32, 32), torch.randint(max(out_channels, 2), (2, 1, 32, 32)).float()
    loss = ICMoELoss(out_channels=out_channels, expert_weight=3.0, weigh_pixels=False)
    output = Ensemble(networks=members, out_channels=out_channels).train()(image)
    loss(output, label).backward()
    together = [[weight.grad.clone() for weight in member.parameters()] for member in members]
    alone = ICMoELoss(out_channels=out_channels, experts=["basic"], expert_weight=0.0)
    for member, gradients in zip(members, together, strict=True):
        member.zero_grad()
        alone(Baseline(network=member, out_channels=out_channels).train()(image), label).backward()
        for gradient, weight in zip(gradients, member.parameters(), strict=True):
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in together[0])


@pytest.mark.parametrize("out_channels", [1, 3])
def test_the_vote_of_an_ensemble_is_the_mean_of_its_members(out_channels):
    members, image = [unet(out_channels).network for _ in range(3)], torch.randn(1, 3, 32, 32)
    network = Ensemble(networks=members, out_channels=out_channels).eval()
    with torch.no_grad():
        logits = torch.stack([member(image) for member in members])
        each = torch.sigmoid(logits) if out_channels == 1 else torch.softmax(logits, dim=2)
        maps = VotingInferer(with_experts=True)(image, network)
        plain = VotingInferer()(image, network)
        torch.testing.assert_close(plain, network(image))
    torch.testing.assert_close(maps[:, :out_channels], each.mean(dim=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps[:, out_channels : 4 * out_channels], each.transpose(0, 1).flatten(1, 2))
    torch.testing.assert_close(maps[:, -3:], torch.full((1, 3, 32, 32), 1 / 3))


def test_an_ensemble_of_other_channels_is_refused():
    network = Ensemble(networks=[nn.Conv2d(3, 2, 1)], out_channels=1)
    with pytest.raises(ValueError, match=r"must be \(B, E, K, H, W\) \(1, 1, 1, 8, 8\), got \(1, 1, 2, 8, 8\)"):
        network(torch.zeros(1, 3, 8, 8))


def test_every_pyramid_of_an_ensemble_begins_as_the_files(tmp_path):
    members = [PyramidUNet(detail=ImagePyramid(train=True), out_channels=1) for _ in range(2)]
    other, network = ImagePyramid(), Ensemble(networks=members, out_channels=1)
    save_pyramid_weights(other, tmp_path / "pyramid.safetensors")
    pyramid = str(tmp_path / "pyramid.safetensors")
    LoadFrozen(network=network, pyramid=pyramid, training=True)(Engine(lambda engine, batch: 0))
    for member in members:
        assert all(torch.equal(value, member.detail.state_dict()[name]) for name, value in other.state_dict().items())
    assert not torch.equal(members[0].decoder.head.weight, members[1].decoder.head.weight)


def test_a_network_of_other_channels_is_refused():
    network = Baseline(network=nn.Conv2d(3, 2, 1), out_channels=1)
    with pytest.raises(ValueError, match=r"must be \(B, K, H, W\) \(1, 1, 8, 8\), got \(1, 2, 8, 8\)"):
        network(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_all_weights_are_saved_and_loaded(tmp_path, name):
    network, other = unet(), unet()
    save_weights(network, tmp_path / name)
    load_weights(other, tmp_path / name)
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    with pytest.raises(InputError, match="does not fit this network"):
        load_weights(ICMoE(), tmp_path / name)


def test_a_training_goes_on_from_its_last_file(tmp_path):
    network, other = unet(), unet()
    engine = Engine(lambda engine, batch: 0)
    LastCheckpoint(save_dict={"model": network}, path=str(tmp_path / "last.pt")).attach(engine)
    engine.run([0], max_epochs=1)
    assert read_checkpoint(tmp_path / "last.pt")["model"].keys() == network.state_dict().keys()
    CheckpointLoader(str(tmp_path / "last.pt"), {"model": other})(engine)
    assert torch.equal(next(other.parameters()), next(network.parameters()))


@pytest.mark.parametrize("source", [None, "trunk.safetensors"])
def test_handlers_of_the_trunk_leave_it_alone_and_say_nothing_wrong(source, caplog):
    network = unet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    engine = Engine(lambda engine, batch: 0)
    with caplog.at_level(logging.INFO, logger="icmoe_monai"):
        LoadFrozen(network=network, pretrained=source, training=True).attach(engine)
        UntouchedTrunk(network).attach(engine)
        engine.run([0], max_epochs=1)
    assert not has_frozen_trunk(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    said = "Nothing of trunk.safetensors is used: this network has no foundation encoder."
    told = [record.message for record in caplog.records if record.name.startswith("icmoe_monai")]
    assert told == ([said] if source else [])


@pytest.mark.parametrize("is_trained", [True, False], ids=["fine-tuned", "frozen"])
def test_the_pyramids_unet_begins_with_the_files_pyramid_and_a_frozen_one_is_proven_untouched(
    is_trained, tmp_path, caplog
):
    network, other, image = pyramid_unet(train=is_trained), ImagePyramid(), torch.randn(2, 3, 32, 32)
    save_pyramid_weights(other, tmp_path / "pyramid.safetensors")
    head = network.network.decoder.head.weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)

    def step(engine: Engine, batch: int) -> None:
        network.train()(image).logits.square().sum().backward()
        optimizer.step()

    engine = Engine(step)
    LoadFrozen(network=network, pyramid=str(tmp_path / "pyramid.safetensors"), training=True).attach(engine)
    UntouchedTrunk(network).attach(engine)
    with caplog.at_level(logging.INFO, logger="icmoe_monai"):
        engine.run([0], max_epochs=1)
    assert not torch.equal(network.network.decoder.head.weight, head)
    assert ("it is trained further" in caplog.text) == is_trained
    assert ("The network.detail is untouched by this training" in caplog.text) != is_trained
    state = network.network.detail.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items()) != is_trained


def test_a_frozen_pyramid_that_was_touched_is_an_error():
    network = pyramid_unet(train=False)
    engine = Engine(lambda engine, batch: network.network.detail.to2[0][0].bias.add_(1))
    UntouchedTrunk(network).attach(engine)
    with pytest.raises(TrunkChangedError, match=r"frozen network\.detail has changed"):
        engine.run([0], max_epochs=1)


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_a_frozen_pyramid_is_left_out_of_checkpoints_and_known_by_its_fingerprint(name, tmp_path):
    network, other = pyramid_unet(train=False), pyramid_unet(train=False)
    save_weights(network, tmp_path / name)
    with pytest.raises(InputError, match=r"was trained with an image pyramid and this network has another"):
        load_weights(other, tmp_path / name)
    other.network.detail.load_state_dict(network.network.detail.state_dict())
    load_weights(other, tmp_path / name)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())
    assert fingerprints(other) == fingerprints(network)
    with pytest.raises(InputError, match=r"was trained with no encoder and this network has one"):
        load_weights(ICMoE(), tmp_path / name)
    save_weights(ICMoE(), tmp_path / name)
    with pytest.raises(InputError, match=r"was trained with an encoder and this network has none"):
        load_weights(network, tmp_path / name)


@pytest.mark.parametrize("name", ["best.pt", "best.safetensors"])
def test_a_fine_tuned_pyramid_is_in_its_checkpoints(name, tmp_path):
    network, other = pyramid_unet(train=True), pyramid_unet(train=True)
    save_weights(network, tmp_path / name)
    load_weights(other, tmp_path / name)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())
