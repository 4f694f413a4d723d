from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_sources import HEIGHT, WIDTH, cine, ct, save
from PIL import Image
from pydicom.dataset import Dataset

from icmoe_monai.errors import InputError
from icmoe_monai.inference.journal import CASE, VOLUME, Journal
from icmoe_monai.inference.volumes import VolumeWriter, labels_of, tell_remarks

SEGMENT = {
    "label": "lesion",
    "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    "type": ["52988006", "SCT", "Lesion"],
}


def stack(folder: Path, num_slices: int = 3) -> list[dict]:
    """Write a NIfTI stack of slices of 4 x 6 (rows x columns) and return its cases."""
    path = folder / "in" / "s.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 4, num_slices), np.int16), np.diag([-1, -1, 1, 1])), path)
    return [
        {"source": str(path), "frame": k, "name": f"s_frame000{k + 1}.nii.gz", "group": "s"} for k in range(num_slices)
    ]


def mask_of(case: dict) -> np.ndarray:
    mask = np.zeros(case.get("size", (4, 6)), np.uint8)
    mask[case["frame"], 1:4] = 0 if case.get("nothing") else 255
    return mask


def writer_of(
    folder: Path, cases: list[dict], *, of_journal: dict | None = None, **arguments: object
) -> tuple[VolumeWriter, Journal]:
    journal = Journal(output_dir=folder, **(of_journal or {}))
    journal.missing(cases)
    journal.begin()
    writer = VolumeWriter(cases=cases, journal=journal, segments=[SEGMENT], **arguments)
    writer.start()
    return writer, journal


def do(writer: VolumeWriter, case: dict) -> None:
    """Write a case's mask and say so."""
    folder, stem = writer.journal.output_dir, case["name"].removesuffix(".nii.gz").removesuffix(".dcm")
    path = folder / "masks" / f"{stem}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask_of(case)).save(path)
    writer.journal.add(CASE, {"name": case["name"], "status": "done", "mask": path.relative_to(folder).as_posix()})
    writer.add(case["name"])


def test_stack_is_written_when_its_last_slice_is_done(tmp_path: Path) -> None:
    cases = stack(tmp_path)
    writer, journal = writer_of(tmp_path, cases)
    for case in cases[:2]:
        do(writer, case)
    assert journal.records(VOLUME) == {}
    writer, journal = writer_of(tmp_path, cases)  # another run goes on
    do(writer, cases[2])
    (volume,) = journal.records(VOLUME).values()
    names = [case["name"] for case in cases]
    files = [{"file": "volumes/s.nii.gz", "cases": names}]
    assert volume == {"name": "s_frame0001.nii.gz", "of": names, "files": files, "remarks": [], "reason_code": None}
    voxels = np.asarray(nibabel.load(tmp_path / "volumes/s.nii.gz").dataobj)
    for case in cases:
        np.testing.assert_array_equal(voxels[..., case["frame"]].T, mask_of(case) // 255)


def test_volume_of_a_run_stopped_before_it_was_written_is_made_up_for(tmp_path: Path) -> None:
    cases = stack(tmp_path)
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    written = journal.path.read_bytes()
    for content in (written, written[: written.rindex(b"\n", 0, -1) + 1]):  # lost, or not even noted
        (tmp_path / "volumes/s.nii.gz").unlink()
        journal.path.write_bytes(content)
        writer_of(tmp_path, cases)
        assert (tmp_path / "volumes/s.nii.gz").is_file()


def test_volume_of_a_stack_that_has_grown_is_made_anew(tmp_path: Path) -> None:
    cases = stack(tmp_path)
    writer, journal = writer_of(tmp_path, cases[1:])  # one slice less, so that another names the volume
    for case in cases[1:]:
        files = [{"file": "volumes/old.nii.gz", "cases": []}]
        journal.add(
            VOLUME, {"name": case["name"], "of": [case["name"]], "files": files, "remarks": [], "reason_code": None}
        )
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes/old.nii.gz").touch()
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    assert [path.name for path in (tmp_path / "volumes").iterdir()] == ["s.nii.gz"]
    (volume,) = journal.records(VOLUME).values()
    assert [file["file"] for file in volume["files"]] == ["volumes/s.nii.gz"]


def test_no_two_volumes_share_a_file(tmp_path: Path) -> None:
    cases = [dicom_case(tmp_path, name, ct(k, 3.0 * k), "g" * (k > 0)) for k, name in enumerate(["s_series", "s", "t"])]
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    assert files_of(journal) == [["segmentations/s_series.dcm"], ["segmentations/s_series_2.dcm"]]


def test_whatever_goes_wrong_with_one_volume_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise TypeError("unhashable SECRET")

    monkeypatch.setattr("icmoe_monai.inference.volumes.write_like", fail)
    cases = stack(tmp_path)
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    (note,) = tell_remarks(journal.records(VOLUME).values())
    assert note.startswith("s_frame0001.nii.gz has no volume: its file could not be made (TypeError)")


def test_what_cannot_be_referred_to_leaves_a_note_and_no_mask_is_read_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VolumeWriter, "_classes", lambda *_: pytest.fail("a mask was read"))
    case = dicom_case(tmp_path, "c", ct(1, 0, StudyInstanceUID=""))
    writer, journal = writer_of(tmp_path, [case])
    do(writer, case)
    (note,) = tell_remarks(journal.records(VOLUME).values())
    assert note.startswith("c.dcm has no StudyInstanceUID by which it could be referred to")
    assert str(tmp_path) not in note
    assert files_of(journal) == [[]]


