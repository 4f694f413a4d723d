"""An end to asking an archive that fails time after time, since each request has waits of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from icmoe_monai.pacs.errors import TransferError

_MOST = 3
_OF_THE_WHOLE = ("unreachable", "timed_out", "busy", "not_trusted", "no_access")
_T = TypeVar("_T")


class Patience:
    """Pass requests on, until three in a row have failed by a fault that is not the single request's.

    Example:
        >>> patience = Patience()
        >>> def fail():
        ...     print("asked")
        ...     raise TransferError("It is too busy.", code="busy")
        >>> for _ in range(4):
        ...     try:
        ...         patience.ask(fail)
        ...     except TransferError as error:
        ...         print(error)
        asked
        It is too busy.
        asked
        It is too busy.
        asked
        It is too busy.
        It is too busy. It was not asked again.
    """

    def __init__(self) -> None:
        self._failures: list[TransferError] = []

    def ask(self, request: Callable[[], _T]) -> _T:
        """Return what a request returns.

        Args:
            request: Asks the archive.

        Raises:
            TransferError: If it fails, or the last three have.
        """
        if len(self._failures) >= _MOST:
            last = self._failures[-1]
            raise TransferError(f"{last} It was not asked again.", code=last.code)
        try:
            answer = request()
        except TransferError as error:
            self._failures = [*self._failures, error] if error.code in _OF_THE_WHOLE else []
            raise
        self._failures = []
        return answer
