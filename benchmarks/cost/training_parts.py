"""Measure each part of a training step of IC-MoE, forward and backward, and so what a cache of features can save.

    python -m benchmarks.cost.training_parts vit_t:256:8

The output is one line of JSON: the median seconds of each part. The parts run one after the other, and gradients are
handed from part to part; the result is that of an ordinary step. `benchmarks.cost.training` runs this command in a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cost.measure import Stopwatch, medians
from benchmarks.cost.training import Setting, build, parse
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput
from icmoe_monai.networks.voting import to_probabilities
from icmoe_monai.settings import trainable_parameters


def measure_parts(setting: Setting, device: str, num_steps: int) -> dict[str, float]:
    """Return the median seconds of each part of a step, and of reading a batch of images or of features."""
    watch, rounds = Stopwatch(device), []
    with tempfile.TemporaryDirectory() as folder:
        parser = build("icmoe", setting, Path(folder), device, 1)
        cached = build("icmoe, cached", setting, Path(folder), device, 1)
        network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
        cached.get_parsed_content("train#dataset").fill(
            network, device=torch.device(device), amp=False, batch_size=setting.batch_size, num_workers=0
        )
        images, features = (_forever(part.get_parsed_content("train#dataloader")) for part in (parser, cached))
        for _ in range(1 + num_steps):
            watch("reading features", lambda: next(features))
            batch = watch("reading images", lambda: next(images))
            take_step(network, loss, optimizer, batch["image"].to(device), batch["label"].to(device), watch)
            rounds.append(watch.take_round())
    return medians(rounds[1:])


def take_step(
    network: ICMoE,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    image: Tensor,
    label: Tensor,
    time: Stopwatch,
) -> None:
    """Take one training step part by part; gradients are handed from part to part, so that each has its own time."""
    network.train()
    tokens = time("trunk", lambda: network.trunk(image))
    levels = time("pyramid", lambda: network.levels(image))
    features = time("experts, forward", lambda: network.expert_features(tokens))
    cut = features.detach().requires_grad_()
    decoded, expert_logits = time("decoders, forward", lambda: network.decode(cut, levels))
    cuts = [part.detach().requires_grad_() for part in (*decoded, expert_logits)]
    output = time("vote, forward", lambda: _vote(network, cuts[:-1], cuts[-1]))
    value = time("loss, forward", lambda: loss(output, label))
    time("loss and vote, backward", value.backward)
    gradients = [part.grad for part in cuts]
    time("decoders, backward", lambda: torch.autograd.backward([*decoded, expert_logits], gradients))
    time("experts, backward", lambda: features.backward(cut.grad))
    time("optimizer", lambda: _update(network, optimizer))


def _vote(network: ICMoE, decoded: list[Tensor], expert_logits: Tensor) -> ICMoEOutput:
    gate = network.gate(decoded, expert_logits.shape[-2:])
    logits, votes = network.voting(to_probabilities(expert_logits), gate)
    return ICMoEOutput(logits, expert_logits, votes, network.embed(decoded[network.expert_names.index("semantic")]))


def _update(network: ICMoE, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(trainable_parameters(network), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _forever(loader: Any) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from loader


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts of a training step, and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", help="BACKBONE:PIXELS:BATCH")
    parser.add_argument("--steps", type=int, default=4, help="timed, after one that is not")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    print(json.dumps(measure_parts(parse(options.setting), options.device, options.steps)))  # noqa: T201


if __name__ == "__main__":
    main()
