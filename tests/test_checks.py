"""Settings of every workflow: what cannot work is refused in one sentence before anything runs."""

from __future__ import annotations

import math
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.config_item import ComponentLocator
from monai.transforms import Compose

from icmoe_monai.__main__ import main
from icmoe_monai.checks import check_config, check_values
from icmoe_monai.commands.workflow import build_workflow
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.inference.inputs import Inputs
from icmoe_monai.names import shipped
from icmoe_monai.schemas import SCHEMAS
from icmoe_monai.utils.schema import allowed, is_as
from icmoe_monai.weights.checkpoint import write_weights

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TRAIN, EVALUATE, INFERENCE = ["train.json"], ["train.json", "evaluate.json"], ["inference.json"]
WORKFLOWS = {
    "train": TRAIN, "evaluate": EVALUATE, "calibrate": [*EVALUATE, "calibrate.yaml"],
    "analyze": [*EVALUATE, "analyze.yaml"], "shift": [*EVALUATE, "evaluate_shift.yaml"], "infer": INFERENCE,
    "large": [*INFERENCE, "inference_large.yaml"], "pretrain": [*TRAIN, "pretrain.yaml"],
    "archive": [*INFERENCE, "dicomweb.yaml"], "suggest": [*INFERENCE, "suggest.yaml"],
}  # fmt: skip
# one name, or several with a space between: values that cannot work
WRONG: dict[str, list[Any]] = {
    "seed split_seed": ["abc", -1, 1.5, True, None, [1], 2**32],
    "folds fold": [0, -1, 1.5, "5", True, [5]],
    "num_workers": ["two", -1, 1.5, 10**6],
    "device": ["", None, 3, "cpux", "cuda:x"],
    "amp cache_features hear_vote weigh_pixels": ["false", "yes", 0, 1, None],
    "overlays probability_maps disagreement_maps overwrite": ["true", 1, None, "on"],
    "skip_background votes outlines": ["true", 0, None],
    "image_size": [100, 0, -16, 256.0, "256", True, None, [256, 256], 10**9],
    "longest_side": [0, -5, 8, 512.5, "512", [512, 512], math.inf],
    "overlap": ["abc", 1, 1.5, -0.1, math.nan, None, True, [0.5, 0.5]],
    "sw_batch_size batch_size": [0, -1, 1.5, "4", True, None],
    "out_channels": [0, -1, 1.5, "2", 257, None],
    "backbone": ["vit_x", 5, [], "VIT_T"],
    "own_from": [16, "semantic", {"semantic": 3}, {"semantik": 16}, {"semantic": "16"}],
    "own_network": ["lite1", {"adaptive": "lite9"}, {"adaptve": "lite2"}, ["lite1"]],
    "pretrained pyramid checkpoint compare_with training_dir": [5, True, "", ["a"], {"a": 1}],
    "pixel_mean": ["abc", [1, 2], [1, 2, 3, 4], 128, None, ["a", "b", "c"], [math.nan, 1, 1], [-1, 1, 1], {"r": 1}],
    "pixel_std": ["abc", [1, 2], [0, 1, 1], [-1, 1, 1], 58, None, [math.inf, 1, 1], [True, 1, 1]],
    "experts": ["basic", [], ["basic", "basic"], ["expert"], 3, None],
    "expert_depth": [0, -1, 1.5, "2", 33, None],
    "voting": ["median", 1, None, ["mean"]],
    "decoder": ["heavy", "", "Full", 1, True, None, ["full"]],
    "best_expert": [-1, 3, "basic", 0.5, None],
    "recipe": ["other", None, 1],
    "num_folds": [0, 21, 1.5, "2", None],
    "tta": ["flip", True, None, ["flips"]],
    "runtime": ["tensorrt", True, None, ["onnx"]],
    "max_epochs min_steps epoch_length val_interval patience num_views": [0, -3, 1.5, "10", True, None],
    "learning_rate pretrained_share": [0, -1e-3, "fast", math.nan, math.inf, None, True],
    "deference expert_weight mutual_weight weight_decay": [-0.1, "a", math.nan, math.inf, None, True, [1]],
    "warmup_share cache_rate val_cache_rate": [-0.1, 2, -1, "all", math.nan, None, True],
    "features_dir demo_dir output_dir": [5, True, [], ""],
    "features_dtype": ["float64", None, 16],
    "labels": ["red", [], [1], {"red": 1}],
    "segments": ["lesion", [], [{"name": "x"}], [5], [{"label": ""}], [{"label": "a", "category": ["1", "2"]}]],
    "modality": [5, "", ["ultrasound"]],
    "dataset_dir": [5, True, ["a"]],
    "split": ["all", None, 1, ["val"]],
    "protocol": ["isic", 2017],
    "num_bootstrap num_windows num_points num_phantoms": [0, -1, 1.5, "many", None],
    "num_pictures level": [-1, 1.5, "a", None],
    "calibration": [5, True, ""],
    "num_cases": [0, -2, 1.5, "a"],
    "shifts": ["blur", [], ["blurr"], ["blur", "blur"], None],
    "alpha area_level lesion_sensitivity false_alarms": [0, 1, -0.1, 2, "a", math.nan, None, True],
    "review_share dead_below": [-0.1, 1.1, "a", math.nan, None],
    "review_below": [-0.1, 1.1, 80, "a", math.nan, True],
    "phantoms": ["xray", None],
    "dicom_seg": [True, None, "yes"],
    "empty_segmentations structured_reports secondary_captures trace": ["yes", 1, None],
    "anonymous": [None, 5, "", []],
    "budget": [5, True, ""],
    "number": [0, -1, 1.5, "20", None],
    "by": ["luck", None, ["suggest"]],
    "labelled": [5, True, "", ["a"]],
    "dicomweb study series date credentials ca": [5, True, "", ["a"]],
    "store": ["true", 1, None],
    "keep_retrieved": ["true", 1, None],
    "timeout": [0, -1, "a", None, math.nan],
    "retries": [-1, 1.5, 21, "a", None],
    "um_per_pixel": [0, -0.5, "fine", math.nan, math.inf, True, [0.5]],
    "white_level": [0, 10, 256, 1.5, "white", None],
    "sets": [{}, {"a": 0}, ["a"], None],
    "trunk_file calibration_file": [5, None, ""],
    # arguments of parts
    "train#trainer#max_epochs train#dataloader#batch_size train#dataset#cache_rate": [-1, "a", None],
    "validate#inferer#overlap": [1, "a"],
    "augmentation#affine#prob augmentation#blur#prob": [-0.1, 1.1, "often"],
    "loss_def#contrast_weight loss_def#expert_weight optimizer#weight_decay": [-1, "a", None],
    "network_def#rank": [0, "a", 1.5],
    "network_def#communicate": ["false", 1],
    "optimizer lr_scheduler loss_def network train#inferer train#dataset validate#evaluator": [5, "Adam", True],
}
CASES = [(name, value) for names, values in WRONG.items() for name in names.split() for value in values]
RIGHT: dict[str, list[Any]] = {
    "pixel_mean pixel_std": [(1.0, 2, 3), [127.5, 127.5, 127.5], torch.Size((1, 2, 3))],
    "device": ["cpu", torch.device("cpu")],
    "checkpoint": [Path("best.pt"), "best.pt", None],
    "own_from": [None, {"semantic": 16}, {}],
    "own_network": [{"semantic": "lite1", "adaptive": "lite2"}],
    "segments": [None, [{"label": "a", "category": [], "type": [], "note": 1}],
                 [{"label": "a", "category": ["1", "SCT", "A"], "type": ["1", "SCT", "A"], "anatomy": None}]],
    "anonymous": [True, "a secret of mine"],
    "backbone": [None, "vit_h"],
    "learning_rate": [1, 1e-6],
}  # fmt: skip

