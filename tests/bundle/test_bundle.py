"""The main job through MONAI's own doors: training, resuming, evaluation and inference from the shipped configs."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import put_demo, put_demo_set
from ignite.engine import Engine, Events
from modes import Brightness
from monai.bundle import ConfigWorkflow, create_workflow, load
from PIL import Image

from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.sam import build_sam_encoder
from icmoe_monai.training.checkpoints import LastCheckpoint
from icmoe_monai.weights.checkpoint import load_weights, save_weights
from icmoe_monai.weights.pyramid import load_pyramid_weights
from icmoe_monai.weights.sam import load_sam_weights, save_sam_weights, trunk_fingerprint
from icmoe_monai.weights.tensor_files import save_checkpoint

ROOT = Path(__file__).parents[2]
TRAIN, EVALUATE, INFERENCE = (str(ROOT / "configs" / f"{name}.json") for name in ("train", "evaluate", "inference"))
SHIPPED_TRUNK = ROOT / "models" / "sam_vit_t_medical.safetensors"
SHIPPED_PYRAMID = SHIPPED_TRUNK.with_name("efficientnet_lite0_imagenet.safetensors")
SMALL = {"image_size": 64, "num_workers": 0, "device": "cpu"}
ENCODER = {"backbone": "vit_t", "own_network": None, "deference": 0.0}
SHORT = {**SMALL, **ENCODER, "batch_size": 4, "min_steps": 1, "max_epochs": 2, "learning_rate": 1e-3}
# MONAI warns of configs being code at every workflow, and of its own loaders' defaults
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def workflow(config, kind, **overrides) -> ConfigWorkflow:
    """Return a workflow, of whole networks from random weights unless it is told a `pretrained` encoder."""
    overrides = {"pretrained": None} | overrides
    flow = ConfigWorkflow(config_file=config, workflow_type=kind, logging_file=False, **overrides)
    flow.initialize()
    return flow


def run(config, kind, **overrides):
    flow = workflow(config, kind, **overrides)
    flow.run()
    flow.finalize()
    return flow


def assert_refused(flow: ConfigWorkflow, sentence: str) -> None:
    """Assert that a run ends in an `InputError`, which MONAI wraps in errors of its own."""
    with pytest.raises((RuntimeError, InputError)) as raised:
        flow.run()
    with pytest.raises(InputError, match=sentence):
        raise find_input_error(raised.value) or raised.value


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    return put_demo_set(folder)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A training of two epochs, as its output folder."""
    output = tmp_path_factory.mktemp("trained")
    run(TRAIN, "train", dataset_dir=str(dataset), output_dir=str(output), **SHORT)
    return output


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_leaves_best_last_and_metrics(trained):
    assert {"best.pt", "last.pt", "metrics.csv", "tensorboard"} <= {path.name for path in trained.iterdir()}
    found = rows(trained / "metrics.csv")
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert all(0 < float(row["train_loss"]) < 100 for row in found)  # two epochs need not lower it
    assert {"val_mean_dice", "val_basic_dice", "val_oracle_dice", "val_disagreement", "val_load_adaptive"} <= found[
        0
    ].keys()
    assert all(isinstance(value, torch.Tensor) for value in torch.load(trained / "best.pt", weights_only=True).values())


def test_a_resumed_training_goes_on_where_it_stopped(dataset, trained, tmp_path):
    arguments = {**SHORT, "dataset_dir": str(dataset), "output_dir": str(tmp_path)}
    flow = workflow(TRAIN, "train", **arguments)

    def stop(engine):
        raise KeyboardInterrupt

    trainer = flow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), stop)
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    first = torch.load(tmp_path / "last.pt", weights_only=True)
    (before,) = rows(tmp_path / "metrics.csv")

    run(TRAIN, "train", checkpoint=str(tmp_path / "last.pt"), **arguments)
    resumed, straight = (torch.load(folder / "last.pt", weights_only=True) for folder in (tmp_path, trained))
    after = rows(tmp_path / "metrics.csv")
    assert after[0] == before
    assert [row["epoch"] for row in after] == ["1", "2"]
    for part, key in (("trainer", "iteration"), ("lr_scheduler", "last_epoch")):
        assert resumed[part][key] == straight[part][key]
    steps = [float(content["optimizer"]["state"][0]["step"]) for content in (first, resumed, straight)]
    assert steps[0] * 2 == steps[1] == steps[2]
    assert resumed["best"]["best"] >= first["best"]["best"]


