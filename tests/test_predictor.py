"""The way in from Python: the command's masks, whatever the image comes as, from one thread or several."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from dicom_files import save as save_dicom
from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.data import get_testdata_file
from shipped import NETWORK, write_restless

import icmoe_monai
from icmoe_monai import InputError, Predictor
from icmoe_monai.inference.prediction import MEASURES, Prediction

ROOT = Path(__file__).parents[1]
# windows of 64 pixels, so that images are many windows and a pass takes no time; no calibration fits these settings
SMALL = {"image_size": 64, "longest_side": 96, "recipe": "none", "calibration": "none", **NETWORK}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def noise(*shape: int, most: int = 255, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Blots of a few pixels, of all values, so that masks have borders everywhere."""
    coarse = np.random.default_rng(seed).integers(0, most, (-(-shape[0] // 8), -(-shape[1] // 8), *shape[2:]))
    return coarse.repeat(8, 0).repeat(8, 1)[: shape[0], : shape[1]].astype(dtype)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that find something in so small images, where the shipped model finds nothing."""
    return str(write_restless(tmp_path_factory.mktemp("weights") / "restless.pt"))


@pytest.fixture(scope="module")
def predict(weights: str) -> Predictor:
    return Predictor(weights, device="cpu", settings=SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind, of sizes above and below the network's, none square."""
    root = tmp_path_factory.mktemp("in")
    Image.fromarray(noise(70, 90, 3)).save(root / "colour.png")
    Image.fromarray(noise(150, 120, 3)).save(root / "large.jpg")
    Image.fromarray(noise(40, 61)).save(root / "grey.png")
    Image.fromarray(noise(64, 48, most=60000, dtype=np.uint16)).save(root / "deep.png")
    Image.fromarray(noise(55, 45, 3)).quantize(16).save(root / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(50, 80, 3)).save(root / "turned.jpg", exif=exif)
    nibabel.save(
        nibabel.Nifti1Image(noise(40, 30, 1).astype(np.int16), np.diag([-2, -1.5, 3, 1])), root / "flat.nii.gz"
    )
    (root / "ct.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    return root


@pytest.fixture(scope="module")
def results(folder: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes of them."""
    output = tmp_path_factory.mktemp("out")
    flow = ConfigWorkflow(
        config_file=str(ROOT / "configs" / "inference.json"), workflow_type="infer", logging_file=False,
        dataset_dir=str(folder), output_dir=str(output), num_workers=0, device="cpu", probability_maps=True,
        checkpoint=weights, **SMALL,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    flow.finalize()
    return output


def test_files_have_the_masks_and_measures_of_the_command(predict, folder, results, tmp_path):
    cases = json.loads((results / "report.json").read_text())["cases"]
    assert len(cases) == 8
    for case in cases:
        found = predict(folder / case["name"])
        written = found.save(tmp_path)
        assert written.name == Path(case["mask"]).name
        assert written.read_bytes() == (results / case["mask"]).read_bytes(), case["name"]
        with Image.open(results / "probabilities" / written.name) as levels:
            np.testing.assert_array_equal(np.asarray(levels), np.rint(found.probabilities[0] * 65535).astype(np.uint16))
        told = json.loads(json.dumps(found.measures))
        assert told == {name: case[name] for name in MEASURES}, case["name"]
    assert any(0 < case["foreground_share"][0] < 1 for case in cases)  # or the masks would say nothing


def test_nothing_is_written_by_a_call(predict, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(ROOT.iterdir())
    Predictor("breast", device="cpu", settings=SMALL)(folder / "grey.png")
    assert list(tmp_path.iterdir()) == []
    assert sorted(ROOT.iterdir()) == before


@pytest.mark.parametrize("name", ["colour.png", "large.jpg", "grey.png", "deep.png", "palette.png", "turned.jpg"])
def test_a_picture_is_what_its_file_is(name, predict, folder):
    with Image.open(folder / name) as picture:
        found, size = predict(picture), picture.size
        assert picture.size == size  # it is not turned in place
    np.testing.assert_array_equal(found.mask, predict(str(folder / name)).mask)


def test_a_data_set_is_what_its_file_is_with_its_scale(predict, folder):
    dataset = pydicom.dcmread(folder / "ct.dcm")
    before = dataset.to_json()
    of_file, of_dataset = predict(folder / "ct.dcm"), predict(dataset)
    np.testing.assert_array_equal(of_dataset.probabilities, of_file.probabilities)
    assert of_dataset.measures == of_file.measures
    assert of_file.measures["spacing_mm"] is not None
    assert dataset.to_json() == before


def test_an_array_is_what_a_file_of_it_is(predict, folder):
    for name in ("colour.png", "grey.png", "deep.png"):
        with Image.open(folder / name) as picture:
            values = np.asarray(picture)
        values = values.astype(np.uint16) if name == "deep.png" else values
        np.testing.assert_array_equal(predict(values).mask, predict(folder / name).mask)


def test_floats_and_sixteen_bits_of_colour_are_scaled_as_documented(predict):
    values = noise(40, 50, 3)
    expected = predict.prepare(values)["image"]
    np.testing.assert_allclose(predict.prepare(values / 255)["image"], expected, atol=1e-4)
    for white in (1023, 4095, 65535):
        deep = (values * (white / 255)).round().astype(np.uint16)
        deep[0, 0], values[0, 0] = white, 255  # by which the depth is known
        expected = predict.prepare(values)["image"]
        np.testing.assert_allclose(predict.prepare(deep)["image"], expected, atol=0.01)


def test_sixteen_bits_may_lie_in_either_order_of_bytes(predict):
    for values in (noise(40, 50, most=60000, dtype=np.uint16), noise(40, 50, 3, most=4000, dtype=np.uint16)):
        swapped = values.astype(">u2")
        np.testing.assert_array_equal(predict(swapped).probabilities, predict(values).probabilities)


def test_a_path_may_be_of_bytes(predict, folder):
    class Place:
        def __fspath__(self) -> bytes:
            return os.fsencode(folder / "grey.png")

    assert predict(Place()).name == "grey.png"


def test_what_surrounds_a_call_changes_nothing(predict, folder):
    """A service may run another network at a lower precision around the call."""
    alone = predict(folder / "colour.png")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(predict(folder / "colour.png").probabilities, alone.probabilities)


def test_frames_are_named_as_by_the_command(predict, tmp_path):
    """Or the masks of two frames would replace each other in a folder."""
    pages = [Image.fromarray(noise(40, 50, seed=seed)) for seed in range(2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    saved = [predict(tmp_path / "pages.tif", frame=frame).save(tmp_path / "masks").name for frame in range(2)]
    assert saved == ["pages_frame0001.png", "pages_frame0002.png"]


def test_the_frame_of_a_file_of_several_is_named(predict, tmp_path):
    pages = [Image.fromarray(noise(40, 50, seed=seed)) for seed in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(predict(tmp_path / "pages.tif", frame=2).mask, predict(pages[2]).mask)
    with pytest.raises(InputError, match=r"pages\.tif holds 3 frames, slices or pages: name one by frame, from 0"):
        predict(tmp_path / "pages.tif")
    path = save_dicom(tmp_path / "cine.dcm", np.stack([noise(40, 50, seed=seed) for seed in range(2)]))
    np.testing.assert_array_equal(predict(pydicom.dcmread(path), frame=1).mask, predict(path, frame=1).mask)
    with pytest.raises(InputError, match="the data set holds 2 frames: name one by frame"):
        predict(pydicom.dcmread(path))
    with pytest.raises(InputError, match="frame names a frame of a file or a data set, and arrays and pictures"):
        predict(noise(40, 50), frame=0)
    for frame in (1.0, "1", True):
        with pytest.raises(InputError, match=rf"frame must be a whole number, from 0, got {frame!r}"):
            predict(tmp_path / "pages.tif", frame=frame)


def test_where_there_is_nothing_to_see_review_is_advised(predict, tmp_path):
    found = predict(np.full((40, 60), 7, np.uint8))
    assert (found.review, found.predicted_dice) == (True, None)
    assert found.note == "image is the same in all its pixels, so there is nothing to see in it: look at it."
    values = noise(40, 60).astype(np.float32)
    assert predict(values / 255).note == ""
    values[:10] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values)
    found = predict(tmp_path / "a.tif")
    assert (found.review, found.note.partition(" of its")[0]) == (True, "a.tif has no finite value in 25 %")
    tifffile.imwrite(tmp_path / "b.tif", values * np.nan)
    with pytest.raises(InputError, match=r"b.tif has no finite value, only NaN or infinite ones"):
        predict(tmp_path / "b.tif")


def test_a_list_keeps_its_order_and_neighbours_of_one_size_pass_together(predict, folder, monkeypatch):
    images = [noise(48, 64, 3, seed=seed) for seed in range(6)]
    given: list[Any] = [*images[:5], folder / "grey.png", images[5]]
    alone = [predict(image) for image in given]
    passes: list[int] = []
    run = predict.inferer.__class__.segment
    monkeypatch.setattr(
        predict.inferer.__class__, "segment", lambda self, x, net: passes.append(len(x)) or run(self, x, net)
    )
    together = predict(given)
    assert passes == [4, 1, 1, 1]
    assert [found.name for found in together] == [
        *(f"image_{place}" for place in range(1, 6)), "grey.png", "image_7",
    ]  # fmt: skip
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-3)
        sure = np.abs(one.probabilities[0] - 0.5) > 1e-2  # the sum of floats depends on the batch's size
        np.testing.assert_array_equal(one.mask[sure], other.mask[sure])
    assert predict([]) == []


def test_threads_share_a_predictor(predict, folder):
    """MONAI's inversion switches off the tracing of the transforms that it inverts, for all who use them."""
    images = [noise(40 + 8 * k, 100 - 8 * k, 3, seed=k) for k in range(6)] * 3
    alone = [predict(image) for image in images[:6]] * 3
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(predict, images))
    for one, other in zip(alone, together, strict=True):
        assert other.mask.shape == one.mask.shape
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_a_thread_has_transforms_of_its_own(predict):
    found = [predict._transforms.preprocessing]
    thread = threading.Thread(target=lambda: found.append(predict._transforms.preprocessing))
    thread.start()
    thread.join()
    assert found[0] is not found[1]


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (noise(40, 50, 4), r"an array must be \(H, W\) or \(H, W, 3\), got \(40, 50, 4\)"),
        (noise(40, 50).astype(np.int32), "an array must be uint8, uint16 or floats, got int32"),
        (noise(40, 50) * 1.0, r"floats must hold 0 \(black\) to 1 \(white\), got 0 to 2\d\d: divide it"),
        (np.full((40, 50), np.nan), "an array of floats holds NaN or infinite values: replace them"),
        (np.full((40, 50), 1 + 1e-9), r"got 1\.000000001 to 1\.000000001: divide it by its white, or clip it"),
        (Image.new("RGB", (0, 0)), "the picture has no pixels: leave it out"),
        (noise(8, 50), "image_2 has 50 x 8 pixels, fewer than a patch of 16 x 16"),
        ({"a": 1}, "an image is an array, a picture of Pillow's, a path or a DICOM data set, got dict"),
        ("nowhere.png", r"nowhere\.png is not a file: correct the path"),
        (pydicom.Dataset(), "the data set is damaged, or no DICOM image that pydicom can read"),
        (Image.new("HSV", (50, 40)), "the picture is stored in the colour mode HSV"),
    ],
    ids=["channels", "integers", "floats", "nan", "rounding", "empty", "small", "kind", "path", "dataset", "mode"],
)
def test_what_cannot_be_used_is_told_with_its_place(image, sentence, predict):
    with pytest.raises(InputError, match=rf"^image 2 of the list: .*{sentence}"):
        predict([noise(40, 50), image])


def test_a_damaged_file_is_told_by_its_name(predict, tmp_path):
    data = io.BytesIO()
    Image.fromarray(noise(60, 70, 3)).save(data, format="PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(InputError, match=r"^cut\.png cannot be decoded"):
        predict(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "sking"}, "There is no model sking: give breast or skin, or a checkpoint's path"),
        ({"settings": {"overlapp": 0.1}}, "No setting is called overlapp: did you mean overlap?"),
        ({"model": Path("skin.pt")}, r"There is no model skin\.pt"),
        ({"settings": {"checkpoint": "models/model.pt"}}, "checkpoint is none of a predictor's settings"),
        ({"settings": {"output_dir": "x"}}, "output_dir is none of a predictor's settings"),
        (
            {"settings": {"image_size": 40}},
            "image_size must be a whole number from 16 to 65536 and a multiple of 16, got 40",
        ),
        ({"settings": {"longest_side": 128}}, "was trained with longest_side 256, and here it is 128"),
        ({"device": "gpu"}, "device must be a device of PyTorch's"),
    ],
    ids=["model", "name", "path", "checkpoint", "output", "value", "recipe", "device"],
)
def test_a_model_or_setting_that_cannot_be_is_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        Predictor(**{"model": "skin", "device": "cpu", **arguments})


