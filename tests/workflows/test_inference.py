"""Inference as a user runs it: a folder of every kind of file in, masks, volumes, overlays and one report out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.data import get_testdata_file
from shipped import NETWORK, NETWORK_WORDS

from icmoe_monai.__main__ import main
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.utils.files import read_csv

ROOT = Path(__file__).parents[2]
INFERENCE = str(ROOT / "configs" / "inference.json")
SMALL = {"image_size": 64, "recipe": "none", **NETWORK, "num_workers": 0, "device": "cpu"}
# MONAI warns of configs being code at every workflow; pydicom's test files break rules of the standard
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def run(folder: Path, output: Path, **overrides: object) -> None:
    arguments = {"dataset_dir": str(folder), "output_dir": str(output), **SMALL, **overrides}
    flow = ConfigWorkflow(config_file=INFERENCE, workflow_type="infer", logging_file=False, **arguments)
    flow.initialize()
    flow.run()
    flow.finalize()


def report_of(output: Path) -> dict:
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def copy(name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Path(get_testdata_file(name, download=False)).read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a case of every kind, none square, and files that cannot be used."""
    root = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(root / "photo ü.jpg")
    pages = [Image.fromarray(rng.integers(0, 60000, (50, 40), dtype=np.uint16)) for _ in range(2)]
    pages[0].save(root / "pages.tif", save_all=True, append_images=pages[1:])
    volume = nibabel.Nifti1Image(rng.integers(0, 255, (40, 30, 3)).astype(np.int16), np.diag([-2, -1.5, 3, 1]))
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, root / "stack.nii.gz")
    copy("CT_small.dcm", root / "ct" / "1.2.840.1")
    copy("examples_palette.dcm", root / "us" / "palette.dcm")
    copy("SC_rgb_rle_2frame.dcm", root / "us" / "cine.dcm")
    copy("MR_truncated.dcm", root / "bad" / "truncated.dcm")
    copy("rtplan.dcm", root / "bad" / "plan.dcm")
    (root / "bad" / "empty.png").touch()
    (root / "bad" / "notes.txt").write_text("none")
    return root


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out")
    with pytest.raises((InputError, RuntimeError)) as raised:
        run(folder, output, probability_maps=True, empty_segmentations=True)
    cause = find_input_error(raised.value)
    assert cause is not None
    assert str(cause).startswith("2 of 12 images could not be used, the others are done; report.json says why.")
    return output


def test_every_case_is_reported_and_nothing_is_left_out_silently(results: Path) -> None:
    report = report_of(results)
    assert (report["complete"], report["num_failed"]) == (True, 2)
    assert [(case["name"], case["status"]) for case in report["cases"]] == [
        ("bad/empty.png", "failed"),
        ("bad/truncated.dcm", "failed"),
        ("ct/1.2.840.1", "done"),
        ("pages_frame0001.tif", "done"),
        ("pages_frame0002.tif", "done"),
        ("photo ü.jpg", "done"),
        *[(f"stack_frame000{k}.nii.gz", "done") for k in (1, 2, 3)],
        ("us/cine_frame0001.dcm", "done"),
        ("us/cine_frame0002.dcm", "done"),
        ("us/palette.dcm", "done"),
    ]
    assert [file["name"] for file in report["left_out"]] == ["bad/notes.txt", "bad/plan.dcm"]
    assert all(case["error"].startswith(case["name"]) for case in report["cases"] if case["status"] == "failed")


def test_masks_and_overlays_lie_on_the_input(results: Path) -> None:
    for case in report_of(results)["cases"]:
        if case["status"] == "done":
            with Image.open(results / case["mask"]) as mask, Image.open(results / case["overlay"]) as overlay:
                assert mask.size == (case["width"], case["height"])
                assert overlay.height > mask.height
            assert (results / case["mask"].replace("masks", "probabilities")).is_file()
            assert 0 <= case["reliability"]["confidence"] <= 1


def test_scale_is_told_where_the_file_tells_it_and_nowhere_else(results: Path) -> None:
    spacing = {case["name"]: case["spacing_mm"] for case in report_of(results)["cases"]}
    assert spacing["ct/1.2.840.1"] == pytest.approx([0.661468, 0.661468])
    assert spacing["stack_frame0001.nii.gz"] == pytest.approx([1.5, 2.0])
    assert spacing["photo ü.jpg"] is None
    rows = {row["name"]: row for row in read_csv(results / "report.csv")}
    assert rows["photo ü.jpg"]["area_mm2"] == "uncalibrated"
    assert float(rows["ct/1.2.840.1"]["area_mm2"]) == pytest.approx(
        float(rows["ct/1.2.840.1"]["foreground_pixels"]) * 0.661468**2
    )


