"""A node that is killed before or after any step of its queue loses nothing, and sends nothing twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from dicom_node import (
    SOCKETS,
    Store,
    copy_as_results,
    is_open,
    new_study,
    result_of,
    send,
    wait_until,
    write_config,
)
from orthanc import free_ports

from icmoe_monai.pacs.node.config import read_node_config
from icmoe_monai.pacs.node.node import Node
from icmoe_monai.pacs.node.queue import Queue

FORK = get_context("fork")
# newer Pythons warn of a fork beside threads, here those of the stores, of which the forked node uses nothing
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning", *SOCKETS)
# from the first image on: received, complete, predicting, predicted, sending, sent
STEPS = range(2, 8)


def run_node(folder: Path, config: Path, dies_at: int = 0, *, before: bool = False) -> None:
    """Run a node until it is killed, by itself as it takes a step of its queue, or from outside."""
    numbers, plain = count(1), Queue._transaction

    @contextmanager
    def dying(queue: Queue) -> Iterator[Any]:
        with queue._lock:  # else another thread may be within a transaction
            is_outer, changes = not queue._db.in_transaction, queue._db.total_changes
            with plain(queue) as db:
                yield db
                is_last = is_outer and db.total_changes > changes and next(numbers) == dies_at
                if is_last and before:
                    os.kill(os.getpid(), signal.SIGKILL)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)

    Queue._transaction = dying  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    read = read_node_config(config, {})
    Node(read, folder, Queue(folder), copy_as_results).run()


@pytest.mark.parametrize("answers", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["asked", "not asked"])
def test_a_node_killed_at_any_step_goes_on(answers: bool, tmp_path: Path) -> None:
    points = [(step, before) for step in STEPS for before in (True, False)]
    with ExitStack() as stack:
        runs = []
        for step, before in points:
            folder = tmp_path / f"{step}{before}"
            folder.mkdir()
            store = stack.enter_context(Store(answers=answers).running())
            (port,) = free_ports(1)
            config = write_config(folder / "node.yaml", port=port, store=store.port, timeout_seconds=30)
            arguments = (folder / "node", config, step)
            # a daemon ends with the tests, also where one of them fails
            process = FORK.Process(target=run_node, args=arguments, kwargs={"before": before}, daemon=True)
            process.start()
            runs.append((folder, config, port, store, process, new_study()))
        answered = []
        for *_, port, _, process, images in runs:
            wait_until(lambda port=port, process=process: is_open(port) or not process.is_alive(), 30)
            answered.append(send(images, port))
        # a node that is killed as it receives may not have answered; any later one has
        assert [of for (step, _), of in zip(points, answered, strict=True) if step > 2] == [[0]] * 10
        for *_, process, _ in runs:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        again = []
        for (folder, config, port, _, _, images), answer in zip(runs, answered, strict=True):
            process = FORK.Process(target=run_node, args=(folder / "node", config), daemon=True)
            process.start()
            again.append(process)
            wait_until(lambda port=port: is_open(port), 30)
            if answer == [None]:  # as any sender does that had no answer
                assert send(images, port) == [0]
        for (folder, _, _, store, _, images), process in zip(runs, again, strict=True):
            queue = Queue(folder / "node")
            wait_until(lambda queue=queue: queue.counts()["sent"] == 1, 30)
            queue.close()
            process.kill()
            process.join()
            assert set(store.arrived) == {result_of(image) for image in images}
            if answers:
                assert set(store.arrived.values()) == {1}
