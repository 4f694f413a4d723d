"""Handlers that keep a training's weights: those of the best validation, and the whole state to go on from.

They replace MONAI's CheckpointSaver, which removes the old file before it writes the new one, so that a process killed
between the two loses both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.utils.distributed import is_first
from icmoe_monai.weights.checkpoint import (
    MODEL,
    TRAINER,
    TRUNK,
    notes_on_trunk,
    save_weights,
    trained_state,
    with_trunk,
)
from icmoe_monai.weights.tensor_files import save_checkpoint


class BestCheckpoint:
    """Handler: keep the network's weights of the best validation so far, as `save_weights` writes them.

    Attach it to the evaluator. The best value is part of the training's state, so that a resumed training does not
    replace better weights in the same folder. With several processes, all know the value and the first one writes.

    Args:
        network: The network.
        path: The file.
        metric: Name of the metric; larger is better.
        recipe: The training's recipe, which is written beside the weights.
    """

    def __init__(self, *, network: nn.Module, path: str, metric: str, recipe: Mapping[str, Any] | None = None) -> None:
        self.network = network
        self.path = Path(path)
        self.metric = metric
        self.recipe = recipe
        self.best = -math.inf
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator; the metric is compared after every validation."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the weights if the metric has risen."""
        value = float(engine.state.metrics[self.metric])
        if math.isnan(value):
            self.logger.warning(f"{self.metric} is no number, so {self.path.name} stays as it is.")
        if not value > self.best:
            return
        if is_first():
            save_weights(unwrapped(self.network), self.path, recipe=self.recipe)
            self.logger.debug(f"{self.metric} {value:.4f} is the best so far: wrote {self.path}.")
        self.best = value

    def state_dict(self) -> dict[str, float]:
        """Return the best value so far, for a checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the best value from a checkpoint, if its weights are in the folder."""
        # else the folder is a new one, which needs a best.pt of its own
        if self.path.is_file() and not math.isnan(state["best"]):
            self.best = state["best"]


class LastCheckpoint:
    """Handler: save the whole state of the training after every epoch, and when it is stopped between two steps.

    Attach it to the trainer, after the handlers that step and validate, and before those that raise a caught exception
    again (such as MONAI's StatsHandler): ignite calls no handler after them.

    What is saved is the state between two steps, from which a training goes on as if it had never stopped. A training
    that ends within a step (a loss that is not finite, too little memory) or within a validation keeps the file of its
    last epoch, since a step half done has already changed statistics and random states.

    Args:
        save_dict: Objects to save besides the engine, by name; the network is "model".
        path: The file.
        recipe: The training's recipe, which is written too.
    """

    def __init__(self, *, save_dict: dict[str, Any], path: str, recipe: Mapping[str, Any] | None = None) -> None:
        self.save_dict = save_dict
        self.path = Path(path)
        self.recipe = recipe
        self.error: BaseException | None = None
        self.has_begun = self.has_unsaved_steps = False
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer: save after every epoch and on every exception, Ctrl-C included."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.step_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.save_and_raise)

    def step_started(self, engine: Engine) -> None:
        """Note that the state is that of no step."""
        self.has_begun, self.has_unsaved_steps = True, False

    def step_completed(self, engine: Engine) -> None:
        """Note that the state is whole, unless what ends an epoch, such as a validation, still belongs to it."""
        self.has_unsaved_steps = engine.state.iteration % (engine.state.epoch_length or 1) != 0

    def save(self, engine: Engine) -> None:
        """Save the trained weights, the other objects, and the trainer's state."""
        network = unwrapped(self.save_dict[MODEL])
        states = {name: part.state_dict() for name, part in self.save_dict.items() if name != MODEL}
        trunk = notes_on_trunk(network, (self.recipe or {}).get("pretrained"))
        notes = ({TRUNK: trunk} if trunk else {}) | with_trunk(self.recipe, trunk)
        content = {MODEL: trained_state(network)} | notes | states | {TRAINER: engine.state_dict()}
        save_checkpoint(content, self.path)

    def save_and_raise(self, engine: Engine, error: BaseException) -> None:
        """Save what no file holds yet, and raise the exception again; ignite calls this twice for each."""
        if error is not self.error:
            self.error = error
            if self.has_unsaved_steps:
                self.has_unsaved_steps = False
                self.save(engine)
            if self.has_begun and self.path.is_file():
                self.logger.warning(
                    f"Stopped in epoch {engine.state.epoch} by {type(error).__name__}; go on with --checkpoint "
                    f"{self.path}"
                )
        raise error
