"""Literal NumPy versions of attention, voting and losses: float64, loops over pixels and experts, no shared code.

Written from the equations in the modules' docstrings, to be compared with them.

Letters: B batch; E experts; K output channels; C = max(K, 2) classes; D embedding; H W image; h w grid.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def distribution(p: Array) -> Array:
    """Return the C class probabilities of one pixel's K outputs."""
    return np.array([1 - p[0], p[0]]) if len(p) == 1 else p


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def label_probability(probabilities: Array, label: NDArray[np.int64]) -> Array:
    """Return p_e[y], (B, E, H, W), of probabilities (B, E, K, H, W) and a class map (B, 1, H, W)."""
    B, E, _, H, W = probabilities.shape
    result = np.zeros((B, E, H, W))
    for b, e, i, j in np.ndindex(B, E, H, W):
        result[b, e, i, j] = distribution(probabilities[b, e, :, i, j])[label[b, 0, i, j]]
    return result


def to_probabilities(logits: Array) -> Array:
    """Return the sigmoid or softmax over the third axis from the right."""
    if logits.shape[-3] == 1:
        return 1 / (1 + np.exp(-logits))
    result = np.moveaxis(logits, -3, -1).copy()
    for place in np.ndindex(result.shape[:-1]):
        result[place] = softmax(result[place])
    return np.moveaxis(result, -1, -3)


# Voting ---------------------------------------------------------------------------------------------------------------


def confidence(probabilities: Array) -> Array:
    B, E, _, H, W = probabilities.shape
    result = np.zeros((B, E, H, W))
    for b, e, i, j in np.ndindex(B, E, H, W):
        p = distribution(probabilities[b, e, :, i, j])
        entropy = -sum(q * math.log(q) for q in p if q > 0)
        result[b, e, i, j] = 1 - entropy / math.log(len(p))
    return result


def label_consistency(probabilities: Array) -> Array:
    B, E, _, H, W = probabilities.shape
    result = np.ones((B, E, H, W))
    if E == 1:
        return result
    for b, e, i, j in np.ndindex(B, E, H, W):
        own = distribution(probabilities[b, e, :, i, j])
        peers = [float(own @ distribution(probabilities[b, f, :, i, j])) for f in range(E) if f != e]
        result[b, e, i, j] = sum(peers) / len(peers)
    return result


def disagreement(probabilities: Array) -> Array:
    return 1 - label_consistency(probabilities).mean(axis=1)


def majority_votes(p: Array) -> Array:
    """Return the votes (E,) at one pixel, of class probabilities (E, C)."""
    decisions = [int(np.argmax(row)) for row in p]
    counts = [decisions.count(c) for c in range(p.shape[1])]
    winner = max(range(p.shape[1]), key=lambda c: (counts[c], p[:, c].mean()))
    return np.array([(d == winner) / counts[winner] for d in decisions])


def votes(
    probabilities: Array,
    gate: Array,
    strategy: str,
    alpha: float = 1.0,
    beta: float = 1.0,
    best_expert: int = 0,
    gamma: Array | None = None,
) -> Array:
    B, E, _, H, W = probabilities.shape
    sure, agreed = confidence(probabilities), label_consistency(probabilities)
    result = np.zeros((B, E, H, W))
    for b, i, j in np.ndindex(B, H, W):
        if strategy == "adaptive":
            differ = 1 - agreed[b, :, i, j].mean()
            leaves = 0 if gamma is None else gamma * differ
            w = softmax(gate[b, :, i, j] + alpha * sure[b, :, i, j] + beta * agreed[b, :, i, j] - leaves)
        elif strategy == "mean":
            w = np.full(E, 1 / E)
        elif strategy == "confidence":
            w = (sure[b, :, i, j] + 1e-6) / (sure[b, :, i, j] + 1e-6).sum()
        elif strategy == "majority":
            w = majority_votes(np.stack([distribution(probabilities[b, e, :, i, j]) for e in range(E)]))
        else:
            w = np.eye(E)[best_expert]
        result[b, :, i, j] = w
    return result


def fused(probabilities: Array, weights: Array) -> Array:
    """Return P = sum_e w_e p_e, (B, K, H, W)."""
    B, E, K, H, W = probabilities.shape
    result = np.zeros((B, K, H, W))
    for b, e, i, j in np.ndindex(B, E, H, W):
        result[b, :, i, j] += weights[b, e, i, j] * probabilities[b, e, :, i, j]
    return result


