"""Digest of a chain of MONAI transforms, by which its results are distinguished from those of another chain.

MONAI's own hash of transforms pickles them, and their pickle holds random states that differ from run to run.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import os
import time
from collections.abc import Mapping
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LIBRARIES = ("monai", "icmoe_monai", "torch", "numpy", "scipy", "builtins", "copyreg", "functools", "collections")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic, np.dtype)


def digest_transform(transform: Any) -> str:
    """Return a SHA-256, hexadecimal, of a transform's class and settings, and of the objects that it holds.

    Random states are left out. If the transform holds an object that its values do not describe, the digest differs in
    every process, so that a result is never mistaken for that of another transform.

    Args:
        transform: Any object, before its first use: some transforms store in themselves what they did last.

    Example:
        >>> from monai.transforms import Compose, RandFlipd
        >>> one, same, other = (Compose([RandFlipd("image", prob=prob)]) for prob in (0.5, 0.5, 0.2))
        >>> digest_transform(one) == digest_transform(same), digest_transform(one) == digest_transform(other)
        (True, False)
    """
    return hashlib.sha256(repr(_describe(transform, ())).encode()).hexdigest()


def _describe(value: Any, above: tuple[int, ...]) -> Any:
    """Describe an object by nested tuples of names and plain values.

    Args:
        value: The object.
        above: Identities of the objects that hold it.
    """
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, np.random.RandomState) or id(value) in above:
        return type(value).__name__
    above = (*above, id(value))
    if isinstance(value, Enum):
        return type(value).__qualname__, value.name
    if isinstance(value, (list, tuple)):
        return type(value).__name__, *(_describe(item, above) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, *sorted(repr(_describe(item, above)) for item in value)
    if isinstance(value, Mapping):
        return "mapping", *((repr(key), _describe(item, above)) for key, item in value.items())
    if isinstance(value, (Tensor, np.ndarray)):
        array = np.ascontiguousarray(torch.as_tensor(value).detach().cpu().numpy())
        return "array", str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _describe_code(value, above)
    try:
        return _describe(value.__reduce_ex__(4), above)  # class and state, as pickle takes them apart
    except TypeError:
        return repr(value)


def _describe_code(value: Any, above: tuple[int, ...]) -> Any:
    """Describe a class or function: by its name if it is of a library whose version is known, else by its code."""
    module, named = getattr(value, "__module__", None) or "", value.__qualname__
    code, owner = getattr(value, "__code__", None), getattr(value, "__self__", None)
    is_of_library = module.split(".")[0] in _LIBRARIES and "<" not in named
    if is_of_library and (owner is None or isinstance(owner, ModuleType)):
        return module, named
    if isinstance(value, type):
        try:
            return module, named, inspect.getsource(value)
        except (OSError, TypeError):
            return repr(value), id(value), os.getpid(), time.time_ns()
    cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    held = [getattr(value, name, None) for name in ("__defaults__", "__kwdefaults__")]
    if code is None or set(code.co_names) & set(getattr(value, "__globals__", {})) - set(dir(builtins)):
        return repr(value), os.getpid(), time.time_ns()  # its result depends on values outside its code
    said = code.co_code, repr(code.co_consts), code.co_names
    return module, named, said, *(_describe(part, above) for part in (owner, cells, held))