LOCATOR = ComponentLocator()  # which every parser would else make anew


@cache
def loaded(*files: str) -> dict[str, Any]:
    return ConfigParser.load_config_files([str(CONFIGS / file) for file in files])


def config_of(*files: str, **overrides: object) -> ConfigParser:
    parser = ConfigParser(deepcopy(loaded(*files)))
    parser.locator = LOCATOR
    parser.update(overrides)
    return parser


def workflow_of(name: str) -> list[str]:
    """Return the first workflow whose config has a name, or the part that a name is an argument of."""
    return next(files for files in WORKFLOWS.values() if name.partition("#")[0] in loaded(*files))


def sentence_of(parser: ConfigParser) -> str:
    with pytest.raises(InputError) as raised:
        check_values(parser)
    return str(raised.value)


@pytest.mark.parametrize("files", WORKFLOWS.values(), ids=WORKFLOWS)
def test_every_workflow_as_it_is_passes(files):
    check_values(config_of(*files))


@pytest.mark.parametrize("overlay", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_overlay_passes(overlay):
    if overlay.parent.name != "studies":
        files = INFERENCE if overlay.parent.name == "experts" else TRAIN
        check_values(config_of(*files, str(overlay)))


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value!r}"[:60] for name, value in CASES])
def test_a_value_that_cannot_work_is_one_sentence(name, value):
    told = sentence_of(config_of(*workflow_of(name), **{name: value}))
    assert told.startswith(f"{name} ")
    assert " must be " in told
    assert "got" in told
    assert told.count(" must be ") == 1
    assert "\n" not in told


