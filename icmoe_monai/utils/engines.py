"""What handlers of MONAI's engines share: the cases of an iteration, and the versions that a report notes."""

from __future__ import annotations

from typing import Any

import monai
import torch
from ignite.engine import Engine

from icmoe_monai.version import __version__


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
