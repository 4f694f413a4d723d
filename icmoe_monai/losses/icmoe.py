"""The loss that IC-MoE is trained with, and all its terms but the contrast.

  L = DiceCE(P, y) + l_e mean_e DiceCE_e + l_m L_mutual + l_v L_vote + l_b L_balance + l_c L_contrast

P are the voted probabilities, y is the label, DiceCE_e is that of expert e, and l_e, l_m, l_v, l_b, l_c are weights.

Only the abstract of IC-MoE (arXiv 2510.17684) was available, which names expert selection by label consistency, load
balancing and semantic-guided contrast; these equations and weights are ours (docs/method.md).

Labels are class maps (B, 1, H, W): 0 or 1 for K = 1, else 0..K-1; an image whose label is `UNLABELLED` throughout has
none, and enters only the contrast, by the pixels where the vote is confident.

In a training over several processes each has a share of the batch, and every term is that of the whole batch.

Letters: B batch; E experts; K output channels; C = max(K, 2) classes; D embedding; H W image; N anchors.
"""

from __future__ import annotations

import torch
from monai.losses.utils import compute_tp_fp_fn
from monai.networks.utils import one_hot
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from icmoe_monai.losses.contrast import UNLABELLED, SemanticContrastiveLoss
from icmoe_monai.networks.baselines import as_output
from icmoe_monai.networks.icmoe import EXPERTS, ICMoEOutput
from icmoe_monai.networks.voting import as_distribution, disagreement, expert_load, to_probabilities
from icmoe_monai.utils.distributed import batch_mean, total
from icmoe_monai.utils.precision import at_least_float32

EMPHASIS = 4.0  # of hard pixels: to the adaptive expert, one that all others get wrong counts 5, one they get right 1
TEMPERATURE = 0.1  # tau: of two experts 0.23 apart in p_e[y], the better one's target is ten times the other's


class ICMoELoss(_Loss):
    """IC-MoE's whole loss L, the weighted sum of its six terms over the network's structured output.

    Args:
        out_channels: K.
        experts: Names of the experts, in the network's order.
        expert_weight: l_e.
        mutual_weight: l_m; with 0, L_mutual is not computed.
        vote_weight: l_v.
        balance_weight: l_b.
        contrast_weight: l_c.
        weigh_pixels: Give the experts different pixel weights (`PixelWeights`); off for ablation.
        contrast: The contrastive loss; a fresh `SemanticContrastiveLoss` if None.
    """

    def __init__(
        self,
        *,
        out_channels: int = 1,
        experts: tuple[str, ...] | list[str] = EXPERTS,
        expert_weight: float = 0.2,
        mutual_weight: float = 0.0,
        vote_weight: float = 0.2,
        balance_weight: float = 0.02,
        contrast_weight: float = 0.1,
        weigh_pixels: bool = True,
        contrast: SemanticContrastiveLoss | None = None,
    ) -> None:
        super().__init__()
        self.weights = {
            "fused": 1.0,
            "experts": expert_weight,
            "mutual": mutual_weight,
            "vote": vote_weight,
            "balance": balance_weight,
            "contrast": contrast_weight,
        }
        self.segmentation = WeightedDiceCELoss()
        self.pixel_weights = PixelWeights(experts=experts, out_channels=out_channels) if weigh_pixels else None
        self.mutual = MutualLoss() if mutual_weight else None
        self.vote = VotingLoss()
        self.balance = BalanceLoss()
        self.contrast = SemanticContrastiveLoss(num_classes=max(out_channels, 2)) if contrast is None else contrast

    def forward(self, output: ICMoEOutput | Tensor, label: Tensor) -> Tensor:
        """Return the loss L, a scalar.

        Args:
            output: The network's output in training mode; of a plain network its logits, (B, K, H, W).
            label: Class map, (B, 1, H, W).

        Raises:
            ValueError: If the label's size is not the output's.
            InputError: If the output is neither.
        """
        terms = self.terms(as_output(output), label)
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def terms(self, output: ICMoEOutput, label: Tensor) -> dict[str, Tensor]:
        """Return the terms, unweighted, by the names in `weights`; arguments as in `forward`."""
        logits, expert_logits, votes, embeddings = (at_least_float32(x) for x in output)
        label = convert_to_tensor(label, track_meta=False)  # MONAI's metadata costs time in every operation
        if label.shape[1:] != (1, *logits.shape[-2:]):
            raise ValueError(
                f"label must be (B, 1, H, W) at the output's size {tuple(logits.shape[-2:])}, got {tuple(label.shape)}."
            )
        probabilities = to_probabilities(expert_logits)
        terms = {"contrast": logits.sum() * 0}
        if embeddings.numel() > 0:  # there is a semantic expert
            terms["contrast"] = self.contrast(embeddings, label, to_probabilities(logits), disagreement(probabilities))
        known = label.flatten(1).amin(dim=1) != UNLABELLED
        if not bool(total(known.sum())):
            return terms | {name: logits.sum() * 0 for name in self.weights if name not in terms}
        if not bool(known.all()):
            logits, expert_logits, votes, label, probabilities = (
                x[known] for x in (logits, expert_logits, votes, label, probabilities)
            )
        pixel_weights = self._weigh(probabilities, label)
        expert_losses = [
            self.segmentation(expert_logits[:, e], label, pixel_weights[:, e]) for e in range(votes.shape[1])
        ]
        return terms | {
            "fused": self.segmentation(logits, label),
            "experts": torch.stack(expert_losses).mean(),
            "mutual": logits.sum() * 0 if self.mutual is None else self.mutual(expert_logits, probabilities),
            "vote": self.vote(votes, probabilities, label),
            "balance": self.balance(votes),
        }

    def _weigh(self, probabilities: Tensor, label: Tensor) -> Tensor:
        if self.pixel_weights is None:
            return torch.ones_like(probabilities[:, :, 0])
        return self.pixel_weights(probabilities, label)


