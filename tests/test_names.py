"""Names in a config: those that mean nothing are refused before anything runs, and all others are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

from icmoe_monai.commands.workflow import build_workflow
from icmoe_monai.errors import InputError
from icmoe_monai.names import check_command_line, find_unknown, literal, plain

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TRAIN, EVALUATE, INFERENCE = ("train.json", "evaluate.json", "inference.json")
LOCATOR = ComponentLocator()
WORKFLOWS = [
    [TRAIN], [TRAIN, EVALUATE], [INFERENCE], [TRAIN, EVALUATE, "calibrate.yaml"], [TRAIN, EVALUATE, "analyze.yaml"],
    [TRAIN, EVALUATE, "evaluate_shift.yaml"], [INFERENCE, "inference_large.yaml"], [TRAIN, "multi_gpu_train.json"],
    [TRAIN, EVALUATE, "multi_gpu_evaluate.json"], [INFERENCE, "multi_gpu_inference.json"],
    [INFERENCE, "dicomweb.yaml"],
]  # fmt: skip
NO_OVERLAYS = ("federated", "inference_large", "analyze", "calibrate", "evaluate_shift", "dicomweb")
OVERLAYS = sorted(
    path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "studies" and path.stem not in NO_OVERLAYS
)


def config_of(*files: str | Path, **overrides: object) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / file) for file in files]))
    parser.update(overrides)
    return parser


def unknown(*files: str | Path, **overrides: object) -> list[str]:
    return find_unknown(config_of(*files, **overrides).get(), locator=LOCATOR)


@pytest.mark.parametrize("files", WORKFLOWS, ids=lambda files: "+".join(files))
def test_every_name_of_the_bundles_workflows_is_known_also_once_macros_are_copied(files):
    parser = config_of(*files)
    assert find_unknown(parser.get(), locator=LOCATOR) == []
    parser.resolve_macro_and_relative_ids()
    assert find_unknown(parser.get(), locator=LOCATOR) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_overlay_may_be_laid_over_every_workflow_that_takes_it(overlay):
    of_training = ("loss_def#", "augmentation#")  # parts that inference has not
    for files in ([TRAIN, overlay], [TRAIN, EVALUATE, overlay], [INFERENCE, overlay]):
        if overlay.stem == "out_of_fold" and EVALUATE not in files:
            continue  # only an evaluation has an ensemble
        is_refused_by_monai = files[0] == INFERENCE and any(part in overlay.read_text() for part in of_training)
        assert is_refused_by_monai or unknown(*files) == []


@pytest.mark.parametrize(
    ("files", "name", "nearest"),
    [
        ([TRAIN], "max_epoch", "max_epochs"),
        ([TRAIN], "learningrate", "learning_rate"),
        ([TRAIN], "dataset", "dataset_dir"),
        ([TRAIN], "dataset_dr", "dataset_dir"),
        ([INFERENCE], "probabilty_maps", "probability_maps"),
        ([INFERENCE], "anonymise", "anonymous"),
        ([INFERENCE], "dataset", "dataset_dir"),
        ([TRAIN, EVALUATE], "splitt", "split"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest_one(files, name, nearest):
    (sentence,) = unknown(*files, **{name: "x"})
    assert name in sentence
    assert sentence.endswith(f": did you mean {nearest}?")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train#dataloder", "train has no dataloder: did you mean dataloader?"),
        ("augmentation#blurr", "augmentation has no blurr: did you mean blur?"),
        ("train#trainer#max_epochss", "train#trainer takes no max_epochss: did you mean max_epochs?"),
        ("network_def#rnak", "network_def takes no rnak: did you mean rank?"),
        ("network_def#detail#pixel_men", "network_def#detail takes no pixel_men: did you mean pixel_mean?"),
        ("train#handlers#0#trainin", "train#handlers#0 takes no trainin: did you mean training?"),
    ],
)
def test_a_misspelt_part_of_an_id_is_refused(name, sentence):
    assert unknown(TRAIN, **{name: 1}) == [sentence]


@pytest.mark.parametrize("target", ["monai.networks.nets.Nope", "DiceLos", "nowhere.at.all"])
def test_a_class_that_is_not_there_is_refused(target):
    sentence = f"loss_def names no class or function that is there, {target}: correct its _target_."
    assert unknown(TRAIN, loss_def={"_target_": target}) == [sentence]


@pytest.mark.parametrize(
    ("files", "overrides"),
    [
        ([TRAIN], {"train#trainer#max_epochs": 2, "network_def#rank": 8, "validate#handlers#2#log_dir": "x"}),
        ([TRAIN], {"network_def": {"_target_": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 1,
                                   "channels": [4, 8], "strides": [2]}}),
        ([TRAIN], {"tracking_uri": "x", "experiment_name": "y", "run_name": "z", "save_execute_config": False}),
        ([TRAIN], {"my_rate": 0.1, "learning_rate": "@my_rate"}),
        ([TRAIN], {"mine": {"rate": 0.1}, "learning_rate": "$@mine#rate * 2"}),
        ([TRAIN], {"my_steps": ["$print(@seed)"], "imports": ["$import os"]}),
        ([TRAIN], {"device": "cpu", "optimizer#weight_decay": 0.1, "optimizer#amsgrad": True}),
        ([INFERENCE], {"segments": [{"label": "a", "category": [], "type": [], "note": 1}]}),
        ([INFERENCE], {"dataset": "@mine", "mine": {"_target_": "Dataset", "data": "@missing"}, "volumes": None}),
        ([INFERENCE], {"written#mine": 1, "report#further": ["mine"]}),
        ([INFERENCE], {"max_epochs": 3, "learning_rate": 0.1}),  # as in a training's overlay, given here too
        ([TRAIN, "pretrain.yaml"], {"sets#mine": 3}),
        ([INFERENCE], {"bundle_root": "/elsewhere", "output_root": "here", "calibrated": None}),
        ([TRAIN, EVALUATE, "calibrate.yaml"], {"calibration_file": "mine.json", "bundle_root": "/elsewhere"}),
    ],
)  # fmt: skip
def test_what_has_a_meaning_is_taken(files, overrides):
    assert unknown(*files, **overrides) == []


def test_a_part_that_a_macro_copies_is_known_once_it_is_copied():
    parser = config_of(TRAIN, mine={"_target_": "ImagePyramid"}, **{"network_def#detail": "%mine"})
    parser.resolve_macro_and_relative_ids()
    assert find_unknown(parser.get(), locator=LOCATOR) == []
    assert unknown(TRAIN, mine={"_target_": "ImagePyramid"}) != []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("max_epoch", "No setting is called max_epoch: did you mean max_epochs?"),
        ("max-epochs", "No setting is called max-epochs: did you mean max_epochs?"),
        ("train#trainr#max_epochs", "train has no trainr: did you mean trainer?"),
        ("trian#trainer#max_epochs", "No setting is called trian"),
        ("train#handlers#99#training", "train#handlers has no 99"),
        ("probability_maps", "No setting is called probability_maps"),  # of inference
    ],
)
def test_a_command_refuses_an_override_before_it_builds_anything(name, sentence):
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
        build_workflow(ROOT, [CONFIGS / TRAIN], {name: 1}, workflow_type="train")


TEXTS = [
    "a#b",
    "/x/#7/y",
    "#",
    "a@b#c",
    "$1 + 1",
    "@name",
    "%name",
    'a\'s "#" \\ b',
    "runs/best.pt",
    "::",
    "a@::b",
    "@#name",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_literal_is_the_text_whatever_it_holds(text):
    parser = ConfigParser({"name": 1, "taken": literal(text), "joined": "$str(@taken) + '/demo'"})
    assert parser.get_parsed_content("taken") == text
    assert parser.get_parsed_content("joined") == f"{text}/demo"


@pytest.mark.parametrize(("value", "found"), [("a#b", "a#b"), ("$@name + 1", 2), ("@name", 1), (["x"], ["x"]), (3, 3)])
def test_a_plain_override_keeps_its_signs_and_a_config_its_syntax(value, found):
    assert ConfigParser({"name": 1, "taken": plain(value)}).get_parsed_content("taken") == found


@pytest.mark.parametrize("words", [["--dataset_dir", "x/a#b"], ["--anonymous=a#b"], ["run", "--checkpoint", "#1.pt"]])
def test_monais_command_line_is_refused_where_it_would_change_a_value(words):
    with pytest.raises(InputError, match=r"reads # as ::, so --\w+ \S*#\S* would mean something else: rename"):
        check_command_line(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--inputs#large", "True"],
        ["--inputs#large=True", "--x", "y"],
        ["--seed", "$@train#seed"],
        ["--seed=@train#seed"],
        ["--config_file", "['a#b']"],
        ["--dataset_dir", "a"],
        [],
    ],
)
def test_names_code_and_references_may_hold_the_sign(words):
    check_command_line(words)
