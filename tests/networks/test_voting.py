from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import reference
import torch
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.networks import voting
from icmoe_monai.networks.voting import STRATEGIES, PixelVoting, VoteGate


def draw_probabilities(num_experts: int, out_channels: int, size: tuple[int, int] = (3, 4)) -> Tensor:
    logits = 2 * torch.randn(2, num_experts, out_channels, *size, dtype=torch.float64)
    return voting.to_probabilities(logits)


def draw_gate(num_experts: int, size: tuple[int, int] = (3, 4)) -> Tensor:
    return torch.randn(2, num_experts, *size, dtype=torch.float64)


def build(
    num_experts: int, strategy: str = "adaptive", best_expert: int = 0, deference: Sequence[float] | None = None
) -> PixelVoting:
    module = PixelVoting(
        num_experts=num_experts, strategy=strategy, best_expert=best_expert, deference=deference
    ).double()
    with torch.no_grad():
        module.alpha.fill_(0.7)
        module.beta.fill_(1.6)
    return module


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("num_experts", [1, 2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_votes_and_fused_probabilities_are_the_references(strategy: str, num_experts: int, out_channels: int) -> None:
    probabilities, gate = draw_probabilities(num_experts, out_channels), draw_gate(num_experts)
    best = num_experts - 1
    gamma = np.array([4.0, 0.0, 1.5])[:num_experts]
    logits, votes = build(num_experts, strategy, best, gamma)(probabilities, gate)
    expected = reference.votes(probabilities.numpy(), gate.numpy(), strategy, 0.7, 1.6, best, gamma)
    fused = reference.fused(probabilities.numpy(), expected)
    assert fused.std() > 0.05
    np.testing.assert_allclose(votes.detach(), expected, rtol=0, atol=1e-4 if strategy == "confidence" else 1e-5)
    np.testing.assert_allclose(voting.to_probabilities(logits).detach(), fused, rtol=0, atol=1e-4)
    np.testing.assert_allclose(votes.detach().sum(dim=1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("num_experts", [1, 2, 3])
def test_measures_are_the_references(num_experts: int, out_channels: int) -> None:
    probabilities = draw_probabilities(num_experts, out_channels)
    for name in ("confidence", "label_consistency", "disagreement"):
        expected = getattr(reference, name)(probabilities.numpy())
        assert expected.std() > 0.05 or num_experts == 1
        np.testing.assert_allclose(getattr(voting, name)(probabilities), expected, rtol=0, atol=1e-5)
    votes = torch.softmax(draw_gate(num_experts), dim=1)
    np.testing.assert_allclose(voting.expert_load(votes), reference.expert_load(votes.numpy()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strategy", ["adaptive", "confidence", "majority", "best"])
def test_votes_sum_to_1_over_experts_and_differ_between_them(strategy: str) -> None:
    _, votes = build(3, strategy)(draw_probabilities(3, 1), draw_gate(3))
    torch.testing.assert_close(votes.sum(dim=1), torch.ones_like(votes[:, 0]))
    assert votes.min() >= 0
    assert votes.std(dim=1).max() > 0.1
    assert votes.flatten(2).std(dim=-1).max() > 0.05 or strategy == "best"  # and between pixels


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("strategy", ["adaptive", "mean", "majority", "confidence"])
def test_permuting_experts_permutes_votes(strategy: str, out_channels: int) -> None:
    probabilities, gate = draw_probabilities(3, out_channels), draw_gate(3)
    module = build(3, strategy)
    logits, votes = module(probabilities, gate)
    for order in map(list, itertools.permutations(range(3))):
        permuted_logits, permuted_votes = module(probabilities[:, order], gate[:, order])
        torch.testing.assert_close(permuted_votes, votes[:, order])
        torch.testing.assert_close(permuted_logits, logits)


def test_majority_ties() -> None:
    # two against one; a tie of two, where the larger mean probability wins; a tie of three
    p = torch.tensor([
        [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.0, 1.0, 0.0]],
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.6, 0.4, 0.0]],
        [[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]],
    ])  # (cases, E, K)  # fmt: skip
    votes = voting.majority_votes(p[..., None, None])[..., 0, 0]
    torch.testing.assert_close(votes, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    pair = torch.tensor([0.1, 0.6]).reshape(1, 2, 1, 1, 1)  # background means 0.65
    assert voting.majority_votes(pair).flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("out_channels", [1, 3])
def test_perfect_agreement_of_certain_experts(out_channels: int) -> None:
    decided = torch.randint(0, max(out_channels, 2), (2, 1, 4, 4))
    one = decided.float() if out_channels == 1 else F.one_hot(decided[:, 0], 3).permute(0, 3, 1, 2).float()
    probabilities = one[:, None].expand(-1, 3, -1, -1, -1)
    assert voting.label_consistency(probabilities).eq(1).all()
    assert voting.disagreement(probabilities).eq(0).all()
    assert voting.confidence(probabilities).eq(1).all()
    opposed = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1)
    assert voting.disagreement(opposed).item() == 1
    assert voting.confidence(torch.full((1, 2, out_channels, 1, 1), 1 / max(out_channels, 2))).abs().max() < 1e-6


def test_agreeing_and_certain_experts_get_the_vote() -> None:
    probabilities = torch.tensor([0.9, 0.9, 0.2]).reshape(1, 3, 1, 1, 1)
    _, votes = PixelVoting(num_experts=3)(probabilities, torch.zeros(1, 3, 1, 1))
    first, second, outsider = votes.flatten().tolist()
    assert first == pytest.approx(second, rel=1e-6)
    assert second > outsider


def test_an_expert_that_defers_leaves_to_the_others_what_they_disagree_about() -> None:
    # the first expert against the two others, which agree; then all of one mind
    probabilities = torch.tensor([[0.99, 0.3, 0.3], [0.99, 0.99, 0.99]]).reshape(2, 3, 1, 1, 1)
    gate = torch.zeros(2, 3, 1, 1)
    logits, votes = PixelVoting(num_experts=3, deference=[10.0, 0.0, 0.0])(probabilities, gate)
    _, equal = PixelVoting(num_experts=3)(probabilities, gate)
    assert equal[0, 0] > 0.9  # the surest expert has the vote
    assert votes[0, 0] < equal[0, 0] / 2
    assert votes[1, 0] > 0.25
    assert logits[1].sigmoid().item() == pytest.approx(0.99)
    assert votes[0, 1].item() == pytest.approx(votes[0, 2].item())


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0)], ids=["confidence", "consistency"])
def test_alpha_and_beta_weigh_their_own_measure(alpha: float, beta: float) -> None:
    module, probabilities = build(3), draw_probabilities(3, 3)
    with torch.no_grad():
        module.alpha.fill_(alpha)
        module.beta.fill_(beta)
    measure = voting.confidence(probabilities) if alpha else voting.label_consistency(probabilities)
    _, votes = module(probabilities, torch.zeros(2, 3, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(votes, torch.softmax(measure, dim=1))


@pytest.mark.parametrize("out_channels", [1, 3])
def test_gradients_of_the_adaptive_vote(out_channels: int) -> None:
    module = build(3)
    logits = torch.randn(1, 3, out_channels, 2, 2, dtype=torch.float64, requires_grad=True)
    gate = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(logits: Tensor, gate: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        parameters = {"alpha": alpha, "beta": beta}
        return torch.func.functional_call(module, parameters, (voting.to_probabilities(logits), gate))

    assert torch.autograd.gradcheck(run, (logits, gate, module.alpha, module.beta))
    sum(x.square().sum() for x in run(logits, gate, module.alpha, module.beta)).backward()
    for x in (logits, gate, module.alpha, module.beta):
        assert x.grad is not None
        assert x.grad.abs().max() > 1e-4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_certain_experts_have_finite_gradients(strategy: str) -> None:
    logits = torch.tensor([-200.0, 200.0, 0.0]).reshape(1, 3, 1, 1, 1).requires_grad_()
    fused, _ = PixelVoting(num_experts=3, strategy=strategy)(torch.sigmoid(logits), torch.zeros(1, 3, 1, 1))
    fused.sum().backward()
    assert torch.isfinite(fused).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_precision_is_voted_on_in_float32(strategy: str, dtype: torch.dtype) -> None:
    module = PixelVoting(num_experts=3, strategy=strategy)
    probabilities, gate = draw_probabilities(3, 3).to(dtype), draw_gate(3).to(dtype)
    logits, votes = module(probabilities, gate)
    assert logits.dtype == votes.dtype == torch.float32
    expected = module(probabilities.float(), gate.float())
    assert torch.equal(logits, expected[0])
    assert torch.equal(votes, expected[1])


@pytest.mark.parametrize("out_channels", [1, 3])
def test_to_logits_is_undone_by_the_usual_activation(out_channels: int) -> None:
    fused = draw_probabilities(1, out_channels)[:, 0]
    torch.testing.assert_close(voting.to_probabilities(voting.to_logits(fused)), fused)
    certain = torch.zeros(1, out_channels, 1, 1)
    certain[:, 0] = 1
    assert torch.isfinite(voting.to_logits(certain)).all()
    torch.testing.assert_close(voting.to_probabilities(voting.to_logits(certain)), certain, rtol=0, atol=1e-5)


def test_only_adaptive_voting_learns() -> None:
    for strategy, num_experts in itertools.product(STRATEGIES, [1, 2, 3]):
        module = PixelVoting(num_experts=num_experts, strategy=strategy)
        adaptive = strategy == "adaptive"
        assert module.alpha.requires_grad == (adaptive and num_experts > 1)
        assert module.beta.requires_grad == (adaptive and num_experts > 2)
        assert list(module.state_dict()) == ["alpha", "beta"]


def test_beta_moves_no_vote_of_two_experts() -> None:
    module, probabilities, gate = build(2), draw_probabilities(2, 3), draw_gate(2)
    _, votes = module(probabilities, gate)
    with torch.no_grad():
        module.beta.fill_(5.0)
    torch.testing.assert_close(module(probabilities, gate)[1], votes)


def test_gate_starts_at_zero_and_has_the_images_size() -> None:
    gate = VoteGate(num_experts=2, channels=8)
    features = [torch.randn(1, 8, 4, 6) for _ in range(2)]
    assert torch.equal(gate(features, [16, 24]), torch.zeros(1, 2, 16, 24))
    torch.nn.init.normal_(gate.out.weight)
    swapped = gate(features[::-1], [16, 24])
    assert (gate(features, [16, 24]) - swapped).abs().max() > 0.01  # each decoder's features have their own weights


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"one of adaptive, mean, majority, confidence, best, got 'median'\."):
        PixelVoting(num_experts=3, strategy="median")
    with pytest.raises(ValueError, match=r"best_expert must be in 0\.\.2, got 3\."):
        PixelVoting(num_experts=3, strategy="best", best_expert=3)
