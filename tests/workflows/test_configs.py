"""The configs as files: what MONAI, the Model Zoo and a user expect to find in them."""

import ast
import inspect
import json
import re
import sys
from configparser import ConfigParser as ConfigParserOfSetup
from importlib.metadata import packages_distributions
from pathlib import Path
from pydoc import locate

import pytest
import torch
from monai.bundle import ConfigParser
from pydicom.sr.codedict import codes

import icmoe_monai
from icmoe_monai.calibration.file import OUTPUT_SETTINGS
from icmoe_monai.networks.sam import BACKBONES
from icmoe_monai.weights.frozen import has_frozen_trunk
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
KNOBS = {
    "dataset_dir", "output_dir", "image_size", "num_workers", "device", "seed", "amp", "checkpoint", "voting",
    "expert_depth", "pretrained", "pixel_mean", "pixel_std",
}  # fmt: skip
MULTI_GPU = ("multi_gpu_train.json", "multi_gpu_evaluate.json", "multi_gpu_inference.json")
TRAINING_KNOBS = {"max_epochs", "batch_size", "learning_rate", "pretrained_share", "val_interval"}


def read(name: str) -> dict:
    return json.loads((CONFIGS / name).read_text())


def strings(node: object, path: str = "") -> list[tuple[str, str]]:
    """Return every string of a config with its id."""
    if isinstance(node, dict):
        return [found for key, value in node.items() for found in strings(value, f"{path}#{key}")]
    if isinstance(node, list):
        return [found for i, value in enumerate(node) for found in strings(value, f"{path}#{i}")]
    return [(path, node)] if isinstance(node, str) else []


@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "inference.json", *MULTI_GPU, "metadata.json"])
def test_json_is_in_the_zoo_format(name):
    text = (CONFIGS / name).read_text()
    assert text == json.dumps(json.loads(text), indent=4) + "\n"


def test_a_user_can_override_every_knob_by_its_name():
    assert read("train.json").keys() >= KNOBS | TRAINING_KNOBS
    assert read("inference.json").keys() >= KNOBS


def test_run_ids_and_engines_have_the_names_that_monai_expects():
    train, evaluate, inference = (read(f"{name}.json") for name in ("train", "evaluate", "inference"))
    for config in (train, inference):
        assert {"bundle_root", "network_def", "network", "initialize", "run", "finalize"} <= config.keys()
    assert {"training", "loss", "optimizer", "train", "validate"} <= train.keys()
    assert {"evaluating", "run"} <= evaluate.keys()
    assert {"inferer", "preprocessing", "postprocessing", "handlers", "evaluator", "evaluating"} <= inference.keys()


def test_network_and_normalisation_are_the_same_in_training_and_inference():
    train, inference = read("train.json"), read("inference.json")
    network = dict(train["network_def"])
    assert network.pop("train_trunk") == "$@pretrained is None"
    assert network.pop("hear_vote") == "@hear_vote"
    assert network == inference["network_def"]
    for knob in (
        KNOBS
        | {
            "experts",
            "backbone",
            "own_from",
            "own_network",
            "deference",
            "out_channels",
            "longest_side",
            "overlap",
            "sw_batch_size",
            "best_expert",
        }
    ) - {
        "output_dir",
        "checkpoint",
    }:
        assert train[knob] == inference[knob], knob
    assert train["decoder"]["decoder"] == "$@trained.setting('decoder', None)"  # a training chooses it, if it is new
    assert inference["decoder"] == "$@trained.setting('decoder', 'light')"
    validation = train["validate"]["preprocessing"]["transforms"]
    assert validation[1:-1] == inference["preprocessing"]["transforms"][1:]
    training = train["train"]["preprocessing"]["transforms"]
    assert [one for one in training if "NormalizeIntensityd" in str(one)] == [validation[2]]
    assert validation[2]["_target_"] == "NormalizeIntensityd"


def test_handlers_are_written_out_for_monai_label_and_mlflow():
    assert all(isinstance(handler["_target_"], str) for handler in read("train.json")["train"]["handlers"])


def test_the_state_of_a_training_holds_the_best_value_of_its_validation_and_the_count_of_early_stopping():
    train = read("train.json")
    assert train["state"]["best"] == "@best_checkpoint"
    assert "@best_checkpoint" in train["validate"]["handlers"]
    assert train["state"]["early_stop"] == "@early_stop"
    assert "@early_stop" in [handler.get("patience") for handler in train["train"]["handlers"]]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.*")), ids=lambda path: path.stem)
