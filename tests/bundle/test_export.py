"""The exported network: `python -m bundle export`, and `segment.py`, which runs it with nothing of ours installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Resize
from PIL import Image

from bundle import segment
from bundle.__main__ import main
from bundle.export import export
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image
from icmoe_monai.transforms.resize import ResizeLongestd

ROOT = Path(__file__).parents[2]
# importing either package raises ImportError
_ALONE = """
import runpy, sys
sys.modules["icmoe_monai"] = sys.modules["monai"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("h", "w", "side"), [(40, 64, 32), (17, 90, 48), (20, 10, 32)])
def test_resizing_is_the_bundles_there_and_back(h, w, side):
    image = np.random.default_rng(0).random((3, h, w), dtype=np.float32) * 255
    expected = ResizeLongestd("image", spatial_size=side)({"image": torch.from_numpy(image)})["image"].numpy()
    found = segment.resize(image, *expected.shape[1:], smooth=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    back = Resize((h, w), mode="bilinear")(expected)
    np.testing.assert_allclose(segment.resize(found, h, w, smooth=False), back.numpy(), atol=1e-3)


@pytest.mark.parametrize(("h", "w", "overlap"), [(32, 32, 0.5), (32, 75, 0.5), (20, 70, 0.25), (70, 50, 0.0)])
def test_windows_are_stitched_as_monai_does(h, w, overlap):
    image = torch.randn(1, 3, h, w)

    def predict(windows: torch.Tensor) -> torch.Tensor:
        # what depends on a pixel's place in its window, so that the weights matter
        return windows.cumsum(dim=-1).cumsum(dim=-2)

    expected = SlidingWindowInferer((32, 32), overlap=overlap, mode="gaussian")(image, predict)[0]
    found = segment.stitch(image[0].numpy(), lambda x: predict(torch.from_numpy(x)).numpy(), 32, overlap)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-3)


def test_probabilities_become_masks():
    one, several = np.array([[[-1.0, 0.0, 2.0]]]), np.array([[[0.0, 3.0]], [[1.0, 0.0]]])
    assert segment.to_mask(segment.to_probabilities(one)).tolist() == [[0, 0, 255]]
    assert segment.to_mask(segment.to_probabilities(several)).tolist() == [[1, 0]]
    np.testing.assert_allclose(segment.to_probabilities(several).sum(axis=0), 1)


def test_the_checkpoint_itself_is_not_replaced(tmp_path):
    """Files of an earlier call are removed first, and were removed before its recipe was read."""
    content = (ROOT / "models" / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(
        InputError, match=r"model\.pt lies where its export would be written: choose another output_dir"
    ):
        export(tmp_path / "model.pt", tmp_path, num_images=1)
    assert (tmp_path / "model.pt").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["export", "--checkpoint", "README.md"], "README.md cannot be read as a checkpoint"),
        (["export", "--output_dir", "README.md/x"], "README.md/x cannot be made"),
    ],
    ids=["no weights", "no folder"],
)
def test_a_mistake_is_told_in_a_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("text")
    monkeypatch.setattr("bundle.export._read_pictures", lambda *given: [])
    assert main(words) == 1
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_exported_is_said_first(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="TensorRT needs a CUDA device"):
        export(ROOT / "models" / "model.pt", tmp_path, tensorrt=True)
    with pytest.raises(InputError, match="holds no picture"):
        export(ROOT / "models" / "model.pt", tmp_path / "exported", images=tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        export(ROOT / "models" / "model.pt", tmp_path / "exported", images=tmp_path / "none")
    with pytest.raises(InputError, match="num_images must be at least 1, got 0"):
        export(ROOT / "models" / "model.pt", tmp_path / "exported", num_images=0)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA"])
def test_a_picture_that_the_bundle_reads_by_rules_of_its_own_is_refused(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match=r"a\.png is .*: convert it"):
        segment.read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_other_pictures_are_read_as_the_bundle_reads_them(tmp_path, mode):
    picture = Image.fromarray(draw_dermoscopy(np.random.default_rng(0), (12, 20))[0]).convert(mode)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(segment.read_picture(tmp_path / "a.png"), read_image(str(tmp_path / "a.png")))


def test_two_pictures_of_one_name_are_refused(tmp_path, monkeypatch):
    for suffix in ("png", "jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / f"a.{suffix}")
    (tmp_path / "exported.json").write_text("{}")
    monkeypatch.setattr(segment, "open_onnx", lambda path: (None, None))
    monkeypatch.setattr(sys, "argv", ["segment.py", str(tmp_path / "model.onnx"), str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="would have one mask"):
        segment.main()


@pytest.mark.slow
def test_torchscript_and_onnx_give_the_bundles_own_masks_without_it(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, size in enumerate([(256, 256), (180, 300), (400, 310), (60, 50)]):
        Image.fromarray(draw_dermoscopy(np.random.default_rng(i), size)[0]).save(pictures / f"{i}.png")
    exported = tmp_path / "exported"
    content = export(ROOT / "models" / "model.pt", exported, images=pictures, longest_side=400, recipe="none")
    assert json.loads((exported / "exported.json").read_text()) == content
    for name in ("model.ts", "model.onnx"):
        # a logit far from 0 is that of a probability which float32 hardly tells from 0 or 1
        assert content["parity"][name]["largest_probability_difference"] < 1e-4
        assert content["parity"][name]["least_share_of_equal_pixels"] > 0.9999
    own = [sys.executable, "-m", "icmoe_monai", "predict", str(pictures), str(tmp_path / "own")]
    own += ["--longest_side", "400", "--recipe", "none", "--calibration", "none", "--probability_maps", "true"]
    subprocess.run(own, check=True, cwd=ROOT, capture_output=True)
    for name in ("model.ts", "model.onnx"):
        words = [str(exported / "segment.py"), str(exported / name), str(pictures), str(tmp_path / name)]
        subprocess.run([sys.executable, "-c", _ALONE, *words], check=True, cwd=tmp_path, capture_output=True)
        for i in range(4):
            expected = np.asarray(Image.open(tmp_path / "own" / "masks" / f"{i}.png"))
            probability = np.asarray(Image.open(tmp_path / "own" / "probabilities" / f"{i}.png")) / 65535
            found = np.asarray(Image.open(tmp_path / name / f"{i}.png"))
            assert expected.any()
            wrong = (found != expected) & (np.abs(probability - 0.5) > 1e-4)  # nearer, rounding may decide
            assert not wrong.any(), f"{name}, picture {i}: {wrong.sum()} pixels"
