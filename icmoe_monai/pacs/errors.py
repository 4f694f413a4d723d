"""What goes wrong between this machine and an archive, told without what is secret or identifies a patient."""

from __future__ import annotations

from icmoe_monai.errors import InputError


class TransferError(InputError):
    """Signal that an archive could not be asked, or did not give or take what it was to.

    Args:
        message: The sentence.
        code: One of `REASONS`.
        is_passing: Whether the same request may succeed later.
        wait: Seconds after which the archive asks to come back.
    """

    code = "archive_error"

    def __init__(
        self, message: str = "", *, code: str | None = None, is_passing: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(message, code=code)
        self.is_passing = is_passing
        self.wait = wait
