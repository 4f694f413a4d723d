"""A connection to an archive's DICOMweb services: its requests are signed, bounded in time, and made again.

What fails is told by a `TransferError`, whose sentence names the archive's host and no more: no UID, no path, no
credentials, no text of an answer or a library's exception, which may hold any of these.
"""

from __future__ import annotations

import hashlib
import logging
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.pacs.credentials import Credentials
from icmoe_monai.pacs.errors import TransferError
from icmoe_monai.utils.logs import silenced

LONGEST_WAIT = 120.0  # seconds; an archive that asks for more is left for the next run
_CONNECT_SECONDS = 10.0
_ON_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# what these log holds UIDs and paths
_LIBRARIES = ("dicomweb_client", "retrying", "urllib3", "requests")
_ADDRESS = "--dicomweb, or the url of a node's peer,"
_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Connection:
    """Make requests of an archive by dicomweb-client.

    Args:
        url: Root of the archive's DICOMweb services.
        credentials: Who asks.
        ca: File with certificates of authorities; None for those that the system, or `REQUESTS_CA_BUNDLE`, trusts.
        timeout: Seconds that the archive may be silent.
        retries: How many times a request is made again that a passing fault has ended.

    Attributes:
        client: The library's client, whose methods `ask` calls.
        host: The archive's name and port.
        digest: A name of the archive that does not tell which it is.

    Raises:
        InputError: If the URL is none, or holds a name, password, query or fragment; there is no such file of
            certificates; or the extra `pacs` is not installed.
    """

    def __init__(
        self, url: str, *, credentials: Credentials, ca: str | Path | None, timeout: float, retries: int
    ) -> None:
        parts = _checked(url)
        url = url.rstrip("/")
        self.host = parts.netloc
        self.digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.retries = retries
        if ca is not None and not Path(ca).is_file():
            raise InputError(f"{ca} is no file of certificates: correct the path.")
        if credentials.are_given and parts.scheme == "http" and parts.hostname not in _ON_THIS_MACHINE:
            _logger.warning("The archive is asked without encryption, and others may read the credentials: use https.")
        with silenced(*_LIBRARIES):
            session = _session(credentials, ca)
            weakref.finalize(self, session.close)
            self.client = _client(url, session, (min(_CONNECT_SECONDS, timeout), timeout))

    def ask(self, request: Callable[[], _T]) -> _T:
        """Return what a request returns; make it again where its failure may pass.

        Args:
            request: Calls the client.

        Raises:
            TransferError: In the place of whatever the request raised last.
        """
        for number in range(self.retries + 1):
            try:
                with silenced(*_LIBRARIES):
                    return request()
            except MemoryError:
                raise
            except Exception as error:  # an answer makes libraries raise nearly anything
                failure = self._failure(error)
            if not failure.is_passing or failure.wait > LONGEST_WAIT or number == self.retries:
                break
            time.sleep(max(failure.wait, min(2.0**number, LONGEST_WAIT)))
        raise failure  # outside of the except, so that the library's exception is not even its context

    def failure(self, code: str, told: str, *, is_passing: bool = False, wait: float = 0.0) -> TransferError:
        """Return an error that names the archive.

        Args:
            code: One of `REASONS`.
            told: Sentence that goes on from the archive's name, without a full stop.
            is_passing: Whether the same request may succeed later.
            wait: Seconds after which the archive asks to come back.
        """
        return TransferError(f"The archive {self.host} {told}.", code=code, is_passing=is_passing, wait=wait)

    def _failure(self, error: Exception) -> TransferError:
        from requests import exceptions as kinds

        if isinstance(error, TransferError):
            return error
        if isinstance(error, kinds.HTTPError) and error.response is not None:
            return self._refusal(error.response)
        if isinstance(error, kinds.TooManyRedirects):
            return self.failure("bad_answer", "sends on to another address: give that one, if you trust it")
        if isinstance(error, kinds.SSLError):
            remedy = "give the certificate of its authority by --ca FILE, and its name as the certificate has it"
            return self.failure("not_trusted", f"has a certificate that is not trusted, or no TLS: {remedy}")
        if isinstance(error, kinds.Timeout):
            return self.failure("timed_out", "did not answer in time: try again later", is_passing=True)
        if isinstance(error, (kinds.ConnectionError, kinds.ChunkedEncodingError)):
            told = "cannot be reached, or breaks the connection: look at the address and the network"
            return self.failure("unreachable", told, is_passing=True)
        told = f"gives an answer that cannot be used ({kind_of(error)}): try again, or ask those who run it"
        return self.failure("bad_answer", told)

    def _refusal(self, response: Any) -> TransferError:
        """Return what an HTTP status says."""
        status = response.status_code
        if status in (401, 403):
            is_signed = "Authorization" in response.request.headers
            told = "refuses these credentials" if is_signed else "asks for credentials"
            return self.failure("no_access", f"{told} (status {status}): docs/pacs.md says how to give them")
        if status in (404, 410):
            told = f"has no such study, series or instance (status {status}): look at the UIDs and the address"
            return self.failure("not_found", told)
        if status in (408, 429, 503):
            wait = _seconds(response.headers.get("Retry-After"))
            asked = f", and asks to come back in {wait:.0f} s" if wait else ""
            told = f"is too busy (status {status}){asked}: try again later"
            return self.failure("busy", told, is_passing=True, wait=wait)
        if status == 409:
            return ConflictError(response)
        told = f"answers with status {status}: ask those who run it"
        return self.failure("archive_error", told, is_passing=status in (502, 504))


