"""Slides of scanners' own formats give the pixels that were put in, in each level, at the scale that they tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scanner_files import SAVERS, SCN_PLACE

from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.slides.images import open_large_image

SHAPE = (256, 384)


@pytest.mark.parametrize("kind", SAVERS)
def test_a_scanners_slide_gives_its_pixels(kind: str, tmp_path: Path) -> None:
    pixels = draw_dermoscopy(np.random.default_rng(2), SHAPE)[0]
    path = SAVERS[kind](tmp_path, pixels, 0.25)
    size = (2 * SHAPE[0], 2 * SHAPE[1]) if kind == "scn" else SHAPE  # an SCN is as large as its glass
    for level, every in ((0, 1), (1, 2)):
        with open_large_image(str(path), level=level) as image:
            assert type(image).__name__ == "ScannerImage"
            assert image.levels[:2] == (size, (size[0] // 2, size[1] // 2))
            assert image.spacing_um == pytest.approx((0.25 * every,) * 2)
            found = image.read(0, 0, *image.shape).astype(int)
        top, left = (side // every for side in (SCN_PLACE if kind == "scn" else (0, 0)))
        expected = np.full((*image.shape, 3), 255)  # glass that was not scanned
        expected[top:, left:][: SHAPE[0] // every, : SHAPE[1] // every] = pixels[::every, ::every]
        difference = np.abs(found - expected)
        assert difference.mean() < 3  # JPEG's, and that readers average pixels for the second level
        assert (difference[expected == 255] < 16).all()
