"""Images of an archive retrieved into a folder, from which a run then takes them as from any other.

A file is called after digests of the UIDs of its study, series and instance, so that no name tells a UID. It is whole
or not there, and what is there is not retrieved again. A series that is not whole yet holds a mark, and so does
one that was removed once its results were stored.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom import uid as uids

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.inference.segmentations import PROGRAM
from icmoe_monai.pacs.errors import TransferError
from icmoe_monai.pacs.patience import Patience
from icmoe_monai.pacs.web import DICOMweb, Instance, Series
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.utils.files import refusal, write_atomically

RETRIEVED = "retrieved"  # folder of OUT
_NOT_WHOLE = ".not_whole"
_REMOVED = ".removed"  # which images of a series were removed, a name a line
_DIGEST = re.compile(r"[0-9a-f]{16}")  # as `digest_of` makes them
_DATE = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}")
_UID = re.compile(r"[0-9.]{1,64}")
_MODALITY = re.compile(r"[A-Z0-9_ ]{1,16}")
# of the names of SOP classes with pixels; the header of a file decides, but SRs and the like are not worth the way
_OF_IMAGES = ("Image Storage", "Volume Storage", "Map Storage")
_logger = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """Which images are wanted: those of a study or one of its series, or those of all studies that match.

    Attributes:
        study: UID of a study.
        series: UID of a series of it.
        modality: Modality of the series, such as US.
        date: Day of the study, such as 20260131, 20260101-20260131, 20260101- or -20260131.
    """

    study: str | None = None
    series: str | None = None
    modality: str | None = None
    date: str | None = None

    def check(self) -> None:
        """Check that something is wanted, in words that an archive understands.

        Raises:
            InputError: If not; the sentence repeats no UID.
        """
        if self.study is None and self.series is not None:
            raise InputError("--series is one of a study: name that too, --study UID.")
        if self.study is None and self.modality is None and self.date is None:
            raise InputError(
                "--dicomweb needs --study UID, or --modality or --date: else it would retrieve the archive."
            )
        if self.study is not None and self.date is not None:
            raise InputError("--date is a question for studies, and --study names one: leave one of them out.")
        kinds = {"study": (_UID, "a DICOM UID"), "series": (_UID, "a DICOM UID"),
                 "modality": (_MODALITY, "a modality as DICOM writes it, such as US"),
                 "date": (_DATE, "a day or days, such as 20260131, 20260101-20260131 or 20260101-")}  # fmt: skip
        for name, (pattern, kind) in kinds.items():
            value = getattr(self, name)
            if value is not None and not pattern.fullmatch(value):
                raise InputError(f"--{name} must be {kind}.")


@by_first
def retrieve_images(
    archive: DICOMweb,
    *,
    folder: str | Path,
    study: str | None = None,
    series: str | None = None,
    modality: str | None = None,
    date: str | None = None,
    again: bool = False,
) -> list[dict[str, str]]:
    """Retrieve images into `<folder>/<study>/<series>/<instance>.dcm`; of several processes the first does.

    Objects that are no images, and the results of this program, are not retrieved. What fails does not stop the others.
    A series that `remove_series` has removed is retrieved again only if the archive has other images of it now.

    Args:
        archive: The archive.
        folder: The folder, which is made, for its owner only.
        study: See `Wanted`, like the following.
        series: UID of a series of the study.
        modality: Modality of the series.
        date: Day of the studies.
        again: Retrieve removed series too.

    Returns:
        For each file, series or study that could not be retrieved, and is not there from an earlier run, its `name` in
        the folder, and why: `failure`, a sentence, and `failure_code`, one of `errors.REASONS`.

    Raises:
        InputError: If nothing is wanted, or the folder cannot be written.
        TransferError: If the archive cannot be asked at all, or has not the study or series that was named.
    """
    wanted = Wanted(study, series, modality, date)
    wanted.check()
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise refusal(folder, error) from error
    retrieval = _Retrieval(archive, folder, again=again)
    if wanted.study is not None:
        found = archive.find_series(wanted.study, series=wanted.series, modality=wanted.modality)
        if not found:
            raise TransferError(
                "The archive has no such study or series: look at the UIDs and the address.", code="not_found"
            )
        retrieval.take(found)
    else:
        for study in archive.find_studies(modality=wanted.modality, date=wanted.date):
            retrieval.take_study(study, modality=wanted.modality)
    retrieval.tell()
    return retrieval.failures


def is_whole(path: str | Path) -> bool:
    """Tell whether the series of a retrieved file has been retrieved as a whole.

    Args:
        path: The file.
    """
    return not (Path(path).parent / _NOT_WHOLE).exists()


def remove_series(folder: Path) -> None:
    """Remove the images of a series that was retrieved, and note which they were.

    Args:
        folder: Folder of the series; nothing is removed of one that `retrieve_images` has not made.

    Raises:
        InputError: If that cannot be noted.
    """
    if not all(_DIGEST.fullmatch(name) for name in (folder.parent.name, folder.name)):
        return
    paths = sorted(path for path in folder.glob("*.dcm") if _DIGEST.fullmatch(path.stem))
    names = sorted({path.name for path in paths} | _removed_from(folder))  # an earlier removal may not have ended
    write_atomically(folder / _REMOVED, lambda temporary: temporary.write_text("\n".join(names)))
    for path in paths:
        path.unlink()


def _removed_from(folder: Path) -> set[str]:
    path = folder / _REMOVED
    return set(path.read_text().split()) if path.is_file() else set()


def digest_of(uid: str) -> str:
    """Return what a UID is called in names of files.

    Args:
        uid: The UID.
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