class ConflictError(TransferError):
    """Signal that a request was rejected as a whole, by an answer that may tell why.

    Args:
        response: The answer; None in a copy of the error.
    """

    def __init__(self, response: Any = None) -> None:
        super().__init__("The archive rejects the request (status 409): ask those who run it.", code="rejected")
        self.response = response


def _checked(url: str) -> SplitResult:
    parts = None
    with suppress(ValueError):
        split = urlsplit(str(url))
        _ = split.port  # raises, if it is no number
        parts = split
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{_ADDRESS} must be the https:// or http:// address of an archive's DICOMweb services.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"{_ADDRESS} must be an address without a name, password or question mark in it, since a command line or "
            "config is no place for secrets: docs/pacs.md says how to give credentials."
        )
    return parts


def _session(credentials: Credentials, ca: str | Path | None) -> Any:
    try:
        import dicomweb_client  # noqa: F401 (here the extra is missed)
        import requests
    except ImportError as error:
        missing = error.name
        raise InputError(
            f"DICOMweb needs {missing}, which is not installed: pip install 'icmoe-monai[pacs]'."
        ) from error

    class Session(requests.Session):
        def merge_environment_settings(  # the file that is given goes before that of the environment
            self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
        ) -> dict:
            given = self.verify if verify is None and self.verify is not True else verify
            return dict(super().merge_environment_settings(url, proxies, stream, given, cert))

    session = Session()
    session.auth = partial(_prepare, credentials)  # also if there are none, so that no ~/.netrc is asked
    session.max_redirects = 0  # patients' data go to the address that was given, and to no other
    session.headers["Accept"] = "application/dicom+json"
    if ca is not None:
        session.verify = str(ca)
    return session


def _prepare(credentials: Credentials, request: Any) -> Any:
    """Sign a prepared request, and mend what dicomweb-client makes of it."""
    request.headers.pop("Host", None)  # without its port, and only the begin of a number of IPv6
    if isinstance(request.body, bytes):  # sent as one piece, which would have to be through within one timeout
        request.body = BytesIO(request.body)
    return credentials(request)


def _client(url: str, session: Any, timeout: tuple[float, float]) -> Any:
    from dicomweb_client import DICOMwebClient

    client = DICOMwebClient(url, session=session, callback=_read_whole, permissive_uid=True, timeout=timeout)
    # its own retries take no notice of Retry-After, and send a large body the second time from where the first ended
    client.set_http_retry_params(retry=False)
    client.set_chunk_size(1 << 40)  # bytes and no stream, which would need a server that takes chunks
    return client


def _read_whole(response: Any, *_: Any, **__: Any) -> None:
    """Read an answer to its end, and raise if its last boundary is missing, of which the library takes no notice."""
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    boundary = header.get_param("boundary")
    content = response.content
    if header.get_content_type() == "multipart/related" and isinstance(boundary, str):
        end = f"--{boundary}--".encode()
        if end not in content[-len(end) - 1024 :]:
            raise TransferError("The archive's answer is cut short: try again.", code="bad_answer", is_passing=True)


def _seconds(retry_after: str | None) -> float:
    """Return how long an archive asks to wait, 0 if it does not, or not in words that are understood."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    with suppress(InvalidHeader, ValueError, OverflowError):
        return float(Retry().parse_retry_after(retry_after)) if retry_after else 0.0
    return 0.0
