"""How results reach a store: each once, also where it refuses, and what is told where it does not."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from dicom_node import (
    SOCKETS,
    Store,
    closed_sockets,
    new_study,
    result_of,
    running_node,
    send,
    wait_until,
    write_config,
)
from orthanc import free_ports
from pydicom.uid import generate_uid

from icmoe_monai.pacs.node import queue as queues
from icmoe_monai.pacs.node.node import NotPredictedError, Predicted
from icmoe_monai.pacs.node.queue import STATES, Queue

__all__ = ["closed_sockets"]  # a fixture of all tests here
pytestmark = pytest.mark.filterwarnings(*SOCKETS)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "_FIRST_WAIT", 0.05)


def test_a_store_that_refuses_every_third_time_gets_each_result_once(tmp_path: Path) -> None:
    store = Store(lambda number: number % 3 == 0)
    with store.running():
        (port,) = free_ports(1)
        config = write_config(tmp_path / "node.yaml", port=port, store=store.port)
        with running_node(tmp_path / "node", config) as node:
            images = [image for _ in range(4) for image in new_study(2)]
            assert send(images, port) == [0] * 8
            wait_until(lambda: node.queue.counts()["sent"] == 4)
    assert store.arrived == {result_of(image): 1 for image in images}
    assert store.num_attempts > 8


def test_a_store_that_has_an_object_already_is_not_sent_it(tmp_path: Path) -> None:
    store = Store()
    with store.running():
        (port,) = free_ports(1)
        config = write_config(tmp_path / "node.yaml", port=port, store=store.port)
        images = new_study(2)
        for folder in ("first", "second"):  # a second node knows nothing of the first's
            with running_node(tmp_path / folder, config) as node:
                assert send(images, port) == [0, 0]
                wait_until(lambda node=node: node.queue.counts()["sent"] == 1)
    assert store.num_attempts == 2
    assert store.num_asked == 4


@pytest.mark.parametrize(
    ("refuses", "reason"), [(True, "status_A700"), (None, "unreachable")], ids=["refuses", "is not there"]
)
def test_what_cannot_be_sent_fails_and_is_opened_again(refuses: bool | None, reason: str, tmp_path: Path) -> None:
    is_well = False
    store = Store(lambda number: not is_well)
    with store.running():
        port, nowhere = free_ports(2)
        config = write_config(tmp_path / "node.yaml", port=port, store=store.port if refuses else nowhere, most_tries=3)
        with running_node(tmp_path / "node", config) as node:
            images = new_study()
            send(images, port)
            wait_until(lambda: node.queue.counts()["failed"] == 1)
            assert node.health()["results_waiting"] == 1
            assert node.queue.reasons() == {reason: 1}
            if refuses:
                assert store.num_attempts == 3
                is_well = True
                other = Queue(tmp_path / "node")  # another process may open them
                assert other.retry() == 1
                other.close()
                wait_until(lambda: node.queue.counts()["sent"] == 1)
                assert store.arrived == {result_of(images[0]): 1}


def test_results_go_to_every_peer(tmp_path: Path) -> None:
    one, two = Store(), Store(lambda number: number < 3)
    with one.running(), two.running():
        (port,) = free_ports(1)
        peers = {
            name: {"ae": "STORE", "host": "127.0.0.1", "port": store.port}
            for name, store in (("ONE", one), ("TWO", two))
        }
        config = write_config(tmp_path / "node.yaml", port=port, store=1, peers=peers, to=["ONE", "TWO"])
        with running_node(tmp_path / "node", config) as node:
            images = new_study()
            send(images, port)
            wait_until(lambda: node.queue.counts()["sent"] == 1)
    assert one.arrived == two.arrived == {result_of(images[0]): 1}


def test_results_for_a_peer_that_the_config_no_longer_names_wait_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(tmp_path)
    queue.receive("a")
    queue.complete_quiet(0)
    queue.begin_prediction()
    queue.end_prediction("a", {"b": "b.dcm"}, ["FORMER"])
    queue.close()
    config = write_config(tmp_path / "node.yaml", port=free_ports(1)[0], store=1)
    with running_node(tmp_path, config) as node:
        assert node.health()["results_waiting"] == 1
    assert "Results wait for FORMER" in caplog.text


@pytest.mark.parametrize("again", [True, False])
def test_a_study_that_cannot_be_predicted_does_not_stop_the_others(again: bool, tmp_path: Path) -> None:
    tried: list[str] = []

    def predict(images: Path, output: Path) -> Predicted:
        tried.append(images.name)
        if images.name == tried[0]:
            raise (OSError("not foreseen") if again else NotPredictedError("unreadable", again=False))
        return Predicted({})

    (port,) = free_ports(1)
    config = write_config(tmp_path / "node.yaml", port=port, store=1, most_tries=3)
    with running_node(tmp_path / "node", config, predict) as node:
        send(new_study(), port)
        wait_until(lambda: len(tried) == 1)
        send(new_study(), port)
        wait_until(lambda: (node.queue.counts()["failed"], node.queue.counts()["sent"]) == (1, 1))
        assert node.queue.reasons() == {"internal" if again else "unreadable": 1}
    assert tried.count(tried[0]) == (3 if again else 1)


def test_an_image_that_comes_during_the_prediction_is_predicted_too(tmp_path: Path) -> None:
    images = new_study(2)
    seen: list[int] = []
    (port,) = free_ports(1)

    def predict(folder: Path, output: Path) -> Predicted:
        files = list(folder.glob("*.dcm"))
        seen.append(len(files))
        if len(seen) == 1:
            assert send(images[1:], port) == [0]
        return Predicted({generate_uid(entropy_srcs=[str(len(files))]): "a.dcm"})

    config = write_config(tmp_path / "node.yaml", port=port, store=1, quiet_seconds=0.5)
    with running_node(tmp_path / "node", config, predict) as node:
        send(images[:1], port)
        wait_until(lambda: len(seen) == 2)
        wait_until(lambda: node.queue.unsent() == 1)
        # the result of the study as it was half is never sent
    assert seen == [1, 2]


def test_the_queue_holds_no_uid_and_only_known_states(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    study, result = "1.2.826.0.1.77", "1.2.826.0.1.78"
    queue.receive(queue.digest(study))
    queue.complete_quiet(0)
    assert queue.begin_prediction() == queue.digest(study)
    queue.end_prediction(queue.digest(study), {queue.digest(result): "a.dcm"}, ["STORE"])
    queue.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"1.2.826" not in content
    with pytest.raises(sqlite3.IntegrityError), sqlite3.connect(queue.path) as db:
        db.execute("UPDATE studies SET state = 'lost'")
    assert set(STATES) == set(Queue(tmp_path).counts())


def test_a_study_that_kills_its_process_each_time_fails_at_last(tmp_path: Path) -> None:
    for tries in range(4):
        queue = Queue(tmp_path, most_tries=3)
        if tries == 0:
            queue.receive("a")
            queue.complete_quiet(0)
        assert queue.begin_prediction() == ("a" if tries < 3 else None)
        state = queue.state_of("a")
        queue.close()  # in the place of the process that ends
    assert state == ("failed", "killed")


@pytest.mark.parametrize("shift", [-86400.0, 86400.0], ids=["back", "forth"])
def test_a_clock_that_is_set_anew_holds_no_study_for_ever(
    shift: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now: list[Any] = [1e9]
    monkeypatch.setattr(queues.time, "time", lambda: now[0])
    queue = Queue(tmp_path)
    queue.receive("a")
    queue.complete_quiet(60)
    assert queue.state_of("a") == ("receiving", "")
    now[0] += shift
    queue.complete_quiet(60)
    assert queue.state_of("a") == ("complete", "")
    queue.close()
