"""A look at a training set before anything is trained: what it holds, what is wrong with it, how to train on it.

May import all rooms below it.
"""

from __future__ import annotations

from icmoe_monai.planning.plan import make_plan

__all__ = [
    "make_plan",
]