def test_evaluation_writes_summary_cases_and_pictures(dataset, trained, tmp_path):
    arguments = {"dataset_dir": str(dataset), "checkpoint": str(trained / "best.pt"), **SMALL}
    for name in ("first", "second"):
        run([TRAIN, EVALUATE], "train", run_id="evaluating", output_dir=str(tmp_path / name), **arguments)
    assert {"summary.json", "cases.csv", "predictions.png"} <= {path.name for path in (tmp_path / "first").iterdir()}
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert set(summary["methods"]) == {"voted", "mean_vote", "basic", "semantic", "adaptive", "oracle"}
    assert summary["methods"]["oracle"]["dsc"]["mean"] >= summary["methods"]["voted"]["dsc"]["mean"]
    for name in ("summary.json", "cases.csv"):  # an evaluation is the same bits when it is repeated
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_inference_writes_masks_at_the_size_and_path_of_the_input(trained, tmp_path):
    images = tmp_path / "in" / "patient 1"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (90, 131, 3), dtype=np.uint8)).save(images / "a b.jpg")
    Image.fromarray(rng.integers(0, 65535, (33, 200), dtype=np.uint16)).save(images / "deep.png")
    Image.fromarray(rng.integers(0, 255, (70, 50, 4), dtype=np.uint8)).save(tmp_path / "in" / "alpha.png")
    output = tmp_path / "out"
    run(
        INFERENCE, "infer", dataset_dir=str(tmp_path / "in"), output_dir=str(output), probability_maps=True,
        checkpoint=str(trained / "best.pt"), **SMALL,
    )  # fmt: skip
    written = [path for kind in ("masks", "probabilities") for path in sorted((output / kind).rglob("*.png"))]
    sizes = {path.relative_to(output).as_posix(): Image.open(path).size for path in written}
    expected = {"alpha.png": (50, 70), "patient 1/a b.png": (131, 90), "patient 1/deep.png": (200, 33)}
    assert sizes == {f"{kind}/{name}": size for kind in ("masks", "probabilities") for name, size in expected.items()}
    report = json.loads((output / "report.json").read_text())
    assert report["complete"] is True
    assert [case["name"] for case in report["cases"]] == ["alpha.png", "patient 1/a b.jpg", "patient 1/deep.png"]


SHAPE = (91, 133)
BRIGHT = np.s_[12:41, 70:123]  # off centre, so that no turn or flip maps it on itself


def bright_picture() -> np.ndarray:
    picture = np.full(SHAPE, 40, np.uint8)
    picture[BRIGHT] = 220
    return picture


def save_picture(kind: str, path: Path) -> None:
    grey = bright_picture()
    if kind == "16-bit":
        Image.fromarray(grey.astype(np.uint16) * 200).save(path)
    elif kind == "RGBA":
        alpha = np.full(SHAPE, 255, np.uint8)
        Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1)).save(path)
    elif kind.startswith("EXIF"):
        exif = Image.Exif()
        exif[0x0112] = int(kind[-1])
        stored = Image.fromarray(grey).transpose(TURNED_BACK[int(kind[-1])])
        stored.save(path, exif=exif, quality=95)
    else:
        Image.fromarray(grey).convert(kind).save(path)