def expert_load(weights: Array) -> Array:
    B, E, H, W = weights.shape
    load = np.zeros(E)
    for b, i, j in np.ndindex(B, H, W):
        load[np.argmax(weights[b, :, i, j])] += 1 / (B * H * W)
    return load


# Losses ---------------------------------------------------------------------------------------------------------------


def voting_loss(weights: Array, probabilities: Array, label: NDArray[np.int64], temperature: float = 0.1) -> float:
    right = label_probability(probabilities, label)
    B, _, H, W = weights.shape
    total = 0.0
    for b, i, j in np.ndindex(B, H, W):
        total -= float(softmax(right[b, :, i, j] / temperature) @ np.log(weights[b, :, i, j]))
    return total / (B * H * W)


def mutual_loss(probabilities: Array) -> float:
    B, E, K, H, W = probabilities.shape
    total = 0.0
    for b, e, i, j in np.ndindex(B, E, H, W):
        p = probabilities[b, e, :, i, j]
        others = sum(probabilities[b, f, :, i, j] for f in range(E) if f != e) / (E - 1)
        if K == 1:
            p, others = np.append(p, 1 - p), np.append(others, 1 - others)
        total -= float(others @ np.log(p))
    return total / (B * E * H * W)


def balance_loss(weights: Array) -> float:
    E = weights.shape[1]
    load = expert_load(weights)
    return E * sum(load[e] * float(weights[:, e].mean()) for e in range(E))


def pixel_weights(
    probabilities: Array, label: NDArray[np.int64], experts: tuple[str, ...], emphasis: float = 4.0
) -> Array:
    right = label_probability(probabilities, label)
    result = np.ones_like(right)
    B, E, H, W = right.shape
    if "adaptive" not in experts or E == 1:
        return result
    e = experts.index("adaptive")
    for b, i, j in np.ndindex(B, H, W):
        others = [1 - right[b, f, i, j] for f in range(E) if f != e]
        result[b, e, i, j] = 1 + emphasis * sum(others) / len(others)
    for k in np.unique(label):
        of_class = label[:, 0] == k
        result[:, e][of_class] /= result[:, e][of_class].mean()
    return result


def dice_ce(logits: Array, label: NDArray[np.int64], weights: Array | None = None, smooth: float = 1e-5) -> float:
    """Return MONAI's DiceLoss(batch=True, smooth_nr=smooth_dr=1e-5), background left out if K > 1, plus weighted CE."""
    B, K, H, W = logits.shape
    weights = np.ones((B, H, W)) if weights is None else weights
    p = to_probabilities(logits)
    dice = []
    for k in range(K) if K == 1 else range(1, K):
        truth = label[:, 0] == (1 if K == 1 else k)
        overlap, total = (p[:, k] * truth).sum(), p[:, k].sum() + truth.sum()
        dice.append(1 - (2 * overlap + smooth) / (total + smooth))
    entropy = 0.0
    for b, i, j in np.ndindex(B, H, W):
        entropy -= weights[b, i, j] * math.log(distribution(p[b, :, i, j])[label[b, 0, i, j]])
    return sum(dice) / len(dice) + entropy / weights.sum()


def cells(
    label: NDArray[np.int64], fused_probabilities: Array, disagreements: Array, size: tuple[int, int],
    confident: float = 0.95, agreement: float = 0.9,
) -> tuple[NDArray[np.int64], Array]:  # fmt: skip
    """Return the class of every cell (-1: none) and the mean probability of that class, (B, h, w) both."""
    B, _, H, W = label.shape
    h, w = size
    a, c = H // h, W // w
    classes, probability = np.full((B, h, w), -1), np.zeros((B, h, w))
    for b, i, j in np.ndindex(B, h, w):
        seen = set()
        for y, x in np.ndindex(a, c):
            place = (i * a + y, j * c + x)
            p = distribution(fused_probabilities[(b, slice(None), *place)])
            known = int(label[(b, 0, *place)])
            if (label[b] == -1).all() and p.max() > confident and 1 - disagreements[(b, *place)] > agreement:
                known = int(np.argmax(p))
            seen.add(known)
        if len(seen) == 1 and seen != {-1}:
            (classes[b, i, j],) = seen
            block = fused_probabilities[b, :, i * a : (i + 1) * a, j * c : (j + 1) * c]
            mean = np.mean([distribution(block[:, y, x]) for y, x in np.ndindex(a, c)], axis=0)
            probability[b, i, j] = mean[classes[b, i, j]]
    return classes, probability


