from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from icmoe_monai.errors import InputError
from icmoe_monai.inference.journal import CASE, NOTE, VOLUME, Journal
from icmoe_monai.inference.volumes import VolumeWriter, labels_of

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
    mask[case["frame"], 1:4] = 255
    return mask


def writer_of(folder: Path, cases: list[dict], **arguments: object) -> tuple[VolumeWriter, Journal]:
    journal = Journal(output_dir=folder)
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
    assert volume == {"name": "s_frame0001.nii.gz", "file": "volumes/s.nii.gz", "cases": names, "of": names}
    voxels = np.asarray(nibabel.load(tmp_path / volume["file"]).dataobj)
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
        journal.add(VOLUME, {"name": case["name"], "file": "volumes/old.nii.gz", "cases": [], "of": [case["name"]]})
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes/old.nii.gz").touch()
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    assert [path.name for path in (tmp_path / "volumes").iterdir()] == ["s.nii.gz"]
    assert [volume["file"] for volume in journal.records(VOLUME).values()] == ["volumes/s.nii.gz"]


def test_no_two_volumes_share_a_file(tmp_path: Path) -> None:
    shared = {"frame": 0, "source": "x.dcm"}
    cases = [{**shared, "name": "s_series.dcm", "group": ""}]
    cases += [{**shared, "source": f"{k}.dcm", "name": f"{name}.dcm", "group": "g"} for k, name in enumerate("st")]
    writer = VolumeWriter(cases=cases, journal=Journal(output_dir=tmp_path), segments=[SEGMENT])
    assert sorted(writer._files.values()) == ["segmentations/s_series.dcm", "segmentations/s_series_2.dcm"]


def test_whatever_goes_wrong_with_one_volume_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise TypeError("unhashable SECRET")

    monkeypatch.setattr("icmoe_monai.inference.volumes.write_like", fail)
    cases = stack(tmp_path)
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    (note,) = journal.records(NOTE).values()
    assert note["text"].startswith("s_frame0001.nii.gz has no volume: its file could not be made (TypeError)")


def test_frames_without_a_frame_of_reference_leave_a_note_and_no_mask_is_read_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VolumeWriter, "_classes", lambda *_: pytest.fail("a mask was read"))
    source = get_testdata_file("SC_rgb_rle_2frame.dcm", download=False)
    shared = {"source": source, "group": "c", "size": (100, 100)}
    cases = [{**shared, "frame": k, "name": f"c_frame000{k + 1}.dcm"} for k in range(2)]
    writer, journal = writer_of(tmp_path, cases)
    for case in cases:
        do(writer, case)
    (note,) = journal.records(NOTE).values()
    assert note["text"].startswith("c_frame0001.dcm")
    assert str(source) not in note["text"]
    assert journal.records(VOLUME) == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dicom_seg": "labelmap"}, "dicom_seg must be one of binary, fractional, none, got 'labelmap'"),
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
    (note,) = journal.records(NOTE).values()
    assert note["text"].startswith("s_frame0001.nii.gz has no NIfTI volume, as 1 of its slices could not be used.")
