"""`--checkpoint` alone: what a training was given, its evaluation, calibration and inference know."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import put_demo
from monai.bundle import ConfigWorkflow
from recipes import OTHERS, TRAINED

from icmoe_monai.__main__ import main
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.networks.sam import build_sam_encoder
from icmoe_monai.weights.checkpoint import read_recipe
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS, OfficialWeights
from icmoe_monai.weights.recipe import SETTINGS
from icmoe_monai.weights.sam import save_sam_weights

CONFIGS = Path(__file__).parents[2] / "configs"
EVALUATE, INFERENCE = ["train.json", "evaluate.json"], ["inference.json"]
HERE = {"num_workers": 0, "device": "cpu"}
FIXED = [name for name, may_differ in SETTINGS.items() if not may_differ]
# MONAI warns of configs being code at every workflow, and of its own loaders' defaults
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def command(name: str, *paths: Path, **settings: Any) -> int:
    overlays = settings.pop("config", ())
    further = [word for overlay in overlays for word in ("--config", overlay)]
    further += [word for key, value in {**HERE, **settings}.items() for word in (f"--{key}", str(value))]
    return main([name, *map(str, paths), *further])


def workflow(configs: list[str], **overrides: Any) -> ConfigWorkflow:
    flow = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in configs],
        workflow_type="train" if len(configs) > 1 else "infer",
        logging_file=False,
        **HERE,
        **overrides,
    )
    flow.initialize()
    return flow


def sentence_of(flow: ConfigWorkflow) -> str:
    with pytest.raises((RuntimeError, InputError)) as raised:
        flow.run()
    cause = find_input_error(raised.value)
    assert cause is not None
    return str(cause)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_demo(tmp_path_factory.mktemp("data") / "set", train=4, val=4, test=2)


SHORT = {"max_epochs": 1, "min_steps": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert command("train", dataset, folder, **SHORT, **TRAINED, modality="phantoms") == 0
    return folder / "best.pt"


def test_a_training_writes_its_recipe(trained: Path, dataset: Path) -> None:
    for file in (trained, trained.with_name("last.pt")):
        recipe, is_whole = read_recipe(file)
        assert recipe is not None
        assert not is_whole
        assert recipe["settings"] == TRAINED
        assert (recipe["modality"], recipe["training_set"]["num_images"]) == ("phantoms", 4)
        assert recipe["pretrained"] == "sam_vit_t_medical.safetensors"
        assert recipe["trunk"] == torch.load(file, weights_only=True)["trunk"]
        assert str(dataset) not in json.dumps(recipe)


def scores_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_checkpoint_alone_is_every_setting_repeated(trained: Path, dataset: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for image in sorted((dataset / "images").iterdir())[::6]:
        shutil.copy(image, images)
    assert command("predict", images, tmp_path / "p_alone", checkpoint=trained) == 0
    files = {"dataset_dir": str(images), "output_dir": str(tmp_path / "p_repeated"), "checkpoint": str(trained)}
    workflow(INFERENCE, **files, **TRAINED).run()
    assert command("evaluate", dataset, tmp_path / "e_alone", num_pictures=0, checkpoint=trained) == 0
    assert command("evaluate", dataset, tmp_path / "e_repeated", num_pictures=0, checkpoint=trained, **TRAINED) == 0
    assert scores_of(tmp_path / "e_alone") == scores_of(tmp_path / "e_repeated")
    masks = sorted(path.relative_to(tmp_path / "p_alone") for path in (tmp_path / "p_alone" / "masks").iterdir())
    assert len(masks) == 3
    for path in masks:
        assert (tmp_path / "p_alone" / path).read_bytes() == (tmp_path / "p_repeated" / path).read_bytes()
    noted = json.loads((tmp_path / "p_alone" / "report.json").read_text())["settings"]
    assert TRAINED.items() <= noted.items()
    assert noted["unlike_training"] == {}


def test_a_calibration_holds_for_the_settings_of_the_training(trained: Path, dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(trained, tmp_path / "best.pt"))
    assert command("calibrate", dataset, checkpoint=copy, alpha=0.4) == 0
    assert json.loads(copy.with_name("best.calibration.json").read_text())["settings"] == TRAINED
    assert command("predict", dataset / "images" / "dermoscopy_000.png", tmp_path / "out", checkpoint=copy) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["calibration"]["reason"] is None


def test_what_may_differ_is_noted_in_the_reports(trained: Path, dataset: Path, tmp_path: Path) -> None:
    image = dataset / "images" / "dermoscopy_000.png"
    assert command("predict", image, tmp_path / "p", checkpoint=trained, overlap=0.5, voting="majority") == 0
    noted = json.loads((tmp_path / "p" / "report.json").read_text())["settings"]["unlike_training"]
    expected = {"overlap": {"trained": 0.25, "here": 0.5}, "voting": {"trained": "mean", "here": "majority"}}
    assert noted == expected
    assert command("evaluate", dataset, tmp_path / "e", checkpoint=trained, overlap=0.5, num_pictures=0) == 0
    noted = json.loads((tmp_path / "e" / "summary.json").read_text())["settings"]["unlike_training"]
    assert noted == {"overlap": expected["overlap"]}


LARGE = ["inference.json", "inference_large.yaml"]
USES = {
    "evaluate": (EVALUATE, SETTINGS), "calibrate": ([*EVALUATE, "calibrate.yaml"], SETTINGS),
    "analyze": ([*EVALUATE, "analyze.yaml"], SETTINGS), "shifts": ([*EVALUATE, "evaluate_shift.yaml"], SETTINGS),
    "infer": (INFERENCE, SETTINGS), "slides": (LARGE, [name for name in SETTINGS if name != "longest_side"]),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", FIXED)
def test_every_setting_contradicted_is_refused_by_every_use(name, use, trained, dataset, tmp_path) -> None:
    configs, settings = USES[use]
    if name not in settings:
        return
    folder = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out"), "checkpoint": str(trained)}
    flow = workflow(configs, **folder, **{name: OTHERS[name]})
    said = f"best.pt was trained with {name} {TRAINED[name]}, and here it is {OTHERS[name]}: leave --{name} out"
    assert sentence_of(flow).startswith(said)


@pytest.mark.parametrize("place", ["before", "after"])
def test_an_overlay_that_contradicts_is_refused_wherever_it_lies(place, trained, dataset, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("longest_side: 512\n")
    overlay = [str(tmp_path / "mine.yaml")]
    configs = ["train.json", *overlay, "evaluate.json"] if place == "before" else [*EVALUATE, *overlay]
    flow = workflow(configs, dataset_dir=str(dataset), output_dir=str(tmp_path / "o"), checkpoint=str(trained))
    assert "best.pt was trained with longest_side 48, and here it is 512" in sentence_of(flow)


def test_an_older_file_is_evaluated_with_the_overlays_and_defaults_as_before(trained, dataset, tmp_path, caplog):
    content = torch.load(trained, weights_only=True)
    del content["recipe"]
    torch.save(content, tmp_path / "old.pt")
    (tmp_path / "mine.yaml").write_text(json.dumps({**TRAINED, "longest_side": 32}))
    configs = ["train.json", str(tmp_path / "mine.yaml"), "evaluate.json"]
    files = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out"), "checkpoint": str(tmp_path / "old.pt")}
    flow = workflow(configs, **files, num_pictures=0)
    flow.run()
    assert "old.pt does not say how it was trained" in caplog.text
    settings = json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]
    assert (settings["image_size"], settings["longest_side"], settings["unlike_training"]) == (32, 32, {})
    plain = workflow(EVALUATE, **files).parser.get_parsed_content("settings")
    assert plain["image_size"] == plain["longest_side"] == 256
    assert (plain["backbone"], plain["own_network"]) == ("vit_t", None)  # the default of files without a recipe
    passed_over = workflow(EVALUATE, **{**files, "checkpoint": str(trained)}, recipe="none")
    default = {"backbone": None, "own_network": {"semantic": "lite1", "adaptive": "lite2"}, "deference": 5.0}
    assert passed_over.parser.get_parsed_content("settings") == plain | default


def test_a_training_goes_on_with_its_own_settings_only(trained, dataset, capsys) -> None:
    settings = {**SHORT, **TRAINED, "max_epochs": 2, "checkpoint": trained.with_name("last.pt")}
    output = trained.parent / "resumed"
    assert command("train", dataset, output, **{**settings, "longest_side": 64}) == 1
    assert "is of a training with longest_side 48, and here it is 64: resume with" in capsys.readouterr().err
    assert command("train", dataset, output, **settings) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "overlay", ["ablations/encoder/no_communication", "ablations/encoder/from_scratch",
                "ablations/encoder/full_finetuning", "ablations/deaf", "baselines/unet",
                "baselines/pyramid_unet_frozen", "baselines/pyramid_unet_ensemble"],
)  # fmt: skip
def test_whatever_overlay_trained_it(overlay: str, dataset: Path, tmp_path: Path) -> None:
    size = {"image_size": 32, "longest_side": 48}
    overlays = ["backbones/vit_t", overlay] if "encoder" in overlay else [overlay]
    assert command("train", dataset, tmp_path / "t", config=overlays, **SHORT, **size) == 0
    alone = {"checkpoint": tmp_path / "t" / "best.pt"}
    for name, settings in (("alone", alone), ("repeated", {**alone, **size, "config": overlays})):
        assert command("evaluate", dataset, tmp_path / name, num_pictures=0, **settings) == 0
    assert scores_of(tmp_path / "alone") == scores_of(tmp_path / "repeated")
    assert command("predict", dataset / "images" / "dermoscopy_000.png", tmp_path / "p", **alone) == 0


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [True, False], ids=["official", "file"])
def test_the_encoder_of_full_size_is_found_again_or_asked_for(by_name, dataset, tmp_path, monkeypatch, capsys) -> None:
    """With made-up weights of SAM's ViT-B, by their official name, or as a file."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("ICMOE_CACHE", str(cache))
    official = OFFICIAL_WEIGHTS["sam_vit_b"]
    file = (cache if by_name else tmp_path / "elsewhere") / official.file_name
    save_sam_weights(build_sam_encoder("vit_b"), file.with_suffix(".safetensors"), dtype=torch.float16)
    file.with_suffix(".safetensors").rename(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    made_up = OfficialWeights(file.name, "http://127.0.0.1:9/none", "sha256", digest, file.stat().st_size)
    monkeypatch.setitem(OFFICIAL_WEIGHTS, "sam_vit_b", made_up)
    given = {} if by_name else {"pretrained": file}
    size = {"image_size": 64, "longest_side": 80}
    assert command("train", dataset, tmp_path / "t", config=["backbones/vit_b"], **SHORT, **size, **given) == 0
    best = tmp_path / "t" / "best.pt"
    assert best.stat().st_size < 0.2 * file.stat().st_size  # without the encoder
    if not by_name:
        assert command("evaluate", dataset, tmp_path / "e", checkpoint=best) == 1
        assert (
            f"best.pt was trained on the encoder {file.name}, which lies neither beside it" in capsys.readouterr().err
        )
        file.rename(best.with_name(file.name))
    assert command("evaluate", dataset, tmp_path / "e", checkpoint=best, num_pictures=0) == 0
    settings = json.loads((tmp_path / "e" / "summary.json").read_text())["settings"]
    assert (settings["image_size"], settings["longest_side"]) == (64, 80)
    assert settings["pretrained"] == ("sam_vit_b" if by_name else file.name)
    assert command("predict", dataset / "images" / "dermoscopy_000.png", tmp_path / "p", checkpoint=best) == 0
    assert json.loads((tmp_path / "p" / "report.json").read_text())["settings"]["backbone"] == "vit_b"