def test_nothing_is_named_by_its_place_in_a_list(path):
    """Places change when a list grows: `train#handlers#9` would then be another handler."""
    assert not re.search(r"#\d", path.read_text()), path


def test_nothing_in_initialize_needs_a_file_or_this_package():
    for name in ("train.json", "inference.json"):
        # of a seed that is none, the first step of the workflow says so
        assert read(name)["initialize"] == [
            "$monai.utils.set_determinism(seed=@seed if @seed.__class__ is int else None)"
        ]
    for name in MULTI_GPU:  # whose first entries say that torchrun is missing, and see to the end
        first, second, *others = read(name)["initialize"]
        assert first == {"_target_": "icmoe_monai.utils.check_torchrun"}
        assert second == {"_target_": "icmoe_monai.utils.leave_at_exit"}
        assert not any("icmoe" in text or "bundle_root" in text for _, text in strings(others))


@pytest.mark.parametrize("name", ["train.json", "evaluate.json", "inference.json", *MULTI_GPU])
def test_an_expression_is_at_most_one_call_long(name):
    for path, text in strings(read(name)):
        if text.startswith("$"):
            calls = re.findall(r"[\w\]]\(", text)
            assert len(calls) <= 1 or path.endswith(("#device", "#epoch_length")), (path, text)


def test_targets_of_this_package_are_dotted_and_exist():
    for name in ("train.json", "evaluate.json", "inference.json", *MULTI_GPU):
        for path, text in strings(read(name)):
            if path.endswith("_target_") and text.startswith("icmoe_monai"):
                module, _, member = text.rpartition(".")
                assert hasattr(__import__(module, fromlist=[member]), member), text