def _is_own(content: bytes) -> bool:
    """Tell whether a DICOM file is a result of this program."""
    with suppress(Exception), silence():  # damaged bytes make pydicom raise nearly anything
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=["SeriesDescription"])
        return str(header.get("SeriesDescription") or "").startswith(PROGRAM)
    return False


class _Retrieval:
    """Retrieve series into a folder, and count what comes of it."""

    def __init__(self, archive: DICOMweb, folder: Path, *, again: bool) -> None:
        self.archive = archive
        self.again = again
        self.folder = folder
        self.patience = Patience()
        self.failures: list[dict[str, str]] = []
        self.num_new = self.num_there = self.num_others = 0

    def take_study(self, study: str, *, modality: str | None) -> None:
        try:
            found = self.patience.ask(partial(self.archive.find_series, study, modality=modality))
        except TransferError as error:
            self.fail(digest_of(study), error)
        else:
            self.take(found)

    def take(self, found: list[Series]) -> None:
        for series in found:
            if series.description.startswith(PROGRAM):
                continue
            name = f"{digest_of(series.study)}/{digest_of(series.uid)}"
            try:
                instances = self.patience.ask(partial(self.archive.find_instances, series.study, series.uid))
            except TransferError as error:
                self.fail(name, error)
            else:
                self._take(series, name, [one for one in instances if self._may_be_image(one)])

    def fail(self, name: str, error: TransferError) -> None:
        self.failures.append({"name": name, "failure": str(error), "failure_code": error.code})

    def tell(self) -> None:
        _logger.info("%d images were retrieved, %d were there, %d failed, and %d objects are no images.",
                     self.num_new, self.num_there, len(self.failures), self.num_others)  # fmt: skip

    def _take(self, series: Series, name: str, instances: list[Instance]) -> None:
        paths = {one.uid: f"{name}/{digest_of(one.uid)}.dcm" for one in instances}
        if (
            paths
            and not self.again
            and _removed_from(self.folder / name) == {Path(path).name for path in paths.values()}
        ):
            self.num_there += len(paths)
            return
        (self.folder / name / _REMOVED).unlink(missing_ok=True)
        missing = {uid: path for uid, path in paths.items() if not (self.folder / path).exists()}
        self.num_there += len(paths) - len(missing)
        mark = self.folder / name / _NOT_WHOLE
        if missing:
            _logger.info("%s: %d images are retrieved.", name, len(missing))
            write_atomically(mark, Path.touch)
        num_failed = len(self.failures)
        for uid, path in missing.items():
            try:
                self._write(series, uid, self.folder / path)
            except TransferError as error:
                self.fail(path, error)
        if len(self.failures) == num_failed:
            mark.unlink(missing_ok=True)

    def _write(self, series: Series, uid: str, path: Path) -> None:
        content = self.patience.ask(partial(self.archive.retrieve, series.study, series.uid, uid))
        if _is_own(content):  # of an archive that does not tell series' descriptions
            self.num_others += 1
            return
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
        self.num_new += 1

    def _may_be_image(self, instance: Instance) -> bool:
        name = uids.UID(instance.sop_class).name
        is_image = name == instance.sop_class or any(part in name for part in _OF_IMAGES)
        self.num_others += not is_image
        return is_image
