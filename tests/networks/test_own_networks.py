"""Experts with own trained stages or networks: what is theirs, what stays frozen, what the vote's gradient reaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.losses import ICMoELoss
from icmoe_monai.networks.icmoe import EXPERTS, ICMoE
from icmoe_monai.networks.pyramid import STRIDES, ImagePyramid, OwnStages, stages_of
from icmoe_monai.settings import parameter_groups


def build(**arguments: object) -> ICMoE:
    torch.manual_seed(0)
    own = {"own_from": {"semantic": 16}, "own_network": {"adaptive": "lite2"}}
    return ICMoE(**({"backbone": None, "detail": ImagePyramid()} | own | arguments))


def example() -> tuple[Tensor, Tensor]:
    label = torch.zeros(2, 1, 32, 32)
    label[:, :, 8:24, 4:20] = 1
    return torch.randn(2, 3, 32, 32) + label, label


@pytest.mark.parametrize("hear_vote", [False, True], ids=["alone", "hear the vote"])
def test_training_moves_all_that_trains_and_leaves_the_frozen_pyramid(hear_vote: bool) -> None:
    network, loss, (image, label) = build(hear_vote=hear_vote), ICMoELoss(mutual_weight=1.0), example()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    groups = parameter_groups(network, learning_rate=1e-3, pretrained_share=0.2, encoder_is_pretrained=False)
    optimizer = torch.optim.AdamW(groups, weight_decay=0)
    for _ in range(2):  # the gate's last layer is zero at first
        optimizer.zero_grad()
        loss(network.train()(image), label).backward()
        optimizer.step()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    statistics = {name for name, _ in network.named_buffers()}
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved - statistics == trained
    assert not any(name.startswith("detail.") for name in trained)
    assert {name.split(".")[1] for name in trained if name.startswith("views.")} == {"semantic", "adaptive"}


def test_the_votes_gradient_stays_out_of_experts_that_do_not_hear_it() -> None:
    image, _ = example()
    for hear_vote in (True, False):
        network = build(hear_vote=hear_vote).train()
        network(image).logits.square().mean().backward()
        reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
        assert reached == ({"decoders", "views", "gate", "voting"} if hear_vote else {"gate", "voting"})


@pytest.mark.parametrize("experts", [EXPERTS, ("basic",), ("semantic", "adaptive")], ids="+".join)
def test_scripted_is_eager(experts: tuple[str, ...]) -> None:
    network, image = build(experts=experts).eval(), torch.randn(1, 3, 48, 32)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(image), network(image))
    torch.testing.assert_close(scripted.expert_maps(image), network.expert_maps(image))


@pytest.mark.parametrize("stride", STRIDES[1:])
def test_own_stages_begin_as_the_pyramid_and_leave_it_alone(stride: int) -> None:
    pyramid, image = ImagePyramid(), torch.randn(2, 3, 48, 32)
    own, before = OwnStages(pyramid, stride=stride), {k: v.clone() for k, v in pyramid.state_dict().items()}
    levels = pyramid(image)
    assert all(torch.equal(a, b) for a, b in zip(own(levels), levels, strict=True))
    sum(level.square().mean() for level in own(levels)).backward()
    assert all(weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in own.parameters())
    torch.optim.SGD(own.parameters(), lr=0.1).step()
    first = STRIDES.index(stride)
    moved = [not torch.equal(a, b) for a, b in zip(own(pyramid(image)), levels, strict=True)]
    assert moved == [i >= min(first, 3) for i in range(4)]  # the last level holds strides 16 and 32
    assert all(torch.equal(value, before[name]) for name, value in pyramid.state_dict().items())


def test_own_stages_start_from_weights_that_came_later() -> None:
    network = build()
    with torch.no_grad():
        for weight in network.detail.parameters():
            weight += 0.1
    network.start_own_stages()
    levels = network.detail(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(network.views["semantic"](levels), levels, strict=True))


def test_an_own_network_sees_the_image_as_the_pyramid_normalises_it() -> None:
    network = build(detail=ImagePyramid(pixel_mean=(1.0, 2.0, 3.0), pixel_std=(4.0, 5.0, 6.0)))
    own = network.views["adaptive"].pyramid
    assert torch.equal(own.scale, network.detail.scale)
    assert torch.equal(own.shift, network.detail.shift)


def test_pretrained_weights_have_a_rate_of_their_own() -> None:
    network = build()
    new, old = parameter_groups(network, learning_rate=1e-3, pretrained_share=0.2, encoder_is_pretrained=False)
    assert (new["lr"], old["lr"]) == pytest.approx((1e-3, 2e-4))
    assert {id(p) for p in old["params"]} == {id(p) for p in network.views.parameters()}
    assert len(new["params"]) + len(old["params"]) == sum(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("size", "expected"),  # channels and blocks of the authors' EfficientNet-Lite at strides 2, 4, 8, 16, 16, 32, 32
    [
        ("lite0", ([16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1])),
        ("lite1", ([16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1])),
        ("lite2", ([16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1])),
    ],
)
def test_sizes_are_the_authors(size: str, expected: tuple[list[int], list[int]]) -> None:
    stages = stages_of(size)
    assert ([stage[4] for stage in stages], [stage[0] for stage in stages]) == expected


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"own_from": {"adaptive": 2}, "own_network": None}, "one of the strides 4, 8, 16, 32, got 2"),
        ({"own_from": {"clever": 8}}, "own_from is by the names basic, semantic, adaptive, got clever"),
        ({"own_network": {"adaptive": "lite9"}}, "one of lite0, lite1, lite2, got 'lite9'"),
        ({"own_network": {"semantic": "lite1"}}, "semantic expert has own_from and own_network"),
        ({"detail": None}, "semantic has none: set own_from to null"),
    ],
    ids=["stride", "expert", "size", "both", "no pyramid"],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        build(**arguments)
