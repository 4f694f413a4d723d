"""DICOM Segmentations of whole slides: tiled, on the level or on a grid of their own, and the same pixels read back."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_seg import ALGORITHM, LESION, MASS, SERIES, class_map, errors_of, needs_dciodvfy
from slide_files import TILE, save_dicom_slide

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.seg import NoSegmentationError, plan_slide, references_of, write_segmentation

SHAPE = (150, 211)


@pytest.fixture
def levels(tmp_path: Path) -> list[Path]:
    return save_dicom_slide(tmp_path / "slide", np.zeros((*SHAPE, 3), np.uint8), mpp=0.5)


def write(path: Path, source: Path, classes: np.ndarray) -> list[str]:
    part = plan_slide(str(source), classes.shape)
    return write_segmentation(
        path, part, classes=[classes], segments=[LESION, MASS], algorithm=ALGORITHM, series=SERIES,
        uid=SERIES.instance_uid(references_of(part)),
    )  # fmt: skip


def matrix_of(path: Path) -> np.ndarray:
    return highdicom.seg.segread(path).get_total_pixel_matrix(combine_segments=True)


@needs_dciodvfy
@pytest.mark.parametrize(
    ("shape", "level"), [(SHAPE, 0), ((75, 106), 1), ((100, 141), 0), ((50, 70), 1)], ids=["0", "1", "own", "own of 1"]
)
def test_a_slides_mask_is_one_tiled_object_that_refers_to_its_level(
    tmp_path: Path, levels: list[Path], shape: tuple[int, int], level: int
) -> None:
    classes = class_map(*shape)
    assert write(tmp_path / "seg.dcm", levels[-1], classes) == []  # any file of the slide leads to the others
    np.testing.assert_array_equal(matrix_of(tmp_path / "seg.dcm"), classes)
    source, written = pydicom.dcmread(levels[level]), pydicom.dcmread(tmp_path / "seg.dcm")
    assert [one.ReferencedSOPInstanceUID for one in written.SourceImageSequence] == [source.SOPInstanceUID]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "ContainerIdentifier"):
        assert written[keyword].value == source[keyword].value
    assert written.DimensionOrganizationType == "TILED_SPARSE"
    assert (written.Rows, written.Columns) == (TILE, TILE)
    assert written.NumberOfFrames < 2 * -(-shape[0] // TILE) * -(-shape[1] // TILE)  # none for what is empty
    spacing = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    np.testing.assert_allclose(np.multiply(spacing, shape), np.multiply(0.0005, SHAPE), rtol=0.01)
    assert errors_of(tmp_path / "seg.dcm") == []


def test_a_grid_of_its_own_begins_at_the_same_corner(tmp_path: Path, levels: list[Path]) -> None:
    write(tmp_path / "seg.dcm", levels[0], class_map(50, 70))
    source, written = pydicom.dcmread(levels[1]), pydicom.dcmread(tmp_path / "seg.dcm")

    def corner(image: pydicom.Dataset) -> np.ndarray:
        """The middle of the first pixel, and from there half a pixel back along the row and up."""
        origin = image.TotalPixelMatrixOriginSequence[0]
        middle = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem], float)
        steps = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        along_row, down = np.array(image.ImageOrientationSlide, float).reshape(2, 3)[:, :2]
        return middle - along_row * steps[1] / 2 - down * steps[0] / 2

    np.testing.assert_allclose(corner(written), corner(source), atol=1e-6)
    assert not np.allclose(matrix_of(tmp_path / "seg.dcm"), 0)


def test_the_same_mask_again_is_the_same_object(tmp_path: Path, levels: list[Path]) -> None:
    for name in "ab":
        write(tmp_path / name, levels[0], class_map(*SHAPE))
    first, second = (str(pydicom.dcmread(tmp_path / name)).splitlines() for name in "ab")
    differing = [one for one, other in zip(first, second, strict=True) if one != other]
    assert all(" TM: " in line or " DT: " in line for line in differing)  # when it was made


def test_dcmqi_opens_none_and_says_that_there_is_no_patients_space(tmp_path: Path, levels: list[Path]) -> None:
    dcmqi = pytest.importorskip("dcmqi", reason="dcmqi is not installed")
    program = next(Path(dcmqi.__file__).parent.rglob("segimage2itkimage*"), None)
    if program is None:
        pytest.skip("dcmqi's program is not where it was")
    write(tmp_path / "seg.dcm", levels[0], class_map(*SHAPE))
    run = subprocess.run(
        [program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path], capture_output=True, check=False
    )
    assert run.returncode != 0
    assert b"Plane Orientation (Patient) is missing" in run.stdout + run.stderr


@pytest.mark.parametrize(
    "keyword", ["TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "SharedFunctionalGroupsSequence"]
)
def test_a_level_without_a_place_has_none(tmp_path: Path, levels: list[Path], keyword: str) -> None:
    image = pydicom.dcmread(levels[0])
    del image[keyword]
    image.save_as(levels[0])
    with pytest.raises(NoSegmentationError, match="does not tell where it lies on the slide, so there can be no"):
        write(tmp_path / "seg.dcm", levels[0], class_map(*SHAPE))


def test_a_level_with_changed_bytes_has_a_segmentation_or_a_sentence(tmp_path: Path, levels: list[Path]) -> None:
    random, data = np.random.default_rng(0), levels[0].read_bytes()
    levels[1].unlink()
    header = data.index(b"\xe0\x7f\x10\x00")  # where the pixels begin
    num_written = 0
    for _ in range(12):
        changed = np.frombuffer(data, dtype=np.uint8).copy()
        places = random.integers(132, header, random.choice([1, 3, 10]))
        changed[places] = random.integers(0, 256, len(places))
        levels[0].write_bytes(changed.tobytes())
        with contextlib.suppress(InputError):
            write(tmp_path / "seg.dcm", levels[0], class_map(*SHAPE))
            num_written += 1
    assert num_written > 0


def test_what_cannot_be_a_mask_of_the_slide_is_refused(tmp_path: Path, levels: list[Path]) -> None:
    def attempt(classes: Any) -> None:
        part = plan_slide(str(levels[0]), SHAPE)
        write_segmentation(
            tmp_path / "seg.dcm", part, classes=[classes], segments=[LESION], algorithm=ALGORITHM, series=SERIES,
            uid="1.2.3",
        )  # fmt: skip

    for classes in (np.zeros((10, 10), np.uint8), np.full(SHAPE, 2, np.uint8), np.zeros(SHAPE)):
        with pytest.raises(ValueError, match="Classes must be uint8"):
            attempt(classes)
