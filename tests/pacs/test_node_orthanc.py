"""A node beside a real archive: Orthanc routes a stable study to it, and the results arrive in the same study."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from dicom_node import NODE, SOCKETS, image_of, is_open, wait_until, write_config
from dicom_sources import ct
from orthanc import Orthanc, free_ports, needs_orthanc, running_orthanc
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from icmoe_monai.__main__ import main
from icmoe_monai.pacs.node.queue import Queue

ROOT = Path(__file__).parents[2]
SMALL = ["--recipe", "none", "--image_size", "32", "--device", "cpu", "--empty_segmentations", "True"]
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
# MONAI warns of configs being code at every workflow; newer Pythons of a fork beside threads
pytestmark = [
    pytest.mark.slow,
    needs_orthanc,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", *SOCKETS),
]


def write_routing(folder: Path) -> Path:
    """Write the script of docs/pacs.md that routes studies to the node, for an archive that may write into a folder."""
    document = (ROOT / "docs" / "pacs.md").read_text()
    (script,) = re.findall(r"```lua\n(.*?)```", document, re.DOTALL)
    assert "'ICMOE'" in script
    assert "'/var/lib/orthanc/" in script
    path = folder / "route.lua"
    path.write_text(script.replace("/var/lib/orthanc/", f"{folder}/"))
    return path


@contextmanager
def running_node(folder: Path, config: Path, port: int) -> Iterator[None]:
    words = ["listen", str(folder), "--config", str(config), *SMALL]
    process = get_context("fork").Process(target=lambda: sys.exit(main(words)))
    process.start()
    try:
        wait_until(lambda: is_open(port) or not process.is_alive(), 120)
        assert process.is_alive()
        yield
    finally:
        process.terminate()
        process.join(60)
        process.kill()
    assert process.exitcode == 0


def add(archive: Orthanc, image: Dataset, folder: Path) -> None:
    image.save_as(folder / "image.dcm", enforce_file_format=True)
    archive.add(folder / "image.dcm")


def study_of(study: dict[str, Any]) -> str:
    """Return the UID of a study, of which Orthanc tells."""
    return str(study["MainDicomTags"]["StudyInstanceUID"])


def slices(num: int) -> list[Dataset]:
    study, series, frame = (generate_uid() for _ in range(3))
    found = []
    for number in range(1, num + 1):
        noise = image_of(study, number)
        image = ct(number, float(number), StudyInstanceUID=study, SeriesInstanceUID=series, FrameOfReferenceUID=frame)
        image.Rows, image.Columns, image.PixelData = noise.Rows, noise.Columns, noise.PixelData
        found.append(image)
    return found


def stored(archive: Orthanc) -> list[Dataset]:
    return [dcmread(BytesIO(archive.file_of(one))) for one in archive.ask("/instances")]


def results(archive: Orthanc) -> list[Dataset]:
    return [one for one in stored(archive) if one.SOPClassUID == SEGMENTATION]


def write_node(folder: Path, archive: Orthanc, port: int, peer: str = "dicom") -> Path:
    """Write the config of a node that an archive may call, and that sends its results back to it."""
    peers = {
        "dicom": {"ae": archive.ae_title, "host": "127.0.0.1", "port": archive.port},
        "web": {"url": archive.dicomweb},
    }
    callers = [{"ae": archive.ae_title, "address": "127.0.0.1"}]
    return write_config(
        folder / "node.yaml", port=port, store=1, callers=callers, peers=peers, to=[peer], quiet_seconds=2
    )


@pytest.mark.parametrize("peer", ["dicom", "web"])
def test_a_stable_study_is_routed_and_its_result_returns_once(peer: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    script = write_routing(tmp_path)
    modalities: dict[str, Any] = {"icmoe": [NODE, "127.0.0.1", port]}
    with running_orthanc(tmp_path / "orthanc", DicomModalities=modalities, LuaScripts=[str(script)]) as archive:
        with running_node(tmp_path / "node", write_node(tmp_path, archive, port, peer), port):
            images = slices(3)
            for image in images:
                add(archive, image, tmp_path)
            wait_until(lambda: len(results(archive)) == 1, 120)
            sent = archive.ask("/statistics")["CountInstances"]
            of_images = [one for one in archive.ask("/series?expand") if one["MainDicomTags"]["Modality"] == "CT"]
            assert [archive.ask(f"/series/{one['ID']}/metadata/4242") for one in of_images] == [3]
            archive.ask("/modalities/icmoe/store", archive.ask("/studies"))
            queue = Queue(tmp_path / "node")
            wait_until(lambda: queue.counts()["sent"] == 1, 60)
            assert archive.ask("/statistics")["CountInstances"] == sent == 4
            assert sum(queue.counts().values()) == 1
            queue.close()
        (result,) = results(archive)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert result[keyword].value == images[0][keyword].value, keyword
        assert len(archive.ask("/studies")) == len(archive.ask("/patients")) == 1
        assert result.NumberOfFrames == 3


def test_a_study_that_found_no_node_is_sent_once_it_runs(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    script, log = write_routing(tmp_path), tmp_path / "orthanc" / "log.txt"
    modalities: dict[str, Any] = {"icmoe": [NODE, "127.0.0.1", port]}
    with running_orthanc(tmp_path / "orthanc", DicomModalities=modalities, LuaScripts=[str(script)]) as archive:
        missed, deleted, later = (image_of(generate_uid(), number) for number in (1, 2, 3))
        for number, image in enumerate((missed, deleted), 1):
            add(archive, image, tmp_path)
            wait_until(lambda number=number: log.read_text().count("URI: /modalities/icmoe/store") == number, 60)
        (gone,) = (one for one in archive.ask("/studies?expand") if study_of(one) == deleted.StudyInstanceUID)
        archive.ask(f"/studies/{gone['ID']}", method="DELETE")
        with running_node(tmp_path / "node", write_node(tmp_path, archive, port), port):
            add(archive, later, tmp_path)
            wait_until(lambda: len(results(archive)) == 2, 120)
        assert {one.StudyInstanceUID for one in results(archive)} == {missed.StudyInstanceUID, later.StudyInstanceUID}


def test_a_study_that_found_no_node_is_sent_once_it_runs_by_an_archive_that_was_killed_meanwhile(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    log = tmp_path / "orthanc" / "log.txt"
    settings: dict[str, Any] = {
        "DicomModalities": {"icmoe": [NODE, "127.0.0.1", port]},
        "LuaScripts": [str(write_routing(tmp_path))],
    }
    missed, later = (image_of(generate_uid(), number) for number in (1, 2))
    with running_orthanc(tmp_path / "orthanc", **settings) as archive:
        add(archive, missed, tmp_path)
        wait_until(lambda: log.read_text().count("URI: /modalities/icmoe/store") == 1, 60)
        archive.process.kill()
    with (
        running_orthanc(tmp_path / "orthanc", **settings) as archive,
        running_node(tmp_path / "node", write_node(tmp_path, archive, port), port),
    ):
        add(archive, later, tmp_path)
        wait_until(lambda: len(results(archive)) == 2, 120)
        wait_until(lambda: (tmp_path / "icmoe-waiting").read_text() == "", 60)
