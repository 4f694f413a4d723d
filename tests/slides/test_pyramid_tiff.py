"""A pyramid from rows: every level exact, bounded in memory, whole or not there."""

from __future__ import annotations

import errno
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

from icmoe_monai.errors import InputError
from icmoe_monai.slides.pyramid_tiff import PyramidWriter


def write(path: Path, pixels: np.ndarray, heights: list[int], **about: object) -> None:
    with PyramidWriter(path, shape=pixels.shape[:2], **about) as writer:
        first = 0
        for height in heights:
            writer.add(pixels[first : first + height])
            first += height


@pytest.mark.parametrize("heights", [[1301], [1] * 301 + [1000], [255, 258, 788]], ids=["at once", "by one", "odd"])
@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_every_level_holds_every_second_pixel(tmp_path: Path, heights: list[int], num_samples: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1301, 777, num_samples), dtype=np.uint8)
    write(tmp_path / "a.tif", pixels, heights, num_samples=num_samples)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        levels = file.series[0].levels
        assert [level.shape[:2] for level in levels] == [(1301, 777), (651, 389), (326, 195)]
        for k, level in enumerate(levels):
            expected = pixels[:: 2**k, :: 2**k]
            np.testing.assert_array_equal(level.asarray().reshape(expected.shape), expected)
            assert level.pages[0].is_tiled
        assert file.pages[0].photometric.name == ("RGB" if num_samples == 3 else "MINISBLACK")
        assert len(file.series) == len(file.pages) == 1


def test_a_small_image_has_one_level(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.full((20, 30), 7, np.uint8), [20])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert [level.shape for level in file.series[0].levels] == [(20, 30)]


def test_every_level_tells_its_scale(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.zeros((600, 600), np.uint8), [600], spacing_um=(0.5, 0.25))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        pages = [level.pages[0] for level in file.series[0].levels]
        assert [page.resolution for page in pages] == [(40_000, 20_000), (20_000, 10_000)]
        assert {int(page.resolutionunit) for page in pages} == {3}


def test_more_than_four_gigabytes_would_be_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icmoe_monai.slides.pyramid_tiff._BIG", 100)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    write(tmp_path / "a.tif", pixels, [300])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), pixels)


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    peaks = []
    for num_parts in (4, 40):
        tracemalloc.start()
        with PyramidWriter(tmp_path / "a.tif", shape=(64 * num_parts, 2000)) as writer:
            for _ in range(num_parts):
                writer.add(np.zeros((64, 2000), np.uint8))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_run_cut_short_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> None:
        with PyramidWriter(tmp_path / "a.tif", shape=(300, 40)) as writer:
            writer.add(np.zeros((280, 40), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    with pytest.raises(ValueError, match="all 300 rows must be added before the end, got 280"):
        write(tmp_path / "a.tif", np.zeros((300, 40), np.uint8), [280])
    assert list(tmp_path.iterdir()) == []


def test_a_run_cut_short_keeps_the_file_of_the_run_before(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.full((30, 40), 5, np.uint8), [30])
    with pytest.raises(ValueError, match="got 20"):
        write(tmp_path / "a.tif", np.zeros((30, 40), np.uint8), [20])
    assert tifffile.imread(tmp_path / "a.tif").min() == 5


@pytest.mark.parametrize("when", ["rows", "file"])
def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "rows":
        monkeypatch.setattr("icmoe_monai.slides.pyramid_tiff._Level._keep_tiles", refuse)
    else:
        monkeypatch.setattr(tifffile.TiffWriter, "write", refuse)
    with pytest.raises(InputError, match=r"Cannot write a\.tif in .*: No space left on device\. Free some space there"):
        write(tmp_path / "a.tif", np.zeros((300, 40), np.uint8), [300])
    assert list(tmp_path.iterdir()) == []