def dicom_case(folder: Path, name: str, image: Dataset, group: str = "", frame: int = 0) -> dict:
    (folder / "in").mkdir(exist_ok=True)
    path = save(folder / "in" / f"{name}.dcm", image)
    name = f"{name}_frame000{frame + 1}" if "NumberOfFrames" in image else name
    return {"source": path, "frame": frame, "name": f"{name}.dcm", "group": group, "size": (HEIGHT, WIDTH)}


def files_of(journal: Journal) -> list[list[str]]:
    return [[file["file"] for file in volume["files"]] for volume in journal.records(VOLUME).values()]


def test_each_phase_has_an_object_called_after_its_first_case(tmp_path: Path) -> None:
    cases = [dicom_case(tmp_path, f"i{k}", ct(k, 2.5 * (k // 2)), "g") for k in range(4)]
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    assert files_of(journal) == [["segmentations/i0_series.dcm", "segmentations/i1_series.dcm"]]
    (volume,) = journal.records(VOLUME).values()
    assert [file["cases"] for file in volume["files"]] == [["i0.dcm", "i2.dcm"], ["i1.dcm", "i3.dcm"]]
    written = [pydicom.dcmread(tmp_path / file["file"]) for file in volume["files"]]
    assert [one.InstanceNumber for one in written] == [1, 2]
    assert len({one.SeriesInstanceUID for one in written}) == 1


@pytest.mark.parametrize("empty", [False, True])
def test_objects_in_which_nothing_was_found_are_written_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    path = tmp_path / "in" / "c.dcm"
    cases = [dicom_case(tmp_path, "c", cine(3), str(path), frame=k) for k in range(3)]
    for case in cases[::2]:
        monkeypatch.setitem(case, "nothing", True)
    stale = tmp_path / "segmentations" / "c_frame0003.dcm"
    stale.parent.mkdir()
    stale.touch()
    writer, journal = writer_of(tmp_path, cases, empty_segmentations=empty)
    for case in cases:
        do(writer, case)
    meant = [f"segmentations/c_frame000{k}.dcm" for k in ((1, 2, 3) if empty else (2,))]
    assert files_of(journal) == [meant]
    assert sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.glob("segmentations/*")) == meant
    writer_of(tmp_path, cases, empty_segmentations=empty)  # a second run has nothing to do
    assert files_of(journal) == [meant]


def test_an_image_that_is_there_twice_has_objects_of_two_uids(tmp_path: Path) -> None:
    image = ct(1, 0)
    cases = [dicom_case(tmp_path, name, image) for name in "abc"]
    uids = []
    for case in cases:  # each in a run of its own, as if the one before had been stopped
        writer, journal = writer_of(tmp_path, cases)
        do(writer, case)
        (file,) = journal.records(VOLUME)[case["name"]]["files"]
        uids.append(pydicom.dcmread(tmp_path / file["file"]).SOPInstanceUID)
    assert len(set(uids)) == 3
    again, _ = writer_of(tmp_path, cases)
    do(again, cases[1])
    assert pydicom.dcmread(tmp_path / "segmentations" / "b.dcm").SOPInstanceUID == uids[1]


def test_the_uids_depend_on_the_model_and_on_what_changes_the_object(tmp_path: Path) -> None:
    case = dicom_case(tmp_path, "c", ct(1, 0))
    uids = {}
    for name, weights, settings in (
        ("first", b"a", {"voting": "adaptive", "overlays": True}),
        ("again", b"a", {"voting": "adaptive", "overlays": False}),
        ("other model", b"b", {"voting": "adaptive", "overlays": True}),
        ("other setting", b"a", {"voting": "mean", "overlays": True}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.pt").write_bytes(weights)
        made_by = {"checkpoint": folder / f"{name}.pt", "settings": settings}
        writer, journal = writer_of(folder, [case], of_journal=made_by)
        do(writer, case)
        (volume,) = journal.records(VOLUME).values()
        written = pydicom.dcmread(folder / volume["files"][0]["file"])
        uids[name] = (written.SOPInstanceUID, written.SeriesInstanceUID, written.SeriesNumber)
    assert uids["first"] == uids["again"]
    for others in zip(uids["first"], uids["other model"], uids["other setting"], strict=True):
        assert len(set(others)) == 3


def test_what_holds_of_many_images_is_told_once() -> None:
    volumes = [{"name": f"{k}.dcm", "remarks": ["has no place", "is old"][: 2 - k % 2]} for k in range(5)]
    assert tell_remarks(volumes) == [
        "5 images (0.dcm, 1.dcm, 2.dcm and 2 more): each has no place.",
        "3 images (0.dcm, 2.dcm, 4.dcm): each is old.",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dicom_seg": "masks"}, "dicom_seg must be one of binary, labelmap, fractional, none, got 'masks'"),
        ({"dicom_seg": "fractional"}, "dicom_seg fractional is made from the probability maps: add --probability_maps"),
        ({"out_channels": 4}, "segments must describe 3 foreground classes, got 1"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        VolumeWriter(cases=[], journal=Journal(output_dir=tmp_path), segments=[SEGMENT], **arguments)


def test_labels_are_those_of_the_segments() -> None:
    assert labels_of([SEGMENT]) == ["lesion"]
    with pytest.raises(InputError, match="must have a label"):
        labels_of([{}])


def test_stack_with_a_failed_slice_leaves_a_note(tmp_path: Path) -> None:
    cases = stack(tmp_path)
    writer, journal = writer_of(tmp_path, cases)
    do(writer, cases[0])
    do(writer, cases[1])
    journal.add(CASE, {"name": cases[2]["name"], "status": "failed", "mask": None})
    writer.add(cases[2]["name"])
    (note,) = tell_remarks(journal.records(VOLUME).values())
    assert note.startswith("s_frame0001.nii.gz has no NIfTI volume, as 1 of its slices could not be used.")
