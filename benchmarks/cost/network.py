"""Measure what the experts cost: the network against its own encoder, and a training step against full fine-tuning.

    python -m benchmarks.cost.network --output docs/results/network.json

Inference is timed in turns in one process; each training step runs in a process of its own, for its peak memory.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cost.encoder import draw_weights
from benchmarks.cost.measure import hardware, in_own_process, largest_difference, peak_memory, time_in_turn
from benchmarks.cost.peers import explicit_encoder
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.low_rank import add_update
from icmoe_monai.networks.sam import BACKBONES
from icmoe_monai.settings import trainable_parameters
from icmoe_monai.utils.files import write_json

TRAININGS = {"experts on a frozen encoder": False, "full fine-tuning": True}  # whether the encoder is trained


class StackedExperts(nn.Module):
    """Run an IC-MoE with the experts stacked along the batch: one product with each frozen matrix for all experts.

    Args:
        network: Our network, whose parts are used.
    """

    def __init__(self, network: ICMoE) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, 3, H, W) to fused logits (B, K, H, W)."""
        network = self.network
        features = self.expert_features(network.trunk(image))
        decoded, expert_logits = network.decode(features, network.levels(image))
        logits, _ = network.voting(torch.sigmoid(expert_logits), network.gate(decoded, image.shape[-2:]))
        return logits

    def expert_features(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to feature maps (B, E, neck_channels, h, w)."""
        network, num_experts = self.network, len(self.network.expert_names)
        adapted = list(network.adapted.values())
        of_experts = [expert(tokens) for expert in adapted]
        x = tokens.expand(num_experts, *tokens.shape)  # (E, B, h, w, C); the basic expert, if any, comes first

        def updated(frozen: Tensor, kind: str, block: int, seen: Tensor) -> Tensor:
            zero = torch.zeros_like(frozen[0])
            updates = [
                add_update(zero, one, getattr(update[block], kind), update[block].gain)
                for update, one in zip(of_experts, seen[num_experts - len(adapted) :], strict=True)
            ]
            return frozen + torch.stack([zero] * int(network.has_basic) + updates)

        for i, block in enumerate(network.encoder.blocks[network.split :]):
            normed = block.norm1(x)
            qkv = updated(block.attn.project(normed), "qkv", i, normed)
            x = x + block.attn.attend(qkv.flatten(0, 1)).unflatten(0, (num_experts, -1))
            normed = block.norm2(x)
            hidden = F.gelu(updated(block.mlp.lin1(normed), "lin1", i, normed))
            x = x + updated(block.mlp.lin2(hidden), "lin2", i, hidden)
        features = network.encoder.neck(x.flatten(0, 1).permute(0, 3, 1, 2)).unflatten(0, (num_experts, -1))
        return network.communication(features.transpose(0, 1))


def build(backbone: str, device: str, *, train_trunk: bool = False) -> ICMoE:
    """Build the network with random weights, so that every part changes the result."""
    torch.manual_seed(0)
    network = ICMoE(backbone=backbone, train_trunk=train_trunk)
    draw_weights(network.encoder)
    with torch.no_grad():
        for expert in network.adapted.values():
            for kind in (expert.updates.qkv, expert.updates.lin1, expert.updates.lin2):
                kind.up.normal_(std=0.1)
    return network.to(device)


def compare_inference(backbone: str, image_size: int, device: str, repeats: int) -> dict[str, dict]:
    """Time the network, its parts, the form with stacked experts, and the encoder alone."""
    network = build(backbone, device).eval()
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)).to(device)
    stacked, explicit = StackedExperts(network), explicit_encoder(network.encoder)
    with torch.no_grad():
        tokens = network.trunk(image)
        features = network.expert_features(tokens)
        difference = largest_difference(stacked(image), network(image))
        rows = time_in_turn(
            {
                "network": lambda: network(image),
                "network, experts stacked": lambda: stacked(image),
                "its encoder": lambda: network.encoder(image),
                "its encoder with the explicit bias": lambda: explicit(image),
                "part: trunk": lambda: network.trunk(image),
                "part: experts": lambda: network.expert_features(tokens),
                "part: decoders": lambda: network.decode(features, network.levels(image)),
            },
            repeats,
            device,
        )
    rows["network, experts stacked"]["largest_difference_of_logits"] = difference
    return rows


def train_step(backbone: str, image_size: int, device: str, *, train_trunk: bool) -> dict[str, float]:
    """Take two training steps with one image, and measure the second, in which the optimizer holds its moments."""
    network = build(backbone, device, train_trunk=train_trunk).train()
    loss_function = ICMoELoss(out_channels=1, experts=network.expert_names).to(device)
    optimizer = torch.optim.AdamW(trainable_parameters(network), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, image_size, image_size, generator=generator).to(device)
    label = torch.zeros(1, 1, image_size, image_size, device=device)
    label[..., image_size // 4 : image_size // 2, image_size // 4 : image_size // 2] = 1

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_function(network(image), label).backward()
        optimizer.step()

    step()
    start = time.perf_counter()
    found = peak_memory(step, device)
    found["seconds"] = round(time.perf_counter() - start, 3)
    found["trained_parameters"] = sum(weight.numel() for weight in trainable_parameters(network))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the ratios, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default="vit_b")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--train", choices=TRAININGS, help="measure one training step, and nothing else")
    options = parser.parse_args(arguments)
    if options.train:
        found = train_step(options.backbone, options.size, options.device, train_trunk=TRAININGS[options.train])
        print(json.dumps(found))  # noqa: T201
        return
    inference = compare_inference(options.backbone, options.size, options.device, options.repeats)
    shared = ["--backbone", options.backbone, "--size", str(options.size), "--device", options.device]
    training = {name: in_own_process("benchmarks.cost.network", ["--train", name, *shared]) for name in TRAININGS}
    for name, row in inference.items():
        ratio = row["seconds"] / inference["its encoder"]["seconds"]
        print(f"{name:36} {row['seconds']:8.3f} s, {ratio:.2f} of its encoder")  # noqa: T201
    full = training["full fine-tuning"]
    for name, row in training.items():
        ratio = row["peak_mb"] / full["peak_mb"]
        print(f"{name:36} {row['seconds']:8.3f} s {row['peak_mb']:8.0f} MB, {ratio:.0%} of full fine-tuning")  # noqa: T201
    content = {
        "backbone": options.backbone, "image_size": options.size, "batch_size": 1,
        "hardware": hardware(options.device), "inference": inference, "training": training,
    }  # fmt: skip
    if options.output:
        write_json(options.output, content)


if __name__ == "__main__":
    main()
