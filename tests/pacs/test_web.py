"""An archive asked over DICOMweb: what is found, retrieved and stored, and what its faults become."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dicom_sources import cine, ct, save, source
from dicomweb_server import Server, make_certificate, needs_openssl, rejection_of, serving
from pydicom import dcmread
from pydicom.uid import generate_uid

from icmoe_monai.errors import InputError
from icmoe_monai.pacs import connection
from icmoe_monai.pacs.connection import LONGEST_WAIT
from icmoe_monai.pacs.credentials import Credentials
from icmoe_monai.pacs.errors import TransferError
from icmoe_monai.pacs.web import DICOMweb

pytest.importorskip("dicomweb_client", reason="the extra pacs is not installed")
STUDY = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Hold the waits, none of which is waited."""
    waited: list[float] = []
    monkeypatch.setattr(connection, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def image(server: Server, tmp_path: Path) -> Any:
    return server.add(save(tmp_path / "image.dcm", cine()))


def retrieve(archive: DICOMweb, image: Any) -> bytes:
    return archive.retrieve(image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)


def test_a_query_finds_studies_series_and_instances_on_all_pages(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icmoe_monai.pacs.web._PAGE", 2)
    slices = [server.add(save(tmp_path / f"{n}.dcm", ct(n, 2.5 * n))) for n in range(5)]
    other = server.add(save(tmp_path / "us.dcm", cine()))
    later = source("1.2.840.10008.5.1.4.1.1.7", StudyInstanceUID=generate_uid(), StudyDate="20260601", Modality="US")
    server.add(save(tmp_path / "later.dcm", later))
    archive, study = DICOMweb(server.url + "/"), str(other.StudyInstanceUID)
    assert set(archive.find_studies()) == {study, str(later.StudyInstanceUID)}
    assert archive.find_studies(modality="US", date="20260101-") == [str(later.StudyInstanceUID)]
    assert archive.find_studies(modality="MR") == []
    (series,) = archive.find_series(study, modality="CT")
    assert (series.study, series.uid) == (study, slices[0].SeriesInstanceUID)
    assert archive.find_series("1.2.3") == []
    found = archive.find_instances(study, series.uid)
    assert {one.uid for one in found} >= {str(one.SOPInstanceUID) for one in slices}


def test_an_archive_without_pages_is_asked_no_longer_than_it_tells_something_new(
    server: Server, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = DICOMweb(server.url)
    page = archive._client.search_for_studies(limit=10, offset=0)
    monkeypatch.setattr(archive._client, "search_for_studies", lambda **_: page)
    assert archive.find_studies() == [image.StudyInstanceUID]


def test_an_instance_is_retrieved_as_it_is_stored(server: Server, image: Any) -> None:
    found = dcmread(BytesIO(retrieve(DICOMweb(server.url), image)))
    assert found == image
    assert found.file_meta.TransferSyntaxUID == image.file_meta.TransferSyntaxUID
    assert "transfer-syntax=*" in server.headers[-1]["Accept"]
    assert server.headers[-1]["Host"] == f"127.0.0.1:{server.server_port}"  # which the library shortens


@pytest.mark.parametrize("fault", ["reset", "cut", "short", "stall", 429, 502, 503, 504])
def test_a_passing_fault_is_passed(fault: Any, server: Server, image: Any, waits: list[float]) -> None:
    server.faults["retrieve"] = [fault, fault]
    content = retrieve(DICOMweb(server.url, timeout=0.5), image)
    assert dcmread(BytesIO(content)) == image
    assert waits == [1, 2]


@pytest.mark.parametrize(
    ("fault", "code"),
    [("reset", "unreachable"), ("cut", "unreachable"), ("short", "bad_answer"), ("stall", "timed_out"), (503, "busy")],
)
def test_a_fault_that_stays_ends_the_waits_which_grow(
    fault: Any, code: str, server: Server, image: Any, waits: list[float]
) -> None:
    server.faults["retrieve"] = [fault] * 10
    with pytest.raises(TransferError) as raised:
        retrieve(DICOMweb(server.url, timeout=0.3, retries=3), image)
    assert raised.value.code == code
    assert waits == [1, 2, 4]
    assert server.num_asked("GET", "/instances/") == 4


@pytest.mark.parametrize("words", [7, "date"])
def test_an_archive_is_left_alone_for_as_long_as_it_asks(
    words: Any, server: Server, image: Any, waits: list[float]
) -> None:
    asked = "7" if words == 7 else formatdate(4102444800, usegmt=True)  # in 2100
    server.faults["retrieve"] = [(429, {"Retry-After": asked})]
    if words == 7:
        retrieve(DICOMweb(server.url), image)
        assert waits == [7]
    else:
        with pytest.raises(TransferError, match="too busy") as raised:
            retrieve(DICOMweb(server.url), image)
        assert raised.value.wait > LONGEST_WAIT
        assert waits == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (400, "archive_error"), (401, "no_access"), (403, "no_access"), (404, "not_found"), (500, "archive_error"),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}), "bad_answer"), ("other", "bad_answer"),
        ((200, b"<html>Patient Miller: log in</html>"), "bad_answer"),
    ],
    ids=str,
)  # fmt: skip
def test_a_fault_that_will_not_pass_is_told_at_once(
    fault: Any, code: str, server: Server, image: Any, tmp_path: Path, waits: list[float]
) -> None:
    server.add(save(tmp_path / "other.dcm", cine()))
    server.instances = dict(reversed(server.instances.items()))
    server.faults["retrieve"] = [fault]
    with pytest.raises(TransferError) as raised:
        retrieve(DICOMweb(server.url), image)
    assert raised.value.code == code
    assert waits == []
    told = "".join(traceback.format_exception(raised.value))
    assert not any(secret in told for secret in ("Miller", "Doe", "studies", str(image.StudyInstanceUID)))