class WeightedDiceCELoss(nn.Module):
    """A soft Dice loss over the batch plus a cross-entropy with a weight per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = BatchDiceLoss()

    def forward(self, logits: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the soft Dice loss plus the weighted cross-entropy, a scalar.

        Args:
            logits: (B, K, H, W).
            label: Class map, (B, 1, H, W).
            weights: Weight of each pixel in the cross-entropy, (B, H, W), or None for 1.
        """
        if logits.shape[1] == 1:
            entropy = F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype), reduction="none")[:, 0]
        else:
            entropy = F.cross_entropy(logits, label[:, 0].long(), reduction="none")
        if weights is not None:
            entropy = entropy * weights / batch_mean(weights).clamp_min(1e-6)
        return self.dice(logits, label) + batch_mean(entropy)


class BatchDiceLoss(nn.Module):
    """Soft Dice loss over the whole batch, so that an image without the class does not dominate; mean of the classes.

    It is MONAI's `DiceLoss(batch=True)`, background left out for K > 1, but with the counts of all processes.
    """

    def forward(self, logits: Tensor, label: Tensor, eps: float = 1e-5) -> Tensor:
        """Return 1 - Dice, a scalar.

        Args:
            logits: (B, K, H, W).
            label: Class map, (B, 1, H, W).
            eps: Added to numerator and denominator.
        """
        probabilities = to_probabilities(logits)
        if logits.shape[1] > 1:
            probabilities, label = probabilities[:, 1:], one_hot(label, num_classes=logits.shape[1])[:, 1:]
        counts = compute_tp_fp_fn(probabilities, label, reduce_axis=[0, 2, 3], ord=1, soft_label=False)
        tp, fp, fn = total(torch.stack(counts))
        return (1.0 - (2 * tp + eps) / (2 * (tp + fp * 0.5 + fn * 0.5) + eps)).mean()


