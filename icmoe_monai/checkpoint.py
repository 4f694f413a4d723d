"""Weights in and out of files: nothing but tensors and plain containers is ever read, and files are whole or absent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import monai.handlers
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from icmoe_monai.errors import InputError
from icmoe_monai.network import unwrapped
from icmoe_monai.sam import SamImageEncoder
from icmoe_monai.tensor_files import read_checkpoint

TRAINER = "trainer"
MODEL = "model"  # key of the network's weights in a checkpoint that also holds the state of the training


def check_state(state: Mapping[str, Tensor], network: nn.Module, path: str | Path) -> None:
    """Compare weights with a network before they are loaded.

    Raises:
        InputError: If names or shapes differ; the first difference is named.
    """
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) if isinstance(value, Tensor) else () for name, value in state.items()}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    differing = [name for name in expected if name in found and expected[name] != found[name]]
    if not (missing or unknown or differing):
        return
    if differing:
        name = differing[0]
        what = f"{name} is {found[name]} in the file and {expected[name]} in the network"
    elif missing:
        what = f"{missing[0]} is missing from it"
    else:
        what = f"it has {unknown[0]}, which the network has not"
    count = len(missing) + len(unknown) + len(differing)
    raise InputError(
        f"{path} does not fit this network ({what}; {count} of {len(expected)} tensors differ): use the settings it "
        "was trained with (backbone, out_channels, experts, expert_depth), or another file."
    )


class CheckpointLoader(monai.handlers.CheckpointLoader):
    """Load weights, and where the file has it the state of the training, when the engine starts.

    A file of bare weights (`best.pt`, a zoo's `model.pt`) starts a fresh training from them; `last.pt` resumes one.

    Args:
        load_path: The file.
        load_dict: What to load, by the keys of the file; the network is "model". With more than the network, the engine
            itself is resumed too.
    """

    def __init__(self, load_path: str, load_dict: dict[str, Any]) -> None:
        super().__init__(load_path=str(load_path), load_dict=load_dict)

    def __call__(self, engine: Engine) -> None:
        """Load.

        Raises:
            InputError: If the file cannot be read or does not fit, or its training is already at its end.
        """
        content = read_checkpoint(self.load_path)
        bare = MODEL not in content
        check_state(content if bare else content[MODEL], self.load_dict[MODEL], self.load_path)
        if bare:
            self.load_dict[MODEL].load_state_dict(content)
        else:
            for key, target in self.load_dict.items():
                if key in content:
                    self._load(target, content[key])
            if len(self.load_dict) > 1 and TRAINER in content:
                self._resume(engine, content[TRAINER])
        self.logger.info(f"Loaded {'the weights' if bare else ', '.join(self.load_dict)} from {self.load_path}.")

    def _load(self, target: Any, state: dict[str, Any]) -> None:
        try:
            target.load_state_dict(_progress(state) if isinstance(target, LRScheduler) else state)
        except ValueError as error:  # torch's word that an optimizer has other parameters
            raise InputError(
                f"{self.load_path} is of a training that trained other weights: resume with its settings (pretrained, "
                "voting, experts), or start a new training from its best.pt."
            ) from error

    def _resume(self, engine: Engine, state: dict[str, Any]) -> None:
        """Go on from the epoch and iteration of a trainer's state, to this run's `max_epochs`."""
        max_epochs, epoch_length = engine.state.max_epochs, engine.state.epoch_length
        if epoch_length is not None and state["epoch_length"] != epoch_length:
            raise InputError(
                f"{self.load_path} is of a training with {state['epoch_length']} steps an epoch, and this one has "
                f"{epoch_length}: resume with the same images, batch_size and min_steps, or start from its best.pt."
            )
        engine.load_state_dict(state)
        engine.state.max_epochs = max_epochs
        if max_epochs is not None and engine.state.epoch >= max_epochs:
            raise InputError(
                f"{self.load_path} is the end of epoch {engine.state.epoch}, and max_epochs is {max_epochs}: nothing "
                "is left to train; raise --max_epochs to go on."
            )


def _progress(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return how far a learning-rate schedule has come, without its plan, which is this run's."""
    return {name: state[name] for name in ("last_epoch", "_step_count", "_last_lr", "lr_lambdas") if name in state}


class PretrainedTrunk:
    """Load the foundation encoder's weights when training starts, or say that there are none.

    Args:
        network: The whole network; its `encoder` is loaded.
        path: File with the encoder's weights under SAM's names, with or without the prefix "image_encoder."; None
            leaves the fresh weights, and the encoder is trained like the rest.
    """

    def __init__(self, network: nn.Module, path: str | None = None) -> None:
        self.network = network
        self.path = path
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Load at the start of a MONAI trainer, before a checkpoint is."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load."""
        encoder = cast(SamImageEncoder, unwrapped(self.network).encoder)
        million = sum(p.numel() for p in encoder.parameters()) / 1e6
        if self.path is None:
            self.logger.warning(
                f"No pretrained encoder (pretrained: null): its {million:.1f} million weights start at random, or from "
                "--checkpoint, and are trained like the rest. --pretrained FILE loads and freezes a foundation encoder."
            )
            return
        content = read_checkpoint(self.path)
        prefix = "image_encoder."
        if any(name.startswith(prefix) for name in content):
            content = {name[len(prefix) :]: value for name, value in content.items() if name.startswith(prefix)}
        check_state(content, encoder, self.path)
        encoder.load_state_dict(content)
        self.logger.info(f"Loaded the encoder ({million:.1f} million weights) from {self.path}; it stays as it is.")
