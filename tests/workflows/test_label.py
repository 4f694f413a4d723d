"""MONAI Label's own task on the bundle. Label is not among the tests' packages: it wants torchvision and much else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.data.phantoms import draw_dermoscopy

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Label's own
@pytest.mark.skipif(importlib.util.find_spec("monailabel") is None, reason="MONAI Label is not installed")
def test_labels_task_gives_the_mask_of_our_own_inference(tmp_path, monkeypatch):
    if importlib.util.find_spec("torchvision") is None:  # imported for pictures that inference does not draw
        stub = types.ModuleType("torchvision.utils")
        stub.make_grid = stub.save_image = None
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.utils", stub)
    from monailabel.tasks.infer.bundle import BundleInferTask

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, size in enumerate([(256, 256), (180, 300)]):
        Image.fromarray(draw_dermoscopy(np.random.default_rng(i), size)[0]).save(pictures / f"{i}.png")
    own = [sys.executable, "-m", "icmoe_monai", "predict", str(pictures), str(tmp_path / "own")]
    subprocess.run(own, check=True, cwd=ROOT, capture_output=True)
    task = BundleInferTask(str(ROOT), {"preload": "false"})
    assert task.is_valid()
    for path in sorted(pictures.iterdir()):
        request = {"image": str(path), "image_path": str(path), "device": "cpu", "result_write_to_file": False}
        mask, _ = task(request)
        expected = np.asarray(Image.open(tmp_path / "own" / "masks" / path.name)) > 0
        assert expected.any()
        assert np.array_equal(np.asarray(mask)[0], expected)