@pytest.mark.parametrize(("names", "values"), RIGHT.items(), ids=RIGHT)
def test_what_can_work_is_taken(names, values):
    for name in names.split():
        for value in values:
            check_values(config_of(*workflow_of(name), **{name: value}))


def test_every_setting_has_values_that_are_tried():
    tried = {name for names in WRONG for name in names.split()}
    ours_alone = {"bundle_root", "output_root", "is_first", "on_terminal", "calibration_folder", "total_steps"}
    assert {name for name in SCHEMAS if "#" not in name} - tried == ours_alone


def test_every_plain_value_of_the_bundles_configs_is_a_setting():
    parts = {"network_def", "train", "validate", "augmentation", "inferer", "loss_def", "optimizer", "lr_scheduler"}
    for name, values in shipped().items():
        top = name.partition("::")[0]
        plain = [one for one in values if isinstance(one, (bool, int, float, str)) and str(one)[:1] not in "$@%"]
        if plain and top not in parts:
            assert name.replace("::", "#") in SCHEMAS or top in (*SCHEMAS, "inputs"), name


@pytest.mark.parametrize("name", [name for name, schema in SCHEMAS.items() if "#" not in name])
def test_every_schema_refuses_something_and_says_what_it_takes(name):
    values = ["?", -1, 0.123, True, None, [], {}, math.nan, object.__name__ * 99]
    assert not all(is_as(SCHEMAS[name], value) for value in values)
    assert allowed(SCHEMAS[name])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"seed": "$'a' * 2"}, "seed must be a whole number from 0 to 4294967295, got 'aa', by \"$'a' * 2\"."),
        ({"batch_size": "$4 / 2"}, "batch_size must be a whole number of at least 1, got 2.0, by '$4 / 2'."),
        ({"mine": 7, "overlap": "@mine"}, "overlap must be a number of at least 0 and below 1, got 7, by '@mine'."),
        ({"pixel_std": ["$1 - 1", 1, 1]}, "pixel_std must be a list of 3, each a number above 0, got [0, 1, 1]"),
        ({"max_epochs": "$1 / 0"}, "max_epochs has no value, '$1 / 0' fails: ZeroDivisionError: division by zero."),
        ({"cache_rate": "$nothing"}, "cache_rate has no value, '$nothing' fails: NameError"),
        (
            {"augmentation#blur#prob": "$2 - 5"},
            "augmentation#blur#prob must be a number from 0 to 1, got -3, by '$2 - 5'.",
        ),
        (
            {"train#trainer#max_epochs": "$1 - 1"},
            "train#trainer#max_epochs must be a whole number of at least 1, got 0",
        ),
    ],
)
def test_what_an_expression_gives_is_checked_by_its_value(overrides, told):
    assert sentence_of(config_of(*TRAIN, **overrides)).startswith(told)


def test_expressions_that_would_build_a_data_set_are_left_to_their_use():
    check_values(config_of(*TRAIN, dataset_dir="/nowhere"))


def test_a_part_may_come_built_already_as_packs_share_it():
    check_values(config_of(*INFERENCE, inputs=Inputs([], []), preprocessing=Compose([])))


def test_several_are_told_together():
    told = sentence_of(config_of(*TRAIN, seed="a", overlap=2))
    assert told.count(" must be ") == 2


def test_an_interval_longer_than_the_training_is_refused():
    assert "val_interval must be at most max_epochs (3), got 5." in sentence_of(
        config_of(*TRAIN, max_epochs=3, val_interval=5)
    )


