from __future__ import annotations

import pytest
import torch
from torch import nn

from icmoe_monai.networks.experts import AdaptiveExpert, ExpertCommunication, SemanticExpert
from icmoe_monai.networks.low_rank import LowRank, add_update


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)


def test_semantic_gain_is_one() -> None:
    expert = SemanticExpert(num_blocks=1, width=8, rank=2)
    assert torch.equal(expert.gain(torch.randn(2, 3, 4, 8)), torch.ones(2, 3, 4, 1))


def test_adaptive_gain_is_routed_and_one_on_average() -> None:
    expert = AdaptiveExpert(num_blocks=1, width=8, rank=2, num_updates=3)
    randomise(expert)
    tokens = torch.randn(2, 3, 4, 8)
    gain = expert.gain(tokens)
    assert gain.shape == (2, 3, 4, 6)
    torch.testing.assert_close(gain.mean(dim=-1), torch.ones(2, 3, 4))
    assert gain.std(dim=-1).min() > 0.01  # a router that gives every update the same is none
    assert gain.flatten(0, 2).std(dim=0).min() > 0.01  # nor one that treats all tokens alike


@pytest.mark.parametrize("matrix", ["qkv", "lin1", "lin2"])
def test_adaptive_update_is_a_sum_of_low_rank_updates_weighted_by_softmax(matrix: str) -> None:
    width, rank, num_updates = 8, 2, 3
    expert = AdaptiveExpert(num_blocks=2, width=width, rank=rank, num_updates=num_updates)
    randomise(expert)
    tokens = torch.randn(2, 3, 4, width)
    update: LowRank = getattr(expert.updates, matrix)
    x = torch.randn(2, 3, 4, update.down.shape[-1])
    routing = torch.softmax(expert.router(tokens), dim=-1)
    expected = torch.zeros(2, 3, 4, update.up.shape[1])
    for r in range(num_updates):
        ranks = slice(r * rank, (r + 1) * rank)
        delta = update.up[1][:, ranks] @ update.down[1][ranks]
        expected += num_updates * routing[..., r : r + 1] * (x @ delta.t())
    assert expected.std() > 0.1
    gain, *given = expert(tokens)[1]  # to the second block
    (matrices,) = (one for name, one in zip(("qkv", "lin1", "lin2"), given, strict=True) if name == matrix)
    found = add_update(torch.zeros_like(expected), x, matrices, gain)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_silent", [0, 1])
def test_communication_starts_as_identity(num_silent: int) -> None:
    communication = ExpertCommunication(channels=8, num_silent=num_silent)
    features = torch.randn(2, 3, 8, 4, 5)
    assert torch.equal(communication(features), features)


def test_basic_expert_is_heard_but_does_not_listen() -> None:
    communication = ExpertCommunication(channels=8)
    randomise(communication)
    features = torch.randn(2, 3, 8, 4, 5)
    told = communication(features)
    assert torch.equal(told[:, 0], features[:, 0])
    assert (told[:, 1:] - features[:, 1:]).abs().amax(dim=(0, 2, 3, 4)).min() > 0.01
    louder = features.clone()
    louder[:, 0] += torch.randn(8)[:, None, None]
    assert (communication(louder)[:, 1:] - told[:, 1:]).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-3


def test_permuting_listeners_permutes_what_they_learn() -> None:
    communication = ExpertCommunication(channels=8)
    randomise(communication)
    features = torch.randn(2, 4, 8, 4, 5)
    order = [0, 3, 1, 2]
    told = communication(features)
    assert (told[:, 1] - told[:, 2]).abs().max() > 0.1
    torch.testing.assert_close(communication(features[:, order]), told[:, order])


def test_places_do_not_mix() -> None:
    communication = ExpertCommunication(channels=8)
    randomise(communication)
    features = torch.randn(1, 3, 8, 2, 2)
    changed = features.clone()
    changed[..., 0, 1] += 1
    difference = (communication(changed) - communication(features)).abs().amax(dim=(0, 1, 2))
    assert difference[0, 1] > 0.1
    assert difference[[0, 1, 1], [0, 0, 1]].max() == 0


def test_every_weight_gets_a_gradient() -> None:
    expert = AdaptiveExpert(num_blocks=1, width=8, rank=2, num_updates=3)
    communication = ExpertCommunication(channels=8)
    for module in (expert, communication):
        randomise(module)
    tokens = torch.randn(2, 3, 4, 8)
    (update,) = expert(tokens)
    zero = torch.zeros(())
    hidden = add_update(zero, tokens, update.lin1, update.gain)
    heard = add_update(zero, hidden, update.lin2, update.gain)
    told = communication(torch.stack([tokens, heard], dim=1).permute(0, 1, 4, 2, 3))
    (told.square().sum() + add_update(zero, tokens, update.qkv, update.gain).square().sum()).backward()
    for module in (expert, communication):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-4, name