def unit(x: Array) -> Array:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def class_means(embeddings: Array, classes: NDArray[np.int64], num_classes: int) -> dict[int, Array]:
    """Return the unit mean of the unit embeddings of every class that has cells."""
    means = {}
    for c in range(num_classes):
        places = np.argwhere(classes == c)
        if len(places):
            means[c] = unit(np.sum([unit(embeddings[b, :, i, j]) for b, i, j in places], axis=0))
    return means


def contrastive_loss(
    embeddings: Array,
    classes: NDArray[np.int64],
    probability: Array,
    num_classes: int,
    memory: dict[int, Array],
    temperature: float = 0.1,
    hard_below: float = 0.7,
) -> float:
    """Return InfoNCE with every cell an anchor once and every hard cell once more, over batch means and the memory."""
    means = class_means(embeddings, classes, num_classes)
    prototypes = list(means.items()) + list(memory.items())
    if len({c for c, _ in prototypes}) < 2 or not means:
        return 0.0
    losses = []
    for b, i, j in np.argwhere(classes >= 0):
        a = unit(embeddings[b, :, i, j])
        total = sum(math.exp(a @ p / temperature) for _, p in prototypes)
        own = [math.exp(a @ p / temperature) for c, p in prototypes if c == classes[b, i, j]]
        loss = sum(-math.log(value / total) for value in own) / len(own)
        losses += [loss] * (2 if probability[b, i, j] < hard_below else 1)
    return sum(losses) / len(losses)


def remember(memory: dict[int, Array], means: dict[int, Array], momentum: float = 0.99) -> dict[int, Array]:
    """Return the memory after one batch: a class's first mean as it is, then a moving average of unit length."""
    updated = dict(memory)
    for c, mean in means.items():
        updated[c] = unit(momentum * memory[c] + (1 - momentum) * mean) if c in memory else mean
    return updated


# SAM's attention ------------------------------------------------------------------------------------------------------


def relative_table(table: Array, size: int) -> Array:
    """Resize a table (L, D) linearly to (2 size - 1, D), pixel centres aligned as in PyTorch."""
    L, D = table.shape
    wanted = 2 * size - 1
    at = np.clip((np.arange(wanted) + 0.5) * L / wanted - 0.5, 0, L - 1)
    return np.stack([np.interp(at, np.arange(L), table[:, d]) for d in range(D)], axis=1)


def attention(x: Array, weights: dict[str, Array], num_heads: int, window_size: int) -> Array:
    """Attend in windows over one normed token grid (h, w, C); window size 0 is the whole grid.

    As in Meta's code: the grid is padded with zeros at the bottom and right before qkv, and the padding takes part.
    """
    h, w, C = x.shape
    a, b = (window_size, window_size) if window_size else (h, w)
    D = C // num_heads
    padded = np.zeros((math.ceil(h / a) * a, math.ceil(w / b) * b, C))
    padded[:h, :w] = x
    qkv = padded @ weights["qkv.weight"].T + weights["qkv.bias"]
    rows, columns = relative_table(weights["rel_pos_h"], a), relative_table(weights["rel_pos_w"], b)
    mixed = np.zeros_like(padded)
    for top in range(0, padded.shape[0], a):
        for left in range(0, padded.shape[1], b):
            for n in range(num_heads):
                part = slice(n * D, (n + 1) * D)
                q, k, v = (qkv[top : top + a, left : left + b, i * C : (i + 1) * C][..., part] for i in range(3))
                for y, x_ in np.ndindex(a, b):
                    scores = np.zeros((a, b))
                    for y2, x2 in np.ndindex(a, b):
                        position = rows[y - y2 + a - 1] + columns[x_ - x2 + b - 1]
                        scores[y2, x2] = q[y, x_] @ k[y2, x2] / math.sqrt(D) + q[y, x_] @ position
                    share = np.exp(scores - scores.max())
                    share /= share.sum()
                    mixed[top + y, left + x_, part] = np.einsum("yx,yxd->d", share, v)
    return mixed[:h, :w] @ weights["proj.weight"].T + weights["proj.bias"]
