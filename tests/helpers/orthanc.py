"""A real archive, Orthanc, on loopback: one for each test that asks, in a folder of its own, stopped by its process."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

_PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
_PLUGIN = next(
    (
        path
        for folder in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
        if (path := Path(folder, "libOrthancDicomWeb.so")).exists()
    ),
    None,
)
_SECONDS = 60.0

needs_orthanc = pytest.mark.skipif(
    _PROGRAM is None or _PLUGIN is None, reason="Orthanc with its DICOMweb plugin (orthanc-dicomweb) is not installed"
)
needs_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason="storescu (dcmtk) is not installed")


class Orthanc(NamedTuple):
    """A running archive.

    Attributes:
        url: Its REST interface, without a slash at the end.
        dicomweb: Its DICOMweb interface, likewise.
        port: Port of its DICOM node, on loopback.
        ae_title: AE title of its DICOM node.
        process: Its process.
        authorization: Value of the header without which its HTTP interface answers nobody; "" if it answers all.
    """

    url: str
    dicomweb: str
    port: int
    ae_title: str
    process: subprocess.Popen
    authorization: str = ""

    def ask(self, path: str, content: Any = None, *, method: str | None = None) -> Any:
        """Return what the REST interface answers; with content, a data set's bytes or a plain value, POST it."""
        data = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        told = self._open(path, data, method)
        return json.loads(told) if told else None

    def add(self, path: str | Path) -> None:
        """Store a DICOM file."""
        self.ask("/instances", Path(path).read_bytes())

    def file_of(self, instance: str) -> bytes:
        """Return a stored file by Orthanc's own name of it, as `/instances` lists them."""
        return self._open(f"/instances/{instance}/file")

    def _open(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        headers = {"Authorization": self.authorization} if self.authorization else {}
        with urlopen(Request(self.url + path, data=data, headers=headers, method=method), timeout=_SECONDS) as answer:
            return bytes(answer.read())

    def add_peer(self, name: str, ae_title: str, port: int) -> None:
        """Make a DICOM node on loopback known, to which `/modalities/NAME/store` sends."""
        self.ask(f"/modalities/{name}", {"AET": ae_title, "Host": "127.0.0.1", "Port": port}, method="PUT")


@contextmanager
def running_orthanc(
    folder: Path, *, ae_title: str = "ORTHANC", user: tuple[str, str] | None = None, **settings: Any
) -> Iterator[Orthanc]:
    """Run an archive as long as a `with` block.

    Args:
        folder: Its folder, which is made.
        ae_title: AE title of its DICOM node.
        user: Name and password without which its HTTP interface answers nobody.
        settings: Further settings of Orthanc's, by their names, such as `LuaScripts`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom = free_ports(2)
    if user is not None:
        settings |= {"AuthenticationEnabled": True, "RegisteredUsers": dict([user])}
    (folder / "orthanc.json").write_text(json.dumps(_settings(folder, http, dicom, ae_title) | settings))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([str(_PROGRAM), str(folder / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{http}"
    authorization = f"Basic {b64encode(':'.join(user).encode()).decode()}" if user else ""
    archive = Orthanc(url, f"{url}/dicom-web", dicom, ae_title, process, authorization)
    try:
        _await(archive, folder / "log.txt")
        yield archive
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _settings(folder: Path, http: int, dicom: int, ae_title: str) -> Mapping[str, Any]:
    return {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(_PLUGIN)],
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": ae_title,
        "DicomPort": dicom,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "OverwriteInstances": True,
        "StableAge": 1,
        "ConcurrentJobs": 2,
        "DicomScuTimeout": 30,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def free_ports(number: int) -> list[int]:
    """Return ports of loopback on which nothing listens now."""
    taken = [socket.socket() for _ in range(number)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()


def _await(archive: Orthanc, log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while True:
        try:
            archive.ask("/system")
            return
        except (URLError, ConnectionError):
            if archive.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Orthanc does not run: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.05)
