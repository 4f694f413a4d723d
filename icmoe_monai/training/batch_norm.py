"""Batch normalisation over the batch of all processes, on GPUs and on CPUs.

With the statistics of each process's own share of the batch, a training over several processes would differ from that
of a single process with the whole batch. On a GPU PyTorch's SyncBatchNorm shares the statistics; since it has no CPU
form, `SharedBatchNorm2d` computes the same there.

Letters: B batch; C channels; H W map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icmoe_monai.utils.distributed import num_processes, total
from icmoe_monai.utils.precision import at_least_float32


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Normalise like `nn.BatchNorm2d`, in training with the statistics of the batch of all processes.

    Half-precision maps are normalised in float32.

    Example:
        >>> norm = SharedBatchNorm2d(3)
        >>> norm(torch.randn(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps (B, C, H, W); H and W are the same in all processes, B may differ."""
        if not self.training or num_processes() == 1:
            return super().forward(x)
        dtype, x = x.dtype, at_least_float32(x)
        sums = total(torch.cat([x.sum((0, 2, 3)), x.new_tensor([x.numel() // self.num_features])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        deviation = x - mean[:, None, None]
        variance = total(deviation.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        normalised = deviation * torch.rsqrt(variance + self.eps)[:, None, None]
        return (normalised * self.weight[:, None, None] + self.bias[:, None, None]).to(dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def share_batch_norms(network: nn.Module, device: str | torch.device) -> nn.Module:
    """Make every batch norm of a network use the statistics of the batch of all processes.

    Args:
        network: The network, which is changed; names and weights stay, so that checkpoints fit.
        device: Device on which it will run: on CUDA its batch norms become SyncBatchNorm, else `SharedBatchNorm2d`.

    Returns:
        The network.

    Example:
        >>> type(share_batch_norms(nn.Sequential(nn.BatchNorm2d(3)), "cpu")[0]).__name__
        'SharedBatchNorm2d'
    """
    if torch.device(device).type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d and child.affine:
                setattr(module, name, _shared(child))
    return network


def _shared(norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
    shared = SharedBatchNorm2d(
        norm.num_features, eps=norm.eps, momentum=norm.momentum, track_running_stats=norm.track_running_stats
    )
    shared.load_state_dict(norm.state_dict())
    return shared.train(norm.training)
