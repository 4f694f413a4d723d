"""The receiving side of a node: it takes images from the callers that it knows, and answers once they are safe.

An image is on the disk, whole, and its study in the queue before the sender is told that it is stored. Files and
folders are called by digests. What is no image to segment, such as a report or a segmentation, is taken and not kept:
refusing it would fail the sender's whole study, and this node is no archive.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import sqlite3
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import AllTransferSyntaxes, UID_dictionary
from pynetdicom import AE, AllStoragePresentationContexts, evt, register_uid
from pynetdicom.events import Event
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import ThreadedAssociationServer

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.imageio.dicom.decoders import is_known
from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.imageio.image_file import NotAnImageError
from icmoe_monai.imageio.read import open_image
from icmoe_monai.inference.segmentations import PROGRAM
from icmoe_monai.pacs.node.config import NodeConfig, Tls
from icmoe_monai.pacs.node.metrics import Metrics, free_bytes
from icmoe_monai.pacs.node.queue import Queue
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.utils.logs import fields

RECEIVED = "received"
# PS3.4, B.2.3, and PS3.8, 9.3.4
STORED, NO_SPACE, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
_REJECTED_FOREVER, _BY_USER, _CALLER_UNKNOWN = 1, 1, 3
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_VERIFICATION = "1.2.840.10008.1.1"
_SYNTAXES = [syntax for syntax in AllTransferSyntaxes if is_known(syntax)]
_OF_STORAGE = "1.2.840.10008.5.1.4.1.1."  # how the UIDs of the storage classes of objects with a patient begin
_logger = logging.getLogger(__name__)


class Receiver:
    """Take studies over DICOM.

    Args:
        config: The node's config.
        folder: Folder of the node.
        queue: Where studies are noted.
        metrics: Where they are counted.
    """

    def __init__(self, config: NodeConfig, folder: Path, queue: Queue, metrics: Metrics) -> None:
        self._config = config
        self._folder = folder / RECEIVED
        self._queue = queue
        self._metrics = metrics
        self._one_at_a_time = [threading.Lock() for _ in range(16)]  # for each first digit of a study
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen.

        Raises:
            InputError: If the address cannot be listened at, or a file of TLS cannot be used.
        """
        config = self._config
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        node = AE(ae_title=config.ae)
        node.require_called_aet = True
        node.require_calling_aet = [caller.ae for caller in config.callers]
        node.maximum_associations = config.most_associations
        node.acse_timeout = node.dimse_timeout = node.network_timeout = config.timeout_seconds
        node.add_supported_context(_VERIFICATION)
        for storage_class in _storage_classes():
            node.add_supported_context(storage_class, _SYNTAXES)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_C_ECHO, lambda event: STORED),
            (evt.EVT_C_STORE, self._store),
        ]
        context_of_tls = None if config.tls is None else tls_context(config.tls, ssl.Purpose.CLIENT_AUTH)
        try:
            self._server = node.make_server(
                (config.bind, config.port),
                config.ae,
                ssl_context=context_of_tls,
                evt_handlers=handlers,
                server_class=_Server,
                is_known=self._is_known,
                timeout=config.timeout_seconds,
            )
        except OSError as error:
            raise InputError(
                f"Port {config.port} of {config.bind} cannot be listened at ({kind_of(error)}): give another, or stop "
                "what listens there."
            ) from None
        node._servers.append(self._server)  # which `shutdown` of pynetdicom's servers takes out
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="receiver", daemon=True)
        self._thread.start()

    @property
    def is_listening(self) -> bool:
        """Whether new associations are taken."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Take no new association, and end those that there are; what is not answered yet will be sent again."""
        if self._server is None:
            return
        running = self._server.active_associations
        self._server.shutdown()
        for association in running:
            with suppress(Exception):  # one that ends just now
                association.abort(block=False)
        for association in running:
            association.join(1.0)
        self._server.close_connections()
        self._server = None

    def _is_known(self, address: str) -> bool:
        """Return whether any caller may call from an address; else the connection is closed before a byte is read."""
        if any(ipaddress.ip_address(address) in caller.network for caller in self._config.callers):
            return True
        self._metrics.associations.labels("refused_address").inc()
        _logger.warning("A connection from %s was refused: no caller has this address.", address)
        return False

    def _requested(self, event: Event) -> None:
        """Refuse an AE title that calls from the address of another."""
        request: Any = event.assoc.requestor
        title, address = request.primitive.calling_ae_title.strip(), _plain_address(request.address)
        callers = [caller for caller in self._config.callers if caller.ae == title]
        if callers and not any(ipaddress.ip_address(address) in caller.network for caller in callers):
            event.assoc.acse.send_reject(_REJECTED_FOREVER, _BY_USER, _CALLER_UNKNOWN)
            self._rejected(event)
            event.assoc.kill()

    def _accepted(self, event: Event) -> None:
        self._metrics.associations.labels("accepted").inc()

    def _rejected(self, event: Event) -> None:
        self._metrics.associations.labels("refused").inc()
        _logger.warning(
            "An association from %s was refused: its AE titles or its address are not those of a caller, or there are "
            "too many associations.",
            _plain_address(event.assoc.requestor.address),
        )

    def _aborted(self, event: Event) -> None:
        self._metrics.associations.labels("aborted").inc()

    def _store(self, event: Event) -> int:
        """Answer a C-STORE with a status."""
        try:
            outcome, status = self._keep(event)
        except Exception as error:  # whatever a sender has sent, it gets an answer
            _logger.error("An instance could not be taken (%s).", kind_of(error))
            outcome, status = "refused", NOT_UNDERSTOOD
        self._metrics.instances.labels(outcome).inc()
        return status

    def _keep(self, event: Event) -> tuple[str, int]:
        """Keep an instance that is an image, and return the outcome and the status."""
        data = event.encoded_dataset()
        request: Any = event.request
        header = _header_of(data)
        if header is None:
            return "refused", NOT_UNDERSTOOD
        study_uid, instance_uid, description = header
        if instance_uid != str(request.AffectedSOPInstanceUID).strip("\0 "):
            return "refused", MISMATCH
        if description.startswith(PROGRAM):  # a picture that this program has made, come back with its study
            return "ignored", STORED
        study = self._queue.digest(study_uid)
        try:
            with self._one_at_a_time[int(study[0], 16)]:
                return self._add(study, self._folder / study / f"{self._queue.digest(instance_uid)}.dcm", data)
        except NotAnImageError:
            return "ignored", STORED
        except (InputError, OSError, sqlite3.OperationalError) as error:
            return self._refuse(error)

    def _add(self, study: str, path: Path, data: bytes) -> tuple[str, int]:
        """Write an image and note its study; neither is done without the other."""
        if path.exists() and self._queue.state_of(study)[0]:
            return "known", STORED
        if free_bytes(self._folder) - len(data) < self._config.reserve:
            raise OSError(errno.ENOSPC, "below the reserve")
        write_atomically(path, lambda temporary: _write_image(temporary, data), durable=True)
        try:
            self._queue.receive(study)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return "stored", STORED

    def _refuse(self, error: Exception) -> tuple[str, int]:
        cause = error if isinstance(error, OSError) else error.__cause__
        is_full = isinstance(cause, OSError) and cause.errno in _OF_THE_DISK
        _logger.error(
            "An instance was refused: %s.",
            "the disk is full, or has less than the reserve" if is_full else kind_of(cause or error),
            extra=fields(reason="disk_full" if is_full else "not_written"),
        )
        return "refused_disk", NO_SPACE


