"""Federated training: what a client of MONAI's sends is what it trained, not the encoder that everybody has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.fl.utils.exchange_object import ExchangeObject
from monai.fl.utils.filters import Filter

from icmoe_monai.weights.checkpoint import state_without

FROZEN = ("encoder", "detail")


class TrainedWeights(Filter):
    """Leave the frozen parts out of the weights, or of their differences, that a client sends.

    Args:
        frozen: Names of the network's parts that every client has from the same file.

    Example:
        >>> sent = TrainedWeights()(ExchangeObject(weights={"encoder.a": 1, "gate.b": 2}))
        >>> sent.weights
        {'gate.b': 2}
    """

    def __init__(self, *, frozen: Sequence[str] = FROZEN) -> None:
        self.frozen = frozen

    def __call__(self, data: ExchangeObject, extra: Mapping[str, Any] | None = None) -> ExchangeObject:
        """Filter what is sent.

        Args:
            data: What the client would send.
            extra: Not used.

        Returns:
            The same object.
        """
        if data.weights is not None:
            data.weights = state_without(self.frozen, data.weights)
        return data
