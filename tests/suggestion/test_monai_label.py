"""MONAI Label's strategy, against a stand-in of its interface: it is not among the tests' packages."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shipped import NETWORK

from icmoe_monai import Predictor
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.suggestion import label_strategy


class Strategy:
    """As monailabel.interfaces.tasks.strategy.Strategy of MONAI Label 0.8.5."""

    def __init__(self, description):
        self.description = description

    def info(self):
        return {"description": self.description}


class Datastore:
    def __init__(self, folder: Path, labelled: set[str]) -> None:
        self.folder, self.labelled = folder, labelled
        self.asked: list[str] = []

    def get_unlabeled_images(self, label_tag=None, labels=None):
        return [path.stem for path in self.folder.iterdir() if path.stem not in self.labelled]

    def get_labeled_images(self, label_tag=None, labels=None):
        return sorted(self.labelled)

    def get_image_uri(self, image_id):
        self.asked.append(image_id)
        return str(self.folder / f"{image_id}.png")


@pytest.fixture
def label(monkeypatch):
    module = types.ModuleType("monailabel.interfaces.tasks.strategy")
    module.Strategy = Strategy
    for name in ("monailabel", "monailabel.interfaces", "monailabel.interfaces.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def store(tmp_path) -> Datastore:
    """Labelled: one phantom. Not labelled: its copy, another kind of picture, and a file that is no picture."""
    lesion = draw_dermoscopy(np.random.default_rng(0), (64, 64))[0]
    stripes = np.where(np.arange(64)[:, None] // 4 % 2, 250, 5).astype(np.uint8).repeat(64, 1)
    for name, picture in (("labelled", lesion), ("copy", lesion), ("other", stripes)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    return Datastore(tmp_path, {"labelled"})


@pytest.mark.usefixtures("label")
def test_an_app_is_handed_what_is_unlike_the_labelled_images_and_then_the_next(store):
    settings = {"image_size": 64, "recipe": "none", "calibration": "none", **NETWORK}
    strategy = label_strategy(Predictor("skin", device="cpu", settings=settings))
    assert isinstance(strategy, Strategy)
    assert strategy.info() == {"description": "Images whose labels tell the most of the pool (IC-MoE)"}
    first = strategy({"strategy": "suggest"}, store)
    assert (first["id"], 0 < first["score"] <= 1) == ("other", True)
    asked = len(store.asked)
    store.labelled.add("other")
    assert strategy({}, store)["id"] == "copy"
    assert len(store.asked) == asked  # each image is looked at once
    store.labelled.add("copy")
    assert strategy({}, store) is None


def test_without_monai_label_the_import_is_what_fails():
    with pytest.raises(ImportError, match="monailabel"):
        label_strategy(None)
