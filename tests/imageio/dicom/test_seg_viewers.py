"""DICOM Segmentations in other programs: highdicom, dcmqi (3D Slicer), and cornerstone's adapter (OHIF)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dicom_sources
import numpy as np
import pydicom
import pytest
from dicom_seg import ALGORITHM, LESION, MASS, SERIES, class_map, write, write_all
from dicom_sources import CR, HEIGHT, RETIRED_US, SC, VL, WIDTH, cine, ct, enhanced_mr, item, save, source
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from seg_viewers import needs_dcmqi, open_as_ohif, open_by_dcmqi
from slide_files import save_dicom_slide

from icmoe_monai.imageio.dicom.seg import plan_segmentations, plan_slide, references_of, write_segmentation

RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
SAGITTAL = [0, 1, 0, 0, 0, -1]


def directions() -> Dataset:
    """An enhanced MR with a sagittal and an axial frame."""
    image = enhanced_mr(2)
    del image.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    for group, orientation in zip(image.PerFrameFunctionalGroupsSequence, (SAGITTAL, [1, 0, 0, 0, 1, 0]), strict=True):
        group.PlaneOrientationSequence = [item(ImageOrientationPatient=orientation)]
        group.PlanePositionSequence = [item(ImagePositionPatient=[0, 0, 0])]
    return image


MADE: dict[str, Callable[[], Sequence[Dataset]]] = {
    "series": lambda: [ct(n, 2.5 * n) for n in range(4)],
    "one segment": lambda: [ct(n, 2.5 * n) for n in range(2)],
    "oblique": lambda: [ct(n, 2.5 * n, ImageOrientationPatient=[0.8, 0.6, 0, 0, 0, -1]) for n in range(2)],
    "phases": lambda: [ct(n, 2.5 * (n // 2)) for n in range(4)],
    "frames": lambda: [enhanced_mr(4)],
    "radiograph": lambda: [source(CR, Modality="CR", PixelSpacing=[0.2, 0.2])],
    "dermoscopy": lambda: [source(VL, Modality="XC", **RGB)],
    "secondary capture": lambda: [source(SC, **RGB)],
    "retired ultrasound": lambda: [source(RETIRED_US, Modality="US")],
    "cine": lambda: [cine(3)],
}
SHIPPED = ("CT_small.dcm", "MR_small_bigendian.dcm", "examples_palette.dcm", "examples_rgb_color.dcm")


def paths_of(kind: str, folder: Path) -> list[str]:
    if kind in MADE:
        return [save(folder / f"{n}.dcm", image) for n, image in enumerate(MADE[kind]())]
    path = get_testdata_file(kind, download=False)
    assert isinstance(path, str)
    return [path]


def masks_of(segmentation: Any, sources: Sequence[tuple[str, int]]) -> np.ndarray:
    """What highdicom reads of each source image, as class numbers (N, H, W)."""
    masks = []
    for path, frame in sources:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if "NumberOfFrames" in header:
            found = segmentation.get_pixels_by_source_frame(
                header.SOPInstanceUID, [frame + 1], combine_segments=True, assert_missing_frames_are_empty=True,
                ignore_spatial_locations=True,
            )  # fmt: skip
        else:
            found = segmentation.get_pixels_by_source_instance(
                [header.SOPInstanceUID], combine_segments=True, assert_missing_frames_are_empty=True,
                ignore_spatial_locations=True,
            )  # fmt: skip
        masks.append(found[0])
    return np.stack(masks)


@pytest.mark.slow
@needs_dcmqi
@pytest.mark.parametrize("kind", [*MADE, *SHIPPED])
def test_every_viewer_shows_the_mask(tmp_path: Path, kind: str) -> None:
    paths = paths_of(kind, tmp_path)
    header = pydicom.dcmread(paths[0], stop_before_pixels=True)
    num_frames, size = int(header.get("NumberOfFrames", 1)), (header.Rows, header.Columns)
    sources = [(path, n) for path in paths for n in range(num_frames)]
    parts = plan_segmentations(sources)
    segments = [LESION] if kind == "one segment" else [LESION, MASS]
    written = write_all(tmp_path, sources, segments=segments, num_classes=len(segments) + 1)
    labels = [LESION.label, MASS["label"]][: len(segments)]
    jobs = [{"seg": str(tmp_path / f"seg{n}.dcm"), "sources": paths} for n in range(len(parts))]
    opened = open_as_ohif(jobs, tmp_path)
    for n, (part, (segmentation, _), shown) in enumerate(zip(parts, written, opened, strict=True)):
        meant = np.zeros((len(sources), *size), np.uint8)
        for k in part.members:
            meant[k] = class_map(*size, shift=k, num_classes=len(segments) + 1)
        members = meant[list(part.members)]
        # highdicom
        np.testing.assert_array_equal(masks_of(segmentation, [sources[k] for k in part.members]), members)
        # OHIF: of each frame of each image, also of those in which this object shows nothing
        assert "error" not in shown, shown["error"]
        assert (shown["frames"], shown["labels"]) == (segmentation.NumberOfFrames, labels)
        np.testing.assert_array_equal(shown["pixels"], meant[None])
        # dcmqi: planes by their place, whatever their order
        voxels = open_by_dcmqi(tmp_path / f"seg{n}.dcm", tmp_path / f"itk{n}")
        assert list(voxels) == labels
        for number, volume in enumerate(voxels.values(), start=1):
            planes = [(volume[:, :, z].T > 0).tobytes() for z in range(volume.shape[2])]
            assert sorted(planes) == sorted((mask == number).tobytes() for mask in members)


@pytest.mark.slow
@needs_dcmqi
def test_what_a_viewer_does_not_open_is_as_the_page_says(tmp_path: Path) -> None:
    (level,) = save_dicom_slide(tmp_path / "slide", np.zeros((150, 211, 3), np.uint8), num_levels=1)
    paths = {"slide": str(level), "ct": save(tmp_path / "ct.dcm", ct(1, 0))}
    part = plan_slide(paths["slide"], (150, 211))
    write_segmentation(
        tmp_path / "slide_seg.dcm", part, classes=[class_map(150, 211)], segments=[LESION, MASS], algorithm=ALGORITHM,
        series=SERIES, uid=SERIES.instance_uid(references_of(part)),
    )  # fmt: skip
    probabilities = np.zeros((2, HEIGHT, WIDTH), np.float32)
    probabilities[0, 3:9, 4:9] = 0.6
    write(tmp_path / "fractional.dcm", [(paths["ct"], 0)], None, probabilities=[probabilities])
    jobs = [{"seg": str(tmp_path / name), "sources": [path]}
            for name, path in zip(("slide_seg.dcm", "fractional.dcm"), paths.values(), strict=True)]  # fmt: skip
    on_slide, fractional = open_as_ohif(jobs, tmp_path)
    assert "ImageOrientationPatient" in on_slide["error"]
    assert fractional["error"] == "Fractional segmentations are not yet supported"
    with pytest.raises(subprocess.CalledProcessError) as raised:
        open_by_dcmqi(tmp_path / "slide_seg.dcm", tmp_path / "itk")
    assert "Plane Orientation (Patient) is missing" in raised.value.stdout + raised.value.stderr
    found = open_by_dcmqi(tmp_path / "fractional.dcm", tmp_path / "itk_fractional")["lesion"]
    assert set(np.unique(found)) == {0, 153}


@pytest.mark.slow
@needs_dcmqi
def test_of_a_file_in_several_directions_ohif_opens_the_first(tmp_path: Path) -> None:
    path = save(tmp_path / "0.dcm", directions())
    write_all(tmp_path, [(path, 0), (path, 1)])
    first, second = open_as_ohif([{"seg": str(tmp_path / f"seg{n}.dcm"), "sources": [path]} for n in (0, 1)], tmp_path)
    np.testing.assert_array_equal(first["pixels"][0, 0], class_map(HEIGHT, WIDTH, shift=0))
    assert second["error"].startswith("Segmentations orthogonal to the acquisition plane")
    for n in (0, 1):
        assert open_by_dcmqi(tmp_path / f"seg{n}.dcm", tmp_path / f"itk{n}")["lesion"].any()


@pytest.mark.slow
@needs_dcmqi
def test_sizes_at_which_ohifs_adapter_goes_wrong_but_for_label_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of bits follow each other without a gap, and a byte at the end makes their number even (PS3.5, 8.1.1)."""
    jobs, maps, masks = [], [], []
    for height, width, num_frames in ((23, 21, 1), (22, 22, 2), (23, 21, 3), (20, 20, 2)):
        monkeypatch.setattr(dicom_sources, "HEIGHT", height)
        monkeypatch.setattr(dicom_sources, "WIDTH", width)
        folder = tmp_path / f"{height}x{width}x{num_frames}"
        folder.mkdir()
        paths = [save(folder / f"{n}.dcm", ct(n, 2.5 * n)) for n in range(num_frames)]
        meant = np.stack([class_map(height, width, shift=n, num_classes=2) for n in range(num_frames)])
        written = write(folder / "seg.dcm", [(path, 0) for path in paths], meant, segments=[LESION])
        np.testing.assert_array_equal(masks_of(written, [(path, 0) for path in paths]), meant)
        volume = open_by_dcmqi(folder / "seg.dcm", folder / "itk")[LESION.label]
        planes = [(volume[:, :, z].T > 0).tobytes() for z in range(num_frames)]
        assert sorted(planes) == sorted((mask == 1).tobytes() for mask in meant)
        jobs.append({"seg": str(folder / "seg.dcm"), "sources": paths})
        masks.append(meant)
        of_two = np.stack([class_map(height, width, shift=n) for n in range(num_frames)])
        written = write(folder / "map.dcm", [(path, 0) for path in paths], of_two, as_label_map=True)
        np.testing.assert_array_equal(masks_of(written, [(path, 0) for path in paths]), of_two)
        (volume,) = open_by_dcmqi(folder / "map.dcm", folder / "itk_map").values()  # one file of all segments
        assert sorted(volume[:, :, z].T.tobytes() for z in range(num_frames)) == sorted(map(bytes, of_two))
        maps.append(({"seg": str(folder / "map.dcm"), "sources": paths}, of_two))
    (tmp_path / "maps").mkdir()
    for (_, meant), shown in zip(maps, open_as_ohif([job for job, _ in maps], tmp_path / "maps"), strict=True):
        assert "error" not in shown, shown["error"]
        assert shown["labels"] == ["Background", LESION.label, MASS["label"]]
        np.testing.assert_array_equal(shown["pixels"], meant[None])
    refused, displaced, odd, even = open_as_ohif(jobs, tmp_path)
    assert refused["error"].startswith("Unexpected 1-bit SEG PixelData length")
    assert (displaced["pixels"][0] != masks[1]).any()
    np.testing.assert_array_equal(odd["pixels"][0], masks[2])
    np.testing.assert_array_equal(even["pixels"][0], masks[3])
