"""Images of an archive in a folder: each once, under names that tell no UID, and what fails is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicomweb_server
import pytest
from dicom_sources import cine, ct, save, source
from dicomweb_server import Server, serving
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, SegmentationStorage, generate_uid

from icmoe_monai.errors import InputError
from icmoe_monai.inference.segmentations import PROGRAM
from icmoe_monai.pacs.errors import TransferError
from icmoe_monai.pacs.retrieval import Wanted, is_whole, retrieve_images
from icmoe_monai.pacs.web import DICOMweb

pytest.importorskip("dicomweb_client", reason="the extra pacs is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An archive with a study of two series, of three slices and a cine."""
    (tmp_path / "sources").mkdir()
    with serving() as running:
        stack = generate_uid()
        for n in range(3):
            running.add(save(tmp_path / "sources" / f"{n}.dcm", ct(n, 2.5 * n, SeriesInstanceUID=stack)))
        running.add(save(tmp_path / "sources" / "cine.dcm", cine()))
        yield running


def study_of(server: Server, tmp_path: Path) -> str:
    return str(dcmread(tmp_path / "sources" / "cine.dcm").StudyInstanceUID)


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def retrieve(server: Server, folder: Path, **wanted: Any) -> list[dict[str, str]]:
    return retrieve_images(DICOMweb(server.url, retries=0), folder=folder, **wanted)


def test_a_study_is_retrieved_once_and_no_name_tells_a_uid(server: Server, tmp_path: Path) -> None:
    study = study_of(server, tmp_path)
    for _ in range(2):
        assert retrieve(server, tmp_path / "in", study=study) == []
        assert server.num_asked("GET", "/instances/") == 4
    found = {str(one.SOPInstanceUID): path for path in files_in(tmp_path / "in") for one in [dcmread(path)]}
    assert found.keys() == server.instances.keys()
    assert all(dcmread(path) == dcmread(tmp_path / "sources" / "cine.dcm") or "CT" in str(dcmread(path).Modality)
               for path in found.values())  # fmt: skip
    names = " ".join(path.relative_to(tmp_path / "in").as_posix() for path in found.values())
    assert "." not in names.replace(".dcm", "")
    assert all(is_whole(path) for path in found.values())
    if os.name == "posix":
        assert (tmp_path / "in").stat().st_mode & 0o077 == 0


def test_a_series_or_a_modality_of_a_study_is_retrieved_alone(server: Server, tmp_path: Path) -> None:
    image = dcmread(tmp_path / "sources" / "cine.dcm")
    study = str(image.StudyInstanceUID)
    retrieve(server, tmp_path / "series", study=study, series=str(image.SeriesInstanceUID))
    assert [dcmread(path) for path in files_in(tmp_path / "series")] == [image]
    retrieve(server, tmp_path / "modality", study=study, modality="CT")
    assert [dcmread(path).Modality for path in files_in(tmp_path / "modality")] == ["CT"] * 3


def test_a_query_retrieves_what_matches(server: Server, tmp_path: Path) -> None:
    late = cine()
    late.StudyInstanceUID, late.SeriesInstanceUID, late.StudyDate = generate_uid(), generate_uid(), "20260601"
    server.add(save(tmp_path / "late.dcm", late))
    assert retrieve(server, tmp_path / "in", modality="US", date="20260101-") == []
    assert [dcmread(path) for path in files_in(tmp_path / "in")] == [late]
    assert retrieve(server, tmp_path / "none", modality="US", date="20270101-") == []
    assert files_in(tmp_path / "none") == []


