"""An archive asked over DICOMweb, by dicomweb-client: QIDO-RS to find, WADO-RS to retrieve, STOW-RS to store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from pydicom import Dataset, dcmread

from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.pacs.connection import ConflictError, Connection
from icmoe_monai.pacs.credentials import Credentials
from icmoe_monai.pacs.errors import TransferError

RETRIES, TIMEOUT = 5, 60.0
_PAGE = 1000
_ANY_SYNTAX = (("application/dicom", "*"),)  # as it is stored: nothing is decoded and encoded again on the way
_DUPLICATE = 0x0111  # failure reason: it is there already


class Series(NamedTuple):
    """A series that an archive has: the UID of its study, its own, and its description."""

    study: str
    uid: str
    description: str


class Instance(NamedTuple):
    """An instance that an archive has: its UID, and that of its SOP class, which may be ""."""

    uid: str
    sop_class: str


class DICOMweb:
    """Find, retrieve and store instances of an archive.

    A request that a passing fault has ended is made again: no connection, a timeout, an answer that is cut short, and
    the states 408, 429, 502, 503 and 504. The first wait is a second, and each twice the one before, or as long as the
    archive asks for, up to two minutes. A certificate is always verified, and no redirection followed.

    Args:
        url: Root of the archive's DICOMweb services.
        credentials: Who asks; None for nobody.
        ca: File with the certificates of the authorities by one of which the archive's own must be signed; None for
            those that the system, or `REQUESTS_CA_BUNDLE`, trusts.
        timeout: Seconds that the archive may be silent.
        retries: How many times a request is made again.

    Raises:
        InputError: If the URL is none, or holds a name, password, query or fragment; there is no such file of
            certificates; or the extra `pacs` is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials | None = None,
        ca: str | Path | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
    ) -> None:
        self._connection = Connection(
            url, credentials=credentials or Credentials(), ca=ca, timeout=timeout, retries=retries
        )
        self._client = self._connection.client
        self.digest = self._connection.digest

    def find_studies(self, *, modality: str | None = None, date: str | None = None) -> list[str]:
        """Return the UIDs of the studies that match.

        Args:
            modality: Modality that a series of the study has, such as US; None for any.
            date: Day of the study, as DICOM writes it: 20260131, 20260101-20260131, 20260101- or -20260131.

        Raises:
            TransferError: If the archive does not answer as it should.
        """
        filters = _without_none({"ModalitiesInStudy": modality, "StudyDate": date})
        search = partial(self._client.search_for_studies, search_filters=filters)
        return list(self._search(search, "StudyInstanceUID", may_be_unknown=False))

    def find_series(self, study: str, *, series: str | None = None, modality: str | None = None) -> list[Series]:
        """Return the series of a study that match; of a study that the archive does not know, none.

        Args:
            study: UID of the study.
            series: UID of the series; None for any.
            modality: Its modality; None for any.

        Raises:
            TransferError: If the archive does not answer as it should.
        """
        filters = _without_none({"SeriesInstanceUID": series, "Modality": modality})
        found = self._search(
            partial(self._client.search_for_series, study, fields=["SeriesDescription"]),
            "SeriesInstanceUID",
            search_filters=filters,
        )
        # what an archive does not filter is filtered here
        return [
            Series(study, uid, str(one.get("SeriesDescription") or ""))
            for uid, one in found.items()
            if series in (None, uid) and (modality is None or one.get("Modality", modality) == modality)
        ]

    def find_instances(self, study: str, series: str, *, instance: str | None = None) -> list[Instance]:
        """Return the instances of a series; of a series that the archive does not know, none.

        Args:
            study: UID of the study.
            series: UID of the series.
            instance: UID of the instance; None for any.

        Raises:
            TransferError: If the archive does not answer as it should.
        """
        found = self._search(
            partial(self._client.search_for_instances, study, series),
            "SOPInstanceUID",
            search_filters=_without_none({"SOPInstanceUID": instance}),
        )
        told = [Instance(uid, str(one.get("SOPClassUID") or "")) for uid, one in found.items()]
        return [one for one in told if instance in (None, one.uid)]  # also of an archive that does not filter

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        """Return the DICOM file of an instance as it is stored, in its own transfer syntax.

        Args:
            study: UID of its study.
            series: UID of its series.
            instance: Its UID.

        Raises:
            TransferError: If the archive does not give it, or gives another.
        """

        def ask() -> bytes:
            file = BytesIO()
            with silence():
                found = self._client.retrieve_instance(study, series, instance, media_types=_ANY_SYNTAX)
                if (found.get("SOPInstanceUID"), found.get("StudyInstanceUID")) == (instance, study):
                    found.save_as(file, enforce_file_format=True)
                    return file.getvalue()
            raise self._connection.failure(
                "bad_answer", "gives another instance than was asked for: ask those who run it"
            )

        return self._connection.ask(ask)

    def store(self, path: str | Path) -> None:
        """Store a DICOM file, which the archive then has; one that it has already is not sent.

        Args:
            path: The file.

        Raises:
            TransferError: If the archive does not take it, or does not confirm that it did.
        """
        with silence():
            dataset = dcmread(path)
            study, series, uid = dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID
        if self._has(study, series, uid):
            return
        answer = self._send(dataset)
        if reason := _failure_reason(answer, uid):
            told = f"did not take the object (failure reason {reason}): ask those who run it"
            raise self._connection.failure("rejected", told)
        if uid not in _uids(answer, "ReferencedSOPSequence") and not self._has(study, series, uid):
            told = "did not confirm the object, and does not have it: try again, or ask those who run it"
            raise self._connection.failure("not_confirmed", told)

    def _has(self, study: str, series: str, uid: str) -> bool:
        return bool(self.find_instances(study, series, instance=uid))

    def _send(self, dataset: Dataset) -> Dataset:
        """Send an object, and return the archive's answer, also one that rejects it with a reason."""
        send = partial(self._client.store_instances, [dataset], study_instance_uid=dataset.StudyInstanceUID)
        try:
            return self._connection.ask(send)
        except ConflictError as error:
            conflict = error
        with suppress(Exception), silence():  # an answer without a data set is an error like any other
            return Dataset.from_json(conflict.response.json())
        raise conflict

    def _search(
        self, search: Callable[..., Any], key: str, *, may_be_unknown: bool = True, **given: Any
    ) -> dict[str, Dataset]:
        """Return what a search finds by its UID, page by page, until a page brings nothing new.

        A place that the archive does not know is a study or series that it has not; else it is a wrong address.
        """
        found: dict[str, Dataset] = {}
        received = 0
        while True:
            page = self._page(partial(search, limit=_PAGE, offset=received, **given), may_be_unknown)
            received += len(page)
            new = {str(uid): one for one in page if (uid := one.get(key)) and str(uid) not in found}
            found |= new
            if not new:
                return found

    def _page(self, search: Callable[[], Any], may_be_unknown: bool) -> list[Dataset]:
        def ask() -> list[Dataset]:
            answer = search()
            with silence():
                return [Dataset.from_json(one) for one in answer]

        try:
            return self._connection.ask(ask)
        except TransferError as error:
            if error.code != "not_found" or not may_be_unknown:
                raise
            return []


def _failure_reason(answer: Dataset, uid: str) -> str:
    """Return why an object was not taken, as the standard numbers it; "" if it was, or is there already."""
    for item in answer.get("FailedSOPSequence") or ():
        reason = item.get("FailureReason")
        if item.get("ReferencedSOPInstanceUID") == uid and reason != _DUPLICATE:
            return f"{reason:04X}" if isinstance(reason, int) else "not told"
    return ""


def _uids(answer: Dataset, keyword: str) -> set[str]:
    return {str(item.get("ReferencedSOPInstanceUID")) for item in answer.get(keyword) or ()}


def _without_none(filters: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value is not None}
