"""`icmoe listen` as a hospital runs it: the workflow of `icmoe predict` for each study, and an end in good order."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_node import (
    SOCKETS,
    Store,
    closed_sockets,
    echo,
    health_of,
    image_of,
    new_study,
    read_url,
    send,
    wait_until,
    write_config,
)
from dicom_sources import ct
from orthanc import free_ports
from pydicom import Dataset
from pydicom.uid import generate_uid

from icmoe_monai.__main__ import main
from icmoe_monai.commands import listen as listening
from icmoe_monai.utils.locks import hold_folder
from icmoe_monai.utils.logs import silenced

ROOT = Path(__file__).parents[2]
SMALL = ["--recipe", "none", "--image_size", "32", "--device", "cpu", "--empty_segmentations", "True"]
SECRETS = {
    "PatientName": "Geheimer^Anton",
    "PatientID": "secret-4711",
    "PatientBirthDate": "19510203",
    "StudyDescription": "secret description",
    "AccessionNumber": "secret-acc",
}
# MONAI warns of configs being code at every workflow; pynetdicom leaves closing sockets to Python
__all__ = ["closed_sockets"]  # a fixture of all tests here
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    *SOCKETS,
)


class Place:
    """Where a node runs: its folder, config and ports, and the store that it sends to."""

    def __init__(self, folder: Path, store: Store, **settings: Any) -> None:
        self.folder, self.store = folder / "node", store
        self.port, self.health = free_ports(2)
        given = {"port": self.port, "store": store.port, "health_port": self.health, **settings}
        self.config = write_config(folder / "node.yaml", **given)

    def listen(self, drive: Callable[[], None], *words: str, end: bool = True) -> int:
        """Run the command in this thread, which takes the signals, and what drives it in another; return its status."""
        raised: list[BaseException] = []

        def work() -> None:
            try:
                wait_until(lambda: echo(self.port), 600)  # a signal before the command takes it would end the tests
                drive()
            except BaseException as error:
                raised.append(error)
            finally:
                if end or raised:
                    os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=work)
        thread.start()
        status = main(["listen", str(self.folder), "--config", str(self.config), *SMALL, *words])
        thread.join()
        assert not raised, raised
        return status

    def wait_for(self, state: str, number: int = 1) -> None:
        wait_until(lambda: health_of(self.health)["studies"][state] == number)

    def num_segmented(self) -> int:
        """Return how often a case was segmented."""
        journals = (path.read_text() for path in self.folder.glob("results/*/cases.jsonl"))
        lines = [json.loads(line) for journal in journals for line in journal.splitlines()]
        return len([line for line in lines if line["kind"] == "case"])

    def results(self) -> Path:
        (folder,) = (self.folder / "results").iterdir()
        return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    store = Store()
    with store.running():
        yield Place(tmp_path, store)


def series(study: str, number: int, z: float) -> Dataset:
    """A slice of a stack."""
    noise = image_of(study, number)
    image = ct(number, z, StudyInstanceUID=study, SeriesInstanceUID=generate_uid(entropy_srcs=[study]))
    image.Rows, image.Columns, image.PixelData = noise.Rows, noise.Columns, noise.PixelData
    return image


def test_a_study_is_segmented_as_predict_does_and_its_results_return(place: Place, tmp_path: Path) -> None:
    study = generate_uid()
    images = [series(study, number, float(number)) for number in (1, 2)]

    def drive() -> None:
        assert send(images, place.port) == [0, 0]
        place.wait_for("sent")

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert place.listen(drive) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    (result,) = place.store.objects.values()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert result[keyword].value == images[0][keyword].value
    assert result.NumberOfFrames == 2
    (received,) = (place.folder / "received").iterdir()
    assert main(["predict", str(received), str(tmp_path / "by hand"), *SMALL, "--num_workers", "0"]) == 0
    (by_hand,) = (tmp_path / "by hand" / "segmentations").iterdir()
    again = pydicom.dcmread(by_hand)
    assert (again.SOPInstanceUID, again.PixelData) == (result.SOPInstanceUID, result.PixelData)
    masks = sorted(path.relative_to(place.results()) for path in place.results().glob("masks/*"))
    assert masks == sorted(path.relative_to(tmp_path / "by hand") for path in (tmp_path / "by hand").glob("masks/*"))


def test_the_model_is_loaded_once_and_a_late_image_does_only_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    load = listening.StudySegmenter.load
    monkeypatch.setattr(listening.StudySegmenter, "load", lambda self, output: (loads.append(1), load(self, output)))
    first, late = new_study(2)
    other = new_study()

    def drive() -> None:
        send([first], place.port)
        place.wait_for("sent")
        send([late], place.port)
        send(other, place.port)
        wait_until(lambda: len(place.store.arrived) == 3)
        place.wait_for("sent", 2)

    assert place.listen(drive) == 0
    assert len(loads) == 1
    assert set(place.store.arrived.values()) == {1}
    assert place.num_segmented() == 3


def test_what_cannot_be_read_is_told_by_reasons_and_opened_again(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    segment = listening.StudySegmenter.__call__
    monkeypatch.setattr(
        listening.StudySegmenter, "__call__", lambda self, *folders: (calls.append(1), segment(self, *folders))[1]
    )
    good, bad = new_study(2)
    (none,) = new_study()
    for image in (bad, none):
        image.Rows = 4000  # more than there are pixels

    def drive() -> None:
        assert send([good, bad, none], place.port) == [0, 0, 0]
        place.wait_for("sent")
        place.wait_for("failed")
        metrics = read_url(f"http://127.0.0.1:{place.health}/metrics")[1]
        assert 'icmoe_node_failed_studies{reason="unreadable"} 1.0' in metrics
        assert main(["listen", str(place.folder), "--retry"]) == 0
        wait_until(lambda: len(calls) == 3)
        place.wait_for("failed")

    assert place.listen(drive) == 0
    assert len(place.store.arrived) == 1
    assert "1 failed studies are open again.\n" in capsys.readouterr().out
    assert main(["listen", str(place.folder / "none"), "--retry"]) == 1
    assert "is no folder of a node" in capsys.readouterr().err


def test_sigterm_ends_after_the_running_case_and_the_study_goes_on_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = new_study(3)
    ended = listening.StudySegmenter._end_if_stopped
    cases: list[int] = []

    def slow(self: Any, engine: Any) -> None:
        cases.append(1)
        if len(cases) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        ended(self, engine)

    monkeypatch.setattr(listening.StudySegmenter, "_end_if_stopped", slow)
    assert place.listen(lambda: send(images, place.port), end=False) == 0
    assert (len(cases), place.store.arrived) == (1, {})
    monkeypatch.undo()

    def drive() -> None:
        wait_until(lambda: len(place.store.arrived) == 3)
        place.wait_for("sent")

    assert place.listen(drive) == 0
    assert place.num_segmented() == 3  # the first was not done again


def test_results_of_another_model_are_made_anew(place: Place, tmp_path: Path) -> None:
    weights = tmp_path / "best.pt"
    shutil.copy(ROOT / "models" / "model.pt", weights)
    first, late = new_study(2)

    def drive() -> None:
        send([first], place.port)
        place.wait_for("sent")
        data = weights.read_bytes() + b"\0"  # a zip's end may be followed by other bytes
        weights.with_suffix(".new").write_bytes(data)
        os.replace(weights.with_suffix(".new"), weights)
        send([late], place.port)
        wait_until(lambda: len(place.store.arrived) == 3)  # both images by the new one

    assert place.listen(drive, "--checkpoint", str(weights)) == 0
    assert set(place.store.arrived.values()) == {1}


@pytest.mark.parametrize("log", ["text", "json"])
def test_no_patient_data_in_logs_metrics_health_names_and_the_queue(
    log: str, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    (image,) = new_study(**SECRETS)
    (bad,) = new_study(**SECRETS)
    bad.Rows = 4000  # more than there are pixels
    (odd,) = new_study(**SECRETS, StudyDate="secret date")
    told: list[str] = []

    def drive() -> None:
        assert send([image, bad, odd], place.port) == [0, 0, 0]
        place.wait_for("sent", 2)
        place.wait_for("failed")
        send([image], place.port, ae="OTHER")
        told.extend(read_url(f"http://127.0.0.1:{place.health}/{page}")[1] for page in ("health", "metrics"))

    libraries = [logging.getLogger(name) for name in ("pydicom", "pynetdicom", "highdicom")]
    before = [logger.level for logger in libraries], list(warnings.filters)
    with silenced("pynetdicom"):  # of the sender in this process
        assert place.listen(drive, "--log", log) == 0
    assert ([logger.level for logger in libraries], list(warnings.filters)) == before
    result = next(iter(place.store.objects.values()))
    assert result.PatientName == SECRETS["PatientName"]  # planted they are
    told.extend(capfd.readouterr())
    paths = list(place.folder.rglob("*"))
    told.extend(path.relative_to(place.folder).as_posix() for path in paths)
    told.extend(path.read_bytes().decode("latin-1") for path in paths if path.is_file() and path.suffix != ".dcm")
    words = [*SECRETS.values(), "Geheimer", "Anton", "secret"]
    words += [one[keyword].value for one in (image, bad, odd)
              for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]  # fmt: skip
    assert [word for word in words for text in told if word in text] == []
    if log == "json":
        lines = [json.loads(line) for line in told[3].splitlines() if line.startswith("{")]
        assert {"predicted", "failed"} <= {line.get("state") for line in lines}


def test_two_nodes_of_one_folder_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    held = hold_folder(str(place.folder), task="node")
    process = held[0].process
    held[0].process = 0  # as if another process held it
    assert main(["listen", str(place.folder), "--config", str(place.config), *SMALL]) == 1
    held[0].process = process
    held.clear()
    assert "is in use by another run, node" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "STOR"], "peers have no such name: did you mean STORE?"),
        (["--num_workers", "2"], "--num_workers is decided by icmoe listen"),
        (["--anonymous=True"], "--anonymous is decided by icmoe listen"),
        (["--dicom_seg", "none"], "dicom_seg none leaves nothing to send"),
        (["--experts", "lungs"], "experts are one of breast, skin, got 'lungs': a node has one"),
        (["--image_siz", "32"], "No setting is called image_siz: did you mean image_size?"),
        (["--port", "0"], "port must be a whole number from 1 to 65535"),
        (["--checkpoint", "none.pt"], "none.pt"),
    ],
)
def test_what_a_node_cannot_be_is_told(
    words: list[str], told: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["listen", str(place.folder), "--config", str(place.config), *words]) == 1
    assert told in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["listen", str(place.folder), "--config", str(place.config), *SMALL]
    assert main([*words, "--port", str(place.store.port)]) == 1
    assert f"Port {place.store.port} of 127.0.0.1 cannot be listened at" in capsys.readouterr().err
    assert main(words[:2]) == 1
    assert "icmoe listen takes one config" in capsys.readouterr().err