def test_a_device_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch sees no CUDA device here: set --device cpu" in sentence_of(config_of(*TRAIN, device="cuda:0"))
    told = "device is meta, but PyTorch sees no meta here: set --device cpu"  # as of mps, where there is none
    assert told in sentence_of(config_of(*TRAIN, device="meta"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "PyTorch sees no cuda:2 here" in sentence_of(config_of(*TRAIN, device="cuda:2"))


@pytest.mark.parametrize(
    ("capabilities", "is_told"), [({"avx2": True, "amx_bf16": False}, True), ({"amx_bf16": True}, False), ({}, False)]
)
def test_bfloat16_on_a_cpu_without_it_is_warned_of(capabilities, is_told, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    config_of(
        *INFERENCE, device="cpu", amp=True, checks=[{"_target_": "icmoe_monai.checks.check_config"}]
    ).get_parsed_content("checks")
    assert ("many times slower" in caplog.text) == is_told


def test_what_a_checkpoint_says_of_its_settings_is_checked_too(tmp_path):
    recipe = {"settings": {"image_size": "large"}}
    write_weights({"a": torch.zeros(1)}, tmp_path / "best.pt", trunk={}, recipe=recipe, whole=True)
    told = sentence_of(config_of(*EVALUATE, checkpoint=str(tmp_path / "best.pt")))
    assert told.startswith("image_size must be a whole number from 16 to 65536 and a multiple of 16, got 'large', by")


def test_the_page_of_settings_tells_what_each_may_be():
    page = (ROOT / "docs" / "settings.md").read_text()
    table = page.partition("<!-- allowed: begin -->\n")[2].partition("<!-- allowed: end -->")[0]
    rows = "".join(f"| `{name}` | {allowed(schema)} |\n" for name, schema in SCHEMAS.items() if "#" not in name)
    assert table == f"| setting | what it may be |\n|---|---|\n{rows}"


@pytest.mark.parametrize("page", ["settings", "reliability", "analysis", "slides", "features"])
def test_every_setting_of_the_documents_is_checked_and_its_default_allowed(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    tables = re.findall(
        r"^\| (?:name|setting) \| default \| \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE
    )
    assert tables
    for names, default in re.findall(r"^\| (`.*?) \| (.*?) \|", "".join(tables), flags=re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            value = yaml.safe_load(default.strip("`")) if re.fullmatch(r"-?[\d.]+|True|False", default) else None
            assert name in SCHEMAS, name
            assert value is None or is_as(SCHEMAS[name], value), (name, default)


STEPS = {"train": "training", "evaluate": "evaluating", "calibrate": "calibrating", "analyze": "analyzing",
         "shift": "evaluating", "infer": "run", "large": "run", "pretrain": "exporting"}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "run_id"), STEPS.items(), ids=STEPS)
@pytest.mark.parametrize(("name", "value"), [("sead", 1), ("seed", "abc")])
def test_every_workflow_checks_its_config_first(kind, run_id, name, value, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"own": 1, "num_workers": "@own"}))
    files = [str(CONFIGS / file) for file in [*WORKFLOWS[kind], tmp_path / "mine.yaml"]]
    flow = ConfigWorkflow(
        files, logging_file=False, run_id=run_id, meta_file=str(CONFIGS / "metadata.json"),
        output_dir=str(tmp_path / "out"), device="cpu", **{name: value},
    )  # fmt: skip
    flow.initialize()
    with pytest.raises(RuntimeError) as raised:
        flow.run()
    flow.finalize()
    told = {
        "sead": "No setting is called sead, and nothing refers to @sead: did you mean seed?",
        "seed": "seed must be a whole number from 0 to 4294967295, got 'abc'.",
    }
    assert str(find_input_error(raised.value)) == told[name]
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.yaml"]


def test_steps_that_a_parser_runs_check_its_config_and_others_nothing():
    check_config()
    for given, told in (({"sead": 1}, "did you mean seed?"), ({"seed": "a"}, "seed must be")):
        with pytest.raises(RuntimeError) as raised:
            config_of(*INFERENCE, **given).get_parsed_content("checks")
        assert told in str(find_input_error(raised.value))


def test_a_command_checks_before_it_builds_anything(tmp_path):
    with pytest.raises(InputError, match="pixel_mean must be a list of 3, each a number from 0 to 255, got 'abc'"):
        build_workflow(ROOT, [CONFIGS / "inference.json"], {"pixel_mean": "abc"}, workflow_type="infer")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "IN", "OUT", "--overlap", "abc"],
        ["predict", "IN", "OUT", "--experts", "skin,breast", "--pixel_mean", "[1,2]"],
        ["train", "IN", "OUT", "--cache_rate", "2"],
        ["train", "IN", "OUT", "--seed", "abc"],
        ["evaluate", "IN", "OUT", "--num_bootstrap", "-1"],
        ["calibrate", "IN", "--checkpoint", "c.pt", "--alpha", "nan"],
    ],
    ids=lambda words: words[0] + words[-2],
)
def test_a_command_ends_with_one_sentence_and_writes_nothing(words, tmp_path, capsys):
    places = {"IN": str(tmp_path / "in"), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 1
    told = capsys.readouterr().err.strip()
    assert told.startswith(f"error: {words[-2][2:]} must be ")
    assert "\n" not in told
    assert list(tmp_path.iterdir()) == []
