"""The writer of what a volume makes: DICOM Segmentations of a series or of a file's frames, a NIfTI file of a stack.

A volume is written when the last of its cases is done, from the masks (or probability maps) on the disk, so that only
one volume at a time is in memory and a resumed run need not segment a case again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.seg import NoSegmentationError, Segment, as_segment
from icmoe_monai.imageio.nifti.header import SUFFIXES as NIFTI_SUFFIXES
from icmoe_monai.imageio.nifti.labels import write_like
from icmoe_monai.imageio.read import split_suffix
from icmoe_monai.inference.anonymity import read_anonymous
from icmoe_monai.inference.journal import CASE, VOLUME, Journal
from icmoe_monai.inference.segmentations import SegmentationWriter, check_kind
from icmoe_monai.inference.writing import probability_paths
from icmoe_monai.utils.files import is_of_the_disk

_NO_FILE = "has no volume: its file could not be made ({}). {}"
_ANONYMOUS = "has no DICOM {}, which would hold the patient's data: the run is anonymous. {}"
_INSTEAD = "The masks hold the result"
_MOST_NAMED = 3


class VolumeWriter:
    """Write `<output_dir>/segmentations/<name>.dcm` and `<output_dir>/volumes/<name>.nii.gz` as their cases are done.

    A DICOM object refers to its source images and holds the patient's and study's data, as the standard asks for: none
    is written in an anonymous run. Where none can be valid, the volume's record says so, and the masks are the
    result.

    Args:
        cases: All cases of the run, those of earlier runs too.
        journal: Journal in which the volumes are recorded: `name`, that of the first case; `of`, all its cases;
            `files`, each with its `file` and the `cases` in it; `remarks`, sentences that go on from the name; and
            `reason_code`, one of `errors.REASONS` where files could not be made, else None.
        segments: Descriptions of the foreground classes, one mapping of `Segment`'s arguments per class; codes are
            needed only where a DICOM Segmentation is written.
        out_channels: K.
        dicom_seg: binary, labelmap, fractional or none; fractional holds probabilities and needs `probability_maps` in
            SaveImage2Dd.
        empty_segmentations: Whether DICOM Segmentations are written in which nothing was found.
        structured_reports: Whether DICOM Structured Reports are written beside the segmentations.
        secondary_captures: Whether DICOM Secondary Captures with outlines are written beside the segmentations.
        probability_maps: Whether probability maps are written.
        anonymous: Whether the run is anonymous.
        whole_slides: Whether each case is a whole slide, whose mask is a tiled TIFF.

    Raises:
        InputError: If `dicom_seg` is unknown, or lacks its probability maps or what goes beside it; `segments` does not
            fit `out_channels`; or a DICOM Segmentation is to be written and a class has no codes.
    """

    def __init__(
        self,
        *,
        cases: Sequence[Mapping[str, Any]],
        journal: Journal,
        segments: Sequence[Mapping[str, Any]],
        out_channels: int = 1,
        dicom_seg: str = "binary",
        empty_segmentations: bool = False,
        structured_reports: bool = False,
        secondary_captures: bool = False,
        probability_maps: bool = False,
        anonymous: bool | str = False,
        whole_slides: bool = False,
    ) -> None:
        check_kind(
            dicom_seg,
            probability_maps=probability_maps,
            beside=structured_reports or secondary_captures,
            whole_slides=whole_slides,
        )
        self.whole_slides = whole_slides
        if len(segments) != max(out_channels, 2) - 1:
            num_classes = max(out_channels, 2) - 1
            raise InputError(f"segments must describe {num_classes} foreground classes, got {len(segments)}.")
        self.journal = journal
        self.out_channels = out_channels
        self.anonymous = bool(read_anonymous(anonymous))
        self.volumes: dict[str, list[Mapping[str, Any]]] = {}
        for case in cases:
            self.volumes.setdefault(case["group"] or case["name"], []).append(case)
        self._volume_of = {case["name"]: key for key, cases in self.volumes.items() for case in cases}
        self._open: dict[str, int] = {}
        sources = {key: str(of[0]["source"]) for key, of in self.volumes.items()}
        self._nifti = _names(
            {key: self.volumes[key] for key in sources if sources[key].lower().endswith(NIFTI_SUFFIXES)}
        )
        others = {key for key in sources if key not in self._nifti}
        self._dicom = {key for key in others if dicom_seg != "none" and is_dicom(sources[key])}
        self._segmentations = SegmentationWriter(
            cases=cases,
            journal=journal,
            segments=with_codes(segments) if self._dicom and not self.anonymous else [],
            empty=empty_segmentations,
            structured_reports=structured_reports,
            secondary_captures=secondary_captures,
            classes=self._classes,
            whole_slides=whole_slides,
            as_label_map=dicom_seg == "labelmap",
            probabilities=self._probabilities if dicom_seg == "fractional" else None,
        )

    def start(self) -> None:
        """Count each volume's open cases, remove volumes of other cases, and write volumes that lack only a file."""
        self._open = {key: sum(not self.journal.is_done(case) for case in cases) for key, cases in self.volumes.items()}
        for record in list(self.journal.records(VOLUME).values()):
            key = self._volume_of.get(record["name"])
            if key is None or [case["name"] for case in self.volumes[key]] != record["of"]:
                self._remove(record)
        for key, num_open in self._open.items():
            volume = self.journal.records(VOLUME).get(self.volumes[key][0]["name"])
            is_there = volume and all((self.journal.output_dir / file["file"]).is_file() for file in volume["files"])
            if num_open == 0 and not is_there:
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
            self._unlink([file["file"] for file in record["files"]])
            self.journal.forget(VOLUME, record["name"])

    def _unlink(self, files: Iterable[str]) -> None:
        """Remove what an earlier run may have written, and this one may not."""
        for file in files:
            (self.journal.output_dir / file).unlink(missing_ok=True)

    def _write(self, key: str) -> None:
        cases = [case for case in self.volumes[key] if self.journal.is_done(case)]
        if not cases or key not in (*self._nifti, *self._dicom):
            return
        name = self.volumes[key][0]["name"]
        self._unlink([self._nifti[key]] if key in self._nifti else self._segmentations.files_of(self.volumes[key]))
        files: list[dict[str, Any]] = []
        code: str | None = None
        try:
            if key in self._nifti:
                files, remarks = self._write_nifti(self._nifti[key], cases, self.volumes[key]), []
            elif self.anonymous:
                remarks = [_ANONYMOUS.format(" and no ".join(self._segmentations.kinds), _INSTEAD)]
            else:
                files, remarks, code = self._segmentations.write(cases)
        except (InputError, ValueError, TypeError, RuntimeError, OSError) as error:
            if is_of_the_disk(error):
                raise
            remarks, code = [self._told(error, key)], NoSegmentationError.code
        if remarks and (code or not files):
            logging.getLogger(__name__).warning("%s %s.", name, remarks[0])
        of = [case["name"] for case in self.volumes[key]]
        record = {"name": name, "of": of, "files": files, "remarks": remarks, "reason_code": code}
        self.journal.add(VOLUME, record)

    def _told(self, error: Exception, key: str) -> str:
        """Return an error as a sentence that goes on from the volume's name, without paths."""
        if not isinstance(error, NoSegmentationError):
            return _NO_FILE.format(type(error).__name__, _INSTEAD)
        told = str(error)
        for case in sorted(self.volumes[key], key=lambda case: -len(case["source"])):
            told = told.replace(case["source"], case["name"])
        return told.removeprefix(self.volumes[key][0]["name"]).strip(" .")

    def _write_nifti(
        self, path: str, cases: Sequence[Mapping[str, Any]], volume: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        source = cases[0]["source"]
        if len(cases) < len(volume):
            raise NoSegmentationError(f"{source} has no NIfTI volume, as {len(volume) - len(cases)} of its slices "
                                      "could not be used. The PNG masks hold the others.")  # fmt: skip
        slices = [self._classes(case) for case in cases]
        write_like(self.journal.output_dir / path, source=source, slices=slices)
        return [{"file": path, "cases": [case["name"] for case in cases]}]

    def _classes(self, case: Mapping[str, Any]) -> np.ndarray:
        if self.whole_slides:
            path = self.journal.output_dir / self.journal.records(CASE)[case["name"]]["mask"]
            return map_mask(path, is_binary=self.out_channels == 1)
        with Image.open(self.journal.output_dir / self.journal.records(CASE)[case["name"]]["mask"]) as mask:
            values = np.asarray(mask)
        return (values > 0).astype(np.uint8) if self.out_channels == 1 else values

    def _probabilities(self, case: Mapping[str, Any]) -> np.ndarray:
        maps = []
        for path in probability_paths(PurePath(split_suffix(case["name"])[0]), self.out_channels):
            with Image.open(self.journal.output_dir / path) as levels:
                maps.append(np.asarray(levels, dtype=np.float32) / 65535)
        return np.stack(maps)


def map_mask(path: Path, *, is_binary: bool) -> np.ndarray:
    """Return the classes of a tiled mask as an array that lies in a nameless file beside it, not in memory.

    Args:
        path: The mask.
        is_binary: Whether its values stand for class 1; else they are the classes.

    Returns:
        uint8 (H, W).
    """
    with tempfile.TemporaryFile(dir=path.parent) as file, tifffile.TiffFile(path) as mask:
        page: Any = mask.pages[0]
        classes = np.memmap(file, dtype=np.uint8, mode="w+", shape=page.shape)
        for tile, (_, _, top, left, _), (_, height, width, _) in page.segments():
            if tile is not None and tile.any():  # what is not written takes no room
                place = classes[top : top + height, left : left + width]  # less than the tile at the edges
                values = tile.reshape(height, width)[: place.shape[0], : place.shape[1]]
                place[:] = values > 0 if is_binary else values
    return classes


def tell_remarks(volumes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what shall be told of volumes as sentences, each for all volumes that it holds of.

    Args:
        volumes: Records of volumes, as `VolumeWriter` makes them.

    Example:
        >>> tell_remarks([{"name": name, "remarks": ["has no place"]} for name in ("a.dcm", "b.dcm")])
        ['2 images (a.dcm, b.dcm): each has no place.']
    """
    names: dict[str, list[str]] = {}
    for volume in volumes:
        for remark in volume["remarks"]:
            names.setdefault(remark, []).append(volume["name"])
    return [_sentence(remark, of) for remark, of in names.items()]


def _sentence(remark: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} {remark}."
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{len(names)} images ({', '.join(names[:_MOST_NAMED])}{more}): each {remark}."


def _names(volumes: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Return the relative path of each NIfTI volume's file, no two alike."""
    paths: dict[str, str] = {}
    for key, cases in volumes.items():
        stem, suffix = split_suffix(cases[0]["name"])
        stem = stem.removesuffix("_frame0001") if len(cases) > 1 else stem
        numbered = (f"{stem}_{number}" for number in count(2))
        names = (Path("volumes", f"{name}{suffix.lower()}").as_posix() for name in chain([stem], numbered))
        paths[key] = next(path for path in names if path not in paths.values())
    return paths


def with_codes(segments: Sequence[Mapping[str, Any]]) -> list[Segment]:
    """Return the foreground classes as a DICOM Segmentation takes them.

    Args:
        segments: Descriptions of the foreground classes, one mapping of `Segment`'s arguments per class.

    Raises:
        InputError: If a class has no codes.
    """
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
