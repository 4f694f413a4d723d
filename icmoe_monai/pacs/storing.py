"""The DICOM objects of a run stored in an archive, each once, whatever is interrupted when.

An object's UIDs are a function of its source, the model and the settings. The archive is asked for it before it is
sent, and the journal records it once the archive has it: a run that was killed between the two asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import dcmread

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.inference.anonymity import read_anonymous
from icmoe_monai.inference.journal import SENT, VOLUME, Journal
from icmoe_monai.pacs.errors import TransferError
from icmoe_monai.pacs.patience import Patience
from icmoe_monai.pacs.retrieval import is_whole, remove_series
from icmoe_monai.pacs.web import DICOMweb
from icmoe_monai.utils.files import digest_of

_logger = logging.getLogger(__name__)


class StoreObjects:
    """Store the DICOM objects of a run's volumes in an archive; `InferenceRun` calls it once all is written.

    Args:
        archive: The archive.
        cases: All cases of the run.
        anonymous: Whether the run is anonymous, and writes no objects.
        dicom_seg: What kind of DICOM Segmentations the run writes; with "none" it writes no objects.
        keep_retrieved: Whether to keep the images once all that was made of their series is stored.

    Raises:
        InputError: If the run writes no objects.
    """

    def __init__(
        self,
        archive: DICOMweb,
        *,
        cases: Sequence[Mapping[str, Any]],
        anonymous: bool | str = False,
        dicom_seg: str = "binary",
        keep_retrieved: bool = True,
    ) -> None:
        check_has_objects(anonymous, dicom_seg)
        self.archive = archive
        self.patience = Patience()
        self.keep_retrieved = keep_retrieved
        self.cases = list(cases)
        self.sources = {case["name"]: str(case["source"]) for case in cases}

    def send(self, journal: Journal) -> None:
        """Store what is not stored yet, and record each object in the journal, also one that could not be stored.

        Args:
            journal: The run's journal.
        """
        num_new = 0
        for volume in journal.records(VOLUME).values():
            if volume["name"] not in self.sources:
                continue
            for file in volume["files"]:
                if file["file"].endswith(".dcm"):
                    num_new += self._send(journal, file)
        _logger.info("%d DICOM objects were stored in the archive.", num_new)
        if not self.keep_retrieved:
            self._remove_settled(journal)

    def _remove_settled(self, journal: Journal) -> None:
        """Remove the images of each series of which all is segmented, and all that was made of it stored."""
        open_cases = {case["name"] for case in self.cases if not (journal.is_done(case) and is_whole(case["source"]))}
        for volume in journal.records(VOLUME).values():
            files = [file["file"] for file in volume["files"] if file["file"].endswith(".dcm")]
            sent = [journal.records(SENT).get(self._name_of(file), {}).get("status") for file in files]
            if volume.get("reason_code") or any(status != "done" for status in sent):
                open_cases.update(volume["of"])
        of_series: dict[Path, set[str]] = {}
        for name, source in self.sources.items():
            of_series.setdefault(Path(source).parent, set()).add(name)
        settled = [folder for folder, names in of_series.items() if not names & open_cases]
        for folder in settled:
            remove_series(folder)
        _logger.info("The images of %d series, whose results are stored, were removed here.", len(settled))

    def _name_of(self, file: str) -> str:
        """Return by what the journal knows that a file was sent to this archive."""
        return f"{file} {self.archive.digest}"

    def _send(self, journal: Journal, file: Mapping[str, Any]) -> bool:
        """Store an object; return whether it is new there, as far as this folder knows."""
        path = journal.output_dir / file["file"]
        name, sha256 = self._name_of(file["file"]), digest_of(path)
        earlier = journal.records(SENT).get(name, {})
        if (earlier.get("status"), earlier.get("sha256")) == ("done", sha256):
            return False
        record = {"name": name, "file": file["file"], "sha256": sha256, "status": "done"}
        record |= {"reason_code": None, "error": None}
        try:
            self._check_whole(file["cases"])
            self.patience.ask(partial(self.archive.store, path))
        except TransferError as error:
            told = f"{file['file']} was not stored. {error}"
            record |= {"status": "failed", "reason_code": error.code, "error": told}
        journal.add(SENT, record)
        return record["status"] == "done"

    def _check_whole(self, names: Sequence[str]) -> None:
        """Refuse an object that lacks slices: with them it would be another object, and this one stay beside it."""
        for source in {self.sources[name] for name in names if name in self.sources}:
            if not is_whole(source) and _has_place(source):
                told = "Images of its series could not be retrieved: the same command again retrieves and stores all."
                raise TransferError(told, code="not_whole")


def check_has_objects(anonymous: bool | str, dicom_seg: str = "binary") -> None:
    """Check that a run writes what is to be stored.

    Args:
        anonymous: Whether the run is anonymous, as `read_anonymous` reads it.
        dicom_seg: What kind of DICOM Segmentations it writes, or none.

    Raises:
        InputError: If it writes nothing.
    """
    if dicom_seg == "none":
        raise InputError("--store sends DICOM Segmentations, and dicom_seg none writes none: leave out one of the two.")
    if read_anonymous(anonymous):
        raise InputError(
            "--store sends DICOM Segmentations, which hold the patient's data, and an anonymous run writes none: leave "
            "out one of the two."
        )


def _has_place(path: str) -> bool:
    """Tell whether an image is a slice of a stack."""
    with silence():
        return bool(dcmread(path, stop_before_pixels=True, force=True).get("ImagePositionPatient"))
