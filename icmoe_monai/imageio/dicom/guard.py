"""pydicom kept silent: no tag's value gets into a message, a warning or a log, since it may identify a patient."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.utils.logs import silenced

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Python's warning filters belong to the whole process
_ONE_AT_A_TIME = threading.RLock()


def guarded(read: _Function) -> _Function:
    """Turn all that a damaged file makes pydicom raise into an `InputError` without its text.

    Args:
        read: A function of a path and more, or a method of what has a `path`.
    """

    @functools.wraps(read)
    def wrapped(first: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with silence():
                return read(first, *args, **kwargs)
        except InputError:
            raise
        except Exception:
            pass
        path = first if isinstance(first, str) else first.path
        # outside of the except, so that the text, which may hold a tag's value, is not even this error's context
        raise InputError(
            f"{path} is damaged, or no DICOM image that pydicom can read: copy it again or remove it.", code="damaged"
        )

    return cast(_Function, wrapped)


@contextmanager
def silence() -> Iterator[None]:
    """Silence pydicom and highdicom, whose warnings and logs may hold values of tags."""
    with (
        _ONE_AT_A_TIME,
        silenced("pydicom", "highdicom"),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield
