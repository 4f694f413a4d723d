"""No text of a file gets into what a run writes or logs: secrets are planted wherever a format keeps text."""

from __future__ import annotations

import logging
import struct
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from folders import put_demo
from monai.bundle import ConfigWorkflow
from PIL import Image, ImageFile, PngImagePlugin
from secrets_in_files import (
    Planter,
    found_in,
    kinds_of_chunks,
    ome_tiff,
    plant_dicom,
    plant_failures,
    plant_pictures,
    plant_set,
    plant_tiff,
    plant_volume,
)

from icmoe_monai.errors import FailedCasesError, InputError, find_input_error, in_our_words
from icmoe_monai.imageio.read import read_image
from icmoe_monai.slides.images import open_large_image

CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN, SLIDES = ["inference.json"], ["inference.json", "inference_large.yaml"]
SMALL = {"image_size": 64, "num_workers": 0, "device": "cpu"}
# MONAI warns of configs being code at every workflow; pydicom's test files break rules of the standard
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write all that any library logs, down to debugging, and every warning to a file."""
    root, handler = logging.getLogger(), logging.FileHandler(path)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def run(configs: list[str], kind: str, output: Path, **overrides: object) -> None:
    """Run a workflow, and write what it logs and the traceback that it ends with into its output folder."""
    output.mkdir(parents=True, exist_ok=True)
    files = [str(CONFIGS / name) for name in configs]
    with logged(output / "log.txt"):
        try:
            flow = ConfigWorkflow(
                files, workflow_type=kind, logging_file=False, **SMALL, **overrides, output_dir=str(output)
            )
            flow.initialize()
            flow.run()
            flow.finalize()
        except Exception as error:
            (output / "traceback.txt").write_text("".join(traceback.format_exception(error)))
            if not isinstance(find_input_error(error), FailedCasesError):
                raise


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of every kind, and of files that fail, with secrets in them all."""
    folder, secret = tmp_path_factory.mktemp("in"), Planter()
    plant_pictures(folder / "pictures", secret)
    plant_volume(folder / "stack.nii.gz", secret)
    plant_dicom(folder / "ct.dcm", secret)
    plant_failures(folder / "bad", secret)
    assert secret.number >= 100
    held = {word for _, word in found_in(folder)}
    assert len(held) >= 100  # the search finds what it is to find
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of large images, and of some that fail, with secrets in them all."""
    folder, secret = tmp_path_factory.mktemp("slides"), Planter()
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    plant_tiff(folder / "plain.tif", secret, pixels)
    ome_tiff(folder / "ome.tif", secret, pixels)
    aperio = f"Aperio Image Library {secret()}\n90x70 (32x32) |MPP = 0.5|ImageID = {secret()}|User = {secret()}"
    tifffile.imwrite(folder / "aperio.svs", pixels, tile=(32, 32), photometric="rgb", description=aperio, metadata=None)
    plant_pictures(folder / "pictures", secret)
    broken = folder / "broken"
    broken.mkdir()
    for name, old, new in (("xml", b"</OME>", b"</" + secret().encode()[:3] + b">"), ("unit", b"0.5", b"x.5")):
        ome_tiff(broken / f"{name}.tif", secret, pixels)
        path = broken / f"{name}.tif"
        path.write_bytes(path.read_bytes().replace(old, new))
    ome_tiff(broken / "cut.tif", secret, pixels)
    (broken / "cut.tif").write_bytes((broken / "cut.tif").read_bytes()[:-4000])
    data = (folder / "plain.tif").read_bytes()
    for tag in (257, 258, 259, 273, 277, 279):  # read as texts
        for kind in (3, 4):
            damaged = data.replace(struct.pack("<HH", tag, kind), struct.pack("<HH", tag, 2))
            (broken / f"tag{tag}_{kind}.tif").write_bytes(damaged)
    assert secret.number >= 40
    return folder


@pytest.mark.parametrize("anonymous", [False, True], ids=["named", "anonymous"])
def test_inference_tells_nothing_that_files_hold(planted: Path, anonymous: bool, tmp_path: Path) -> None:
    options = {"probability_maps": True, "disagreement_maps": True, "empty_segmentations": True, "anonymous": anonymous,
               "structured_reports": True, "secondary_captures": True}  # fmt: skip
    run(PLAIN, "infer", tmp_path, dataset_dir=str(planted), recipe="none", **options)
    report = (tmp_path / "report.json").read_text()
    assert report.count('"done"') >= 8
    assert report.count('"failed"') >= 8
    assert (tmp_path / "volumes").is_dir()
    objects = ("segmentations", "structured_reports", "secondary_captures")
    assert all((tmp_path / folder).is_dir() != anonymous for folder in objects)
    assert found_in(tmp_path, but=objects) == []
    # these copy the patient, as the standard asks for
    assert anonymous or all(found_in(tmp_path / folder) for folder in objects)


@pytest.mark.parametrize("anonymous", [False, True], ids=["named", "anonymous"])
def test_slides_tell_nothing_that_files_hold(slides: Path, anonymous: bool, tmp_path: Path) -> None:
    run(SLIDES, "infer", tmp_path, dataset_dir=str(slides), recipe="none", anonymous=anonymous)
    report = (tmp_path / "report.json").read_text()
    assert report.count('"done"') >= 7
    assert report.count('"failed"') >= 3
    assert found_in(tmp_path) == []


@pytest.mark.parametrize("tracking", [None, pytest.param("mlflow", marks=pytest.mark.slow)], ids=["plain", "mlflow"])
def test_training_and_evaluation_tell_nothing_that_files_hold(tracking: str | None, tmp_path: Path) -> None:
    if tracking is not None:
        pytest.importorskip("mlflow", reason="MLflow is not installed")
        pytest.importorskip("sqlalchemy", reason="MLflow has no database here")
    dataset, secret, output = put_demo(tmp_path / "set", train=2, val=10, test=2), Planter(), tmp_path / "out"
    plant_set(dataset, secret)
    assert secret.number >= 100
    short = {"max_epochs": 1, "min_steps": 1, "batch_size": 2, "num_views": 1, "pretrained": None}
    if tracking is None:
        del short["pretrained"]  # a frozen encoder, whose features are cached
    run(["train.json"], "train", output / "trained", dataset_dir=str(dataset), tracking=tracking,
        cache_features=tracking is None, **short)  # fmt: skip
    best = str(output / "trained" / "best.pt")
    if tracking is None:
        run(["train.json", "evaluate.json", "calibrate.yaml"], "train", output / "calibrated", run_id="calibrating",
            dataset_dir=str(dataset), checkpoint=best, alpha=0.3)  # fmt: skip
        run(["train.json", "evaluate.json"], "train", output / "evaluated", dataset_dir=str(dataset), checkpoint=best,
            protocol="isic2017")  # fmt: skip
        assert [*output.rglob("*.safetensors")]
        assert [*output.rglob("cases.csv")]
    else:
        assert [*output.rglob("mlruns*")]
    assert [*output.rglob("events.out.tfevents*")]
    assert found_in(output) == []


def test_pictures_hold_pixels_alone(planted: Path, tmp_path: Path) -> None:
    run(PLAIN, "infer", tmp_path, dataset_dir=str(planted / "pictures"), recipe="none")
    made = [*tmp_path.rglob("*.png")]
    assert len(made) >= 10
    assert set().union(*(kinds_of_chunks(path.read_bytes()) for path in made)) <= {b"IHDR", b"IDAT", b"IEND", b"PLTE"}


class LeakError(Exception):
    """What a library may raise: its text is a file's."""


def raising(*_: object, **__: object) -> None:
    raise LeakError("planted000word")


@pytest.mark.parametrize(
    ("name", "owner", "attribute"),
    [
        ("a.png", ImageFile.ImageFile, "load"),
        ("a.png", PngImagePlugin.PngImageFile, "_open"),
        ("a.nii", nibabel.nifti1.Nifti1Header, "get_best_affine"),
        ("a.dcm", "icmoe_monai.imageio.dicom.stored", "decode"),
        ("a.dcm", "icmoe_monai.imageio.dicom.header", "dcmread"),
    ],
    ids=["decoding", "opening", "nifti", "dicom pixels", "dicom header"],
)
def test_a_librarys_text_is_not_told(
    name: str, owner: object, attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = Planter()
    if name == "a.png":
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    elif name == "a.nii":
        plant_volume(tmp_path / name, secret)
    else:
        plant_dicom(tmp_path / name, secret)
    if isinstance(owner, str):
        monkeypatch.setattr(f"{owner}.{attribute}", raising)
    else:
        monkeypatch.setattr(owner, attribute, raising)
    with pytest.raises(InputError, match=name) as raised:
        read_image(str(tmp_path / name), frame=0)
    assert "planted" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("part", ["pixels", "levels"])
def test_a_slides_readers_text_is_not_told(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40, 3), np.uint8), photometric="rgb", tile=(16, 16))
    if part == "pixels":
        monkeypatch.setattr("icmoe_monai.slides.tiff.read_chunk", raising)
    else:
        monkeypatch.setattr(tifffile.TiffFile, "series", property(raising))
    expected = pytest.raises(InputError, match=r"a\.tif is .*damaged.*\(LeakError\): copy it again")
    with expected as raised, open_large_image(str(tmp_path / "a.tif")) as image:
        image.read(0, 0, 20, 20)
    assert "planted" not in "".join(traceback.format_exception(raised.value))


def test_own_words_name_the_kind_alone() -> None:
    expected = pytest.raises(InputError, match=r"^a\.png is damaged \(LeakError\): copy it again\.$")
    with expected as raised, in_our_words("a.png is damaged", "copy it again"):
        raising()
    assert "planted" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("name", ["tifffile", "PIL.TiffImagePlugin", "PIL.PngImagePlugin", "nibabel.global"])
def test_libraries_that_read_files_log_nothing(name: str) -> None:
    assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL)