def test_a_checkpoint_of_yours_brings_its_recipe_and_calibration(tmp_path):
    for name in ("experts_busi.safetensors", "experts_busi.calibration.json"):
        (tmp_path / name.replace("experts_busi", "mine")).write_bytes((ROOT / "models" / name).read_bytes())
    mine = Predictor(tmp_path / "mine.safetensors", device="cpu")
    found = mine(noise(60, 90))
    assert isinstance(found, Prediction)
    assert (found.ood_score, found.out_of_distribution) == (found.measures["ood_score"], True)  # noise is no scan
    assert found.ood_score > 1
    assert (found.predicted_dice, found.review) == (None, True)
    assert "unlike what the model was trained on" in found.note
    assert found.disagreement.shape == found.mask.shape == (60, 90)
    np.testing.assert_array_equal(found.probabilities, Predictor("breast", device="cpu")(noise(60, 90)).probabilities)


def test_a_mask_is_saved_as_a_file_or_into_a_folder(predict, tmp_path):
    found = predict(noise(40, 50))
    assert found.save(tmp_path / "new" / "mine.PNG") == tmp_path / "new" / "mine.PNG"
    assert found.save(str(tmp_path / "new")) == tmp_path / "new" / "image.png"
    with Image.open(tmp_path / "new" / "image.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), found.mask * 255)
    with pytest.raises(InputError, match=r"Cannot write image\.png"):
        found.save(tmp_path / "new" / "mine.PNG" / "below")


def test_an_image_is_not_replaced_by_its_own_mask(predict, folder, tmp_path):
    image = tmp_path / "lesion.png"
    image.write_bytes((folder / "colour.png").read_bytes())
    before = image.read_bytes()
    (tmp_path / "link.png").symlink_to(image)
    for place in (tmp_path, image, tmp_path / "link.png"):
        with pytest.raises(InputError, match=r"(lesion|link)\.png is the image itself: give another name or folder"):
            predict(image).save(place)
    assert image.read_bytes() == before


def test_a_mask_is_no_picture_of_another_kind(predict, tmp_path):
    """A folder of that name is seldom what was meant."""
    found = predict(noise(40, 50))
    for name in ("mask.jpg", "mask.TIF", "mask.nii.gz"):
        with pytest.raises(InputError, match=r"is no PNG, as which masks are written: give a name that ends in \.png"):
            found.save(tmp_path / name)
    (tmp_path / "scan.nii").mkdir()
    assert found.save(tmp_path / "scan.nii") == tmp_path / "scan.nii" / "image.png"


def test_models_and_numbers_are_taken_as_programs_have_them(tmp_path, weights):
    """Of a sweep, settings are numbers of NumPy's."""
    held = Predictor(Path(weights), device="cpu", settings={**SMALL, "sw_batch_size": np.int64(2)})
    assert held.inferer.sw_batch_size == 2
    assert Predictor(Path("skin"), device="cpu").device.type == "cpu"


def test_importing_the_package_does_not_import_the_predictor(quick_start):
    code = "import icmoe_monai, sys; assert 'icmoe_monai.predictor' not in sys.modules; icmoe_monai.Predictor"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=quick_start)
    with pytest.raises(AttributeError, match="has no attribute 'Predicter'"):
        _ = icmoe_monai.Predicter