# how a picture is to be stored so that it is upright once a reader has followed the orientation tag
TURNED_BACK = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
KINDS = {
    "grey": ("L", ".png"), "colour": ("RGB", ".bmp"), "jpeg": ("RGB", ".jpg"), "tiff": ("RGB", ".tif"),
    "palette": ("P", ".png"), "alpha": ("RGBA", ".png"), "deep": ("16-bit", ".png"), "deep tiff": ("16-bit", ".tif"),
    "turned 3": ("EXIF 3", ".jpg"), "turned 6": ("EXIF 6", ".jpg"), "turned 8": ("EXIF 8", ".jpg"),
}  # fmt: skip


@pytest.mark.parametrize("longest_side", [64, 160], ids=["one window", "windows"])
def test_masks_lie_on_their_images(longest_side, tmp_path):
    """A network that finds what is bright: its masks are the bright place, whatever the file and the windows."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (kind, suffix) in KINDS.items():
        save_picture(kind, folder / (name + suffix))
    save_checkpoint(Brightness().state_dict(), tmp_path / "brightness.pt")
    run(
        INFERENCE, "infer", dataset_dir=str(folder), output_dir=str(tmp_path / "out"), longest_side=longest_side,
        checkpoint=str(tmp_path / "brightness.pt"), network_def={"_target_": "modes.Brightness"}, **SMALL,
    )  # fmt: skip
    expected = bright_picture() > 128
    for name in KINDS:
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png")) > 0
        assert mask.shape == SHAPE, name
        assert (mask & expected).sum() / (mask | expected).sum() > 0.93, name


def test_training_images_and_labels_are_resized_to_one_place(tmp_path):
    """The label's resampling must not be half a pixel off the image's."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for stem in ("a", "b", "c"):
            Image.fromarray((bright_picture() > 128).astype(np.uint8) * 255).resize((1000, 767), 0).save(
                tmp_path / part / f"{stem}.png"
            )
    arguments = {**SMALL, "image_size": 256, "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    flow = workflow(TRAIN, "train", **arguments)
    case = flow.parser.get_parsed_content("train#dataset")._cache[0]  # before the random transforms
    image, label = (np.asarray(case[key])[0] for key in ("image", "label"))
    weight = image.clip(min=0)  # padding is 0, the dark part below it
    for axis in (0, 1):
        place = np.arange(256)
        centres = [(w.sum(1 - axis) * place).sum() / w.sum() for w in (weight, label)]
        assert centres[0] == pytest.approx(centres[1], abs=0.3)


@pytest.mark.parametrize("door", ["create_workflow", "ConfigWorkflow"])
def test_properties_of_the_training_workflow(door, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # not the bundle's folder
    arguments = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out"), **SHORT}
    if door == "create_workflow":
        flow = create_workflow(config_file=TRAIN, workflow_type="train", logging_file=False, **arguments)
    else:
        flow = workflow(TRAIN, "train", **arguments)
    assert flow.check_properties() == []


def test_properties_of_the_inference_workflow(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flow = workflow(INFERENCE, "infer", dataset_dir=str(dataset), output_dir=str(tmp_path / "out"), **SMALL)
    assert flow.check_properties() == []


def test_monai_load_builds_the_network(tmp_path):
    copy = tmp_path / "icmoe_medical_segmentation"
    shutil.copytree(ROOT / "configs", copy / "configs")
    (copy / "models").mkdir()
    shutil.copy(ROOT / "models" / "model.pt", copy / "models" / "model.pt")
    network = load("icmoe_medical_segmentation", bundle_dir=str(tmp_path), source="github", repo="a/b/c")
    weights = torch.load(ROOT / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, weights[name].to(value.dtype)) for name, value in network.state_dict().items())


def bundle_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "monai.bundle", "run", *arguments]


def test_command_line_from_another_folder_without_installation(dataset, quick_start, tmp_path):
    """A copy of the bundle runs by its own files, not by an installed package, and writes beside them.

    Its log is of whole lines, one an epoch, and ends with what is best and what comes next.
    """
    copy, elsewhere = tmp_path / "bundle copy", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for part in ("configs", "icmoe_monai", "models"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    command = bundle_command(
        "training", "--config_file", str(copy / "configs" / "train.json"), "--dataset_dir", str(dataset),
        "--image_size", "64", "--max_epochs", "1", "--min_steps", "1", "--num_workers", "0", "--device", "cpu",
    )  # fmt: skip
    done = subprocess.run(command, cwd=elsewhere, env=quick_start, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    shipped = ImagePyramid()
    load_pyramid_weights(SHIPPED_PYRAMID, shipped)
    found = torch.load(copy / "output" / "best.pt", weights_only=True)["trunk"]
    assert found == {"fingerprint": "", "source": "", "detail": trunk_fingerprint(shipped)}
    assert list(elsewhere.iterdir()) == []
    assert "\r" not in done.stdout + done.stderr
    assert len(re.findall(r"epoch 1 of 1: loss [\d.]+, validation Dice 0\.\d{4} .*, \d+ s$", done.stdout, re.M)) == 1
    for noise in ("Engine run", "Key metric", "Logging file", "val_"):
        assert noise not in done.stdout + done.stderr, noise
    best, following = done.stdout.splitlines()[-2:]
    assert re.search(rf"The best weights, of validation Dice 0\.\d{{4}}: {re.escape(str(copy))}.*best\.pt$", best)
    assert "icmoe" in following.partition("Next: ")[2]


def test_python_api_from_another_folder_without_installation(dataset, quick_start, tmp_path):
    """With the bundle on the path, as README says; -P and -S would hide what an editable installation adds."""
    copy, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for part in ("configs", "icmoe_monai"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    program = f"""
import sys
sys.path.insert(0, {str(copy)!r})
from monai.bundle import create_workflow
for kind, name in (("train", "train"), ("infer", "inference")):
    flow = create_workflow(config_file={str(copy)!r} + "/configs/" + name + ".json", workflow_type=kind,
                           dataset_dir={str(dataset)!r}, image_size=64, num_workers=0, device="cpu")
    assert flow.check_properties() == []
    assert flow.bundle_root == {str(copy)!r}
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=elsewhere, env=quick_start, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("split", "sentence"),
    [("test", "The test split of .* is empty"), ("all", "split must be one of train, val, test")],
)
def test_a_split_without_cases_is_not_evaluated(split, sentence, dataset, trained, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "set")
    splits = json.loads((copy / "splits.json").read_text())
    splits["train"] += splits.pop("test")
    (copy / "splits.json").write_text(json.dumps(splits | {"test": []}))
    (copy / "demo_set.json").unlink()
    flow = workflow([TRAIN, EVALUATE], "train", run_id="evaluating", dataset_dir=str(copy), split=split, **SMALL,
                    output_dir=str(tmp_path / "out"), checkpoint=str(trained / "best.pt"))  # fmt: skip
    assert_refused(flow, sentence)


def test_command_line_says_a_mistake_in_one_sentence(quick_start, tmp_path):
    command = bundle_command("training", "--config_file", TRAIN, "--dataset_dir", str(tmp_path))
    command += ["--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env=quick_start, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: No images were found in {tmp_path}. ")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"image_size": 100}, "image_size must be a whole number from 16 to 65536 and a multiple of 16, got 100"),
        ({"voting": "loudest"}, "voting must be one of adaptive, mean, majority, confidence, best, got 'loudest'"),
        ({"expert_depth": 9}, r"expert_depth must be in 1..8 for this backbone, got 9"),
        ({"backbone": "vit_x"}, "backbone must be one of vit_t, vit_b, vit_l, vit_h, or None, got 'vit_x'"),
        ({"max_epochs": 1.5}, "max_epochs must be a whole number of at least 1, got 1.5"),
        ({"device": "gpu"}, "device must be a device of PyTorch's, such as cpu or cuda:0, got 'gpu'"),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
        ({"val_interval": 3}, r"val_interval must be at most max_epochs \(2\), got 3"),
        ({"amp": "maybe"}, "amp must be True or False, got 'maybe'"),
        ({"cache_features": "false"}, "cache_features must be True or False, got 'false'"),
        ({"output_dir": 2024}, "output_dir must be a path, or None, got 2024: write ./2024"),
        ({"experts": ["semantic", "basic"]}, "each once, in this order"),
        ({"device": "cuda"}, "PyTorch sees no CUDA device here: set --device cpu"),
        ({"output_dir": __file__ + "/out"}, "Cannot write .* choose another folder"),
        ({"checkpoint": "nowhere.pt"}, "There is no checkpoint at nowhere.pt"),
        ({"dataset_dir": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_cannot_work_stop_a_training_before_it_starts(overrides, sentence, dataset, tmp_path):
    if overrides.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arguments = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out"), **SHORT, **overrides}
    flow = workflow(TRAIN, "train", **arguments)
    assert_refused(flow, sentence)
    assert not (tmp_path / "out" / "last.pt").exists()


def test_a_checkpoint_of_another_shape_is_refused(trained, dataset, tmp_path):
    flow = workflow(
        INFERENCE, "infer", dataset_dir=str(dataset), output_dir=str(tmp_path), expert_depth=3, recipe="none",
        checkpoint=str(trained / "best.pt"), **SMALL,
    )  # fmt: skip
    assert_refused(flow, r"does not fit this network .*use the settings it was trained with")


def test_a_loss_that_is_not_finite_stops_and_keeps_good_weights(dataset, tmp_path):
    flow = workflow(TRAIN, "train", dataset_dir=str(dataset), output_dir=str(tmp_path), **SHORT)
    trainer = flow.parser.get_parsed_content("train#trainer")

    @trainer.on(Events.EPOCH_STARTED(once=2))
    def poison(engine):  # what comes of it reaches the running statistics before any loss is seen
        torch.nn.init.constant_(engine.network.encoder.pos_embed, float("nan"))

    assert_refused(flow, r"stopped in epoch 2, iteration 4: the loss is nan.*lower --learning_rate")
    for name in ("best.pt", "last.pt"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert all(bool(torch.isfinite(value).all()) for value in content.get("model", content).values())
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["iteration"] == 3


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_training_leaves_a_checkpoint_to_go_on_from(number, status, quick_start, tmp_path):
    """By either signal, of MONAI's command and of this package's."""
    dataset = put_demo(tmp_path / "set", train=3, val=1, test=1)
    root = f"{ROOT}{os.pathsep}{quick_start['PYTHONPATH']}"
    begin = {
        signal.SIGINT: bundle_command(
            "training", "--config_file", TRAIN, "--dataset_dir", str(dataset), "--output_dir", str(tmp_path / "out")
        ),
        signal.SIGTERM: [sys.executable, "-m", "icmoe_monai", "train", str(dataset), str(tmp_path / "out")],
    }
    settings = [
        "--image_size", "64", "--batch_size", "1", "--min_steps", "1", "--max_epochs", "500", "--num_workers", "2",
        "--device", "cpu", "--backbone", "vit_t", "--own_network", "{}", "--deference", "0", "--patience", "500",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*begin[number], *settings], cwd=tmp_path, env={**quick_start, "PYTHONPATH": root}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (tmp_path / "out" / "last.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, number)  # its data loaders get it too, as from a terminal or at a job's end
    output, _ = process.communicate(timeout=100)
    assert process.returncode == status, output[-2000:]
    assert "Traceback" not in output
    assert f"go on with --checkpoint {tmp_path / 'out' / 'last.pt'}" in output
    before = torch.load(tmp_path / "out" / "last.pt", weights_only=True)["trainer"]["iteration"]
    epochs = before // 3 + 2  # of 3 images
    run(
        TRAIN, "train", dataset_dir=str(dataset), output_dir=str(tmp_path / "out"), pretrained=str(SHIPPED_TRUNK),
        **{**SHORT, "batch_size": 1, "max_epochs": epochs}, checkpoint=str(tmp_path / "out" / "last.pt"),
    )  # fmt: skip
    assert torch.load(tmp_path / "out" / "last.pt", weights_only=True)["trainer"]["iteration"] == 3 * epochs


class FullDisk(io.BytesIO):
    """A file on a disk that is full after 10 kB."""

    def write(self, data):
        if self.tell() + len(data) > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_full_disk_leaves_the_old_checkpoint(trained, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    shutil.copy(trained / "best.pt", path)
    old = path.read_bytes()

    monkeypatch.setattr(Path, "open", lambda path, mode: FullDisk())
    handler = LastCheckpoint(save_dict={"model": torch.nn.Linear(100, 100)}, path=str(path))
    with pytest.raises(InputError, match=f"Cannot write last.pt in {tmp_path}: No space left on device. Free some"):
        handler.save(Engine(lambda e, b: None))
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_amp_trains_and_three_classes_train(dataset, tmp_path):
    for mask in (copy := shutil.copytree(dataset, tmp_path / "set")).joinpath("masks").iterdir():
        values = np.asarray(Image.open(mask)) > 0
        half = np.arange(values.shape[1])[None] > values.shape[1] // 2
        Image.fromarray((values * (1 + half)).astype(np.uint8)).save(mask)
    (copy / "demo_set.json").unlink(missing_ok=True)
    output = tmp_path / "out"
    arguments = {**SHORT, "dataset_dir": str(copy), "out_channels": 3}
    run(TRAIN, "train", output_dir=str(output), amp=True, **arguments)
    assert np.isfinite(float(rows(output / "metrics.csv")[-1]["val_mean_dice"]))
    run([TRAIN, EVALUATE], "train", run_id="evaluating", output_dir=str(tmp_path / "evaluation"), **arguments,
        checkpoint=str(output / "best.pt"))  # fmt: skip
    assert set(json.loads((tmp_path / "evaluation" / "summary.json").read_text())["methods"]["voted"]["classes"]) == {
        "1",
        "2",
    }


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """An encoder as Meta writes it: in the whole of SAM, behind a prefix."""
    path = tmp_path_factory.mktemp("trunk") / "sam_vit_t_012345.pth"
    torch.manual_seed(7)  # not the weights that a network of the same seed starts with
    state = {f"image_encoder.{name}": value for name, value in build_sam_encoder("vit_t").state_dict().items()}
    torch.save(state | {"mask_decoder.iou_token.weight": torch.ones(1)}, path)
    return path


@pytest.fixture(scope="module")
def adapted(dataset, trunk, tmp_path_factory):
    """A training of experts on that encoder, as its output folder."""
    output = tmp_path_factory.mktemp("adapted")
    run(TRAIN, "train", dataset_dir=str(dataset), output_dir=str(output), **SHORT, pretrained=str(trunk))
    return output


def test_a_training_on_a_frozen_trunk_keeps_what_it_trained_and_says_on_what(adapted, trained, trunk):
    weights, pyramid = load_sam_weights(str(trunk)), ImagePyramid()
    load_pyramid_weights(SHIPPED_PYRAMID, pyramid)
    for name in ("best.pt", "last.pt"):
        content = torch.load(adapted / name, weights_only=True)
        assert content["trunk"] == {
            "fingerprint": trunk_fingerprint(weights), "source": trunk.name, "detail": trunk_fingerprint(pyramid),
        }  # fmt: skip
        whole = torch.load(trained / "best.pt", weights_only=True)
        assert content["model"].keys() == {key for key in whole if not key.startswith(("encoder.", "detail."))}
    assert (adapted / "best.pt").stat().st_size < (trained / "best.pt").stat().st_size / 3
    assert content["model"]["adapted.semantic.updates.qkv.up"].abs().max() > 0


def test_a_training_on_a_frozen_trunk_proves_that_it_is_untouched(dataset, trunk, tmp_path, caplog):
    flow = workflow(TRAIN, "train", dataset_dir=str(dataset), output_dir=str(tmp_path), **SHORT, pretrained=str(trunk))
    with caplog.at_level("INFO"):
        flow.run()
    fingerprint = trunk_fingerprint(load_sam_weights(str(trunk)))
    assert f"The encoder is untouched by this training: fingerprint {fingerprint}" in caplog.text
    assert trunk_fingerprint(flow.parser.get_parsed_content("network").encoder) == fingerprint


def test_experts_resume_evaluate_and_segment_on_their_trunk(dataset, adapted, trunk, tmp_path):
    arguments = {"dataset_dir": str(dataset), "pretrained": str(trunk)}
    run(TRAIN, "train", **arguments, output_dir=str(tmp_path / "more"), checkpoint=str(adapted / "last.pt"),
        **SHORT | {"max_epochs": 3})  # fmt: skip
    old, new = (torch.load(folder / "last.pt", weights_only=True)["trainer"] for folder in (adapted, tmp_path / "more"))
    assert new["iteration"] == old["iteration"] + old["epoch_length"]
    best = str(adapted / "best.pt")
    run([TRAIN, EVALUATE], "train", run_id="evaluating", **arguments, checkpoint=best,
        output_dir=str(tmp_path / "evaluation"), **SMALL)  # fmt: skip
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())["settings"]["pretrained"] == trunk.name
    run(INFERENCE, "infer", dataset_dir=str(dataset / "images"), pretrained=str(trunk), checkpoint=best,
        output_dir=str(tmp_path / "masks"), **SMALL)  # fmt: skip
    assert len(list((tmp_path / "masks" / "masks").glob("**/*.png"))) == len(list((dataset / "images").iterdir()))


@pytest.mark.parametrize("pretrained", [None, "other.safetensors"], ids=["none", "other"])
def test_experts_are_refused_without_their_trunk(pretrained, dataset, adapted, trunk, tmp_path):
    if pretrained is not None:
        pretrained = str(tmp_path / pretrained)
        torch.manual_seed(8)
        save_sam_weights(build_sam_encoder("vit_t"), pretrained)
    flow = workflow(INFERENCE, "infer", dataset_dir=str(dataset / "images"), pretrained=pretrained,
                    output_dir=str(tmp_path / "out"), checkpoint=str(adapted / "best.pt"), **SMALL)  # fmt: skip
    assert_refused(flow, rf"best\.pt was trained on {trunk.name} with fingerprint [0-9a-f]{{12}}, .* --pretrained")


def test_a_whole_model_of_a_frozen_trunk_segments_without_it(dataset, adapted, trunk, tmp_path):
    network = ICMoE(detail=ImagePyramid())
    load_sam_weights(str(trunk), network.encoder)
    load_pyramid_weights(SHIPPED_PYRAMID, network.detail)
    load_weights(network, adapted / "best.pt")
    save_weights(network, tmp_path / "model.pt", whole=True)
    arguments = {"dataset_dir": str(dataset / "images"), **SMALL}
    run(INFERENCE, "infer", **arguments, checkpoint=str(tmp_path / "model.pt"), output_dir=str(tmp_path / "whole"))
    run(INFERENCE, "infer", **arguments, checkpoint=str(adapted / "best.pt"), pretrained=str(trunk),
        output_dir=str(tmp_path / "parts"))  # fmt: skip
    masks = [sorted((tmp_path / name / "masks").glob("**/*.png")) for name in ("whole", "parts")]
    assert len(masks[0]) == len(masks[1]) > 0
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*masks, strict=True))


def test_a_missing_trunk_is_told_before_anything_is_cached(dataset, tmp_path, caplog):
    flow = workflow(TRAIN, "train", dataset_dir=str(dataset), output_dir=str(tmp_path), **SHORT, pretrained="sam_vit_c")
    assert_refused(flow, r"no weights at sam_vit_c: name a file, .* or one of sam_vit_b, sam_vit_l")
    assert "Loading dataset" not in caplog.text
    assert not (tmp_path / "tensorboard").exists()