@pytest.mark.parametrize("tells_descriptions", [True, False])  # the second is an archive's right
def test_what_is_no_image_and_what_is_ours_is_not_taken(
    server: Server, tmp_path: Path, tells_descriptions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tells_descriptions:
        monkeypatch.setattr(dicomweb_server, "_OF_SERIES", ("SeriesInstanceUID", "Modality"))
    for n, kind in enumerate((SegmentationStorage, ComprehensiveSRStorage)):
        server.add(save(tmp_path / f"{n}.dcm", source(kind, SeriesInstanceUID=generate_uid())))
    capture = cine()
    capture.SeriesInstanceUID, capture.SeriesDescription = generate_uid(), f"{PROGRAM}: Lesion"
    server.add(save(tmp_path / "ours.dcm", capture))
    retrieve(server, tmp_path / "in", study=study_of(server, tmp_path))
    assert len(files_in(tmp_path / "in")) == 4


def test_an_image_that_fails_stops_no_other_and_the_next_run_has_it(server: Server, tmp_path: Path) -> None:
    study = study_of(server, tmp_path)
    server.faults["retrieve"] = [500, "cut"]
    failures = retrieve(server, tmp_path / "in", study=study)
    assert [one["failure_code"] for one in failures] == ["archive_error", "unreachable"]
    assert len(files_in(tmp_path / "in")) == 2
    assert all(not (tmp_path / "in" / one["name"]).exists() for one in failures)
    assert not any(is_whole(tmp_path / "in" / one["name"]) for one in failures)
    assert not any("sources" in str(path) or path.name.startswith(".") for path in files_in(tmp_path / "in"))
    assert retrieve(server, tmp_path / "in", study=study) == []
    assert len(files_in(tmp_path / "in")) == 4
    assert all(is_whole(path) for path in files_in(tmp_path / "in"))
    assert server.num_asked("GET", "/instances/") == 4 + 2


def test_a_series_is_not_whole_from_its_first_image_to_its_last(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, study = DICOMweb.retrieve, study_of(server, tmp_path)
    asked: list[str] = []

    def stopped(self: DICOMweb, *uids: str) -> bytes:
        asked.append(uids[-1])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, *uids)

    monkeypatch.setattr(DICOMweb, "retrieve", stopped)
    with pytest.raises(KeyboardInterrupt):
        retrieve(server, tmp_path / "in", study=study, modality="CT")
    (there,) = files_in(tmp_path / "in")
    assert not is_whole(there)
    retrieve(server, tmp_path / "in", study=study, modality="CT")
    assert is_whole(there)


def test_a_study_that_cannot_be_listed_stops_no_other(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = cine()
    other.StudyInstanceUID, other.SeriesInstanceUID = generate_uid(), generate_uid()
    server.add(save(tmp_path / "other.dcm", other))
    archive = DICOMweb(server.url, retries=0)
    real = archive.find_series
    calls: list[str] = []

    def fail_first(study: str, **wanted: Any) -> Any:
        calls.append(study)
        if len(calls) == 1:
            raise TransferError("The archive is too busy.", code="busy")
        return real(study, **wanted)

    monkeypatch.setattr(archive, "find_series", fail_first)
    (failure,) = retrieve_images(archive, folder=tmp_path / "in", modality="US")
    assert failure["failure_code"] == "busy"
    assert calls[0] not in failure["name"]
    assert files_in(tmp_path / "in")


def test_a_study_that_the_archive_has_not_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such study") as raised:
        retrieve(server, tmp_path / "in", study="1.2.3")
    assert raised.value.code == "not_found"
    assert "1.2.3" not in str(raised.value)


def test_an_archive_that_is_gone_is_not_asked_for_every_image(server: Server, tmp_path: Path) -> None:
    server.faults["retrieve"] = ["reset"] * 10
    failures = retrieve(server, tmp_path / "in", study=study_of(server, tmp_path))
    assert [one["failure_code"] for one in failures] == ["unreachable"] * 4
    assert server.num_asked("GET", "/instances/") == 3
    assert failures[-1]["failure"].endswith("It was not asked again.")


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(), Wanted(series="1.2"), Wanted(study="1.2", date="20260101"), Wanted(study="../1"), Wanted(study=""),
        Wanted(study="1.2", series="*"), Wanted(modality="us"), Wanted(modality="US*"), Wanted(date="2026-01-01"),
        Wanted(date="yesterday"), Wanted(date="-"), Wanted(date=""),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_wanted_clearly_is_refused(wanted: Wanted) -> None:
    with pytest.raises(InputError, match=r"^--"):
        wanted.check()


@pytest.mark.parametrize("date", ["20260131", "20260101-", "-20260131", "20260101-20260131"])
def test_days_are_as_dicom_has_them(date: str) -> None:
    Wanted(date=date).check()
