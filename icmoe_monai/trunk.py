"""The frozen parts of a network: load them, know them again, and prove that a training leaves them as they were."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.network import unwrapped
from icmoe_monai.pyramid import ImagePyramid
from icmoe_monai.pyramid_weights import load_pyramid_weights
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


class PretrainedPyramid:
    """Load the image pyramid's weights when an engine starts.

    Args:
        network: The whole network; its `detail` is loaded. A network without a pyramid takes nothing.
        source: The file, as `load_pyramid_weights` takes it.
    """

    def __init__(self, network: nn.Module, source: str | None = None) -> None:
        self.network = network
        self.source = source
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Load at the start of a MONAI engine, before a checkpoint is."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load.

        Raises:
            InputError: If the network has a pyramid and there is no file, or it does not fit.
        """
        pyramid = getattr(unwrapped(self.network), "detail", None)
        if not isinstance(pyramid, ImagePyramid):
            return
        if self.source is None:
            raise InputError("The image pyramid is frozen and has no weights: name its file with --pyramid.")
        load_pyramid_weights(self.source, pyramid)
        self.logger.info(f"Loaded the image pyramid from {self.source}; it stays as it is.")


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


def has_frozen_trunk(network: nn.Module) -> bool:
    """Say whether the network has an encoder of which nothing is trained."""
    return "encoder" in frozen_parts(network)


def frozen_parts(network: nn.Module) -> list[str]:
    """Name the parts that a training leaves as they are: the encoder, and what shows the image's detail.

    Args:
        network: Any network; none if its encoder is trained, for its checkpoints are then whole.
    """
    encoder = getattr(unwrapped(network), "encoder", None)
    return pretrained_parts(network) if encoder is not None and _is_frozen(encoder) else []


def pretrained_parts(network: nn.Module) -> list[str]:
    """Name the parts that a checkpoint of a training on a frozen encoder leaves out, whether this one is frozen or not.

    Args:
        network: A network with an encoder.
    """
    detail = getattr(unwrapped(network), "detail", None)
    return ["encoder", "detail"] if detail is not None and _is_frozen(detail) else ["encoder"]


def fingerprints(network: nn.Module) -> dict[str, str]:
    """Return the fingerprint of every frozen part."""
    return _fingerprints(network, frozen_parts(network))


def describe_trunk(network: nn.Module, source: str | Path | None = None) -> dict[str, str]:
    """Return what a checkpoint notes of the frozen parts that it leaves out: fingerprints, and where they came from.

    Args:
        network: The network.
        source: Name or file of the encoder's weights; of a file only its name is noted.

    Returns:
        The encoder's `fingerprint` and `source`, and the `detail`'s fingerprint where that is frozen too.
    """
    found = _fingerprints(network, pretrained_parts(network))
    return {"fingerprint": found.pop("encoder"), "source": Path(source).name if source is not None else "", **found}


def _fingerprints(network: nn.Module, parts: Iterable[str]) -> dict[str, str]:
    return {name: trunk_fingerprint(getattr(unwrapped(network), name)) for name in parts}


def _is_frozen(part: nn.Module) -> bool:
    weights = list(part.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)
