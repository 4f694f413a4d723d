"""A node killed twenty times, beside a store that refuses every third time: each result arrives exactly once."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from dicom_node import SOCKETS, Store, is_open, new_study, send, wait_until, write_config
from orthanc import free_ports
from pydicom import Dataset

from icmoe_monai.__main__ import main
from icmoe_monai.pacs.node.queue import Queue

FORK = get_context("fork")
SMALL = [
    *("--recipe", "none", "--image_size", "32", "--device", "cpu"),
    *("--empty_segmentations", "True", "--overlays", "False"),
]
# MONAI warns of configs being code at every workflow; newer Pythons of a fork beside threads, here those of the store
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::UserWarning",
        "ignore::FutureWarning",
        "ignore::DeprecationWarning",
        *SOCKETS,
    ),
]


class Nodes:
    """One node after another, each in a process of its own."""

    def __init__(self, folder: Path, config: Path, port: int) -> None:
        self.words = ["listen", str(folder), "--config", str(config), *SMALL]
        self.port = port
        self.start()

    def start(self) -> None:
        self.process = FORK.Process(target=lambda: sys.exit(main(self.words)))
        self.process.start()

    def wait_until_open(self) -> None:
        wait_until(lambda: is_open(self.port) or not self.process.is_alive(), 120)
        assert self.process.is_alive()

    def kill(self) -> None:
        assert self.process.is_alive()
        self.process.kill()
        self.process.join()


def send_until_stored(studies: list[list[Dataset]], port: int) -> None:
    """Send studies as an archive does: what was not answered by success is sent again."""
    for images in studies:
        while set(send(images, port)) != {0}:
            time.sleep(0.2)


def test_a_hundred_studies_survive_twenty_kills(tmp_path: Path) -> None:
    num_studies, num_kills, moments = 100, 20, random.Random(0)
    (tmp_path / "warm").mkdir()
    new_study()[0].save_as(tmp_path / "warm" / "a.dcm", enforce_file_format=True)
    warm = ["predict", str(tmp_path / "warm"), str(tmp_path / "warm out"), *SMALL, "--num_workers", "0"]
    assert main(warm) == 0  # so that the forked nodes need not import all for themselves
    store = Store(lambda number: number % 3 == 0)
    studies = [new_study() for _ in range(num_studies)]
    with store.running():
        (port,) = free_ports(1)
        config = write_config(tmp_path / "node.yaml", port=port, store=store.port, most_tries=50)
        nodes = Nodes(tmp_path / "node", config, port)
        senders = [
            threading.Thread(target=send_until_stored, args=(studies[part::2], port), daemon=True) for part in (0, 1)
        ]
        for sender in senders:
            sender.start()
        for _ in range(num_kills):
            nodes.wait_until_open()
            time.sleep(moments.uniform(0, 6))
            nodes.kill()
            nodes.start()
        for sender in senders:
            sender.join(600)
            assert not sender.is_alive()
        queue = Queue(tmp_path / "node")
        wait_until(lambda: queue.counts()["sent"] == num_studies, 600)
        queue.close()
        nodes.wait_until_open()
        os.kill(nodes.process.pid or 0, signal.SIGTERM)
        nodes.process.join(60)
        assert nodes.process.exitcode == 0
    assert {result.StudyInstanceUID for result in store.objects.values()} == {of[0].StudyInstanceUID for of in studies}
    assert len(store.objects) == num_studies
    assert set(store.arrived.values()) == {1}
    assert store.num_attempts >= num_studies * 3 // 2 - 1  # a third was refused
