"""Engines that a test needs: an evaluator with known metrics, a trainer of a network of two weights."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from icmoe_monai.training.handlers import MetricsCsv


def evaluator_of(values):
    """Return an evaluator whose metric "dice" takes the values, one a run."""
    remaining = iter(values)
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(dice=next(remaining)))
    return engine


def trainer_of(handlers, loss=nn.functional.mse_loss, network=None, max_epochs=2, scale=1.0):
    network = nn.Linear(1, 1) if network is None else network
    data = [{"image": torch.full((2, 1), scale), "label": torch.zeros(2, 1)}] * 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for handler in handlers:
        if isinstance(handler, MetricsCsv):
            handler.optimizer = optimizer
    return SupervisedTrainer(
        device="cpu", max_epochs=max_epochs, train_data_loader=data, network=network, optimizer=optimizer,
        loss_function=loss, train_handlers=handlers,
    )  # fmt: skip
