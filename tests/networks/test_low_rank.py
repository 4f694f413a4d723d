from __future__ import annotations

import torch

from icmoe_monai.networks.low_rank import ExpertUpdates, LowRank, add_update


def test_update_starts_at_zero_and_can_learn() -> None:
    update = LowRank(num_blocks=2, in_features=6, out_features=9, rank=3)
    x = torch.randn(2, 4, 5, 6)
    first = add_update(torch.zeros(9), x, update(0), torch.ones(1))
    assert first.shape == (2, 4, 5, 9)
    assert torch.count_nonzero(first) == 0
    first.sum().backward()
    assert update.up.grad is not None
    assert update.up.grad[0].abs().max() > 0  # V is not zero, so U leaves zero at the first step
    assert torch.count_nonzero(update.up.grad[1]) == 0  # the other block's update took no part


def test_update_has_the_rank_it_says() -> None:
    update = LowRank(num_blocks=1, in_features=6, out_features=9, rank=3)
    with torch.no_grad():
        update.down.normal_(std=0.5)
        update.up.normal_(std=0.5)
    matrix = add_update(torch.zeros(9), torch.eye(6), update(0), torch.ones(1)).t()
    torch.testing.assert_close(matrix, update.up[0] @ update.down[0])
    assert torch.linalg.matrix_rank(matrix) == 3


def test_updates_fit_the_block() -> None:
    updates = ExpertUpdates(num_blocks=2, width=8, rank=4)
    shapes = {name: tuple(value.shape) for name, value in updates.named_parameters()}
    assert shapes == {
        "qkv.down": (2, 4, 8),
        "qkv.up": (2, 24, 4),
        "lin1.down": (2, 4, 8),
        "lin1.up": (2, 32, 4),
        "lin2.down": (2, 4, 32),
        "lin2.up": (2, 8, 4),
    }


def test_each_block_gets_its_own_updates_and_all_one_gain() -> None:
    updates = ExpertUpdates(num_blocks=2, width=8, rank=4)
    gain = torch.rand(1, 3, 2, 4)
    of_blocks = updates(gain)
    assert len(of_blocks) == 2
    for j, update in enumerate(of_blocks):
        assert update.gain is gain
        assert torch.equal(update.qkv.down, updates.qkv.down[j])
        assert torch.equal(update.lin1.up, updates.lin1.up[j])
        assert torch.equal(update.lin2.down, updates.lin2.down[j])


def test_gain_weighs_the_ranks() -> None:
    update = LowRank(num_blocks=1, in_features=4, out_features=5, rank=2)
    with torch.no_grad():
        update.up.normal_()
    x, product = torch.randn(3, 4), torch.randn(3, 5)
    one_rank = x @ update.down[0, 1:].t() @ update.up[0, :, 1:].t()
    found = add_update(product, x, update(0), torch.tensor([0.0, 2.0]))
    assert one_rank.std() > 0.1
    torch.testing.assert_close(found, product + 2 * one_rank)
