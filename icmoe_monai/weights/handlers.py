"""Handlers that load weights when an engine starts, and one that checks that a training changes no frozen weight."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import monai.handlers
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from icmoe_monai.errors import InputError
from icmoe_monai.networks.folds import first_fold
from icmoe_monai.networks.icmoe import ICMoE, unwrapped
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.checkpoint import MODEL, RECIPE, TRAINER, load_network, read_weights
from icmoe_monai.weights.frozen import fingerprints, has_frozen_trunk, is_frozen
from icmoe_monai.weights.pyramid import file_of, load_pyramid_weights
from icmoe_monai.weights.recipe_checks import check_resumed
from icmoe_monai.weights.sam import load_sam_weights
from icmoe_monai.weights.schema import find_damage_of_optimizer, find_damage_of_state


class LoadFrozen:
    """Handler: load the pretrained weights of the encoder and of the image pyramid, which most trainings freeze.

    A part that is trained begins with its file's weights once: a federated client starts its engine anew in every
    round, and goes on with what it was sent.

    Place it before the `CheckpointLoader`, whose file holds all other weights. The two are separate since MONAI's
    federated client removes handlers called CheckpointLoader from an evaluation, which then keeps the weights that the
    client was sent.

    Args:
        network: The whole network: its `encoder` and every `ImagePyramid` in it are loaded, and the experts' own stages
            begin as the pyramid's. For a network without either (a baseline of MONAI's) nothing is loaded.
        pretrained: Name or file of the encoder's weights, as `load_sam_weights` takes it.
        pyramid: File of the pyramid's weights, as `load_pyramid_weights` takes it.
        training: Whether a training begins: then a warning says that an encoder without a file is trained, and a
            pyramid without a file is refused. Otherwise trained parts, and those without a file, are left to the
            checkpoint.
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
        self.begins = training
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI engine; the weights are loaded when it starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights.

        Raises:
            InputError: If a file is missing or does not fit.
        """
        network = unwrapped(self.network)
        if self.training or self.pretrained is not None:
            self._load_encoder(network)
        if self.training or self.pyramid is not None:
            self._load_pyramid(network)
        self.begins = False

    def _load_encoder(self, network: nn.Module) -> None:
        # an encoder that another network has is not SAM's
        network = first_fold(network)
        encoder: Any = network.encoder if isinstance(network, ICMoE) else None
        if encoder is None or not list(encoder.parameters()):
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
        if self.training and not self.begins and not is_frozen(encoder):
            return
        load_sam_weights(self.pretrained, encoder)
        fate = "stays as it is" if has_frozen_trunk(network) else "is trained like the rest"
        self.logger.info(f"Loaded the encoder ({million:.1f} million weights) from {self.pretrained}; it {fate}.")

    def _load_pyramid(self, network: nn.Module) -> None:
        pyramids = {name: part for name, part in network.named_modules() if isinstance(part, ImagePyramid)}
        if not pyramids:
            return
        if self.pyramid is None:
            raise InputError("The image pyramid has no weights: name its file with --pyramid.")
        for name, pyramid in pyramids.items():
            if not self.begins and not is_frozen(pyramid):
                continue
            load_pyramid_weights(self.pyramid, pyramid)
            fate = "stays as it is" if is_frozen(pyramid) else "is trained further"
            self.logger.info(f"Loaded the image pyramid {name} from {file_of(self.pyramid, pyramid.size)}; it {fate}.")
        if not self.begins:
            return
        for part in network.modules():
            if isinstance(part, ICMoE):
                part.start_own_stages()


class TrunkChangedError(RuntimeError):
    """Signal that a frozen part has changed, so that the weights trained on it fit no encoder that exists as a file."""


class UntouchedTrunk:
    """Handler: check that a training leaves the frozen parts unchanged, bit for bit.

    Place it before handlers that save.

    Args:
        network: The whole network. If its encoder is trained, nothing is checked.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.fingerprints: dict[str, str] = {}
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Register: compare the fingerprints before the first step, once all weights are loaded, with every epoch's."""
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
        """Compare the fingerprints with those of the run's start.

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
        """Log that no frozen part has changed."""
        for part, fingerprint in self.fingerprints.items():
            self.logger.info(f"The {part} is untouched by this training: fingerprint {fingerprint}.")


class CheckpointLoader(monai.handlers.CheckpointLoader):
    """Handler: load weights when the engine starts, and the state of the training if the file holds it.

    A file of weights alone (`best.pt`, a zoo's `model.pt`) starts a fresh training from them; `last.pt` resumes a
    training.

    Args:
        load_path: The file.
        load_dict: Objects to load, by their keys in the file; the network is "model". If there are other objects than
            the network, the engine itself is resumed too.
        recipe: The recipe of this training, which a training that is resumed must have begun with; None: any.
    """

    def __init__(self, load_path: str, load_dict: dict[str, Any], recipe: Mapping[str, Any] | None = None) -> None:
        super().__init__(load_path=str(load_path), load_dict=load_dict)
        self.recipe = recipe

    def __call__(self, engine: Engine) -> None:
        """Load the weights, and resume the training if the file holds its state.

        Raises:
            InputError: If the file cannot be read or does not fit, or its training is already at its end.
        """
        content = read_weights(self.load_path)
        if self.recipe is not None and TRAINER in content and RECIPE in content:
            check_resumed(content[RECIPE], self.recipe, self.load_path)
        load_network(self.load_dict[MODEL], content, self.load_path)
        others = [key for key in self.load_dict if key != MODEL and key in content]
        for key in others:
            with self._refusing_damage(key, content[key]):
                self._load(self.load_dict[key], content[key])
        if len(self.load_dict) > 1 and TRAINER in content:
            with self._refusing_damage(TRAINER, content[TRAINER]):
                self._resume(engine, content[TRAINER])
        told = ", ".join(["the weights", *others])
        logging.getLogger(__name__).info(f"Loaded {told} from {self.load_path}.")  # self.logger is the engine's

    def _load(self, target: Any, state: dict[str, Any]) -> None:
        try:
            target.load_state_dict(_progress(state) if isinstance(target, LRScheduler) else state)
        except ValueError as error:  # torch raises it if the optimizer has other parameters
            raise InputError(
                f"{self.load_path} is of a training that trained other weights: resume with its settings (pretrained, "
                "voting, experts), or start a new training from its best.pt."
            ) from error
        damage = find_damage_of_optimizer(target) if isinstance(target, Optimizer) else None
        if damage is not None:
            raise TypeError(damage)

    @contextmanager
    def _refusing_damage(self, key: str, state: Any) -> Iterator[None]:
        """Tell of a part of the file that is not what a training writes, whose loading raises what it likes."""
        try:
            damage = find_damage_of_state(key, state)
            if damage is not None:
                raise TypeError(damage)
            yield
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"The {key} in {self.load_path} is damaged ({reason}): start a new training from its best.pt."
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
    """Return the position of a learning-rate schedule without its settings, which are those of this run.

    Of a schedule that is made of others, whose positions are deeper in its state, the whole state is returned.
    """
    if "_schedulers" in state:
        return dict(state)
    return {name: state[name] for name in ("last_epoch", "_step_count", "_last_lr", "lr_lambdas") if name in state}
