"""The frozen encoder of a network: load it, know it again, and prove that a training leaves it as it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from ignite.engine import Engine, Events
from torch import nn

from icmoe_monai.network import ICMoE, unwrapped
from icmoe_monai.weights import load_sam_weights, trunk_fingerprint


class PretrainedTrunk:
    """Load the foundation encoder's weights when an engine starts, or say that there are none.

    Args:
        network: The whole network; its `encoder` is loaded.
        source: Name or file of the encoder's weights, as `load_sam_weights` takes it; None leaves the fresh weights,
            and the encoder is trained like the rest. A network without an encoder (a baseline) takes nothing from it.
    """

    def __init__(self, network: nn.Module, source: str | None = None) -> None:
        self.network = network
        self.source = source
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Load at the start of a MONAI engine, before a checkpoint is."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load."""
        network = unwrapped(self.network)
        if not hasattr(network, "encoder"):
            if self.source is not None:
                self.logger.info(f"Nothing of {self.source} is used: this network has no foundation encoder.")
            return
        million = sum(weight.numel() for weight in network.encoder.parameters()) / 1e6
        if self.source is None:
            self.logger.warning(
                f"No pretrained encoder (pretrained: null): its {million:.1f} million weights start at random, or from "
                "--checkpoint, and are trained like the rest. --pretrained NAME_OR_FILE loads and freezes a foundation "
                "encoder."
            )
            return
        load_sam_weights(self.source, network.encoder)
        fate = "stays as it is" if has_frozen_trunk(network) else "is trained like the rest"
        self.logger.info(f"Loaded the encoder ({million:.1f} million weights) from {self.source}; it {fate}.")


class TrunkChangedError(RuntimeError):
    """A frozen encoder is not what it was; what was trained on it fits no encoder that there is a file of."""


class UntouchedTrunk:
    """Prove that a training leaves the frozen encoder as it was, bit for bit; stands before handlers that save.

    Args:
        network: The whole network. With an encoder that is trained there is nothing to prove.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.fingerprint = ""
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Compare the fingerprint of before the first step, when all weights are loaded, with that of every epoch."""
        engine.add_event_handler(Events.STARTED, self.forget)
        engine.add_event_handler(Events.EPOCH_STARTED, self.note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.compare)
        engine.add_event_handler(Events.COMPLETED, self.tell)

    def forget(self, engine: Engine) -> None:
        """Forget the fingerprint of an earlier run."""
        self.fingerprint = ""

    def note(self, engine: Engine) -> None:
        """Note the fingerprint, in the first epoch of a run."""
        network = unwrapped(self.network)
        if not self.fingerprint and has_frozen_trunk(network):
            self.fingerprint = trunk_fingerprint(network.encoder)

    def compare(self, engine: Engine) -> None:
        """Compare.

        Raises:
            TrunkChangedError: If a weight of the encoder has changed.
        """
        if not self.fingerprint:
            return
        found = trunk_fingerprint(unwrapped(self.network).encoder)
        if found != self.fingerprint:
            raise TrunkChangedError(
                f"The frozen encoder has changed: {self.fingerprint} before, {found} after training."
            )

    def tell(self, engine: Engine) -> None:
        """Say that nothing has changed."""
        if self.fingerprint:
            self.logger.info(f"The encoder is untouched by this training: fingerprint {self.fingerprint}.")


def has_frozen_trunk(network: nn.Module) -> bool:
    """Say whether the network has an encoder of which nothing is trained."""
    encoder = getattr(network, "encoder", None)
    return encoder is not None and not any(weight.requires_grad for weight in encoder.parameters())


def describe_trunk(network: nn.Module, source: str | Path | None = None) -> dict[str, str]:
    """Return what a checkpoint notes of the encoder that it leaves out: its fingerprint, and where it came from.

    Args:
        network: The network.
        source: Name or file of the encoder's weights; of a file only its name is noted.
    """
    name = Path(source).name if source is not None else ""
    return {"fingerprint": trunk_fingerprint(cast(ICMoE, network).encoder), "source": name}