class PixelWeights(nn.Module):
    """Pixel weights that direct the adaptive expert to the pixels hard for the others, so that the experts differ.

    Its weight for a pixel is 1 + `EMPHASIS` times the other experts' mean probability of a wrong class, divided by the
    mean of this sum over the pixel's class, so that the classes keep the total weights they have for the others. The
    basic and the semantic expert weigh all pixels 1. Weights carry no gradient.

    Args:
        experts: Names of the experts, in the network's order.
        out_channels: K.
    """

    def __init__(self, *, experts: tuple[str, ...] | list[str], out_channels: int) -> None:
        super().__init__()
        self.experts = [name for name in EXPERTS if name in experts]
        self.num_classes = max(out_channels, 2)

    @torch.no_grad()
    def forward(self, probabilities: Tensor, label: Tensor) -> Tensor:
        """Return each expert's pixel weights, (B, E, H, W).

        Args:
            probabilities: Experts' probabilities, (B, E, K, H, W).
            label: Class map, (B, 1, H, W).
        """
        right = probability_of_label(probabilities, label)
        weights = torch.ones_like(right)
        if "adaptive" in self.experts and len(self.experts) > 1:
            e = self.experts.index("adaptive")
            others = (right.sum(dim=1) - right[:, e]) / (right.shape[1] - 1)
            hardness = 1 + EMPHASIS * (1 - others)
            of_class = F.one_hot(label[:, 0].long(), self.num_classes).to(right.dtype)  # (B, H, W, C)
            sums = torch.stack([torch.einsum("bhw,bhwc->c", hardness, of_class), of_class.sum(dim=(0, 1, 2))])
            of_hardness, num_pixels = total(sums)
            mean = of_hardness / num_pixels.clamp_min(1)
            weights[:, e] = hardness / (of_class @ mean)
        return weights


class MutualLoss(nn.Module):
    """Experts learn from each other: mean over experts of the cross-entropy of p_e with the mean of the others' p_j.

    After deep mutual learning (Zhang et al., arXiv 1706.00384); the teachers carry no gradient. One expert alone: 0.
    """

    def forward(self, expert_logits: Tensor, probabilities: Tensor) -> Tensor:
        """Return L_mutual, a scalar.

        Args:
            expert_logits: Logits of every expert, (B, E, K, H, W).
            probabilities: Their probabilities, of the same shape.
        """
        E, K = expert_logits.shape[1], expert_logits.shape[2]
        if E == 1:
            return expert_logits.sum() * 0
        taught = probabilities.detach()
        others = (taught.sum(dim=1, keepdim=True) - taught) / (E - 1)
        if K == 1:
            entropy = F.binary_cross_entropy_with_logits(expert_logits, others, reduction="none")
        else:
            entropy = -(others * expert_logits.log_softmax(dim=2)).sum(dim=2)
        return batch_mean(entropy)


class VotingLoss(nn.Module):
    """Loss that gives votes to the experts that are right: cross-entropy of w with q = softmax_e(p_e[y] / tau)."""

    def forward(self, votes: Tensor, probabilities: Tensor, label: Tensor, eps: float = 1e-6) -> Tensor:
        """Return the voting loss L_vote, a scalar.

        Args:
            votes: w, (B, E, H, W).
            probabilities: Experts' probabilities, (B, E, K, H, W); no gradient flows into them.
            label: Class map, (B, 1, H, W).
            eps: Lowest argument of the logarithm.
        """
        target = torch.softmax(probability_of_label(probabilities.detach(), label) / TEMPERATURE, dim=1)
        return batch_mean(-(target * votes.clamp_min(eps).log()).sum(dim=1))


class BalanceLoss(nn.Module):
    """Load-balancing loss E sum_e f_e m_e, which is 1 at uniform load.

    f_e is the share of pixels at which expert e has the largest vote, and m_e its mean vote. After the load-balancing
    loss of the Switch Transformer (Fedus et al., arXiv 2101.03961, Eq. 4).
    """

    def forward(self, votes: Tensor) -> Tensor:
        """Return the balance loss L_balance, a scalar, of votes (B, E, H, W)."""
        return votes.shape[1] * (expert_load(votes.detach()) * batch_mean(votes, (0, 2, 3))).sum()


def probability_of_label(probabilities: Tensor, label: Tensor) -> Tensor:
    """Return each expert's probability of the true class, p_e[y], (B, E, H, W).

    Args:
        probabilities: Experts' probabilities, (B, E, K, H, W).
        label: Class map, (B, 1, H, W).
    """
    p = as_distribution(probabilities)
    index = label.long()[:, None].expand(-1, p.shape[1], 1, -1, -1)
    return p.gather(2, index).squeeze(2)
