"""The writer of one file per volume: a DICOM Segmentation of a series or of a file's frames, a NIfTI file of a stack.

A volume is written when the last of its cases is done, from the masks (or probability maps) on the disk, so that only
one volume at a time is in memory and a resumed run need not segment a case again.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.seg import NoSegmentationError, Segment, as_segment, write_segmentation
from icmoe_monai.imageio.nifti.header import SUFFIXES as NIFTI_SUFFIXES
from icmoe_monai.imageio.nifti.labels import write_like
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference.anonymity import read_anonymous
from icmoe_monai.inference.journal import CASE, NOTE, VOLUME, Journal
from icmoe_monai.inference.writing import probability_paths
from icmoe_monai.version import __version__

_NO_FILE = "{} has no volume: its file could not be made ({}). The PNG masks hold the result."
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_SEGMENTATIONS = "segmentations"
DICOM_SEG = ("binary", "fractional", "none")


class VolumeWriter:
    """Write `<output_dir>/segmentations/<name>.dcm` and `<output_dir>/volumes/<name>.nii.gz` as their cases are done.

    A DICOM Segmentation refers to its source images and holds the patient's and study's data, as the standard asks for:
    none is written in an anonymous run. Where none can be valid (frames without a Frame of Reference), a note in the
    journal says so, and the masks are the result.

    Args:
        cases: All cases of the run, those of earlier runs too.
        journal: Journal in which the volumes and the notes are recorded.
        segments: Descriptions of the foreground classes, one mapping of `Segment`'s arguments per class; codes are
            needed only where a DICOM Segmentation is written.
        out_channels: K.
        dicom_seg: One of `DICOM_SEG`; "fractional" holds probabilities and needs `probability_maps` in SaveImage2Dd.
        probability_maps: Whether probability maps are written.
        anonymous: Whether the run is anonymous.

    Raises:
        InputError: If `dicom_seg` is unknown or lacks its probability maps, `segments` does not fit `out_channels`, or
            a DICOM Segmentation is to be written and a class has no codes.
    """

    def __init__(
        self,
        *,
        cases: Sequence[Mapping[str, Any]],
        journal: Journal,
        segments: Sequence[Mapping[str, Any]],
        out_channels: int = 1,
        dicom_seg: str = "binary",
        probability_maps: bool = False,
        anonymous: bool | str = False,
    ) -> None:
        if dicom_seg not in DICOM_SEG:
            raise InputError(f"dicom_seg must be one of {', '.join(DICOM_SEG)}, got {dicom_seg!r}.")
        if dicom_seg == "fractional" and not probability_maps:
            raise InputError("dicom_seg fractional is made from the probability maps: add --probability_maps True.")
        if len(segments) != max(out_channels, 2) - 1:
            num_classes = max(out_channels, 2) - 1
            raise InputError(f"segments must describe {num_classes} foreground classes, got {len(segments)}.")
        self.journal = journal
        self.out_channels = out_channels
        self.dicom_seg = dicom_seg
        self.anonymous = bool(read_anonymous(anonymous))
        self.volumes: dict[str, list[Mapping[str, Any]]] = {}
        for case in cases:
            self.volumes.setdefault(case["group"] or case["name"], []).append(case)
        self._volume_of = {case["name"]: key for key, cases in self.volumes.items() for case in cases}
        self._files: dict[str, str] = {}  # path of each volume's file, no two alike
        taken: set[str] = set()
        for key, cases in self.volumes.items():
            path = self._file_of(cases)
            if path is not None:
                stem, suffix = split_suffix(path)
                numbered = (f"{stem}_{number}{suffix}" for number in count(2))
                self._files[key] = next(free for free in chain([path], numbered) if free not in taken)
                taken.add(self._files[key])
        self._open: dict[str, int] = {}
        writes_dicom = any(path.startswith(_SEGMENTATIONS) for path in self._files.values())
        self.segments = _with_codes(segments) if writes_dicom and not self.anonymous else []

    def start(self) -> None:
        """Count each volume's open cases, remove volumes of other cases, and write volumes that lack only a file."""
        self._open = {key: sum(not self.journal.is_done(case) for case in cases) for key, cases in self.volumes.items()}
        for record in list(self.journal.records(VOLUME).values()):
            key = self._volume_of.get(record["name"])
            if key is None or [case["name"] for case in self.volumes[key]] != record["of"]:
                self._remove(record)
        for key, num_open in self._open.items():
            name = self.volumes[key][0]["name"]
            volume = self.journal.records(VOLUME).get(name)
            is_there = volume is not None and os.path.isfile(self.journal.output_dir / volume["file"])
            if num_open == 0 and not is_there and name not in self.journal.records(NOTE):
                self._write(key)

    def add(self, name: str) -> None:
        """Count a case as recorded, and write its volume if it was the last one open.

        Args:
            name: Name of the case, failed or done; it is in the journal, and its files are on the disk.
        """
        key = self._volume_of[name]
        self._open[key] -= 1
        if self._open[key] == 0:
            self._write(key)

    def _remove(self, record: Mapping[str, Any]) -> None:
        """Remove a volume whose series has other cases now, if some of the volume's cases are of this run."""
        if any(name in self._volume_of for name in record["of"]):
            (self.journal.output_dir / record["file"]).unlink(missing_ok=True)
            self.journal.forget(VOLUME, record["name"])

    def _write(self, key: str) -> None:
        cases = [case for case in self.volumes[key] if self.journal.is_done(case)]
        if not cases or key not in self._files:
            return
        name, path = self.volumes[key][0]["name"], self._files[key]
        try:
            if path.startswith("volumes"):
                self._write_nifti(path, cases, self.volumes[key])
            else:
                self._write_dicom(path, cases)
        except (InputError, ValueError, TypeError, RuntimeError, OSError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_THE_DISK:
                raise
            told = str(error) if isinstance(error, NoSegmentationError) else _NO_FILE.format(name, type(error).__name__)
            for case in sorted(self.volumes[key], key=lambda case: -len(case["source"])):
                told = told.replace(case["source"], case["name"])
            self.journal.add(NOTE, {"name": name, "text": told})
            logging.getLogger(__name__).warning("%s", told)
        else:
            of = [case["name"] for case in self.volumes[key]]
            done = [case["name"] for case in cases]
            self.journal.add(VOLUME, {"name": name, "file": path, "cases": done, "of": of})

    def _write_dicom(self, path: str, cases: Sequence[Mapping[str, Any]]) -> None:
        name = cases[0]["name"]
        if self.anonymous:
            raise NoSegmentationError(f"{name} has no DICOM Segmentation, which would hold the patient's data: "
                                      "the run is anonymous. Its PNG masks hold the result.")  # fmt: skip
        fractional = self.dicom_seg == "fractional"
        write_segmentation(
            self.journal.output_dir / path,
            sources=[(case["source"], case["frame"]) for case in cases],
            classes=None if fractional else (self._classes(case) for case in cases),
            probabilities=(self._probabilities(case) for case in cases) if fractional else None,
            segments=self.segments,
            algorithm={"name": "IC-MoE for MONAI", "version": __version__},
        )

    def _write_nifti(self, path: str, cases: Sequence[Mapping[str, Any]], volume: Sequence[Mapping[str, Any]]) -> None:
        source = cases[0]["source"]
        if len(cases) < len(volume):
            raise NoSegmentationError(f"{source} has no NIfTI volume, as {len(volume) - len(cases)} of its slices "
                                      "could not be used. The PNG masks hold the others.")  # fmt: skip
        slices = [self._classes(case) for case in cases]
        write_like(self.journal.output_dir / path, source=source, slices=slices)

    def _file_of(self, cases: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the relative path of a volume's file, or None for a picture, which is no volume."""
        source = str(cases[0]["source"])
        stem = split_suffix(cases[0]["name"])[0]
        if source.lower().endswith(NIFTI_SUFFIXES):
            suffix = split_suffix(source)[1].lower()
            return Path("volumes", f"{stem.removesuffix('_frame0001') if len(cases) > 1 else stem}{suffix}").as_posix()
        if self.dicom_seg == "none" or not is_dicom(source):
            return None
        is_series = len({case["source"] for case in cases}) > 1
        return Path(_SEGMENTATIONS, f"{stem}{'_series' if is_series else ''}.dcm").as_posix()

    def _classes(self, case: Mapping[str, Any]) -> np.ndarray:
        with Image.open(self.journal.output_dir / self.journal.records(CASE)[case["name"]]["mask"]) as mask:
            values = np.asarray(mask)
        return (values > 0).astype(np.uint8) if self.out_channels == 1 else values

    def _probabilities(self, case: Mapping[str, Any]) -> np.ndarray:
        maps = []
        for path in probability_paths(PurePath(split_suffix(case["name"])[0]), self.out_channels):
            with Image.open(self.journal.output_dir / path) as levels:
                maps.append(np.asarray(levels, dtype=np.float32) / 65535)
        return np.stack(maps)


def _with_codes(segments: Sequence[Mapping[str, Any]]) -> list[Segment]:
    bare = [str(segment["label"]) for segment in segments if "label" in segment and "category" not in segment]
    if bare:
        raise InputError(
            f"A DICOM Segmentation needs DICOM's codes of what it shows, and {' and '.join(bare)} have none: give "
            "--segments (configs/experts/ has examples), at best in training already, or --dicom_seg none."
        )
    return [as_segment(segment) for segment in segments]


def labels_of(segments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the foreground classes.

    Args:
        segments: Descriptions of the foreground classes, one mapping of `Segment`'s arguments per class.

    Raises:
        InputError: If a class has no label.
    """
    if any("label" not in segment for segment in segments):
        raise InputError("Each of segments must have a label: configs/experts/ has examples.")
    return [str(segment["label"]) for segment in segments]
