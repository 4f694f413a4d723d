"""A large image at a wanted physical scale: the right level, and the same pixels however it is cut into regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from slide_files import save_dicom_slide, save_svs
from stand_ins import InMemory

from icmoe_monai.slides.images import UnreadableImageError, open_large_image
from icmoe_monai.slides.scale import SmallerImage

SHAPE = (150, 211)
MPP = 0.5


def pixels() -> np.ndarray:
    noise = np.random.default_rng(0).random((*SHAPE, 3))
    smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def made(folder: Path, kind: str) -> Path:
    if kind == "SVS":  # with levels of 0.5 and 2 micrometres
        return save_svs(folder / "a.svs", pixels(), mpp=MPP, compression=None)
    if kind == "DICOM":  # of 0.5 and 1
        return save_dicom_slide(folder / "slide", pixels(), mpp=MPP)[0]
    path = folder / "a.ome.tif"  # of 0.5 and 1; nanometres, as a microscope may write
    with tifffile.TiffWriter(path, ome=True) as file:
        sizes = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", 500), ("Unit", "nm"))}
        about = {"photometric": "rgb", "tile": (64, 64)}
        file.write(pixels(), subifds=1, metadata={"axes": "YXS", **sizes}, **about)
        file.write(pixels()[::2, ::2], subfiletype=1, metadata=None, **about)
    return path


@pytest.mark.parametrize(
    ("kind", "um", "shape"),
    [
        ("SVS", 0.5, SHAPE), ("SVS", 0.49, SHAPE), ("SVS", 1, (75, 106)), ("SVS", 2, (38, 53)), ("SVS", 4, (19, 27)),
        ("DICOM", 0.75, (100, 141)), ("DICOM", 1, (75, 106)), ("DICOM", 1.5, (50, 70)),
        ("OME", 0.5, SHAPE), ("OME", 1, (75, 106)), ("OME", 2, (38, 53)),
    ],
)  # fmt: skip
def test_a_slide_is_shown_at_the_wanted_scale(tmp_path: Path, kind: str, um: float, shape: tuple[int, int]) -> None:
    with open_large_image(str(made(tmp_path, kind)), um_per_pixel=um) as image:
        assert np.abs(np.subtract(image.shape, shape)).max() <= 1
        assert image.levels[0] == SHAPE
        assert image.spacing_um == pytest.approx((um, um), rel=0.05)
        assert np.multiply(image.spacing_um, image.shape) == pytest.approx(np.multiply(MPP, SHAPE), rel=0.02)
        region = image.read(0, 0, *image.shape)
    factors = np.divide(image.shape, SHAPE)
    expected = ndimage.zoom(pixels().astype(float), (*factors, 1), order=1, grid_mode=True, mode="nearest")
    assert np.abs(expected[: region.shape[0], : region.shape[1]] - region).mean() < 12


def test_a_scale_that_a_slide_does_not_have_is_refused(tmp_path: Path) -> None:
    path = str(made(tmp_path, "DICOM"))
    with pytest.raises(
        UnreadableImageError, match=r"has 0\.5 micrometres per pixel at its full size, which is coarser"
    ):
        open_large_image(path, um_per_pixel=0.25).__enter__()
    tifffile.imwrite(tmp_path / "a.tif", pixels(), photometric="rgb")
    with pytest.raises(UnreadableImageError, match="does not tell the size of its pixels, so um_per_pixel chooses no"):
        open_large_image(str(tmp_path / "a.tif"), um_per_pixel=0.5).__enter__()


@pytest.mark.parametrize("factors", [(1.5, 1.5), (2.0, 3.7), (1.06, 1.0), (5.3, 2.2)])
def test_how_it_is_cut_into_regions_changes_no_pixel(factors: tuple[float, float]) -> None:
    image = SmallerImage(InMemory(pixels()), factors)
    height, width = image.shape
    whole = image.read(0, 0, height, width)
    for top in range(0, height, 7):
        for left in range(0, width, 11):
            h, w = min(7, height - top), min(11, width - left)
            part = image.read(top, left, h, w)
            assert np.abs(part.astype(int) - whole[top : top + h, left : left + w]).max() <= 1  # of rounding


def test_an_even_image_stays_even_and_a_checkered_one_becomes_grey() -> None:
    flat = SmallerImage(InMemory(np.full((50, 70, 3), 77, np.uint8)), (1.7, 2.9))
    assert (flat.read(0, 0, *flat.shape) == 77).all()
    checkered = np.repeat((np.indices((80, 80)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    small = SmallerImage(InMemory(checkered), (4.0, 4.0))
    assert np.abs(small.read(0, 0, *small.shape).astype(int) - 127).max() < 8