def blocks(heading: str) -> str:
    """Return the first block of Python below a heading of the page."""
    page = (ROOT / "docs" / "python.md").read_text()
    return page.split(f"\n## {heading}\n")[1].split("```python\n")[1].split("```")[0]


def test_the_pages_example_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(60, 80, 3)).save("lesion.jpg")
    (tmp_path / "masks").mkdir()
    exec(compile(blocks("One call"), "docs/python.md", "exec"), {})
    assert (tmp_path / "masks" / "lesion.png").is_file()


def test_the_pages_service_is_twelve_lines():
    assert len([line for line in blocks("A service").splitlines() if line]) == 12


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("fastapi") and find_spec("uvicorn")), reason="fastapi and uvicorn are not installed")
def test_the_pages_service_answers(tmp_path):
    (tmp_path / "service.py").write_text(blocks("A service"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    picture = io.BytesIO()
    Image.fromarray(noise(60, 80, 3)).save(picture, format="PNG")
    words = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=tmp_path, env=environment) as server:
        try:
            status, answer = ask(port, picture.getvalue())
            expected = Predictor("skin")(noise(60, 80, 3))
            assert status == 200
            assert answer == json.loads(json.dumps(expected.measures))
            assert ask(port, b"no picture")[0] == 422
        finally:
            server.terminate()


def ask(port: int, data: bytes) -> tuple[int, dict]:
    """Post an image to the service, once it listens."""
    for _ in range(240):
        connection = http.client.HTTPConnection("localhost", port, timeout=120)
        try:
            connection.request("POST", "/segment", body=data)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except ConnectionRefusedError:
            time.sleep(1)
    raise TimeoutError("the service does not listen")
