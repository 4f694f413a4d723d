"""Helpers for handlers of MONAI's engines: a base class, the cases of an iteration, versions for reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events

from icmoe_monai.version import __version__


class CaseHandler(ABC):
    """Handler (base class): process every case of an evaluator's run, and summarise the cases at the run's end.

    Subclasses are named in a config's list of handlers. Handlers of one event run in the order of that list.
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
        """Forget the cases of an earlier run."""

    @abstractmethod
    def iteration_completed(self, engine: Engine) -> None:
        """Process the cases of one iteration."""

    @abstractmethod
    def completed(self, engine: Engine) -> None:
        """Summarise the cases of the whole run."""


def case_items(engine: Engine) -> list[dict[str, Any]]:
    """Return the cases of a MONAI evaluator's last iteration, each with its input and output entries in one dict.

    Args:
        engine: The evaluator; decollated batches and plain lists of items both work.

    Returns:
        One dict per case; an output entry replaces an input entry of the same name.
    """
    batch: Any = engine.state.batch
    output: Any = engine.state.output
    if not isinstance(batch, list):
        return [dict(item) for item in output]
    return [{**read, **made} for read, made in zip(batch, output, strict=True)]


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on, by name."""
    return {"icmoe_monai": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


def split_items(engine: Engine) -> list[dict[str, Any]]:
    """Return the cases of the last iteration, which must have gone through `SplitVotesd`.

    Raises:
        ValueError: If a case lacks `expert_probabilities`.
    """
    items = case_items(engine)
    if any("expert_probabilities" not in item for item in items):
        raise ValueError(f"The evaluator's postprocessing must hold SplitVotesd, got items of {sorted(items[0])}.")
    return items
