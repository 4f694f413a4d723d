"""Handlers that load weights when an engine starts, and one that proves the frozen ones untouched at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import monai.handlers
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import unwrapped
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.checkpoint import MODEL, TRAINER, load_network, read_weights
from icmoe_monai.weights.frozen import fingerprints, has_frozen_trunk
from icmoe_monai.weights.pyramid import load_pyramid_weights
from icmoe_monai.weights.sam import load_sam_weights


class LoadFrozen:
    """Handler: load the weights that a training leaves as they are, the encoder's and the image pyramid's.

    Stands before the `CheckpointLoader`, whose file holds all but these. They are two handlers since MONAI's federated
    client takes handlers called CheckpointLoader out of an evaluation, which then keeps the weights that it was sent.

    Args:
        network: The whole network: its `encoder` and, if it is an `ImagePyramid`, its `detail` are loaded. A network
            without these (a baseline) takes nothing.
        pretrained: Name or file of the encoder's weights, as `load_sam_weights` takes it.
        pyramid: File of the pyramid's weights, as `load_pyramid_weights` takes it.
        training: Whether a training begins: then it is said that an encoder without a file is trained, and a pyramid
            without a file is refused. Otherwise a part without a file is left to the checkpoint.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        pretrained: str | None = None,
        pyramid: str | None = None,
        training: bool = False,
    ) -> None:
        self.network = network
        self.pretrained = pretrained
        self.pyramid = pyramid
        self.training = training
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Load when a MONAI engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load.

        Raises:
            InputError: If a file is missing or does not fit.
        """
        network = unwrapped(self.network)
        if self.training or self.pretrained is not None:
            self._load_encoder(network)
        if self.training or self.pyramid is not None:
            self._load_pyramid(network)

    def _load_encoder(self, network: nn.Module) -> None:
        encoder = getattr(network, "encoder", None)
        if encoder is None:
            if self.pretrained is not None:
                self.logger.info(f"Nothing of {self.pretrained} is used: this network has no foundation encoder.")
            return
        million = sum(weight.numel() for weight in encoder.parameters()) / 1e6
        if self.pretrained is None:
            self.logger.warning(
                f"No pretrained encoder (pretrained: null): its {million:.1f} million weights start at random, or from "
                "--checkpoint, and are trained like the rest. --pretrained NAME_OR_FILE loads and freezes a foundation "
                "encoder."
            )
            return
        load_sam_weights(self.pretrained, encoder)
        fate = "stays as it is" if has_frozen_trunk(network) else "is trained like the rest"
        self.logger.info(f"Loaded the encoder ({million:.1f} million weights) from {self.pretrained}; it {fate}.")

    def _load_pyramid(self, network: nn.Module) -> None:
        pyramid = getattr(network, "detail", None)
        if not isinstance(pyramid, ImagePyramid):
            return
        if self.pyramid is None:
            raise InputError("The image pyramid is frozen and has no weights: name its file with --pyramid.")
        load_pyramid_weights(self.pyramid, pyramid)
        self.logger.info(f"Loaded the image pyramid from {self.pyramid}; it stays as it is.")


class TrunkChangedError(RuntimeError):
    """A frozen part is not what it was; what was trained on it fits nothing that there is a file of."""


class UntouchedTrunk:
    """Prove that a training leaves the frozen parts as they were, bit for bit; stands before handlers that save.

    Args:
        network: The whole network. With an encoder that is trained there is nothing to prove.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.fingerprints: dict[str, str] = {}
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Compare the fingerprint of before the first step, when all weights are loaded, with that of every epoch."""
        engine.add_event_handler(Events.STARTED, self.forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self.note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.compare)
        engine.add_event_handler(Events.COMPLETED, self.tell)

    def forget(self, engine: Engine) -> None:
        """Forget the fingerprints of an earlier run."""
        self.fingerprints = {}

    def note(self, engine: Engine) -> None:
        """Note the fingerprints, in the first epoch of a run."""
        if not self.fingerprints:
            self.fingerprints = fingerprints(self.network)

    def compare(self, engine: Engine) -> None:
        """Compare.

        Raises:
            TrunkChangedError: If a frozen weight has changed.
        """
        found = fingerprints(self.network) if self.fingerprints else {}
        for part, fingerprint in self.fingerprints.items():
            if found.get(part) != fingerprint:
                raise TrunkChangedError(
                    f"The frozen {part} has changed: {fingerprint} before, {found.get(part)} after training."
                )

    def tell(self, engine: Engine) -> None:
        """Say that nothing has changed."""
        for part, fingerprint in self.fingerprints.items():
            self.logger.info(f"The {part} is untouched by this training: fingerprint {fingerprint}.")


class CheckpointLoader(monai.handlers.CheckpointLoader):
    """Load weights, and where the file has it the state of the training, when the engine starts.

    A file of weights alone (`best.pt`, a zoo's `model.pt`) starts a fresh training from them; `last.pt` resumes one.

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
        content = read_weights(self.load_path)
        load_network(self.load_dict[MODEL], content, self.load_path)
        others = [key for key in self.load_dict if key != MODEL and key in content]
        for key in others:
            self._load(self.load_dict[key], content[key])
        if len(self.load_dict) > 1 and TRAINER in content:
            self._resume(engine, content[TRAINER])
        self.logger.info(f"Loaded {', '.join(['the weights', *others])} from {self.load_path}.")

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
