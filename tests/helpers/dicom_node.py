"""What a test of the node needs beside it: studies, senders, stores, and the node's own process."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
from dicom_sources import CR, source
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, SegmentationStorage, Verification
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

from icmoe_monai.pacs.node.config import read_node_config
from icmoe_monai.pacs.node.node import Node, Predicted
from icmoe_monai.pacs.node.queue import Queue

SIDE = 64
# pynetdicom leaves it to Python to close a socket that found nobody; `closed_sockets` lets that happen within the test
SOCKETS = (
    "ignore:unclosed <:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    # a connection that pynetdicom aborts before it was an association: its state machine knows no such event then
    r"ignore:Exception in thread \S+ \(run_reactor\):pytest.PytestUnhandledThreadExceptionWarning",
)
SENDER, NODE, STORE = "SENDER", "ICMOE", "STORE"


@pytest.fixture(autouse=True)
def closed_sockets() -> Iterator[None]:
    """Close what a test has left to the garbage, before another test is told of it."""
    yield
    gc.collect()


def image_of(study: str, number: int = 1, *, side: int = SIDE, **attributes: Any) -> Dataset:
    """A radiograph of noise, one of a study."""
    pixels = np.random.default_rng(number).integers(0, 255, (side, side), dtype=np.uint8)
    image = source(CR, number, StudyInstanceUID=study, Rows=side, Columns=side, **attributes)
    image.PixelData = pixels.tobytes()
    return image


def new_study(num_images: int = 1, **attributes: Any) -> list[Dataset]:
    """Return the images of a study, each of a series of its own."""
    study = generate_uid()
    return [image_of(study, number + 1, **attributes) for number in range(num_images)]


def send(images: Sequence[Dataset], port: int, *, ae: str = SENDER, to: str = NODE) -> list[int | None]:
    """Send images in one association, and return the status of each; None: there was no answer."""
    node = AE(ae_title=ae)
    node.acse_timeout = node.dimse_timeout = node.network_timeout = 30
    for context in dict.fromkeys((image.SOPClassUID, image.file_meta.TransferSyntaxUID) for image in images):
        node.add_requested_context(*context)
    association = node.associate("127.0.0.1", port, ae_title=to)
    if not association.is_established:
        return [None] * len(images)
    try:
        return [association.send_c_store(image).get("Status") for image in images]
    except (RuntimeError, ValueError):  # the node was killed
        return [None] * len(images)
    finally:
        if association.is_established:
            association.release()


def echo(port: int, *, ae: str = SENDER, to: str = NODE) -> bool:
    """Return whether a node answers a C-ECHO."""
    node = AE(ae_title=ae)
    node.acse_timeout = node.dimse_timeout = node.network_timeout = 10
    node.add_requested_context(Verification)
    association = node.associate("127.0.0.1", port, ae_title=to)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return status.get("Status") == 0


class Store:
    """A store that notes what arrives.

    Args:
        refuses: Whether to refuse an attempt, by its number from 1.
        answers: Whether it answers C-FIND.
    """

    def __init__(self, refuses: Callable[[int], bool] = lambda number: False, *, answers: bool = True) -> None:
        self.port = 0
        self.arrived: Counter[str] = Counter()
        self.objects: dict[str, Dataset] = {}
        self.num_attempts = self.num_asked = 0
        self._refuses = refuses
        self._answers = answers
        self._lock = threading.Lock()

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[Store]:
        node = AE(ae_title=STORE)
        node.add_supported_context(SegmentationStorage)
        node.add_supported_context(CTImageStorage)
        if self._answers:
            node.add_supported_context(Find)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)]
        server = node.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _store(self, event: evt.Event) -> int:
        with self._lock:
            self.num_attempts += 1
            if self._refuses(self.num_attempts):
                return 0xA700
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.arrived[dataset.SOPInstanceUID] += 1
            self.objects[dataset.SOPInstanceUID] = dataset
            return 0x0000

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.num_asked += 1
        wanted = event.identifier.SOPInstanceUID
        if wanted in self.objects:
            found = Dataset()
            found.QueryRetrieveLevel, found.SOPInstanceUID = "IMAGE", wanted
            yield 0xFF00, found


def write_config(path: Path, *, port: int, store: int, **settings: Any) -> Path:
    """Write the config of a node on loopback that knows one sender and one store."""
    content = {
        "ae": NODE,
        "port": port,
        "callers": [{"ae": SENDER, "address": "127.0.0.1"}],
        "peers": {"STORE": {"ae": STORE, "host": "127.0.0.1", "port": store}},
        "to": ["STORE"],
        "quiet_seconds": 0.3,
        "timeout_seconds": 5,
        "reserve": "1MB",
        "health_port": None,
    }
    path.write_text(yaml.safe_dump(content | settings))
    return path


def copy_as_results(images: Path, output: Path) -> Predicted:
    """Stand in for a prediction: an object for each image, whose UID depends on the image's."""
    files = {}
    for path in sorted(images.glob("*.dcm")):
        result = dcmread(path)
        result.SOPClassUID = result.file_meta.MediaStorageSOPClassUID = SegmentationStorage
        result.SOPInstanceUID = generate_uid(entropy_srcs=[result.SOPInstanceUID])
        result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
        output.mkdir(parents=True, exist_ok=True)
        result.save_as(output / path.name)
        files[result.SOPInstanceUID] = path.name
    return Predicted(files)


def result_of(image: Dataset) -> str:
    """Return the UID of what `copy_as_results` makes of an image."""
    return generate_uid(entropy_srcs=[image.SOPInstanceUID])


@contextmanager
def running_node(
    folder: Path, config: Path, predict: Callable[[Path, Path], Predicted] = copy_as_results
) -> Iterator[Node]:
    """Run a node in a thread as long as a `with` block."""
    read = read_node_config(config, {})
    folder.mkdir(exist_ok=True)
    queue = Queue(folder, most_tries=read.most_tries)
    node = Node(read, folder, queue, predict)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            node.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: node.health()["status"] in ("ok", "disk_full") or not thread.is_alive(), 20)
        assert not raised, raised
        yield node
    finally:
        node.stop()
        thread.join(60)
        assert not thread.is_alive()
        queue.close()


def wait_until(is_so: Callable[[], bool], seconds: float = 300.0) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: If it is not so in time.
    """
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def is_open(port: int) -> bool:
    """Return whether a port of loopback is listened at."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def read_url(url: str) -> tuple[int, str]:
    """Return status and text of an answer over HTTP."""
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def health_of(port: int) -> Mapping[str, Any]:
    """Return what a node's /health tells."""
    return json.loads(read_url(f"http://127.0.0.1:{port}/health")[1])