@pytest.mark.parametrize(
    ("fault", "code"), [(404, "not_found"), ((301, {"Location": "http://127.0.0.1:9/elsewhere"}), "bad_answer")]
)
def test_a_wrong_address_is_no_archive_without_studies(fault: Any, code: str, server: Server, image: Any) -> None:
    server.faults["find"] = [fault, fault]
    with pytest.raises(TransferError, match="address") as raised:
        DICOMweb(server.url).find_studies(modality="US")
    assert raised.value.code == code
    if code == "not_found":  # of a study it may mean that the archive has none, as some answer
        assert DICOMweb(server.url).find_series(str(image.StudyInstanceUID)) == []
    else:
        with pytest.raises(TransferError, match="sends on to another address"):
            DICOMweb(server.url).find_series(str(image.StudyInstanceUID))


@pytest.mark.parametrize("answer", [b"<html>", b'{"error": "Miller"}', b"[1, 2]"])
def test_an_answer_to_a_query_that_is_none_is_told(answer: bytes, server: Server) -> None:
    server.faults["find"] = [(200, answer)] * 2
    with pytest.raises(TransferError, match="cannot be used") as raised:
        DICOMweb(server.url).find_studies()
    assert "Miller" not in "".join(traceback.format_exception(raised.value))


def test_nobody_there_is_told(waits: list[float]) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(TransferError, match="cannot be reached") as raised:
        DICOMweb(url, retries=1).find_studies()
    assert raised.value.code == "unreachable"
    assert waits == [1]


