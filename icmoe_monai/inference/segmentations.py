"""The DICOM Segmentations of a run: which objects a volume's cases make, their names, and what is told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.seg import (
    Part,
    Segment,
    Series,
    plan_segmentations,
    plan_slide,
    references_of,
    write_segmentation,
)
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference.companions import CompanionWriter, Subject, Written, files_beside
from icmoe_monai.inference.folders import SEGMENTATIONS
from icmoe_monai.inference.journal import VOLUME, Journal
from icmoe_monai.utils.files import dump_json
from icmoe_monai.version import __version__

DICOM_SEG = ("binary", "labelmap", "fractional", "none")
PROGRAM = "IC-MoE for MONAI"  # with which the descriptions of its series begin
_ALGORITHM = {"name": PROGRAM, "version": __version__}
# Settings that change nothing of what an object holds.
_BESIDE_IT = (
    *("overlays", "probability_maps", "disagreement_maps", "review_below", "empty_segmentations", "anonymous"),
    *("structured_reports", "secondary_captures", "trace"),
)
_DIGESTS = {"sha256": "weights", "trunk_sha256": "encoder", "pyramid_sha256": "image pyramid"}
_Map = Callable[[Mapping[str, Any]], np.ndarray]


class SegmentationWriter:
    """Write `<output_dir>/segmentations/<name>.dcm`, one object for each part of a volume in which something was found.

    Beside it, Structured Reports and Secondary Captures are written where they are asked for.

    An object is called after its first case, with `_series` where it holds several files. All objects of a study are
    one series (one for each Frame of Reference), and the UIDs are a function of source, model and settings.

    Args:
        cases: All cases of the run.
        journal: The run's journal, whose model and settings tell its objects from those of others.
        segments: The foreground classes.
        empty: Whether objects are written in which nothing was found.
        structured_reports: Whether reports are written.
        secondary_captures: Whether captures are written.
        classes: Returns a case's class map, uint8 (H, W).
        whole_slides: Whether each case is a whole slide.
        as_label_map: Whether classes are written as a label map.
        probabilities: Returns a case's probabilities, (S, H, W), which are then written instead of classes; or None.
    """

    def __init__(
        self,
        *,
        cases: Sequence[Mapping[str, Any]],
        journal: Journal,
        segments: Sequence[Segment],
        empty: bool,
        structured_reports: bool = False,
        secondary_captures: bool = False,
        classes: _Map,
        whole_slides: bool = False,
        as_label_map: bool = False,
        probabilities: _Map | None = None,
    ) -> None:
        self.journal = journal
        self.as_label_map = as_label_map
        self.whole_slides = whole_slides
        self.segments = segments
        self.empty = empty
        self._companions = CompanionWriter(
            journal=journal,
            segments=segments,
            structured_reports=structured_reports,
            secondary_captures=secondary_captures,
            empty=empty,
            classes=classes,
        )
        self._classes = classes
        self._probabilities = probabilities
        self._numbers = {case["name"]: number for number, case in enumerate(cases, start=1)}
        self._files: dict[str, str] = {}  # by the UID of the object
        self._stems = {split_suffix(case["name"])[0] for case in cases}

    @property
    def kinds(self) -> list[str]:
        """What kinds of DICOM objects are written."""
        return ["Segmentation", *self._companions.kinds]

    def write(self, cases: Sequence[Mapping[str, Any]]) -> Written:
        """Write the objects of a volume.

        Args:
            cases: The volume's cases, with their masks on the disk.

        Raises:
            NoSegmentationError: The source images allow no valid object.
        """
        files: list[dict[str, Any]] = []
        remarks: list[str] = []
        code = None
        for part in self._plan(cases):
            members = [cases[n] for n in part.members]
            if not self.empty and not any(self._classes(case).any() for case in members):
                continue
            file = self._file_of(members[0], is_series=len({case["source"] for case in members}) > 1)
            uid = self._uid_of(part, file)
            left_out = self._write(self.journal.output_dir / file, part, members, uid)
            files.append({"file": file, "cases": [case["name"] for case in members], "uid": uid})
            remarks += [part.remark] if part.remark else []
            if left_out:
                told = ", ".join(left_out)
                remarks.append(f"has no valid {told}, so that its DICOM Segmentation has none")
            numbers = [self._numbers[case["name"]] for case in members]
            subject = Subject(file, part, members, numbers, self._algorithm(), self._series())
            beside = self._companions.write(subject)
            files += beside.files
            remarks += beside.remarks
            code = code or beside.reason_code
        return Written(files, list(dict.fromkeys(remarks)), code)

    def _plan(self, cases: Sequence[Mapping[str, Any]]) -> list[Part]:
        if self.whole_slides:
            return [plan_slide(case["source"], self._classes(case).shape) for case in cases]
        return plan_segmentations([(case["source"], case["frame"]) for case in cases])

    def _uid_of(self, part: Part, file: str) -> str:
        """Return an object's UID, which no other file of the run has, also if its source is there twice."""
        if not self._files:
            volumes = self.journal.records(VOLUME).values()
            self._files = {one["uid"]: one["file"] for volume in volumes for one in volume["files"] if "uid" in one}
        uids = (self._series().instance_uid(references_of(part), copy) for copy in count())
        uid = next(uid for uid in uids if self._files.get(uid, file) == file)
        self._files[uid] = file
        return uid

    def _write(self, path: Path, part: Part, cases: Sequence[Mapping[str, Any]], uid: str) -> list[str]:
        probabilities = self._probabilities
        return write_segmentation(
            path,
            part,
            classes=None if probabilities else map(self._classes, cases),
            probabilities=map(probabilities, cases) if probabilities else None,
            as_label_map=self.as_label_map,
            segments=self.segments,
            algorithm=_ALGORITHM,
            series=self._series(),
            uid=uid,
            number=self._numbers[cases[0]["name"]],
        )

    def _algorithm(self) -> dict[str, Any]:
        """Return what found it, and which weights and settings that has."""
        model = self.journal.model
        digests = [f"{what}, SHA-256: {model[key]}" for key, what in _DIGESTS.items() if model.get(key)]
        return {
            **_ALGORITHM,
            "parameters": [*digests, f"all that determines a mask, SHA-256: {self._series().made_by}"],
        }

    def _series(self) -> Series:
        model = {key: value for key, value in sorted(self.journal.model.items()) if key.endswith("sha256")}
        settings = {key: value for key, value in sorted(self.journal.settings.items()) if key not in _BESIDE_IT}
        made_by = dump_json({"model": model, "settings": settings, "icmoe_monai": __version__})
        labels = ", ".join(segment.label for segment in self.segments)
        return Series(hashlib.sha256(made_by).hexdigest(), f"{_ALGORITHM['name']}: {labels}")

    def files_of(self, cases: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what the objects of a volume may be called, as paths relative to the output folder.

        Args:
            cases: The volume's cases.
        """
        files = [self._file_of(case, is_series=is_series) for case in cases for is_series in (False, True)]
        return [*files, *files_beside(files, cases)]

    def _file_of(self, case: Mapping[str, Any], *, is_series: bool) -> str:
        stem = split_suffix(case["name"])[0]
        if is_series:
            numbered = (f"{stem}_series_{number}" for number in count(2))
            stem = next(name for name in chain([f"{stem}_series"], numbered) if name not in self._stems)
        return Path(SEGMENTATIONS, f"{stem}.dcm").as_posix()


def check_kind(dicom_seg: str, *, probability_maps: bool, beside: bool = False, whole_slides: bool = False) -> None:
    """Check what kind of objects is asked for.

    Args:
        dicom_seg: One of `DICOM_SEG`; "fractional" holds probabilities, and needs their maps.
        probability_maps: Whether probability maps are written.
        beside: Whether objects that go with it are asked for.
        whole_slides: Whether the objects are of whole slides, of which there are no probability maps.

    Raises:
        InputError: If it is unknown, or lacks its probability maps, or what goes with it.
    """
    if dicom_seg not in DICOM_SEG:
        raise InputError(f"dicom_seg must be one of {', '.join(DICOM_SEG)}, got {dicom_seg!r}.")
    if dicom_seg == "none" and beside:
        raise InputError(
            "structured_reports and secondary_captures go with DICOM Segmentations: leave out --dicom_seg."
        )
    if dicom_seg not in ("binary", "none") and whole_slides:
        raise InputError(f"dicom_seg {dicom_seg} is not made of whole slides: set binary or none.")
    if dicom_seg == "fractional" and not probability_maps:
        raise InputError("dicom_seg fractional is made from the probability maps: add --probability_maps True.")