def tls_context(tls: Tls, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a context of TLS in which both sides show a certificate.

    Args:
        tls: The files.
        purpose: CLIENT_AUTH of a node that is called, SERVER_AUTH of one that calls.

    Raises:
        InputError: If a file cannot be used.
    """
    try:
        context = ssl.create_default_context(purpose, cafile=tls.authority)
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"The certificates of TLS cannot be used ({kind_of(error)}): correct the config.") from None
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Server(ThreadedAssociationServer):
    """A server that closes connections from unknown addresses, and waits for none for ever.

    Args:
        arguments: Arguments of pynetdicom's server.
        is_known: Whether a connection may come from an address.
        timeout: How many seconds a connection may be silent.
        named: Further arguments of pynetdicom's server.
    """

    daemon_threads = True

    def __init__(self, *arguments: Any, is_known: Callable[[str], bool], timeout: float, **named: Any) -> None:
        self._is_known = is_known
        self._seconds = timeout
        self._connections: Counter[socket.socket] = Counter()
        super().__init__(*arguments, **named)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Return a connection; of TLS, the handshake comes later, in the connection's own thread."""
        listening: Any = self.socket
        connection, address = listening.accept()
        connection.settimeout(self._seconds)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection may stay."""
        is_known = self._is_known(_plain_address(client_address[0]))
        if is_known:
            self._connections[request] += 1
        return is_known

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close what is still open, so that no thread waits for it."""
        for connection in list(self._connections):
            self.shutdown_request(connection)


def _storage_classes() -> list[str]:
    """Return all storage classes, and make known to pynetdicom those it leaves out: retired ones, of old images."""
    found = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    for uid, (name, kind, _, _, keyword) in UID_dictionary.items():
        if uid.startswith(_OF_STORAGE) and kind == "SOP Class" and "Storage" in name and uid not in found:
            register_uid(uid, keyword, StorageServiceClass)
            found.append(uid)
    return found


def _plain_address(address: str) -> str:
    """Return an address of IPv4 as one, also where a socket of IPv6 has taken its call; without a zone."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _header_of(data: bytes) -> tuple[str, str, str] | None:
    """Return the UIDs of study and instance that a file's content tells, and the series' description; or None."""
    keywords = ["StudyInstanceUID", "SOPInstanceUID", "SeriesDescription"]
    with suppress(Exception), silence():  # damaged bytes make pydicom raise nearly anything
        header = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=keywords)
        study, instance, description = (str(header.get(keyword) or "") for keyword in keywords)
        if study and instance:
            return study, instance, description
    return None


def _write_image(path: Path, data: bytes) -> None:
    """Write a file, and look whether it is an image.

    Raises:
        NotAnImageError: It is sound, and none. What is damaged passes: the study's report tells of it.
    """
    path.write_bytes(data)
    try:
        open_image(str(path)).close()
    except NotAnImageError:
        raise
    except InputError:
        pass
