"""`icmoe predict --dicomweb`: images of an archive are segmented as those of a folder, and results are stored once."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections.abc import Iterator, Sequence
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_sources import cine, ct, save
from dicomweb_server import Server, serving
from orthanc import needs_orthanc, running_orthanc
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from report_schema import VALIDATOR
from shipped import write_restless

from icmoe_monai.__main__ import main
from icmoe_monai.inference.choice import PackChoice
from icmoe_monai.pacs.credentials import TOKEN

pytest.importorskip("dicomweb_client", reason="the extra pacs is not installed")
# as other tests of the command: quick, and with an object also where nothing is found
QUICK = ["--num_workers", "0", "--device", "cpu", "--recipe", "none", "--image_size", "32", "--empty_segmentations",
         "True", "--retries", "0"]  # fmt: skip
# MONAI warns of configs being code at every workflow, and of its own loaders' defaults
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
SECRETS = ("planted-token", "PlantedMiller", "PLANTED-ID")


def study(folder: Path, **attributes: Any) -> list[Dataset]:
    """Write a study of two series, of two slices and a cine of two frames, with pixels, and return its images."""
    folder.mkdir(parents=True)
    uids = [generate_uid() for _ in range(4)]
    shared = {"StudyInstanceUID": uids[0], "PatientName": "PlantedMiller^Anna", "PatientID": "PLANTED-ID", **attributes}
    images = [ct(n, 2.5 * n, SeriesInstanceUID=uids[1], FrameOfReferenceUID=uids[2], **shared) for n in range(2)]
    images.append(cine(2))
    for keyword, value in {**shared, "SeriesInstanceUID": uids[3]}.items():
        setattr(images[-1], keyword, value)
    rng = np.random.default_rng(0)
    for n, image in enumerate(images):
        image.PixelData = rng.integers(0, 256, len(image.PixelData), dtype=np.uint8).tobytes()
        save(folder / f"{n}.dcm", image)
    return images


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving() as running:
        study(tmp_path / "sources")
        for path in sorted((tmp_path / "sources").iterdir()):
            running.add(path)
        yield running


def predict(url: str, out: Path, *words: str) -> int:
    return main(["predict", "--dicomweb", url, *words, str(out), *QUICK])


def report_in(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text())
    VALIDATOR.validate(report)
    return report


def segmentations(server: Server) -> list[Dataset]:
    found = [dcmread(BytesIO(content)) for content in server.instances.values()]
    return [one for one in found if one.Modality == "SEG"]


def study_uid(server: Server) -> str:
    return str(dcmread(BytesIO(next(iter(server.instances.values())))).StudyInstanceUID)


def test_a_study_is_segmented_stored_and_not_done_again_and_no_secret_is_told(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(TOKEN, "planted-token")
    server.authorization = "Bearer planted-token"
    uids = sorted({*server.instances, study_uid(server)})
    out = tmp_path / "out"
    assert predict(server.url, out, "--study", study_uid(server), "--store") == 0
    report = report_in(out)
    assert [case["status"] for case in report["cases"]] == ["done"] * 4
    found = segmentations(server)
    assert len(found) == len(report["sent"]) == 3  # of the stack, and of each frame without a place
    assert {one.StudyInstanceUID for one in found} == {study_uid(server)}
    assert {one.PatientID for one in found} == {"PLANTED-ID"}
    asked = len(server.asked)
    assert predict(server.url, out, "--study", study_uid(server), "--store") == 0
    again = [(method, path) for method, path in server.asked[asked:] if "/instances/" in path or method == "POST"]
    assert again == []
    assert {**report_in(out), "cases": None} == {**report, "cases": None}

    captured = capfd.readouterr()
    told = captured.out + captured.err + caplog.text
    for path in out.rglob("*"):
        told += path.relative_to(out).as_posix()
        if path.is_file() and path.suffix in (".json", ".jsonl", ".csv", ".html"):
            told += path.read_text()
    leaked = [secret for secret in (*SECRETS, *uids) if secret in told]
    assert leaked == []
    assert "PlantedMiller" in (next((out / "segmentations").rglob("*.dcm"))).read_bytes().decode("latin-1")


def test_what_fails_is_in_the_report_and_the_same_command_does_it(server: Server, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("--study", study_uid(server), "--store")
    server.faults["retrieve"] = [500]  # the first slice
    server.faults["store"] = [503]
    assert predict(server.url, out, *words) == 3
    report = report_in(out)
    (failed,) = (case for case in report["cases"] if case["status"] == "failed")
    assert failed["reason_code"] == "archive_error"
    assert "could not be retrieved" in failed["error"]
    assert sorted(str(one["reason_code"]) for one in report["sent"]) == ["None", "busy", "not_whole"]
    assert sum("was not stored" in note for note in report["notes"]) == 2
    assert len(segmentations(server)) == 1
    assert predict(server.url, out, *words) == 0
    report = report_in(out)
    assert report["num_failed"] == 0
    assert [one["status"] for one in report["sent"]] == ["done"] * 3
    assert len(segmentations(server)) == 3


def test_a_query_that_finds_nothing_is_no_failure(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(server.url, out, "--modality", "US", "--date", "20300101-", "--store") == 0
    assert report_in(out)["cases"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dicomweb", "https://a.example"], "--dicomweb needs --study UID"),
        (["--dicomweb", "https://me:planted@a.example", "--study", "1.2"], "no place for secrets"),
        (["--dicomweb=https://a.example", "--study", "1.2", "IN"], "unrecognized arguments"),
        (
            ["--dicomweb", "https://a.example", "--study", "1.2", "--store", "--anonymous"],
            "an anonymous run writes none",
        ),
        (
            ["--dicomweb", "https://a.example", "--study", "1.2", "--store", "--dicom_seg", "none"],
            "dicom_seg none writes none",
        ),
        (["--dicomweb", "https://a.example", "--study", "1.2", "--keep_retrieved", "False"], "goes with --store"),
        (
            [
                *["--dicomweb", "https://a.example", "--study", "1.2", "--store", "--keep_retrieved", "False"],
                *["--experts", "auto"],
            ],
            "one set of experts",
        ),
        (["IN", "--study", "1.2"], "--study is of an archive"),
        (["IN", "--store"], "--store is of an archive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_makes_no_sense_ends_before_anything_runs(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", *words, str(tmp_path / "out"), *QUICK]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "planted" not in error
    assert not (tmp_path / "out" / "retrieved").exists()


def test_an_archive_that_is_not_there_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as gone:
        url = gone.url
    assert predict(url, tmp_path / "out", "--study", "1.2.3.4") == 1
    error = capsys.readouterr().err
    assert "cannot be reached" in error
    assert "1.2.3.4" not in error


@needs_orthanc
@pytest.mark.slow
def test_segmentations_lie_in_the_study_of_their_images_in_orthanc(tmp_path: Path) -> None:
    out = tmp_path / "out"
    credentials = tmp_path / "orthanc.json"
    credentials.write_text(json.dumps({"user": "icmoe", "password": "planted-token"}))
    credentials.chmod(0o600)
    with running_orthanc(tmp_path / "orthanc", user=("icmoe", "planted-token")) as archive:
        first = study(tmp_path / "first", StudyDate="20260105")
        study(tmp_path / "second", StudyDate="20260106", PatientID="another")
        study(tmp_path / "old", StudyDate="20250106")
        for path in sorted(tmp_path.glob("*/*.dcm")):
            archive.add(path)
        before = set(archive.ask("/instances"))
        signed = ("--store", "--credentials", str(credentials))
        words = ("--modality", "CT", "--date", "20260101-", *signed)
        assert predict(archive.dicomweb, out, *words[:-2]) == 1  # without them
        assert predict(archive.dicomweb, out, *words) == 0
        stored = set(archive.ask("/instances")) - before
        found = [dcmread(BytesIO(archive.file_of(one))) for one in stored]
        assert [one.Modality for one in found] == ["SEG"] * 2
        by_study = {one.StudyInstanceUID: one for one in found}
        segmentation = by_study[first[0].StudyInstanceUID]
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
            assert segmentation[keyword] == first[0][keyword], keyword
        assert predict(archive.dicomweb, out, *words) == 0
        assert set(archive.ask("/instances")) == before | stored
        # a folder of its own finds the same objects there
        assert predict(archive.dicomweb, tmp_path / "again", *words) == 0
        assert set(archive.ask("/instances")) == before | stored
        assert predict(archive.dicomweb, out, "--study", str(first[0].StudyInstanceUID), *signed) == 0
        assert len(archive.ask("/instances")) == len(before | stored) + 2  # of the cine's frames
    names = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    assert not re.search(r"\d+\.\d+\.\d+", " ".join(names))


@pytest.mark.slow
def test_a_command_killed_at_any_request_leaves_nothing_out_and_nothing_twice(server: Server, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("--study", study_uid(server), "--store")
    # before the second image, after the third, before the first object is asked for, once it is stored, and the second
    for kind, number in (("retrieve", 2), ("retrieve", 2), ("find", 5), ("store", 1), ("store", 1)):
        process = get_context("fork").Process(target=predict, args=(server.url, out, *words))
        server.kill_at = (kind, number, process)
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, (kind, number)
    server.kill_at = None
    assert predict(server.url, out, *words) == 0
    assert len(segmentations(server)) == server.num_asked("POST") == 3
    assert [one["status"] for one in report_in(out)["sent"]] == ["done"] * 3
    assert predict(server.url, out, *words) == 0
    assert len(segmentations(server)) == server.num_asked("POST") == 3


@pytest.mark.slow
def test_packs_share_what_is_retrieved_and_each_stores_its_own(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["predict", "--dicomweb", server.url, "--study", study_uid(server), "--store", str(out)]
    command += ["--experts", "skin,breast", "--num_workers", "0", "--device", "cpu", "--empty_segmentations", "True"]
    for _ in range(2):
        assert main(command) == 0
        assert server.num_asked("GET", "/instances/") == 3
        assert len(segmentations(server)) == server.num_asked("POST") == 6
    assert [len(report_in(out / name)["sent"]) for name in ("skin", "breast")] == [3, 3]
    assert len([*(out / "retrieved").rglob("*.dcm")]) == 3


def test_images_go_once_their_results_are_stored_and_come_only_if_the_series_grows(
    server: Server, tmp_path: Path
) -> None:
    out, words = tmp_path / "out", ("--study", study_uid(server), "--store", "--keep_retrieved", "False")
    server.faults["store"] = [503]  # of the cine's first frame or of the stack
    assert predict(server.url, out, *words) == 3
    assert 0 < len([*(out / "retrieved").rglob("*.dcm")]) < 3  # of the series whose object the archive has not
    assert predict(server.url, out, *words) == 0
    assert [*(out / "retrieved").rglob("*.dcm")] == []
    assert len(segmentations(server)) == 3
    asked, masks = server.num_asked("GET", "/instances/"), sorted((out / "masks").rglob("*.png"))
    assert predict(server.url, out, *words) == 0
    assert (server.num_asked("GET", "/instances/"), server.num_asked("POST")) == (asked, 4)
    assert sorted((out / "masks").rglob("*.png")) == masks

    third = dcmread(tmp_path / "sources" / "0.dcm")
    third.SOPInstanceUID = third.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    third.ImagePositionPatient = [*third.ImagePositionPatient[:2], 5]
    server.add(save(tmp_path / "third.dcm", third))
    assert predict(server.url, out, *words) == 0
    assert server.num_asked("GET", "/instances/") == asked + 3  # the stack, whole
    assert report_in(out)["num_cases"] == 3
    assert max(int(one.NumberOfFrames) for one in segmentations(server)) == 3
    assert [*(out / "retrieved").rglob("*.dcm")] == []
    assert predict(server.url, out, *words, "--overwrite") == 0
    assert server.num_asked("GET", "/instances/") == asked + 3 + 4


def test_what_the_chosen_pack_could_not_store_the_same_command_stores(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(self: PackChoice, cases: Sequence[Any], *rest: Any) -> dict[str, Any]:
        return {case["name"]: {"name": case["name"], "experts": "skin"} for case in cases}

    monkeypatch.setattr(PackChoice, "choose", choose)
    out = tmp_path / "out"
    command = ["predict", "--dicomweb", server.url, "--study", study_uid(server), "--store", str(out)]
    command += ["--experts", "auto", "--num_workers", "0", "--device", "cpu", "--empty_segmentations", "True"]
    server.faults["store"] = [500]
    assert main(command) == 3
    assert main(command) == 0
    assert len(segmentations(server)) == 3
    assert [one["status"] for one in report_in(out / "skin")["sent"]] == ["done"] * 3
    assert not (out / "breast").exists()


@needs_orthanc
@pytest.mark.slow
def test_reports_and_pictures_are_stored_too_and_never_taken_for_images(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running_orthanc(tmp_path / "orthanc") as archive:
        images = study(tmp_path / "study")
        for path in sorted((tmp_path / "study").iterdir()):
            archive.add(path)
        words = ("--study", str(images[0].StudyInstanceUID), "--store")
        words += ("--structured_reports", "True", "--secondary_captures", "True")
        words += ("--checkpoint", str(write_restless(tmp_path / "restless.pt")))  # which finds something
        for _ in range(2):
            assert predict(archive.dicomweb, out, *words) == 0
            found = [dcmread(BytesIO(archive.file_of(one))) for one in archive.ask("/instances")]
            ours = [one for one in found if str(one.SOPInstanceUID) not in {str(one.SOPInstanceUID) for one in images}]
            assert len(ours) == len(report_in(out)["sent"])
            assert {one.Modality for one in ours} >= {"SEG", "SR"}
            assert any("SecondaryCapture" in one.SOPClassUID.keyword for one in ours)
            assert len([*(out / "retrieved").rglob("*.dcm")]) == len(images)
