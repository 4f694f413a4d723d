"""The sending side of a node: a result goes to a peer once, by C-STORE or by STOW-RS.

A peer that answers questions (C-FIND, QIDO-RS) is asked first whether it has the object already: a process that was
killed between sending and noting it sends nothing twice. To any other peer the same object is sent again, by its UID.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.pacs.credentials import read_credentials
from icmoe_monai.pacs.errors import TransferError
from icmoe_monai.pacs.node.config import DicomPeer, WebPeer
from icmoe_monai.pacs.node.receive import STORED, tls_context
from icmoe_monai.pacs.web import DICOMweb

# of the model Study Root (PS3.4, C.4.1)
_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
SENT, THERE = "sent", "there"
_WARNINGS = (0xB000, 0xB006, 0xB007)  # stored, with something to remark (PS3.4, B.2.3)
_PENDING = (0xFF00, 0xFF01)


class NotSentError(Exception):
    """Signal that a result is not at its peer, or may not be.

    Args:
        reason: Why, in a word, for logs and metrics.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Sender(Protocol):
    """What sends results to one peer."""

    def send(self, path: Path) -> str:
        """Send a file, and return `SENT`, or `THERE` if the peer had it already.

        Args:
            path: The file.

        Raises:
            NotSentError: It is not there, or not for sure.
        """


def make_sender(peer: DicomPeer | WebPeer, *, ae: str, timeout: float) -> Sender:
    """Return what sends to a peer.

    Args:
        peer: The peer.
        ae: AE title of this node.
        timeout: How many seconds the peer may be silent.

    Raises:
        InputError: If a file of credentials or certificates cannot be used.
    """
    if isinstance(peer, DicomPeer):
        return DicomSender(peer, ae=ae, timeout=timeout)
    return WebSender(peer, timeout=timeout)


class DicomSender:
    """Send by C-STORE.

    Args:
        peer: The peer.
        ae: AE title of this node.
        timeout: How many seconds the peer may be silent.

    Raises:
        InputError: If a certificate cannot be used.
    """

    def __init__(self, peer: DicomPeer, *, ae: str, timeout: float) -> None:
        self._peer = peer
        self._ae = ae
        self._timeout = timeout
        self._tls = None if peer.tls is None else tls_context(peer.tls, ssl.Purpose.SERVER_AUTH)
        self._may_ask = True

    def send(self, path: Path) -> str:
        """Send a file, and return `SENT`, or `THERE` if the peer had it already.

        Args:
            path: The file.

        Raises:
            NotSentError: It is not there, or not for sure.
        """
        dataset = _read(path)
        association = self._associate(dataset)
        try:
            if self._has(association, dataset):
                return THERE
            return self._store(association, dataset)
        finally:
            if association.is_established:
                association.release()

    def _associate(self, dataset: Dataset) -> Association:
        node = AE(ae_title=self._ae)
        node.connection_timeout = node.acse_timeout = node.dimse_timeout = node.network_timeout = self._timeout
        syntax = dataset.file_meta.TransferSyntaxUID
        plain = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        node.add_requested_context(dataset.SOPClassUID, plain if syntax in plain else [syntax])
        if self._may_ask:
            node.add_requested_context(_FIND)
        options: dict[str, Any] = {} if self._tls is None else {"tls_args": (self._tls, self._peer.host)}
        association = node.associate(self._peer.host, self._peer.port, ae_title=self._peer.ae, **options)
        if not association.is_established:
            raise NotSentError("association_refused" if association.is_rejected else "unreachable")
        return association

    def _has(self, association: Association, dataset: Dataset) -> bool:
        """Return whether the peer says that it has an object; not if it does not answer such questions."""
        if not any(context.abstract_syntax == _FIND for context in association.accepted_contexts):
            return False
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "IMAGE"
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(wanted, keyword, dataset[keyword].value)
        found = False
        for status, answer in association.send_c_find(wanted, _FIND):
            if status.get("Status") in _PENDING and answer is not None:
                found = found or answer.get("SOPInstanceUID") == dataset.SOPInstanceUID
        if not association.is_established:
            self._may_ask = False  # it accepts the question, and cannot bear it
            raise NotSentError("aborted")
        return found

    def _store(self, association: Association, dataset: Dataset) -> str:
        try:
            answer = association.send_c_store(dataset)
        except ValueError:  # the peer takes no such object, or not in this transfer syntax
            raise NotSentError("kind_refused") from None
        status = answer.get("Status")
        if status is None:
            raise NotSentError("aborted")
        if status == STORED or status in _WARNINGS:
            return SENT
        raise NotSentError(f"status_{status:04X}")


class WebSender:
    """Send by STOW-RS; a fault that may pass is left to the queue, which tries again.

    Args:
        peer: The peer.
        timeout: How many seconds the peer may be silent.

    Raises:
        InputError: If the credentials or certificates cannot be used.
    """

    def __init__(self, peer: WebPeer, *, timeout: float) -> None:
        credentials = read_credentials(peer.credentials)
        self._archive = DICOMweb(peer.url, credentials=credentials, ca=peer.ca, timeout=timeout, retries=0)

    def send(self, path: Path) -> str:
        """Send a file that the peer has not, and return `SENT`.

        Args:
            path: The file.

        Raises:
            NotSentError: It is not there, or not for sure.
        """
        if not path.is_file():
            raise NotSentError("file_missing")
        try:
            self._archive.store(path)
        except TransferError as error:
            raise NotSentError(error.code) from None
        return SENT


def _read(path: Path) -> Dataset:
    try:
        with silence():
            return dcmread(path)
    except OSError:
        raise NotSentError("file_missing") from None
