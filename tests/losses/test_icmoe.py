from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from monai.data import MetaTensor
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.losses.contrast import UNLABELLED, SemanticContrastiveLoss
from icmoe_monai.losses.icmoe import (
    BalanceLoss,
    BatchDiceLoss,
    ICMoELoss,
    MutualLoss,
    PixelWeights,
    VotingLoss,
    WeightedDiceCELoss,
)
from icmoe_monai.networks.icmoe import EXPERTS, ICMoEOutput
from icmoe_monai.networks.voting import to_probabilities

SIZE = (8, 12)  # embeddings are at a quarter of it


def draw_label(out_channels: int) -> Tensor:
    """Return labels, (2, 1, 8, 12), in blocks of 4, so that cells of the embedding map are of one class."""
    blocks = torch.arange(12).remainder(max(out_channels, 2)).reshape(2, 1, 2, 3)
    return blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)


def draw_output(out_channels: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> ICMoEOutput:
    return ICMoEOutput(
        logits=scale * torch.randn(2, out_channels, *SIZE, dtype=dtype),
        expert_logits=scale * torch.randn(2, 3, out_channels, *SIZE, dtype=dtype),
        votes=torch.softmax(2 * torch.randn(2, 3, *SIZE, dtype=dtype), dim=1),
        embeddings=torch.randn(2, 4, SIZE[0] // 4, SIZE[1] // 4, dtype=dtype),
    )


def build(out_channels: int, num_anchors: int = 10_000, **arguments: object) -> ICMoELoss:
    contrast = SemanticContrastiveLoss(
        num_classes=max(out_channels, 2), embedding_channels=4, num_anchors=num_anchors
    )  # so many anchors draw all cells
    return ICMoELoss(out_channels=out_channels, contrast=contrast, **arguments)


def expected_terms(output: ICMoEOutput, label: Tensor) -> dict[str, float]:
    logits, expert_logits, votes, embeddings = (x.double().numpy() for x in output)
    truth = label.long().numpy()
    p = reference.to_probabilities(expert_logits)
    weights = reference.pixel_weights(p, truth, EXPERTS)
    fused = reference.to_probabilities(logits)
    classes, probability = reference.cells(truth, fused, reference.disagreement(p), embeddings.shape[-2:])
    experts = [reference.dice_ce(expert_logits[:, e], truth, weights[:, e]) for e in range(3)]
    return {
        "fused": reference.dice_ce(logits, truth),
        "experts": sum(experts) / 3,
        "mutual": reference.mutual_loss(p),
        "vote": reference.voting_loss(votes, p, truth),
        "balance": reference.balance_loss(votes),
        "contrast": reference.contrastive_loss(embeddings, classes, probability, max(logits.shape[1], 2), {}),
    }


@pytest.mark.parametrize("out_channels", [1, 3])
def test_terms_are_the_references(out_channels: int) -> None:
    output, label = draw_output(out_channels), draw_label(out_channels)
    terms = build(out_channels, mutual_weight=1.0).terms(output, label)
    expected = expected_terms(output, label)
    assert min(expected.values()) > 0.1
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("out_channels", [1, 3])
def test_whole_loss_is_the_weighted_sum_of_its_terms(out_channels: int) -> None:
    output, label = draw_output(out_channels), draw_label(out_channels)
    loss = build(
        out_channels, expert_weight=0.5, mutual_weight=0.4, vote_weight=0.3, balance_weight=0.7, contrast_weight=0.9
    )
    expected = expected_terms(output, label)
    weights = {"fused": 1.0, "experts": 0.5, "mutual": 0.4, "vote": 0.3, "balance": 0.7, "contrast": 0.9}
    assert loss(output, label).item() == pytest.approx(sum(weights[n] * expected[n] for n in weights), abs=1e-5)


@pytest.mark.parametrize("out_channels", [1, 3])
def test_experts_learn_from_the_others_and_an_expert_alone_from_nobody(out_channels: int) -> None:
    logits = draw_output(out_channels).expert_logits[:, :2].requires_grad_()
    MutualLoss()(logits, to_probabilities(logits)).backward()
    first, second = to_probabilities(logits.detach()).unbind(1)
    toward = second - first  # the cross-entropy's gradient is the expert's probability less its teacher's
    assert torch.allclose(logits.grad[:, 0], -toward / (logits.numel() / out_channels), atol=1e-9)
    alone = logits[:, :1]
    assert MutualLoss()(alone, to_probabilities(alone)).item() == 0


@pytest.mark.parametrize("out_channels", [1, 3])
def test_weighted_dice_ce_is_the_reference(out_channels: int) -> None:
    logits, label = draw_output(out_channels).logits, draw_label(out_channels)
    weights = torch.rand(2, *SIZE, dtype=torch.float64) + 0.1
    loss = WeightedDiceCELoss()
    expected = reference.dice_ce(logits.numpy(), label.numpy(), weights.numpy())
    assert abs(expected - reference.dice_ce(logits.numpy(), label.numpy())) > 1e-3
    assert loss(logits, label, weights).item() == pytest.approx(expected, abs=1e-6)
    assert loss(logits, label, 7 * weights).item() == pytest.approx(expected, abs=1e-6)  # only their ratio counts


@pytest.mark.parametrize("out_channels", [1, 3])
def test_dice_and_its_gradient_are_monais_bit_for_bit(out_channels: int) -> None:
    logits, label = draw_output(out_channels, torch.float32).logits.requires_grad_(), draw_label(out_channels).float()
    multi = out_channels > 1
    monais = DiceLoss(include_background=not multi, to_onehot_y=multi, softmax=multi, sigmoid=not multi, batch=True)
    values = [loss(logits, label) for loss in (BatchDiceLoss(), monais)]
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    assert torch.equal(*values)
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("out_channels", [1, 3])
def test_pixel_weights_are_the_references(out_channels: int) -> None:
    p, label = to_probabilities(draw_output(out_channels).expert_logits), draw_label(out_channels)
    label[0, 0, 0, 0] = 1 - label[0, 0, 0, 0].clamp(max=1)
    for experts in (EXPERTS, ("basic", "adaptive"), ("adaptive",), ("semantic",)):
        weights = PixelWeights(experts=experts, out_channels=out_channels)(p[:, : len(experts)], label)
        expected = reference.pixel_weights(p[:, : len(experts)].numpy(), label.numpy(), experts)
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-12)
        assert not weights.requires_grad


def test_adaptive_expert_looks_where_the_others_are_wrong_within_a_class() -> None:
    p = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.5, 0.5, 0.5]]).reshape(1, 3, 1, 1, 3)
    weights = PixelWeights(experts=EXPERTS, out_channels=1)(p, torch.tensor([1, 1, 0]).reshape(1, 1, 1, 3))
    # 1 + 4 x (1 - 0.9) and 1 + 4 x (1 - 0.1), over their mean 3; the background's only pixel is as hard as its class
    torch.testing.assert_close(weights[0, 2, 0], torch.tensor([1.4 / 3, 4.6 / 3, 1.0]))
    torch.testing.assert_close(weights[0, :2], torch.ones(2, 1, 3))


