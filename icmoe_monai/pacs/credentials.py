"""Who asks an archive: a bearer token, or a name and a password, from a file or the environment and nowhere else.

They are never an argument, since a command line is seen by every process of a machine, and never part of a message.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmoe_monai.errors import InputError, in_our_words

TOKEN, USER, PASSWORD = "ICMOE_DICOMWEB_TOKEN", "ICMOE_DICOMWEB_USER", "ICMOE_DICOMWEB_PASSWORD"
_FORM = 'a JSON object {"token": ...} or {"user": ..., "password": ...}'
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can hold
_MOST_BYTES = 1 << 16


class Credentials:
    """Sign requests of `requests`; what is signed with stays hidden.

    Args:
        authorization: Value of the header `Authorization`; "" for none.
    """

    def __init__(self, authorization: str = "") -> None:
        self._authorization = authorization

    @property
    def are_given(self) -> bool:
        """Whether there are any."""
        return bool(self._authorization)

    def __repr__(self) -> str:
        """Tell whether there are any, not which."""
        return "Credentials(hidden)" if self.are_given else "Credentials()"

    def __call__(self, request: Any) -> Any:
        """Sign a prepared request, and return it."""
        if self.are_given:
            request.headers["Authorization"] = self._authorization
        return request


def read_credentials(path: str | Path | None = None) -> Credentials:
    """Read credentials from a file or, if none is given, from the environment.

    The environment has ICMOE_DICOMWEB_TOKEN, or ICMOE_DICOMWEB_USER and ICMOE_DICOMWEB_PASSWORD; without them there are
    no credentials.

    Args:
        path: A JSON file with `token`, or `user` and `password`, which only its owner may read.

    Raises:
        InputError: If others may read the file, or there is neither a token nor a name with a password. The sentence
            repeats nothing of them.
    """
    if path is not None:
        return _made_of(_read(Path(path)), str(path), ("token", "user", "password"))
    return _made_of(os.environ, "The environment", (TOKEN, USER, PASSWORD))


def _read(path: Path) -> Mapping[str, Any]:
    with in_our_words(f"{path} cannot be read as credentials", f"give {_FORM}"), path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"{path} holds credentials, and others may read it: chmod 600 {path}.")
        content = json.loads(file.read(_MOST_BYTES))
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no credentials: give {_FORM}.")
    return content


def _made_of(given: Mapping[str, Any], where: str, names: tuple[str, str, str]) -> Credentials:
    token, user, password = (given.get(name) for name in names)
    if token is None and user is None and password is None and given is os.environ:
        return Credentials()
    if token is not None and user is None and password is None:
        if isinstance(token, str) and _TOKEN.fullmatch(token.strip()):
            return Credentials(f"Bearer {token.strip()}")
        raise InputError(f"{where} holds a {names[0]} that is empty, or has signs that no token has: set it anew.")
    if token is None and isinstance(user, str) and isinstance(password, str) and user and ":" not in user:
        return Credentials(f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    raise InputError(
        f"{where} must hold either {names[0]}, or {names[1]} (without a colon) and {names[2]}, and not some of both."
    )