def test_volumes_hold_what_the_masks_hold(results: Path, folder: Path) -> None:
    report = report_of(results)
    volume = {case["name"]: case["volume"] or case["segmentation"] for case in report["cases"]}
    written = highdicom.seg.segread(results / volume["ct/1.2.840.1"])
    source = pydicom.dcmread(folder / "ct" / "1.2.840.1")
    assert written.PatientID == source.PatientID
    with Image.open(results / "masks/ct/1.2.840.1.png") as mask:
        expected = np.asarray(mask) > 0
    found = written.get_pixels_by_source_instance(
        [source.SOPInstanceUID], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found[0] > 0, expected)
    stack = nibabel.load(results / volume["stack_frame0001.nii.gz"])
    np.testing.assert_array_equal(stack.affine, nibabel.load(folder / "stack.nii.gz").affine)
    assert stack.shape == (40, 30, 3)
    with Image.open(results / "masks/stack_frame0002.png") as mask:
        assert np.count_nonzero(np.asarray(stack.dataobj)[..., 1]) == np.count_nonzero(np.asarray(mask))
    assert volume["us/cine_frame0002.dcm"] == "segmentations/us/cine_frame0002.dcm"
    own_space = "has no Frame of Reference with positions, so that its DICOM Segmentation has one of its own"
    assert report["notes"] == [
        f"us/cine_frame0001.dcm {own_space}.",
        f"us/palette.dcm {own_space}, in which a pixel counts as 1 mm.",
    ]


def test_no_patient_data_but_in_dicom(results: Path) -> None:
    secrets = (b"CompressedSamples", b"1CT1", b"JFK IMAGING", b"1.3.6.1.4.1.5962", b"Lestrade", str(ROOT).encode())
    for path in results.rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            data = path.read_bytes()
            assert not [secret for secret in secrets if secret in data], path


def test_repeated_run_does_only_what_is_missing(results: Path, folder: Path) -> None:
    (results / "masks/photo ü.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in (results / "masks").rglob("*.png")}
    with pytest.raises((InputError, RuntimeError)):
        run(folder, results, probability_maps=True, empty_segmentations=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (results / "masks/photo ü.png").is_file()
    assert report_of(results)["num_cases"] == 12


def test_anonymous_results_hold_no_names_and_no_dicom(folder: Path, tmp_path: Path) -> None:
    with pytest.raises((InputError, RuntimeError)):
        run(folder, tmp_path, anonymous="a long secret of ours")
    assert list(tmp_path.rglob("*.dcm")) == []
    names = [path.relative_to(folder).as_posix().encode() for path in folder.rglob("*") if path.is_file()]
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert not [name for name in names if name in path.read_bytes()], path
        assert not [name for name in names if name.decode() in path.name], path


def test_another_file_of_the_same_name_is_done_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for size in ((40, 50), (60, 45)):
        Image.new("RGB", size).save(folder / "a.png")
        run(folder, output)
        assert (report_of(output)["cases"][0]["width"], report_of(output)["cases"][0]["height"]) == size
    for overrides in ({"probability_maps": True}, {"dicom_seg": "none"}, {"pixel_mean": [1.0, 2.0, 3.0]}):
        with pytest.raises((InputError, RuntimeError)) as raised:
            run(folder, output, **overrides)
        assert f"({next(iter(overrides))} differ)" in str(find_input_error(raised.value))


def test_front_door_runs_the_same_workflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "-in put"
    images.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(images / "-a b.png")
    settings = ["--device", "cpu", "--image_size", "64", "--recipe", "none", "--num_workers=0", *NETWORK_WORDS]
    assert main(["predict", *settings, "--experts", "breast", "--", str(images), str(tmp_path / "out")]) == 0
    report = report_of(tmp_path / "out")
    assert report["model"]["checkpoint"] == "experts_busi.safetensors"
    assert (report["labels"], report["cases"][0]["mask"]) == (["breast lesion"], "masks/-a b.png")
    monkeypatch.chdir(tmp_path)
    os.symlink(images, tmp_path / "$HOME")
    assert main(["predict", *settings, "$HOME", "@output_dir"]) == 0  # MONAI's signs are names here
    assert report_of(tmp_path / "@output_dir")["num_cases"] == 1
    (images / "bad.png").write_bytes(b"\x89PNG")
    assert main(["predict", str(images), str(tmp_path / "out2"), *settings]) == 3
    assert "error: 1 of 2 images could not be used" in capsys.readouterr().err
    assert main(["predict", str(images), str(tmp_path / "out3"), "--overlays"]) == 1
    assert capsys.readouterr().err.strip().endswith("error: --overlays needs a value: --overlays VALUE.")


def test_command_exits_with_a_sentence(quick_start: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "icmoe_monai", "predict", str(tmp_path / "nowhere"), str(tmp_path / "out")]
    environment = {**quick_start, "PYTHONPATH": f"{ROOT}{os.pathsep}{quick_start['PYTHONPATH']}"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: dataset_dir ")