@pytest.mark.parametrize("out_channels", [1, 3])
def test_gradients_of_dice_ce(out_channels: int) -> None:
    logits, label = draw_output(out_channels).logits.requires_grad_(), draw_label(out_channels)
    weights = torch.rand(2, *SIZE, dtype=torch.float64) + 0.1
    loss = WeightedDiceCELoss()
    assert torch.autograd.gradcheck(lambda x: loss(x, label, weights), (logits,))


@pytest.mark.parametrize("out_channels", [1, 3])
def test_gradients_of_vote_and_balance(out_channels: int) -> None:
    output, label = draw_output(out_channels), draw_label(out_channels)
    p, votes = to_probabilities(output.expert_logits), output.votes.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: VotingLoss()(x, p, label), (votes,))
    assert torch.autograd.gradcheck(BalanceLoss(), (votes,))  # the load is constant near votes without ties


@pytest.mark.parametrize("out_channels", [1, 3])
def test_gradients_of_the_whole_loss(out_channels: int) -> None:
    output, label = draw_output(out_channels), draw_label(out_channels)
    logits, expert_logits, votes, embeddings = (x.requires_grad_() for x in output)
    loss = build(out_channels, contrast_weight=1.0).eval()
    with torch.no_grad():  # remember prototypes of other images, so that the memory takes part
        loss.train()(draw_output(out_channels), label)
        loss.eval()

    def run(logits: Tensor, votes: Tensor, embeddings: Tensor) -> Tensor:
        return loss(ICMoEOutput(logits, expert_logits.detach(), votes, embeddings), label)

    assert torch.autograd.gradcheck(run, (logits, votes, embeddings), fast_mode=True)
    # the experts' logits are also the detached target of the votes and make the detached weights: without those
    plain = build(out_channels, vote_weight=0.0, weigh_pixels=False).eval()
    assert torch.autograd.gradcheck(
        lambda x: plain(ICMoEOutput(logits.detach(), x, votes.detach(), embeddings.detach()), label),
        (expert_logits,),
        fast_mode=True,
    )


