"""The semantic-guided contrastive loss, which makes the semantic expert's pixel embeddings alike within a class.

Only the abstract of IC-MoE (arXiv 2510.17684) was available, which names "semantic-guided contrastive learning"; this
form, InfoNCE (van den Oord et al., arXiv 1807.03748) against class prototypes with a memory, is ours (docs/method.md).

Letters: B batch; K output channels; C = max(K, 2) classes; D embedding; H W image; h w embedding map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.networks.voting import as_distribution
from icmoe_monai.utils.distributed import batch_mean, total

UNLABELLED = -1


class SemanticContrastiveLoss(nn.Module):
    """Contrastive loss that pulls pixel embeddings to the prototypes of their class and pushes them from the others'.

    Anchors are cells of the embedding map that are purely one class, half drawn at random and half from the hard ones
    (the vote gives less than `hard_below` to the true class). Each is compared with the batch's class means and with a
    memory of their moving average; InfoNCE over both (temperature T), averaged over the positives:

      l(a) = mean over positives p of -log( exp(<a, p> / T) / sum over all prototypes c of exp(<a, c> / T) )

    Args:
        num_classes: C.
        embedding_channels: D.
        temperature: T.
        num_anchors: Largest number of anchors per class in a batch, or in each process's share of the batch.
        momentum: Share of the memory that is kept at an update.
        hard_below: Probability of the true class below which a cell is hard.
        confident: Probability of the voted class above which an unlabelled pixel takes this class as its label.
        agreement: Value of 1 - disagreement that such a pixel must exceed too.

    Example:
        >>> loss = SemanticContrastiveLoss(num_classes=2, embedding_channels=2)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).t().reshape(1, 2, 1, 2)
        >>> label = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
        >>> bool(loss(embeddings, label, torch.full((1, 1, 4, 8), 0.5), torch.zeros(1, 4, 8)) < 1e-3)
        True
    """

    prototypes: Tensor
    remembered: Tensor

    def __init__(
        self,
        *,
        num_classes: int = 2,
        embedding_channels: int = 32,
        temperature: float = 0.1,
        num_anchors: int = 256,
        momentum: float = 0.99,
        hard_below: float = 0.7,
        confident: float = 0.95,
        agreement: float = 0.9,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.num_anchors = num_anchors
        self.momentum = momentum
        self.hard_below = hard_below
        self.confident = confident
        self.agreement = agreement
        self.register_buffer("prototypes", torch.zeros(num_classes, embedding_channels))
        self.register_buffer("remembered", torch.zeros(num_classes, dtype=torch.bool))

    def forward(self, embeddings: Tensor, label: Tensor, fused: Tensor, disagreement: Tensor) -> Tensor:
        """Return the contrastive loss L_contrast; in training mode, also update the memory.

        Args:
            embeddings: (B, D, h, w), not normalised.
            label: Class map, (B, 1, H, W); `UNLABELLED` at every pixel of an image without a label.
            fused: Voted probabilities P, (B, K, H, W).
            disagreement: Disagreement of the experts, (B, H, W), in 0..1.

        Returns:
            A scalar; 0 when there are not two classes to tell apart.
        """
        a = F.normalize(embeddings, dim=1).permute(0, 2, 3, 1).flatten(0, 2)  # (cells, D)
        classes, hardness = self._cells(label, fused.detach(), disagreement.detach(), embeddings.shape[-2:])
        present = total(torch.stack([(classes == c).sum() for c in range(len(self.prototypes))])) > 0
        sums = torch.stack([a[classes == c].sum(dim=0) for c in range(len(self.prototypes))])
        means = F.normalize(total(sums), dim=1)
        prototypes = torch.cat([means, self.prototypes.to(means.dtype)])  # (2C, D)
        usable = torch.cat([present, self.remembered])
        self._remember(means, present)
        if int((present | usable[len(present) :]).sum()) < 2 or not bool(present.any()):
            return embeddings.sum() * 0
        anchors = self._draw(classes, hardness)
        similarity = (a[anchors] @ prototypes.t() / self.temperature).masked_fill(~usable, -torch.inf)
        log_share = torch.log_softmax(similarity, dim=1)
        positive = F.one_hot(classes[anchors], len(self.prototypes)).bool().repeat(1, 2) & usable
        per_anchor = -log_share.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1)
        return batch_mean(per_anchor)

    def _cells(self, label: Tensor, fused: Tensor, disagreement: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return class (or -1 where mixed or unsure) and probability of that class of every cell, both (cells,)."""
        p = as_distribution(fused[:, None])[:, 0]  # (B, C, H, W)
        best, pseudo = p.max(dim=1)
        trusted = (best > self.confident) & (1 - disagreement > self.agreement)
        pseudo = torch.where(trusted, pseudo, UNLABELLED)
        unlabelled = label.flatten(1).amin(dim=1) == UNLABELLED
        target = torch.where(unlabelled[:, None, None], pseudo, label[:, 0].long())
        one_hot = F.one_hot(target + 1, p.shape[1] + 1)[..., 1:].permute(0, 3, 1, 2).to(p.dtype)  # -1 is no class
        share, cell_class = F.adaptive_avg_pool2d(one_hot, (size[0], size[1])).max(dim=1)
        cell_class = torch.where(share == 1, cell_class, UNLABELLED)
        of_class = F.adaptive_avg_pool2d(p, (size[0], size[1])).gather(1, cell_class.clamp_min(0)[:, None])
        return cell_class.flatten(), of_class.flatten()

    def _draw(self, classes: Tensor, probability: Tensor) -> Tensor:
        """Return indices of the anchors: per class, half at random from all its cells and half from its hard ones."""
        drawn = []
        for c in range(len(self.prototypes)):
            cells = torch.nonzero(classes == c).flatten()
            hard = cells[probability[cells] < self.hard_below]
            half = self.num_anchors // 2
            from_hard = hard[torch.randperm(len(hard), device=hard.device)[:half]]
            drawn += [from_hard, cells[torch.randperm(len(cells), device=cells.device)[: self.num_anchors - half]]]
        return torch.cat(drawn)

    @torch.no_grad()
    def _remember(self, means: Tensor, present: Tensor) -> None:
        if not self.training:
            return
        kept = torch.where(self.remembered[:, None], self.momentum, 0.0)
        moved = F.normalize(kept * self.prototypes + (1 - kept) * means.to(self.prototypes.dtype), dim=1)
        self.prototypes.copy_(torch.where(present[:, None], moved, self.prototypes))
        self.remembered.logical_or_(present)
