"""What handlers of MONAI's engines share: when they act, an iteration's cases, versions for reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events

from icmoe_monai.version import __version__


class CaseHandler(ABC):
    """Handler: look at every case of an evaluator's run, and say at its end what they amount to.

    What derives from it stands in a config's list of handlers. Handlers of one event run in the order of that list.
    """

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: Evaluator whose output is decollated.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.completed)

    @abstractmethod
    def started(self, engine: Engine) -> None:
        """Forget the cases of the run before."""

    @abstractmethod
    def iteration_completed(self, engine: Engine) -> None:
        """Look at the cases of one iteration."""

    @abstractmethod
    def completed(self, engine: Engine) -> None:
        """Say what the cases amount to."""


def case_items(engine: Engine) -> list[dict[str, Any]]:
    """Return the cases of the last iteration of a MONAI evaluator, what was read and what was made of it together.

    Args:
        engine: The evaluator; decollated batches and plain lists of items both work.

    Returns:
        One dict per case.
    """
    batch: Any = engine.state.batch
    output: Any = engine.state.output
    if not isinstance(batch, list):
        return [dict(item) for item in output]
    return [{**read, **made} for read, made in zip(batch, output, strict=True)]


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"icmoe_monai": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


def split_items(engine: Engine) -> list[dict[str, Any]]:
    """Return the cases of the last iteration, which must have gone through `SplitVotesd`."""
    items = case_items(engine)
    if any("expert_probabilities" not in item for item in items):
        raise ValueError(f"The evaluator's postprocessing must hold SplitVotesd, got items of {sorted(items[0])}.")
    return items