def labels_that_are_hard(kind: str, out_channels: int) -> Tensor:
    label = torch.zeros(2, 1, *SIZE)
    if kind == "one class absent":
        label[1, :, 2:6] = max(out_channels, 2) - 1
    elif kind == "one pixel":
        label[0, 0, 3, 3] = 1
    elif kind == "all foreground":
        label[:] = 1
    return label


@pytest.mark.parametrize("kind", ["one class absent", "one pixel", "all background", "all foreground"])
@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 80.0], ids=["usual", "extreme"])
def test_loss_and_gradients_are_finite(kind: str, out_channels: int, scale: float) -> None:
    output = draw_output(out_channels, torch.float32)
    logits = [scale * x.sign() if scale > 1 else x for x in output[:2]]
    output = ICMoEOutput(*logits, *output[2:])
    if scale > 1:
        output = output._replace(votes=F.one_hot(output.votes.argmax(dim=1), 3).permute(0, 3, 1, 2).float())
    for x in output:
        x.requires_grad_()
    loss = build(out_channels).train()
    value = sum(loss(output, labels_that_are_hard(kind, out_channels)) for _ in range(2))  # without and with memory
    assert torch.isfinite(value)
    assert value > 0.1
    value.backward()
    for name, x in output._asdict().items():
        assert x.grad is not None, name
        assert torch.isfinite(x.grad).all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("out_channels", [1, 3])
def test_half_precision_outputs_are_measured_in_float32(out_channels: int, dtype: torch.dtype) -> None:
    output, label = ICMoEOutput(*(x.to(dtype) for x in draw_output(out_channels, scale=10.0))), draw_label(out_channels)
    value = build(out_channels)(output, label)
    assert value.dtype == torch.float32
    expected = build(out_channels)(ICMoEOutput(*(x.float() for x in output)), label)
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)


def test_uniform_load_is_the_minimum_of_the_balance_loss() -> None:
    # every expert leads at a third of the pixels and all mean votes are a third
    uniform = torch.eye(3).repeat(1, 4).reshape(1, 3, 3, 4) * 0.4 + 0.2
    assert BalanceLoss()(uniform).item() == pytest.approx(1.0)
    alike = torch.softmax(torch.randn(20, 3, 1, 1), dim=1).expand(-1, 3, 6, 6)  # the same votes at all pixels
    assert min(BalanceLoss()(votes[None]) for votes in alike) > 1.0
    # where load and mean vote part by chance their product can be a little below 1, as in the Switch Transformer's
    drawn = [BalanceLoss()(torch.softmax(s * torch.randn(2, 3, 6, 6), dim=1)) for s in (0.1, 1.0, 5.0) * 20]
    assert min(drawn) > 0.99
    skewed = torch.softmax(torch.randn(2, 3, 6, 6) + torch.tensor([2.0, 0.0, 0.0])[:, None, None], dim=1)
    alone = torch.eye(3)[0].reshape(1, 3, 1, 1).expand(1, 3, 6, 6)
    assert 1.2 < BalanceLoss()(skewed) < BalanceLoss()(alone)
    assert BalanceLoss()(alone).item() == 3.0


def test_balance_loss_takes_votes_from_the_leader() -> None:
    scores = (torch.randn(1, 3, 6, 6) + torch.tensor([1.0, 0.0, 0.0])[:, None, None]).requires_grad_()
    BalanceLoss()(torch.softmax(scores, dim=1)).backward()
    assert scores.grad is not None
    toward = -scores.grad.mean(dim=(0, 2, 3))
    assert toward[0] < 0 < toward[1:].min()


