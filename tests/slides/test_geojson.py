"""GeoJSON of outlines: as RFC 7946 and QuPath want it, in pixels of the full size."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon

from icmoe_monai.errors import InputError
from icmoe_monai.slides.geojson import OutlineWriter
from icmoe_monai.visualize.overlay import class_colour

SCHEMA = json.loads((Path(__file__).parents[1] / "helpers" / "geojson.schema.json").read_text())


def checked(path: Path) -> list[dict[str, Any]]:
    """The features of a file that is as the schema and the RFC's words on rings want it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(content, SCHEMA)
    for feature in content["features"]:
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            assert ring[0] == ring[-1]
            assert len({tuple(place) for place in ring}) == len(ring) - 1 >= 3
            x, y = np.array(ring).T
            area = (x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2
            assert area > 0 if number == 0 else area < 0  # the right-hand rule
    return content["features"]


def written(path: Path, mask: np.ndarray, *, scale: tuple[float, float] = (1, 1), **options: Any) -> list[dict]:
    full = tuple(round(side * factor) for side, factor in zip(mask.shape, scale, strict=True))
    options = {"labels": ["lesion", "mässe"], **options}
    with OutlineWriter(path, shape=mask.shape, full_shape=full, **options) as writer:
        for top in range(0, len(mask), 13):
            writer.add(mask[top : top + 13], mask[top : top + 13] * 0.25)
    return checked(path)


def blobs() -> np.ndarray:
    heights = ndimage.gaussian_filter(np.random.default_rng(0).random((70, 90)), 2)
    mask = (heights > 0.5).astype(np.uint8)
    mask[heights > 0.53] = 2
    return mask


def test_it_is_valid_and_tells_class_probability_and_area(tmp_path: Path) -> None:
    mask = blobs()
    features = written(tmp_path / "a.geojson", mask, scale=(2, 4), spacing_um=(1.0, 2.0))
    assert any(len(feature["geometry"]["coordinates"]) > 1 for feature in features)  # holes
    for number, name in ((1, "lesion"), (2, "mässe")):
        of_class = [one["properties"] for one in features if one["properties"]["classification"]["name"] == name]
        told = [one["measurements"] for one in of_class]
        assert {one["Mean probability"] for one in told} == {number * 0.25}
        assert sum(one["Area px^2"] for one in told) == pytest.approx((mask == number).sum() * 8)
        assert sum(one["Area µm^2"] for one in told) == pytest.approx((mask == number).sum() * 2)
        assert of_class[0]["classification"]["color"] == list(class_colour(number))


@pytest.mark.parametrize("scale", [(1, 1), (4, 4), (1.7, 2.3)])
def test_drawn_again_in_pixels_of_the_full_size_it_is_the_mask(tmp_path: Path, scale: tuple[float, float]) -> None:
    mask = (blobs() > 0).astype(np.uint8)
    features = written(tmp_path / "a.geojson", mask, scale=scale)
    true = [round(side * factor) / side for side, factor in zip(mask.shape, scale, strict=True)]
    drawn = np.zeros(mask.shape, dtype=bool)
    for feature in features:
        part = np.zeros(mask.shape, dtype=bool)
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            rows, columns = (np.array(ring)[:, ::-1] / true - 0.5).T
            part[polygon(rows, columns, mask.shape)] = number == 0
        drawn |= part
    assert [one for one in features if one["geometry"]["coordinates"][1:]]  # with holes
    np.testing.assert_array_equal(drawn, mask > 0)


def test_it_reaches_the_borders_and_no_farther(tmp_path: Path) -> None:
    ((outer,),) = [one["geometry"]["coordinates"] for one in written(
        tmp_path / "a.geojson", np.ones((40, 30), np.uint8), scale=(2, 3)
    )]  # fmt: skip
    assert np.array(outer).min(axis=0).tolist() == [0, 0]
    assert np.array(outer).max(axis=0).tolist() == [90, 80]


def test_an_empty_mask_is_an_empty_collection(tmp_path: Path) -> None:
    assert written(tmp_path / "a.geojson", np.zeros((40, 30), np.uint8)) == []


def test_without_a_scale_there_is_no_area_in_micrometres(tmp_path: Path) -> None:
    (one,) = written(tmp_path / "a.geojson", np.ones((4, 3), np.uint8))
    assert one["properties"]["measurements"] == {"Mean probability": 0.25, "Area px^2": 12}


def test_an_error_leaves_no_file_and_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"shape": (4, 3), "full_shape": (4, 3), "labels": ["a"]}
    with pytest.raises(KeyError), OutlineWriter(tmp_path / "a.geojson", **about):
        raise KeyError
    mask = np.zeros((4, 3), np.uint8)
    mask[1, 1] = 1
    writer = OutlineWriter(tmp_path / "a.geojson", **about)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dumps", refuse)
    with pytest.raises(InputError, match=r"Cannot write a\.geojson .*No space left on device\. Free some"), writer:
        writer.add(mask, mask)
    assert not list(tmp_path.iterdir())