def test_a_stored_object_is_there_and_not_stored_again(server: Server, tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", cine())
    archive = DICOMweb(server.url)
    for _ in range(2):
        archive.store(path)
    assert server.num_asked("POST") == 1
    (content,) = server.instances.values()
    assert dcmread(BytesIO(content)) == dcmread(path)


@pytest.mark.parametrize("status", [200, 202, 409])
def test_an_object_that_is_not_taken_is_told_with_its_reason(status: int, server: Server, tmp_path: Path) -> None:
    image = cine()
    server.faults["store"] = [(status, rejection_of(image, 0xA700))]
    with pytest.raises(TransferError, match="failure reason A700") as raised:
        DICOMweb(server.url).store(save(tmp_path / "a.dcm", image))
    assert raised.value.code == "rejected"


@pytest.mark.parametrize("answer", [b"", b"{}", b"<html>"])
def test_an_object_that_nobody_confirms_is_not_taken_for_stored(answer: bytes, server: Server, tmp_path: Path) -> None:
    server.faults["store"] = [(200, answer)]
    with pytest.raises(TransferError) as raised:
        DICOMweb(server.url).store(save(tmp_path / "a.dcm", cine()))
    assert raised.value.code in ("not_confirmed", "bad_answer")
    server.faults["store"] = [(409, answer)]
    with pytest.raises(TransferError) as raised:
        DICOMweb(server.url).store(save(tmp_path / "a.dcm", cine()))
    assert raised.value.code in ("rejected", "not_confirmed")


def test_an_object_that_is_there_already_counts_as_stored(server: Server, tmp_path: Path) -> None:
    image = cine()
    path = save(tmp_path / "a.dcm", image)
    server.faults["store"] = [(409, rejection_of(image, 0x0111))]
    server.faults["find"] = [204]
    server.add(path)  # as another sender would, between the question and the answer
    DICOMweb(server.url).store(path)
    assert server.num_asked("POST") == 1


def test_a_large_object_is_sent_whole_the_second_time(server: Server, tmp_path: Path, waits: list[float]) -> None:
    image = cine()
    image.Rows, image.Columns, image.NumberOfFrames = 1000, 1000, 3
    image.PixelData = bytes(range(250)) * 12_000
    path = save(tmp_path / "a.dcm", image)
    server.faults["store"] = [503]
    DICOMweb(server.url).store(path)
    (content,) = server.instances.values()
    assert dcmread(BytesIO(content)).PixelData == image.PixelData


@pytest.mark.slow
def test_a_large_object_may_take_longer_than_an_archive_may_be_silent(server: Server, tmp_path: Path) -> None:
    image = cine()
    image.Rows, image.Columns, image.NumberOfFrames = 1000, 1000, 40
    image.PixelData = bytes(40_000_000)
    server.seconds_per_mb = 0.1  # 4 s; what the network buffers, a few MB, is read within the timeout
    DICOMweb(server.url, timeout=2.0, retries=0).store(save(tmp_path / "a.dcm", image))
    assert len(server.instances) == 1


def test_requests_are_signed_and_the_signature_is_nowhere_told(
    server: Server, image: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.authorization = "Bearer planted-token"
    signed = DICOMweb(server.url, credentials=Credentials(server.authorization))
    assert signed.find_studies() == [image.StudyInstanceUID]
    for credentials, told in ((None, "asks for credentials"), (Credentials("Bearer wrong-token"), "refuses these")):
        with pytest.raises(TransferError, match=told) as raised:
            DICOMweb(server.url, credentials=credentials).find_studies()
        assert raised.value.code == "no_access"
        assert "token" not in "".join(traceback.format_exception(raised.value)) + repr(credentials)
    assert "token" not in caplog.text
    assert str(image.StudyInstanceUID) not in caplog.text
    names = ("dicomweb_client", "retrying", "urllib3", "requests")
    assert {logging.getLogger(name).level for name in names} == {logging.NOTSET}  # for what else the process does


def test_no_netrc_is_read(server: Server, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password something")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    DICOMweb(server.url).find_studies()
    assert "Authorization" not in server.headers[-1]


@needs_openssl
def test_a_certificate_must_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = make_certificate(tmp_path / "other")
    with serving(certificate) as server:
        image = server.add(save(tmp_path / "a.dcm", cine()))
        for ca in (None, other):
            with pytest.raises(TransferError, match="not trusted") as raised:
                DICOMweb(server.url, ca=ca).find_studies()
            assert raised.value.code == "not_trusted"
        assert server.asked == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))  # which does not go before what is given
        assert DICOMweb(server.url, ca=certificate[0]).find_studies() == [image.StudyInstanceUID]
        plain = server.url.replace("https", "http")
        with pytest.raises(TransferError):
            DICOMweb(plain, retries=0).find_studies()


@pytest.mark.parametrize(
    "url",
    ["", None, "archive", "ftp://archive/x", "https://", "https://me:planted@archive/x", "https://planted@archive",
     "https://archive/x?key=planted", "https://archive/#planted", "http://archive:planted/"],
    ids=str,
)  # fmt: skip
def test_an_address_that_is_none_or_holds_secrets_is_refused(url: Any) -> None:
    with pytest.raises(InputError, match="--dicomweb, or the url of a node") as raised:
        DICOMweb(url)
    assert "planted" not in "".join(traceback.format_exception(raised.value))


def test_missing_certificates_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ca\.pem is no file of certificates"):
        DICOMweb("https://archive.example", ca=tmp_path / "ca.pem")


def test_an_error_goes_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(TransferError("told", code="busy", wait=7.0)))
    assert (str(error), error.code, error.wait) == ("told", "busy", 7.0)
