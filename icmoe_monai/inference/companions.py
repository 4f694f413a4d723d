"""What goes with a run's DICOM Segmentations: Structured Reports with numbers, Secondary Captures with outlines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.seg import (
    Finding,
    NoSegmentationError,
    Part,
    Segment,
    Series,
    header_of,
    write_capture,
    write_report,
)
from icmoe_monai.imageio.read import see_image, split_suffix
from icmoe_monai.inference.folders import SECONDARY_CAPTURES, STRUCTURED_REPORTS
from icmoe_monai.inference.journal import CASE, Journal
from icmoe_monai.utils.files import is_of_the_disk
from icmoe_monai.visualize.overlay import draw_contours

_REPORT, _CAPTURE = "Structured Report", "Secondary Capture"
_NO_OBJECT = "has no DICOM {}, which could not be made ({})"


class Written(NamedTuple):
    """What was written of a volume, or of a part of it.

    Attributes:
        files: `file`, `cases` (their names) and `uid` of each object.
        remarks: What shall be told, as sentences that go on from the name of the first case.
        reason_code: One of `errors.REASONS` where something could not be made, else None.
    """

    files: list[dict[str, Any]]
    remarks: list[str]
    reason_code: str | None = None


class Subject(NamedTuple):
    """A segmentation that was written.

    Attributes:
        file: Its path, relative to the output folder.
        part: The images or frames in it.
        cases: The case of each of them.
        numbers: The number that an object of each case gets in its series.
        algorithm: What found it, as `write_report` takes it.
        series: The series of the run's segmentations.
    """

    file: str
    part: Part
    cases: Sequence[Mapping[str, Any]]
    numbers: Sequence[int]
    algorithm: Mapping[str, Any]
    series: Series


class CompanionWriter:
    """Write `<output_dir>/structured_reports/<name>.dcm` and `<output_dir>/secondary_captures/<name>.dcm`.

    A report is called after its segmentation, a capture after its case. The reports of a study are one series, and so
    are the captures. Their UIDs are a function of the segmentation's.

    Args:
        journal: The run's journal, in which the cases are.
        segments: The foreground classes.
        structured_reports: Whether to write reports.
        secondary_captures: Whether to write captures.
        empty: Whether images are shown in which nothing was found.
        classes: Returns a case's class map, uint8 (H, W).
    """

    def __init__(
        self,
        *,
        journal: Journal,
        segments: Sequence[Segment],
        structured_reports: bool,
        secondary_captures: bool,
        empty: bool,
        classes: Callable[[Mapping[str, Any]], np.ndarray],
    ) -> None:
        self.journal = journal
        self.segments = segments
        self.kinds = [_REPORT] * structured_reports + [_CAPTURE] * secondary_captures
        self.empty = empty
        self._classes = classes

    def write(self, subject: Subject) -> Written:
        """Write what goes with a segmentation.

        Args:
            subject: The segmentation, which is on the disk.

        Raises:
            InputError: The disk is full, or may not be written.
        """
        if not self.kinds:
            return Written([], [])
        if not subject.part.places:
            return Written([], [f"lies on a slide, so that it has no DICOM {' and no '.join(self.kinds)}"])
        files: list[dict[str, Any]] = []
        remarks: list[str] = []
        segmentation = header_of(self.journal.output_dir / subject.file)
        for kind in self.kinds:
            try:
                for file in (self._report if kind == _REPORT else self._captures)(subject, segmentation):
                    files.append(file)  # what is written is told, also if the next cannot be
            except (InputError, ValueError, TypeError, RuntimeError) as error:
                if is_of_the_disk(error):
                    raise
                remarks.append(_told(error, subject) or _NO_OBJECT.format(kind, type(error).__name__))
        return Written(files, remarks, NoSegmentationError.code if remarks else None)

    def _report(self, subject: Subject, segmentation: Dataset) -> Iterator[dict[str, Any]]:
        file, review_below = _beside(subject.file), self.journal.settings.get("review_below")
        title = f"{subject.algorithm['name']}: measurements"
        series = subject.series.of_kind(_REPORT, title, made_by=str(review_below))
        uid = _uid_in(series, segmentation)
        write_report(
            self.journal.output_dir / file,
            subject.part,
            findings=[self._finding(case) for case in subject.cases],
            segmentation=segmentation,
            segments=self.segments,
            algorithm=subject.algorithm,
            series=series,
            uid=uid,
            number=subject.numbers[0],
        )
        yield {"file": file, "cases": [case["name"] for case in subject.cases], "uid": uid}

    def _finding(self, case: Mapping[str, Any]) -> Finding:
        record = self.journal.records(CASE)[case["name"]]
        areas = record.get("area_mm2")
        sizes = tuple(int(count) for count in record["foreground_pixels"])
        if not len(sizes) == len(self.segments) == len(areas or sizes):
            raise ValueError("A case must have a size for each segment.")
        dice, review = record.get("predicted_dice"), record.get("review")
        return Finding(sizes, None if areas is None else tuple(areas), dice, review)

    def _captures(self, subject: Subject, segmentation: Dataset) -> Iterator[dict[str, Any]]:
        labels = ", ".join(segment.label for segment in self.segments)
        series = subject.series.of_kind(_CAPTURE, f"{subject.algorithm['name']}: outlines of {labels}")
        for n, case in enumerate(subject.cases):
            classes = self._classes(case)
            if not self.empty and not classes.any():
                continue
            file, uid = _of_case(case), _uid_in(series, segmentation, n)
            picture = see_image(case["source"], frame=case["frame"]).rgb.round().astype(np.uint8)
            write_capture(
                self.journal.output_dir / file,
                subject.part,
                n,
                picture=draw_contours(picture, classes),
                segmentation=segmentation,
                algorithm=subject.algorithm,
                series=series,
                uid=uid,
                number=subject.numbers[n],
            )
            yield {"file": file, "cases": [case["name"]], "uid": uid}


def files_beside(segmentations: Sequence[str], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the objects beside segmentations may be called, as paths relative to the output folder.

    Args:
        segmentations: Paths of the segmentations.
        cases: The cases in them.
    """
    return [*map(_beside, segmentations), *map(_of_case, cases)]


def _told(error: Exception, subject: Subject) -> str:
    """Return why a source allows no object, as a sentence that goes on from its name; "" of other errors."""
    if not isinstance(error, NoSegmentationError):
        return ""
    sources = [case["source"] for case in subject.cases]
    path = max((source for source in sources if str(error).startswith(source)), key=len, default="")
    return str(error).removeprefix(path).strip(" .")


def _beside(file: str) -> str:
    return Path(STRUCTURED_REPORTS, *Path(file).parts[1:]).as_posix()


def _of_case(case: Mapping[str, Any]) -> str:
    return Path(SECONDARY_CAPTURES, f"{split_suffix(case['name'])[0]}.dcm").as_posix()


def _uid_in(series: Series, segmentation: Dataset, copy: int = 0) -> str:
    """Return the UID of the object of a series that goes with a segmentation."""
    return series.instance_uid([(str(segmentation.SOPClassUID), str(segmentation.SOPInstanceUID), None)], copy)
