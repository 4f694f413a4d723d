"""A small archive with DICOMweb on loopback, which can be told to misbehave, and remembers what it was asked."""

from __future__ import annotations

import json
import shutil
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom import Dataset, dcmread

_BOUNDARY = b"part-of-a-test"
_OF_STUDIES = ("StudyInstanceUID", "StudyDate", "PatientName", "PatientID")
_OF_SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription")
_OF_INSTANCES = ("SOPInstanceUID", "SOPClassUID")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


class Server(ThreadingHTTPServer):
    """An archive.

    Attributes:
        instances: Its files by the UID of the instance.
        asked: Method and path of every request, in order.
        headers: The headers of every request.
        faults: What the next requests of a kind meet in the place of an answer: "find", "retrieve" or "store", and a
            list of "reset", "stall", "cut", "short", "other", a status, a status with headers, or a status with a body.
        authorization: Value of the header without which nobody is answered.
        seconds_per_mb: How slowly it reads what it is sent.
        kill_at: A kind of request, how many of it there are to be, and the process that is then killed: before it is
            answered, but a "store" once it is done.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.instances: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: dict[str, list[Any]] = {"find": [], "retrieve": [], "store": []}
        self.authorization: str | None = None
        self.seconds_per_mb = 0.0
        self.kill_at: tuple[str, int, Any] | None = None
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/dicom-web"

    def add(self, path: str | Path) -> Dataset:
        """Store a file, and return what it holds."""
        dataset = dcmread(path)
        self.instances[str(dataset.SOPInstanceUID)] = Path(path).read_bytes()
        return dataset

    def num_asked(self, method: str, part: str = "") -> int:
        return sum(one == method and part in path for one, path in self.asked)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("retrieve" if "/instances/" in self.path else "find")

    def do_POST(self) -> None:
        self._answer("store")

    def _answer(self, kind: str) -> None:
        body = b""
        while len(body) < int(self.headers.get("Content-Length", 0)):
            body += self.rfile.read(min(1 << 20, int(self.headers["Content-Length"]) - len(body)))
            time.sleep(self.server.seconds_per_mb)
        self.server.asked.append((self.command, self.path))
        self.server.headers.append(dict(self.headers))
        if self.server.authorization not in (None, self.headers.get("Authorization")):
            self._send(401, b"Patient Miller is none of your business")
            return
        killed = self._killed_by(kind)
        if killed is not None:
            if kind == "store":
                self._keep(body)
            killed.kill()
            self.close_connection = True
            return
        fault = self.server.faults[kind].pop(0) if self.server.faults[kind] else None
        if fault == "reset":
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif fault == "stall":
            time.sleep(3)
            self.close_connection = True
        elif isinstance(fault, int):
            self._send(fault, b"Patient Miller")
        elif isinstance(fault, tuple):
            status, more = fault
            is_body = isinstance(more, bytes)
            self._send(status, more if is_body else b"Patient Miller", headers={} if is_body else more)
        else:
            {"find": self._find, "retrieve": self._retrieve, "store": self._store}[kind](body, fault)

    def _find(self, _: bytes, __: Any) -> None:
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        parts = address.path.split("/")[2:]  # /dicom-web/studies/UID/series/UID/instances
        keys = {1: _OF_STUDIES, 3: _OF_SERIES, 5: _OF_INSTANCES}[len(parts)]
        wanted = dict(zip(("StudyInstanceUID", "SeriesInstanceUID"), parts[1::2], strict=False))
        wanted |= {key: asked[key] for key in ("Modality", "SeriesInstanceUID", "SOPInstanceUID") if key in asked}
        found: dict[str, dict] = {}
        for content in self.server.instances.values():
            dataset = dcmread(BytesIO(content), stop_before_pixels=True)
            if all(dataset.get(key) == value for key, value in wanted.items()) and _is_of(dataset, asked):
                told = Dataset()
                for key in keys:
                    if key in dataset:
                        setattr(told, key, dataset[key].value)
                found[str(dataset[keys[0]].value)] = told.to_json_dict()
        first = int(asked.get("offset", 0))
        page = list(found.values())[first : first + int(asked.get("limit", 1000))]
        self._send(200 if page else 204, json.dumps(page).encode() if page else b"", "application/dicom+json")

    def _retrieve(self, _: bytes, fault: Any) -> None:
        content = self.server.instances.get(self.path.split("/")[-1])
        if content is None:
            self._send(404, b"Patient Miller")
            return
        if fault == "other":
            content = next(iter(self.server.instances.values()))
        begin = b"--" + _BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
        whole = begin + content + b"\r\n--" + _BOUNDARY + b"--\r\n"
        kind = f'multipart/related; type="application/dicom"; boundary="{_BOUNDARY.decode()}"'
        if fault == "cut":  # the connection ends before what was announced
            self._send(200, whole[: len(whole) // 2], kind, announced=len(whole))
            self.close_connection = True
        else:  # "short": as much as was announced, and yet not all
            self._send(200, whole[: len(whole) // 2] if fault == "short" else whole, kind)

    def _killed_by(self, kind: str) -> Any:
        """Return the process that this request is the last of, if it is."""
        if self.server.kill_at is None or self.server.kill_at[0] != kind:
            return None
        _, number, process = self.server.kill_at
        self.server.kill_at = (kind, number - 1, process)
        return process if number == 1 else None

    def _store(self, body: bytes, _: Any) -> None:
        answer = Dataset()
        answer.ReferencedSOPSequence = [reference_to(dataset) for dataset in self._keep(body)]
        self._send(200, answer.to_json().encode(), "application/dicom+json")

    def _keep(self, body: bytes) -> list[Dataset]:
        header = Message()
        header["Content-Type"] = self.headers["Content-Type"]
        kept = []
        for part in body.split(b"--" + str(header.get_param("boundary")).encode())[1:-1]:
            content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            kept.append(dcmread(BytesIO(content)))
            self.server.instances[str(kept[-1].SOPInstanceUID)] = content
        return kept

    def _send(
        self,
        status: int,
        body: bytes,
        kind: str = "application/dicom+json",
        *,
        headers: dict[str, str] | None = None,
        announced: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(b"" if status == 204 else body)


def reference_to(dataset: Dataset, **further: Any) -> Dataset:
    """Return an item of an answer to STOW-RS."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    for keyword, value in further.items():
        setattr(item, keyword, value)
    return item


def rejection_of(dataset: Dataset, reason: int) -> bytes:
    """Return the answer of an archive that does not take an object."""
    answer = Dataset()
    answer.FailedSOPSequence = [reference_to(dataset, FailureReason=reason)]
    return answer.to_json().encode()


def _is_of(dataset: Dataset, asked: dict[str, str]) -> bool:
    first, _, last = asked.get("StudyDate", "-").partition("-")
    last = last if "-" in asked.get("StudyDate", "-") else first
    day = str(dataset.get("StudyDate", ""))
    return (not first or first <= day) and (not last or day <= last) and asked.get(
        "ModalitiesInStudy", dataset.get("Modality")
    ) == dataset.get("Modality")  # fmt: skip


@contextmanager
def serving(certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Serve as long as a `with` block, with a certificate and its key over TLS."""
    server = Server()
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate of 127.0.0.1 that it has signed itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    return certificate, key