def test_version_and_requirements_are_one_value():
    metadata = read("metadata.json")
    assert metadata["version"] == icmoe_monai.__version__
    assert metadata["version"] in metadata["changelog"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(re.split("[ ;]", line)[0].split("==") for line in lines if "==" in line)
    for name in ("monai", "numpy"):
        assert pins[name] == metadata[f"{name}_version"]
    assert pins["torch"] == metadata["pytorch_version"]
    for name, version in metadata["required_packages_version"].items():
        assert pins[name] == version, name


def needs(section, name):
    """Return the distributions that a list of setup.cfg names, in lower case."""
    setup = ConfigParserOfSetup()
    setup.read(ROOT / "setup.cfg")
    lines = setup[section][name].splitlines()
    return {re.split(r"[<>=;]", line)[0].lower() for line in lines if line and not line.startswith("#")}


def imported(path):
    """Return the top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_what_the_package_imports_is_among_what_it_says_it_needs():
    providers = packages_distributions()
    needed = needs("options", "install_requires")
    of_extras = set().union(*(needs("options.extras_require", extra) for extra in ("runtimes", "slides", "pacs")))
    files = [path for path in (ROOT / "icmoe_monai").rglob("*.py") if "__pycache__" not in path.parts]
    # monailabel is the server that a strategy runs inside
    names = set().union(*(imported(path) for path in files)) - {"icmoe_monai", "monailabel"} - sys.stdlib_module_names
    undeclared = {
        name
        for name in names
        if not {one.lower().replace("_", "-") for one in providers.get(name, [name])} & (needed | of_extras)
    }
    assert not undeclared


def test_the_zoo_installs_all_that_the_package_needs():
    needed = needs("options", "install_requires")
    listed = {name.lower() for name in read("metadata.json")["required_packages_version"]}
    assert needed - {"torch", "monai", "numpy"} <= listed  # these three have keys of their own


def test_evaluation_overrides_only_what_training_has():
    train, evaluate = read("train.json"), read("evaluate.json")
    new = {"split", "num_bootstrap", "num_pictures", "evaluating", "calibration", "calibrated", "recipe", "num_folds"}
    new |= {"runtime", "validate#inferer#runtime"}
    for key in evaluate.keys() - new:
        section, _, name = key.partition("#")
        assert name in train[section] if name else section in train, key


SHARED = {"rank", "local_rank", "device", "backend", "initialize", "finalize"}


def test_several_processes_begin_and_end_alike_in_all_workflows():
    train, evaluate, inference = (read(name) for name in MULTI_GPU)
    for name in SHARED:
        assert train[name] == evaluate[name] == inference[name], name
    assert train["finalize"][:1] == read("train.json")["finalize"]


@pytest.mark.parametrize(
    ("files", "list_of_handlers", "of_the_first"),
    [
        (["train", "multi_gpu_train"], "train#handlers", ["MetricsCsv", "LastCheckpoint", "TensorBoardStatsHandler",
                                                          "Progress", "EpochLog"]),
        (["train", "multi_gpu_train"], "validate#handlers", ["TensorBoardStatsHandler", "Progress"]),
        (["train", "evaluate", "multi_gpu_evaluate"], "validate#handlers", ["Progress"]),
        (["inference", "multi_gpu_inference"], "handlers", ["Progress"]),
    ],
)  # fmt: skip
def test_what_writes_once_is_of_the_first_process_only(files, list_of_handlers, of_the_first):
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / f"{name}.json") for name in files]))
    handlers = [handler for handler in parser[list_of_handlers] if isinstance(handler, dict)]
    assert parser["is_first"] == "$@rank == 0"
    first = [handler["_target_"] for handler in handlers if handler.get("_disabled_") == "$not @is_first"]
    assert [target.rpartition(".")[2] for target in first] == of_the_first


@pytest.mark.parametrize("name", MULTI_GPU)
def test_an_overlay_of_several_processes_overrides_only_what_is_there(name):
    files = ["train.json", *(["evaluate.json"] if "evaluate" in name else [])]
    files = ["inference.json"] if "inference" in name else files
    single = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / file) for file in files]))
    for key in read(name).keys() - {"rank", "local_rank", "backend"}:
        assert key in single, key


OF_INFERENCE = ("inference_large", "dicomweb", "suggest")
OVERLAYS = sorted(
    path
    for path in CONFIGS.glob("**/*.yaml")
    if path.parent.name not in ("studies", "experts") and path.stem not in ("federated", *OF_INFERENCE)
)
NEW_IN_OVERLAYS = {
    "pyramid_unet_ensemble": {"member"},
    "pretrain": {"sets", "trunk_file", "load_best", "exporting"},
    "evaluate_shift": {"num_cases", "shifts"},
    "analyze": {
        "compare_with", "training_dir", "phantoms", "num_phantoms", "num_windows", "num_points", "dead_below",
        "before_def", "before", "analyzing",
    },
    "out_of_fold": {  # over an evaluation
        "split", "num_folds", "validate#inferer#_target_", "validate#evaluator#prepare_batch",
    },
    "calibrate": {
        "split", "alpha", "review_share", "area_level", "lesion_sensitivity", "false_alarms", "references",
        "calibration", "calibration_file", "calibration_folder", "calibrating",
    },
}  # fmt: skip


def targets_of(steps: list) -> list[str]:
    return [step["_target_"] for step in steps if isinstance(step, dict) and "_target_" in step]


def test_what_a_workflow_holds_it_releases_in_its_last_step():
    hold, release = "icmoe_monai.utils.hold_folder", "icmoe_monai.utils.release_folder"
    files = [*CONFIGS.rglob("*.json"), *CONFIGS.rglob("*.yaml"), *(ROOT / "benchmarks").rglob("*.yaml")]
    lists = {(path, name): part for path in files for name, part in (ConfigParser.load_config_file(path) or {}).items()}
    holding = {place: part for place, part in lists.items() if isinstance(part, list) and hold in targets_of(part)}
    assert len(holding) > 6
    for (path, name), steps in holding.items():
        assert targets_of(steps)[-1] == release, (path, name)
        assert steps[-1]["folder"] == next(s for s in steps if targets_of([s]) == [hold])["folder"], (path, name)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_says_what_it_is_for_and_overrides_what_training_has(overlay):
    assert overlay.read_text().startswith("# ")
    train = ConfigParser.load_config_files([str(CONFIGS / "train.json")])
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "train.json"), str(overlay)]))
    for key, value in ConfigParser.load_config_file(str(overlay)).items():
        if key in NEW_IN_OVERLAYS.get(overlay.stem, set()):
            continue
        assert parser[key] == value
        if key in ConfigParser(train):
            # a study gives a trunk, which a row that is not to have it takes back; others may lie over a backbone
            over_others = key in ("pretrained", "weigh_pixels") or overlay.parent.name == "encoder"
            assert value != ConfigParser(train)[key] or over_others, key
        else:
            component, _, argument = key.rpartition("#")
            target = locate(ConfigParser(train)[component]["_target_"])
            assert argument in inspect.signature(target).parameters, key


@pytest.mark.parametrize("name", ["analyze.yaml", "evaluate_shift.yaml"])
def test_what_looks_at_a_network_loads_it_as_evaluation_does(name):
    evaluate, other = read("evaluate.json"), ConfigParser.load_config_file(str(CONFIGS / name))
    handlers = [handler for handler in other["validate#handlers"] if handler.get("network", "@network") == "@network"]
    assert handlers[:2] == evaluate["validate#handlers"][:2]
    for path, text in strings(other):
        if text.startswith("$"):
            assert len(re.findall(r"[\w\]]\(", text)) <= 1, (path, text)
        if path.endswith("_target_") and text.startswith("icmoe_monai"):
            assert locate(text) is not None, text


def test_a_calibration_is_tied_to_the_settings_that_change_what_the_network_says():
    settings = {name: f"@{name}" for name in OUTPUT_SETTINGS}
    inference, evaluate = read("inference.json"), read("evaluate.json")
    assert inference["calibrated"] == evaluate["calibrated"]
    assert inference["calibrated"]["settings"] == "@settings"
    assert inference["settings"] == read("train.json")["settings"] == settings
    assert inference["journal"]["settings"] == "$@settings | @written"
    assert not settings.keys() & inference["written"].keys()


def test_evaluation_and_inference_take_the_same_features_and_bring_them_to_the_image_alike():
    evaluated = read("evaluate.json")["validate#postprocessing"]["transforms"]
    inferred = read("inference.json")["postprocessing"]["transforms"]
    assert evaluated[0] == inferred[0]
    assert evaluated[1] | {"transform": "@preprocessing"} == inferred[2]
    assert evaluated[2] == read("train.json")["validate"]["postprocessing"]["transforms"][1]


@pytest.mark.parametrize("overlay", sorted(CONFIGS.glob("experts/*.yaml")), ids=lambda path: path.stem)
def test_experts_overlay_names_a_shipped_file_and_codes_of_the_standard(overlay):
    assert overlay.read_text().startswith("# ")
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "inference.json"), str(overlay)]))
    assert set(ConfigParser.load_config_file(str(overlay))) == {"checkpoint", "segments"}
    assert Path(parser.get_parsed_content("checkpoint")).is_file()
    for segment in parser["segments"]:
        for value, scheme, meaning in (segment["category"], segment["type"], segment["anatomy"]):
            keyword = meaning.replace(" ", "")
            assert (scheme, getattr(codes.SCT, keyword).value) == ("SCT", value)


@pytest.mark.parametrize("overlay", sorted(CONFIGS.glob("backbones/*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_a_backbones_overlay_is_of_a_size_and_weights_that_there_are(overlay, config):
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / config), str(overlay)]))
    parser["device"] = "cpu"
    parser["checkpoint"] = None
    assert parser.get_parsed_content("image_size") == BACKBONES[parser["backbone"]]["image_size"]
    pretrained = parser.get_parsed_content("pretrained")
    assert overlay.stem == "vit_t" or pretrained in OFFICIAL_WEIGHTS
    assert overlay.stem != "vit_t" or pretrained.endswith("/models/sam_vit_t_medical.safetensors")
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert has_frozen_trunk(network) == (config == "inference.json" or parser["pretrained"] is not None)
    assert len(network.encoder.blocks) == BACKBONES[parser["backbone"]]["depth"]


def test_medsam_sees_pixels_as_it_did_when_it_was_trained():
    """Scaled to 0..1, unlike SAM's mean and deviation, in training and in inference."""
    for config, transform in (("train.json", "train#preprocessing"), ("inference.json", "preprocessing")):
        files = [str(CONFIGS / config), str(CONFIGS / "backbones" / "medsam.yaml")]
        parser = ConfigParser(ConfigParser.load_config_files(files))
        normalise = [t for t in parser.get_parsed_content(transform).transforms if "Normalize" in type(t).__name__]
        seen = normalise[0]({"image": torch.tensor([0.0, 51.0, 255.0]).repeat(3, 2, 1)})["image"]
        assert torch.allclose(torch.as_tensor(seen), torch.tensor([0.0, 0.2, 1.0]).repeat(3, 2, 1))