@pytest.mark.parametrize("out_channels", [1, 3])
def test_vote_loss_is_smaller_when_votes_go_to_the_right_expert(out_channels: int) -> None:
    label = draw_label(out_channels)
    right = torch.randint(0, 3, (2, *SIZE))  # the expert that is right, pixel by pixel
    is_right = F.one_hot(right, 3).permute(0, 3, 1, 2)
    of_truth = torch.where(is_right.bool(), 0.9, 0.1)
    if out_channels == 1:
        p = torch.where(label == 1, of_truth, 1 - of_truth)[:, :, None]
    else:
        truth = F.one_hot(label, 3).movedim(-1, 2).bool()
        p = torch.where(truth, of_truth[:, :, None], (1 - of_truth[:, :, None]) / 2)
    to_right, to_wrong = 0.05 + 0.85 * is_right, 0.05 + 0.85 * is_right.roll(1, dims=1)
    uniform = torch.full((2, 3, *SIZE), 1 / 3)
    losses = [VotingLoss()(votes, p, label).item() for votes in (to_right, uniform, to_wrong)]
    assert losses == sorted(losses)
    assert losses[0] < 0.2
    assert losses[1] == pytest.approx(math.log(3), abs=1e-5)
    assert losses[2] > 2


def test_no_gradient_flows_from_the_vote_loss_to_the_experts() -> None:
    output, label = draw_output(1), draw_label(1)
    p = to_probabilities(output.expert_logits.requires_grad_())
    VotingLoss()(output.votes.requires_grad_(), p, label).backward()
    assert output.expert_logits.grad is None
    assert output.votes.grad is not None


@pytest.mark.parametrize("out_channels", [1, 3])
def test_unlabelled_images_add_only_the_contrast(out_channels: int) -> None:
    output, label = draw_output(out_channels), draw_label(out_channels)
    label[1] = UNLABELLED
    loss = build(out_channels)
    terms = loss.terms(output, label)
    alone = loss.terms(ICMoEOutput(*(x[:1] for x in output)), label[:1])
    assert terms.keys() == alone.keys() == loss.weights.keys()
    for name in ("fused", "experts", "vote", "balance"):
        torch.testing.assert_close(terms[name], alone[name])
    sure = output.logits.clone()
    sure[1] = 0
    sure[1, -1] = 20.0  # the vote is sure of the last class, and so are the experts below
    agreed = output.expert_logits.clone()
    agreed[1] = sure[1]
    trusted = loss.terms(output._replace(logits=sure, expert_logits=agreed), label)
    for name in ("fused", "experts", "vote", "balance"):
        torch.testing.assert_close(trusted[name], loss.terms(output._replace(logits=sure), label)[name])
    assert abs(trusted["contrast"] - alone["contrast"]) > 1e-3


def test_batch_without_any_label_leaves_the_other_terms_at_zero() -> None:
    output = draw_output(1)
    for x in output:
        x.requires_grad_()
    loss = build(1)
    terms = loss.terms(output, torch.full((2, 1, *SIZE), UNLABELLED))
    assert {name: terms[name].item() for name in ("fused", "experts", "vote", "balance")} == dict.fromkeys(
        ("fused", "experts", "vote", "balance"), 0.0
    )
    loss(output, torch.full((2, 1, *SIZE), UNLABELLED)).backward()
    assert output.logits.grad is not None
    assert torch.isfinite(output.logits.grad).all()


def test_fewer_experts() -> None:
    output, label = draw_output(1), draw_label(1)
    pair = output._replace(expert_logits=output.expert_logits[:, :2], votes=output.votes[:, :2])
    terms = build(1, experts=("basic", "semantic")).terms(pair, label)
    assert all(torch.isfinite(term) for term in terms.values())


def test_metadata_of_the_label_is_dropped() -> None:
    output, label = draw_output(3), draw_label(3)
    value = build(3)(output, MetaTensor(label))
    assert type(value) is Tensor
    assert value.item() == pytest.approx(build(3)(output, label).item())  # all cells are drawn, in another order


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 8, 12), (2, 3, 8, 12)], ids=str)
def test_label_of_another_size(shape: tuple[int, ...]) -> None:
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"label must be \(B, 1, H, W\) .* \(8, 12\), got {got}\."):
        build(1)(draw_output(1), torch.zeros(shape))
