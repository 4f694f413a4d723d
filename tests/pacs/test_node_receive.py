"""What a node takes, from whom, and what it answers."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_node import (
    NODE,
    SENDER,
    SOCKETS,
    STORE,
    Store,
    echo,
    health_of,
    image_of,
    new_study,
    read_url,
    result_of,
    running_node,
    send,
    wait_until,
    write_config,
)
from orthanc import free_ports
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from icmoe_monai.pacs.node.node import Node
from icmoe_monai.utils import files

# pydicom warns of values that its own test files have
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", *SOCKETS)


class Running:
    """A node in a thread, its ports, and the store that it sends to."""

    def __init__(self, node: Node, port: int, health: int, store: Store) -> None:
        self.node, self.port, self.health, self.store = node, port, health, store

    def received(self) -> list[Path]:
        return sorted((self.node.folder / "received").glob("*/*"))


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
def running(tmp_path: Path, settings: dict[str, Any]) -> Iterator[Running]:
    store = Store()
    with store.running():
        port, health = free_ports(2)
        given = {"port": port, "store": store.port, "health_port": health, **settings}
        with running_node(tmp_path / "node", write_config(tmp_path / "node.yaml", **given)) as node:
            yield Running(node, port, health, store)


def outcomes(running: Running) -> dict[str, float]:
    samples = [one for family in running.node.metrics.instances.collect() for one in family.samples]
    return {one.labels["outcome"]: one.value for one in samples if one.name.endswith("_total")}


def test_a_study_is_taken_predicted_and_its_results_sent(running: Running) -> None:
    images = new_study(2)
    assert echo(running.port)
    assert send(images, running.port) == [0, 0]
    wait_until(lambda: len(running.store.arrived) == 2)
    assert running.store.arrived == {result_of(image): 1 for image in images}
    wait_until(lambda: health_of(running.health)["studies"]["sent"] == 1)
    assert health_of(running.health)["status"] == "ok"


def test_a_file_is_what_was_sent_and_called_by_digests(running: Running) -> None:
    (image,) = new_study(PatientName="Secret^Name")
    assert send([image], running.port) == [0]
    (path,) = running.received()
    kept = dcmread(path)
    assert (kept.SOPInstanceUID, kept.PixelData, kept.PatientName) == (
        image.SOPInstanceUID,
        image.PixelData,
        image.PatientName,
    )
    digest = running.node.queue.digest
    assert path.parts[-2:] == (digest(image.StudyInstanceUID), f"{digest(image.SOPInstanceUID)}.dcm")


@pytest.mark.parametrize(("calling", "called"), [("OTHER", NODE), (SENDER, "OTHER"), (STORE, NODE)])
def test_a_foreign_ae_title_is_refused(calling: str, called: str, running: Running) -> None:
    assert not echo(running.port, ae=calling, to=called)
    assert send(new_study(), running.port, ae=calling, to=called) == [None]
    assert running.received() == []
    assert echo(running.port)


@pytest.mark.parametrize(
    "settings",
    [{"callers": [{"ae": SENDER, "address": "10.1.2.3"}, {"ae": "OTHER", "address": "127.0.0.1"}]}],
    ids=["of another"],
)
def test_an_ae_title_from_the_address_of_another_is_refused(running: Running) -> None:
    assert not echo(running.port, ae=SENDER)
    assert echo(running.port, ae="OTHER")


@pytest.mark.parametrize("settings", [{"callers": [{"ae": SENDER, "address": "10.1.0.0/16"}]}], ids=["network"])
def test_an_unknown_address_is_refused_before_a_byte_is_read(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        assert connection.recv(1) == b""
    assert not echo(running.port)
    wait_until(lambda: 'outcome="refused_address"} 2.0' in read_url(f"http://127.0.0.1:{running.health}/metrics")[1])


def garbage() -> dict[str, bytes]:
    return {
        "text": b"GET / HTTP/1.1\r\n\r\n",
        "pdu": struct.pack(">BBL", 1, 0, 20) + b"\xff" * 20,
        "huge": struct.pack(">BBL", 4, 0, 2**32 - 1) + b"\0" * 1000,
        "part": struct.pack(">BBL", 1, 0, 200) + b"\0" * 10,
        "nothing": b"",
    }


@pytest.mark.parametrize("settings", [{"timeout_seconds": 2, "most_associations": 3}], ids=["short"])
def test_garbage_and_stalled_connections_do_not_stop_the_others(running: Running) -> None:
    stalled = [socket.create_connection(("127.0.0.1", running.port), timeout=10) for _ in garbage()]
    for connection, data in zip(stalled, garbage().values(), strict=True):
        connection.sendall(data)
    # more than most_associations hang, and are given up after a time of silence
    images = new_study(2)
    answers: list[int | None] = []

    def try_again() -> bool:
        answers[:] = send(images, running.port)
        return answers == [0, 0]

    wait_until(try_again, 30)
    for connection in stalled:
        connection.settimeout(20)
        while connection.recv(1000):  # an abort may come before the end
            pass
        connection.close()
    wait_until(lambda: len(running.store.arrived) == 2)


def test_two_associations_at_once(running: Running) -> None:
    studies = [new_study(4) for _ in range(2)]
    answers: dict[int, list[int | None]] = {}
    threads = [
        threading.Thread(target=lambda k=k, of=of: answers.update({k: send(of, running.port)}))
        for k, of in enumerate([*studies, studies[0]])  # one study twice
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(range(3), [0] * 4)
    assert len(running.received()) == 8
    wait_until(lambda: len(running.store.arrived) == 8)
    assert set(running.store.arrived.values()) == {1}


def test_the_same_instance_again_changes_nothing(running: Running) -> None:
    images = new_study()
    send(images, running.port)
    wait_until(lambda: health_of(running.health)["studies"]["sent"] == 1)
    assert send(images, running.port) == [0]
    assert outcomes(running) == {"stored": 1, "known": 1}
    assert health_of(running.health)["studies"]["sent"] == 1


def test_a_late_instance_opens_its_study_again(running: Running) -> None:
    first, late = new_study(2)
    send([first], running.port)
    wait_until(lambda: health_of(running.health)["studies"]["sent"] == 1)
    assert send([late], running.port) == [0]
    wait_until(lambda: len(running.store.arrived) == 2)
    assert set(running.store.arrived.values()) == {1}


@pytest.mark.parametrize("settings", [{"reserve": "999999999GB"}], ids=["reserve"])
def test_below_the_reserve_nothing_is_taken(running: Running) -> None:
    assert send(new_study(), running.port) == [0xA700]
    assert running.received() == []
    assert health_of(running.health)["status"] == "disk_full"
    assert read_url(f"http://127.0.0.1:{running.health}/health")[0] == 503


@pytest.mark.parametrize("where", ["file", "queue"])
def test_a_full_disk_refuses_and_the_node_goes_on(
    where: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    images = new_study()
    with monkeypatch.context() as patched:
        patched.setattr(*(files, "_flush") if where == "file" else (running.node.queue, "receive"), full)
        assert send(images, running.port) == [0xA700]
        assert running.received() == []
    assert send(images, running.port) == [0]
    wait_until(lambda: len(running.store.arrived) == 1)


def without(image: Dataset, keyword: str) -> Dataset:
    del image[keyword]
    return image


def of_test(name: str, **attributes: Any) -> Dataset:
    image = dcmread(get_testdata_file(name, download=False))
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    return image


def test_what_is_no_image_is_taken_and_not_kept(running: Running) -> None:
    assert send([of_test("reportsi.dcm"), of_test("rtplan.dcm")], running.port) == [0, 0]
    assert running.received() == []
    assert outcomes(running) == {"ignored": 2}


def test_what_the_node_has_made_itself_is_not_segmented_again(running: Running) -> None:
    images = new_study(1, SeriesDescription="IC-MoE for MONAI: contours")
    assert send(images, running.port) == [0]
    assert outcomes(running) == {"ignored": 1}


def test_an_instance_without_the_uid_of_a_study_is_refused(running: Running) -> None:
    (image,) = new_study()
    assert send([without(image, "StudyInstanceUID")], running.port) == [0xC000]
    assert running.received() == []


@pytest.mark.parametrize(
    "name",
    ["JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm",
     "JPEGLSNearLossless_08.dcm", "JPEG-lossy.dcm"],
)  # fmt: skip
def test_every_transfer_syntax_that_is_read_is_taken(name: str, running: Running) -> None:
    image = of_test(name)
    if "StudyInstanceUID" not in image:
        image.StudyInstanceUID = generate_uid()
    assert send([image], running.port) == [0]
    (path,) = running.received()
    assert dcmread(path).file_meta.TransferSyntaxUID == image.file_meta.TransferSyntaxUID


RETIRED = {
    "ultrasound": "1.2.840.10008.5.1.4.1.1.6",
    "ultrasound clip": "1.2.840.10008.5.1.4.1.1.3",
    "nuclear medicine": "1.2.840.10008.5.1.4.1.1.5",
    "visible light": "1.2.840.10008.5.1.4.1.1.77.1",
}


@pytest.mark.parametrize("storage_class", RETIRED.values(), ids=RETIRED)
def test_images_of_retired_storage_classes_are_taken(storage_class: str, running: Running) -> None:
    (image,) = new_study()
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = storage_class
    assert send([image], running.port) == [0]
    (path,) = running.received()
    assert storage_class == dcmread(path).SOPClassUID


def test_a_node_that_stops_takes_nothing_new(running: Running) -> None:
    begun, go_on = threading.Event(), threading.Event()
    work = running.node._predict_folder

    def slow(images: Path, output: Path) -> Any:
        begun.set()
        assert go_on.wait(30)
        return work(images, output)

    running.node._predict_folder = slow
    send(new_study(), running.port)
    assert begun.wait(30)
    running.node.stop()
    go_on.set()
    wait_until(lambda: not running.node._receiver.is_listening, 20)
    assert not echo(running.port)
    assert running.node.queue.counts()["predicted"] + running.node.queue.counts()["sent"] == 1


def test_received_images_go_when_their_time_is_over(running: Running) -> None:
    images = new_study(2)
    send(images, running.port)
    wait_until(lambda: health_of(running.health)["studies"]["sent"] == 1)
    running.node._remove_received(time.time() - 3600)
    assert len(running.received()) == 2
    running.node._remove_received(time.time() + 1)
    assert list((running.node.folder / "received").iterdir()) == []
    late = image_of(images[0].StudyInstanceUID, 7)
    assert send([late, images[0]], running.port) == [0, 0]
    wait_until(lambda: len(running.store.arrived) == 3)
    assert set(running.store.arrived.values()) == {1}
