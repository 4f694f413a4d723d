"""Objects stored in an archive, each once, whatever is stopped when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_sources import cine, ct, save, source
from dicomweb_server import Server, rejection_of, serving
from pydicom import dcmread
from pydicom.uid import SegmentationStorage, generate_uid

from icmoe_monai.errors import InputError
from icmoe_monai.inference.journal import SENT, VOLUME, Journal
from icmoe_monai.pacs.storing import StoreObjects
from icmoe_monai.pacs.web import DICOMweb

pytest.importorskip("dicomweb_client", reason="the extra pacs is not installed")
NUM = 3


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, Any]]:
    """Images whose objects lie in the output folder, one each, and are noted in its journal."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out" / "segmentations").mkdir(parents=True)
    cases = []
    for n in range(NUM):
        image = ct(n, 2.5 * n) if n == 0 else cine()
        cases.append({"name": f"{n}.dcm", "source": save(tmp_path / "in" / f"{n}.dcm", image), "group": ""})
        put_object(tmp_path, n)
    journal = Journal(output_dir=tmp_path / "out")
    journal.missing([])
    journal.begin()
    for case in cases:
        files = [{"file": f"segmentations/{case['name']}", "cases": [case["name"]]}]
        journal.add(VOLUME, {"name": case["name"], "of": [case["name"]], "files": files, "remarks": []})
    return cases


def put_object(tmp_path: Path, n: int) -> None:
    save(tmp_path / "out" / "segmentations" / f"{n}.dcm", source(SegmentationStorage, SeriesInstanceUID=generate_uid()))


def journal_of(tmp_path: Path) -> Journal:
    journal = Journal(output_dir=tmp_path / "out")
    journal.missing([])
    return journal


def send(server: Server, cases: list[dict[str, Any]], tmp_path: Path) -> list[dict[str, Any]]:
    """Send in a new run, and return what it notes."""
    journal = journal_of(tmp_path)
    StoreObjects(DICOMweb(server.url, retries=0), cases=cases).send(journal)
    records = list(journal.records(SENT).values())
    assert records == list(journal_of(tmp_path).records(SENT).values())
    return records


def test_objects_are_stored_once(server: Server, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [one["status"] for one in send(server, cases, tmp_path)] == ["done"] * NUM
    asked = len(server.asked)
    assert [one["status"] for one in send(server, cases, tmp_path)] == ["done"] * NUM
    assert len(server.asked) == asked
    assert server.num_asked("POST") == NUM == len(server.instances)


def test_another_archive_gets_them_too(server: Server, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    send(server, cases, tmp_path)
    with serving() as other:
        assert len(send(other, cases, tmp_path)) == 2 * NUM
        assert len(other.instances) == NUM


def test_an_object_that_was_written_anew_is_asked_for_again(
    server: Server, cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    send(server, cases, tmp_path)
    put_object(tmp_path, 1)
    send(server, cases, tmp_path)
    assert len(server.instances) == NUM + 1


def test_what_an_archive_does_not_take_stops_no_other_and_is_tried_again(
    server: Server, cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    second = dcmread(tmp_path / "out" / "segmentations" / "1.dcm")
    server.faults["store"] = [None, (202, rejection_of(second, 0xA700)), 500]
    records = send(server, cases, tmp_path)
    assert [one["reason_code"] for one in records] == [None, "rejected", "archive_error"]
    assert [one["status"] for one in records] == ["done", "failed", "failed"]
    assert "failure reason A700" in records[1]["error"]
    assert len(server.instances) == 1
    assert [one["status"] for one in send(server, cases, tmp_path)] == ["done"] * NUM
    assert server.num_asked("POST") == NUM + 2


def test_a_run_killed_between_storing_and_noting_stores_nothing_twice(
    server: Server, cases: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Journal, kind: str, record: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        send(server, cases, tmp_path)
    monkeypatch.undo()
    assert server.num_asked("POST") == 1
    assert [one["status"] for one in send(server, cases, tmp_path)] == ["done"] * NUM
    assert server.num_asked("POST") == NUM == len(server.instances)


def test_an_object_that_lacks_slices_is_kept_back(server: Server, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    mark = tmp_path / "in" / ".not_whole"
    mark.touch()
    records = send(server, cases, tmp_path)  # the first image alone is a slice of a stack
    assert [one["reason_code"] for one in records] == ["not_whole", None, None]
    mark.unlink()
    assert [one["status"] for one in send(server, cases, tmp_path)] == ["done"] * NUM


def test_only_objects_of_this_runs_images_are_sent(server: Server, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    send(server, cases[:1], tmp_path)
    assert len(server.instances) == 1


def test_an_anonymous_run_stores_nothing(server: Server) -> None:
    with pytest.raises(InputError, match="anonymous"):
        StoreObjects(DICOMweb(server.url), cases=[], anonymous=True)


@pytest.mark.parametrize(
    "record",
    [{"name": "a", "status": "done"}, {"name": "a", "status": "sent", "file": "a", "sha256": "b"},
     {"name": "a", "status": "done", "file": 5, "sha256": "b"},
     {"name": "a", "status": "done", "file": "a", "sha256": "b", "error": 7}],
    ids=str,
)  # fmt: skip
def test_a_note_that_no_run_wrote_is_damage(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    journal = Journal(output_dir=tmp_path / "out")
    journal.missing([])
    journal.begin()
    journal.add(SENT, record)
    with pytest.raises(InputError, match="is damaged"):
        journal_of(tmp_path)
