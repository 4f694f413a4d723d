from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from torch import Tensor
from torch.nn import functional as F

from icmoe_monai.losses.contrast import UNLABELLED, SemanticContrastiveLoss

CELLS = (3, 4)
SIZE = (12, 16)


def build(num_classes: int = 2, num_anchors: int = 10_000, **arguments: float) -> SemanticContrastiveLoss:
    """Build a loss that draws all cells."""
    return SemanticContrastiveLoss(
        num_classes=num_classes, embedding_channels=5, num_anchors=num_anchors, **arguments
    ).double()


def draw(num_classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return embeddings, labels of whole and of mixed cells, voted probabilities, and disagreement."""
    cells = torch.randint(0, num_classes, (2, 1, *CELLS))
    label = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    label[0, 0, 1, 1] = (label[0, 0, 1, 1] + 1) % num_classes  # a mixed cell
    logits = 2 * torch.randn(2, num_classes, *SIZE, dtype=torch.float64)
    sureness = 6 * torch.rand(2, 1, *CELLS).repeat_interleave(4, 2).repeat_interleave(4, 3)
    fused = torch.softmax(logits + sureness * F.one_hot(label[:, 0], num_classes).permute(0, 3, 1, 2), dim=1)
    embeddings = torch.randn(2, 5, *CELLS, dtype=torch.float64)
    disagreement = 0.5 * torch.rand(2, *SIZE, dtype=torch.float64)
    return embeddings, label, fused if num_classes > 2 else fused[:, 1:], disagreement


def memory_of(loss: SemanticContrastiveLoss) -> dict[int, np.ndarray]:
    return {c: loss.prototypes[c].numpy().copy() for c in range(len(loss.prototypes)) if loss.remembered[c]}


@pytest.mark.parametrize("num_classes", [2, 3])
def test_loss_and_memory_are_the_references(num_classes: int) -> None:
    loss = build(num_classes).train()
    memory: dict[int, np.ndarray] = {}
    values = []
    for _ in range(3):
        embeddings, label, fused, disagreement = draw(num_classes)
        value = loss(embeddings, label, fused, disagreement)
        classes, probability = reference.cells(label.numpy(), fused.numpy(), disagreement.numpy(), CELLS)
        assert set(np.unique(classes)) == {-1, *range(num_classes)}
        assert 0 < (probability[classes >= 0] < 0.7).mean() < 1  # some cells are hard
        expected = reference.contrastive_loss(embeddings.numpy(), classes, probability, num_classes, memory)
        assert value.item() == pytest.approx(expected, abs=1e-6)
        memory = reference.remember(memory, reference.class_means(embeddings.numpy(), classes, num_classes))
        np.testing.assert_allclose(loss.prototypes, np.stack([memory[c] for c in range(num_classes)]), atol=1e-6)
        values.append(expected)
    assert min(values) > 0.5
    assert np.std(values) > 0.01


@pytest.mark.parametrize("num_classes", [2, 3])
def test_gradients(num_classes: int) -> None:
    loss = build(num_classes)
    for _ in range(2):
        loss.train()(*draw(num_classes))
    embeddings, label, fused, disagreement = draw(num_classes)
    loss.eval()
    assert torch.autograd.gradcheck(lambda x: loss(x, label, fused, disagreement), (embeddings.requires_grad_(),))


def test_no_gradient_flows_through_the_vote() -> None:
    embeddings, label, fused, disagreement = (x.requires_grad_(x.is_floating_point()) for x in draw(2))
    build()(embeddings, label, fused, disagreement).backward()
    assert embeddings.grad is not None
    assert fused.grad is None
    assert disagreement.grad is None


def test_loss_falls_when_positives_approach() -> None:
    embeddings, label, fused, disagreement = draw(3)
    centres = torch.eye(5, dtype=torch.float64)[:3]
    own = centres[label[:, 0, ::4, ::4]].permute(0, 3, 1, 2)
    values = [build(3)((1 - t) * embeddings + t * own, label, fused, disagreement).item() for t in (0, 0.3, 0.6, 0.9)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 3 * values[-1]
    collapsed = build(3)(torch.ones_like(embeddings), label, fused, disagreement).item()
    assert collapsed == pytest.approx(math.log(3))  # three like prototypes share alike


def test_memory_is_updated_in_training_only_and_stays_of_unit_length() -> None:
    loss = build(3, momentum=0.5)
    loss.eval()(*draw(3))
    assert not loss.remembered.any()
    assert loss.prototypes.eq(0).all()
    for _ in range(3):
        before = loss.prototypes.clone()
        loss.train()(*draw(3))
        assert not torch.equal(loss.prototypes, before)
        torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(3, dtype=torch.float64))
    before = loss.prototypes.clone()
    loss.eval()(*draw(3))
    assert torch.equal(loss.prototypes, before)
    assert list(loss.state_dict()) == ["prototypes", "remembered"]
    assert not loss.prototypes.requires_grad


def test_memory_keeps_a_class_that_a_batch_lacks_and_contrasts_with_it() -> None:
    loss = build(2)
    embeddings, label, fused, disagreement = draw(2)
    loss.train()(embeddings, label, fused, disagreement)
    before = loss.prototypes.clone()
    background = torch.zeros_like(label)
    value = loss(embeddings, background, fused, disagreement)
    assert torch.equal(loss.prototypes[1], before[1])
    assert not torch.equal(loss.prototypes[0], before[0])
    assert value > 0.1


@pytest.mark.parametrize("kind", ["one class and no memory", "no cell of one class"])
def test_nothing_to_contrast(kind: str) -> None:
    embeddings, label, fused, disagreement = draw(2)
    if kind == "one class and no memory":
        label = torch.zeros_like(label)
    else:
        label = torch.arange(12 * 16).remainder(2).reshape(1, 1, *SIZE).expand(2, 1, *SIZE)
    value = build().train()(embeddings.requires_grad_(), label, fused, disagreement)
    assert value.item() == 0
    value.backward()  # as distributed training needs
    assert embeddings.grad is not None
    assert embeddings.grad.eq(0).all()


def test_embeddings_of_zero_and_of_any_scale() -> None:
    embeddings, label, fused, disagreement = draw(2)
    value = build()(embeddings, label, fused, disagreement)
    torch.testing.assert_close(build()(1e3 * embeddings, label, fused, disagreement), value)
    zero = torch.zeros_like(embeddings).requires_grad_()
    build()(zero, label, fused, disagreement).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_anchors_are_half_random_and_half_hard_and_bounded() -> None:
    classes = torch.tensor([0] * 50 + [1] * 50 + [-1] * 10)
    probability = torch.full((110,), 0.9)
    probability[:5] = 0.1
    drawn = build(num_anchors=20)._draw(classes, probability)
    chosen = classes[drawn]
    # class 0: its five hard cells and ten at random; class 1 has no hard cells
    assert [(chosen == c).sum().item() for c in (0, 1, -1)] == [15, 10, 0]
    assert set(range(5)) <= set(drawn.tolist())
    torch.manual_seed(1)
    assert set(build(num_anchors=20)._draw(classes, probability).tolist()) != set(drawn.tolist())


@pytest.mark.parametrize(
    ("fused", "disagreement", "is_used"),
    [
        pytest.param(0.99, 0.05, True, id="sure and agreed"),
        pytest.param(0.90, 0.05, False, id="unsure"),
        pytest.param(0.99, 0.20, False, id="disputed"),
    ],
)
def test_unlabelled_images_take_the_vote_where_it_is_sure(fused: float, disagreement: float, is_used: bool) -> None:
    embeddings, label, voted, disputed = draw(2)
    label[1] = UNLABELLED
    voted[1], disputed[1] = fused, disagreement
    voted[1, :, :, :8] = 1 - voted[1, :, :, :8]  # background at the left
    classes, _ = build()._cells(label, voted, disputed, torch.Size(CELLS))
    expected, _ = reference.cells(label.numpy(), voted.numpy(), disputed.numpy(), CELLS)
    assert classes.reshape(2, *CELLS).tolist() == expected.tolist()
    columns = [0, 0, 1, 1] if is_used else [UNLABELLED] * 4
    assert classes.reshape(2, *CELLS)[1].tolist() == [columns] * 3
    value = build()(embeddings, label, voted, disputed)
    alone = build()(embeddings[:1], label[:1], voted[:1], disputed[:1])
    assert (value.item() != pytest.approx(alone.item())) == is_used
