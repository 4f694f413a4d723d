"""From a slide's file to outlines, by the command that a user gives: of scanners, in DICOM, and an OME-TIFF."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom
import jsonschema
import numpy as np
import pydicom
import pytest
import tifffile
from dicom_seg import errors_of
from scanner_files import SAVERS
from shipped import NETWORK_WORDS, write_restless
from skimage.draw import polygon
from slide_files import save_dicom_slide, save_svs

from icmoe_monai.__main__ import main
from icmoe_monai.data.phantoms import draw_dermoscopy

SCHEMA = json.loads((Path(__file__).parents[1] / "helpers" / "geojson.schema.json").read_text())
MPP = 0.5
# MONAI warns of configs being code at every workflow
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, pixels = tmp_path_factory.mktemp("slides"), np.full((150, 210, 3), 240, dtype=np.uint8)
    pixels[:, :150] = draw_dermoscopy(np.random.default_rng(2), (150, 150))[0]
    save_svs(root / "aperio.svs", pixels, mpp=MPP, compression="aperio_jp2000_rgb")
    save_dicom_slide(root / "series", pixels, mpp=MPP)
    sizes = {f"PhysicalSize{axis}": MPP for axis in "XY"}
    tifffile.imwrite(root / "b.ome.tif", pixels, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS", **sizes})
    return root


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    checkpoint = write_restless(tmp_path_factory.mktemp("weights") / "restless.pt")
    small = ["--image_size", "64", "--recipe", "none", "--device", "cpu", *NETWORK_WORDS]
    return ["--config", "inference_large.yaml", "--checkpoint", str(checkpoint), *small]


def cases_of(output: Path) -> dict[str, dict]:
    return {case["name"]: case for case in json.loads((output / "report.json").read_text())["cases"]}


def drawn(path: Path, mask_shape: tuple[int, int], full_shape: tuple[int, int]) -> np.ndarray:
    content = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(content, SCHEMA)
    mask = np.zeros(mask_shape, dtype=bool)
    for feature in content["features"]:
        part = np.zeros(mask_shape, dtype=bool)
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            rows, columns = (np.array(ring)[:, ::-1] * mask_shape / full_shape - 0.5).T
            part[polygon(rows, columns, mask_shape)] = number == 0
        mask |= part
    return mask


@pytest.mark.parametrize("further", [[], ["--um_per_pixel", "0.75"]], ids=["full size", "0.75"])
def test_slides_of_all_kinds_go_from_file_to_outlines(
    slides: Path, words: list[str], tmp_path: Path, further: list[str]
) -> None:
    assert main(["predict", str(slides), str(tmp_path), *words, *further]) == 0
    cases = cases_of(tmp_path)
    assert set(cases) == {"aperio.svs", "b.ome.tif", "series/0.dcm"}  # the DICOM slide's files are one case
    step = float(further[-1]) if further else MPP
    for case in cases.values():
        assert case["spacing_mm"] == pytest.approx([step / 1000] * 2, rel=0.01)
        check_outlines(case, tmp_path, (150, 210))


def check_outlines(case: dict, output: Path, full_shape: tuple[int, int]) -> None:
    """Check that a case's outlines are its mask, and tell its area."""
    mask = tifffile.imread(output / case["mask"])
    assert mask.shape == (case["height"], case["width"])
    assert mask.any()
    np.testing.assert_array_equal(drawn(output / case["outlines"], mask.shape, full_shape), mask > 0)
    features = json.loads((output / case["outlines"]).read_text())["features"]
    told = [feature["properties"]["measurements"] for feature in features]
    assert all(0.5 < one["Mean probability"] <= 1 for one in told)
    assert sum(one["Area µm^2"] for one in told) == pytest.approx(case["area_mm2"][0] * 1e6, rel=1e-3)
    num_pixels = full_shape[0] * full_shape[1]
    assert sum(one["Area px^2"] for one in told) == pytest.approx((mask > 0).mean() * num_pixels, rel=1e-3)


def test_slides_of_scanners_go_from_file_to_outlines(words: list[str], tmp_path: Path) -> None:
    pixels = draw_dermoscopy(np.random.default_rng(3), (128, 128))[0]
    for kind, save in SAVERS.items():
        (tmp_path / "slides" / kind).mkdir(parents=True)
        save(tmp_path / "slides" / kind, pixels, MPP)
    assert main(["predict", str(tmp_path / "slides"), str(tmp_path / "out"), *words]) == 0
    cases = cases_of(tmp_path / "out")
    assert set(cases) == {f"{kind}/slide.{kind}" for kind in SAVERS}  # of what a VMS or MRXS consists is no case
    for name, case in cases.items():
        assert case["spacing_mm"] == pytest.approx([MPP / 1000] * 2)
        check_outlines(case, tmp_path / "out", (256, 256) if name.endswith("scn") else (128, 128))


def test_a_dicom_slide_has_a_segmentation_with_the_masks_pixels(slides: Path, words: list[str], tmp_path: Path) -> None:
    for output in (tmp_path / "a", tmp_path / "b"):
        assert main(["predict", str(slides / "series"), str(output), *words, "--level", "1"]) == 0
    (case,) = cases_of(tmp_path / "a").values()
    path = tmp_path / "a" / case["segmentation"]
    assert case["segmentation"] == "segmentations/0.dcm"
    written, level = highdicom.seg.segread(path), pydicom.dcmread(slides / "series" / "1.dcm")
    mask = tifffile.imread(tmp_path / "a" / case["mask"])
    np.testing.assert_array_equal(written.get_total_pixel_matrix(combine_segments=True), mask > 0)
    assert written.SourceImageSequence[0].ReferencedSOPInstanceUID == level.SOPInstanceUID
    again = pydicom.dcmread(tmp_path / "b" / case["segmentation"])
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (written.SOPInstanceUID, written.SeriesInstanceUID)
    assert errors_of(path) == []


def test_an_anonymous_run_and_one_without_outlines_leave_those_files_out(
    slides: Path, words: list[str], tmp_path: Path
) -> None:
    assert main(["predict", str(slides / "series"), str(tmp_path), *words, "--anonymous", "--outlines", "False"]) == 0
    assert not (tmp_path / "segmentations").exists()
    assert not (tmp_path / "outlines").exists()
    (note,) = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert "has no DICOM Segmentation, which would hold the patient's data" in note


def test_ordinary_inference_sends_a_whole_slide_to_the_config_for_slides(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(slides / "series"), str(tmp_path), "--device", "cpu"]) == 3
    assert "0.dcm is a whole slide, and those are segmented in strips: add --config inf" in capsys.readouterr().err
    assert len(cases_of(tmp_path)) == 1
