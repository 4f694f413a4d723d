"""Filter for MONAI's federated clients: send the trained weights, not the encoder that every client has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.fl.utils.exchange_object import ExchangeObject
from monai.fl.utils.filters import Filter

from icmoe_monai.weights.checkpoint import state_without

FROZEN = ("encoder", "detail")  # parts of the network that every client has from the same file


class TrainedWeights(Filter):
    """Remove the frozen parts from the weights, or weight differences, that a client sends.

    Example:
        >>> sent = TrainedWeights()(ExchangeObject(weights={"encoder.a": 1, "gate.b": 2}))
        >>> sent.weights
        {'gate.b': 2}
    """

    def __call__(self, data: ExchangeObject, extra: Mapping[str, Any] | None = None) -> ExchangeObject:
        """Remove the frozen parts from what a client sends.

        Args:
            data: Weights by name that the client would send; changed in place.
            extra: Not used.

        Returns:
            The same object.
        """
        if data.weights is not None:
            data.weights = state_without(FROZEN, data.weights)
        return data
