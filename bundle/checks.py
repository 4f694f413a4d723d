"""Checks of a copy of the bundle; `verify` runs this file where only the copy is importable.

Each check is a function that raises if something is wrong. Checks write files into the working folder, never into the
copy.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "configs/train.json", "docs/README.md")
# "Preferred Files and Keys" of CONTRIBUTING.md in https://github.com/Project-MONAI/model-zoo (commit 04c6b0e): keys for
# MONAI Label, Deploy and federated learning, which are to be in the configs literally
ZOO_KEYS = {
    "inference.json": ("bundle_root", "device", "network_def", "inferer", "output_dir"),
    "train.json": (
        "bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "train#trainer",
        "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers", "train#preprocessing",
        "train#postprocessing", "train#inferer", "train#key_metric", "validate#evaluator", "validate#handlers",
        "validate#dataset", "validate#dataset#data", "validate#preprocessing", "validate#postprocessing",
        "validate#inferer", "validate#key_metric",
    ),
}  # fmt: skip
CHECKSUMS = "SHA256SUMS"
LARGE_FILES = "large_files.yml"
LARGEST = 25_000_000  # bytes; the Model Zoo's limit for a file that is not downloaded
_SMALL = {"image_size": 64, "num_workers": 0}
_TRAINING = {"max_epochs": 1, "min_steps": 1, "batch_size": 2, "cache_rate": 0.0}


class CheckError(Exception):
    """Signal a check that does not hold."""


def files_are_those_that_were_assembled(root: Path) -> None:
    """Check that every file has its checksum, that there are no other files, and that none is a link."""
    listed = dict(reversed(line.split("  ", 1)) for line in (root / CHECKSUMS).read_text().splitlines())
    downloaded = {entry["path"]: entry["hash_val"] for entry in _large_files(root)}
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()} - {CHECKSUMS}
    present = {path for path in present if "__pycache__" not in path}
    listed |= {path: digest for path, digest in downloaded.items() if path in present}
    _need(not any((root / path).is_symlink() for path in present), "a file is a link")
    _need(present >= listed.keys(), f"missing: {sorted(listed.keys() - present)}")
    _need(present <= listed.keys(), f"left over: {sorted(present - listed.keys())}")
    for path, digest in listed.items():
        found = hashlib.sha256((root / path).read_bytes()).hexdigest()
        _need(found == digest, f"{path} is not the file that was assembled: its SHA-256 is {found}")


def the_zoos_files_are_there(root: Path) -> None:
    """Check that the required files are there, and that no file but weights is above the zoo's size limit."""
    for path in REQUIRED:
        _need((root / path).is_file(), f"{path} is missing")
    is_downloaded = "models/model.pt" in [entry["path"] for entry in _large_files(root)]
    _need(is_downloaded or (root / "models" / "model.pt").is_file(), "models/model.pt is missing")
    for path in root.rglob("*"):
        is_weights = path.parent.name == "models"
        _need(is_weights or path.stat().st_size <= LARGEST, f"{path.name} is above {LARGEST // 1_000_000} MB")


def name_and_version_are_the_zoos(root: Path) -> None:
    """Check that MONAI parses the name, that versions compare as strings, and that the changelog has this one."""
    import icmoe_monai

    metadata = _metadata(root)
    version = metadata["version"]
    _need("_v" not in root.name, f"MONAI would cut {root.name!r} at '_v'")
    _need(bool(re.fullmatch(r"\d\.\d\.\d", version)), f"{version} has a field of two digits, compared as a string")
    _need(version in metadata["changelog"], f"the changelog does not tell of {version}")
    _need(version == icmoe_monai.__version__, f"the package is {icmoe_monai.__version__}, the metadata {version}")
    for package, pinned in metadata["required_packages_version"].items():
        _need(bool(re.fullmatch(r"\d+(\.\d+)*", pinned)), f"{package} is not pinned to one version: {pinned}")


def the_package_is_the_copys(root: Path) -> None:
    """Check that the imported package is the published one."""
    import icmoe_monai

    found = Path(str(icmoe_monai.__file__)).parent
    _need(found == root / "icmoe_monai", f"icmoe_monai comes from {found}")


def configs_are_canonical(root: Path) -> None:
    """Check that the JSON configs are formatted as the zoo formats them."""
    for path in sorted((root / "configs").glob("*.json")):
        text = path.read_text()
        _need(text == json.dumps(json.loads(text), indent=4) + "\n", f"{path.name} is not JSON with indent 4")


def configs_have_the_zoos_keys(root: Path) -> None:
    """Check that the configs have the keys that the zoo lists, and that ValidationHandler takes `val_interval`."""
    for name, keys in ZOO_KEYS.items():
        config = json.loads((root / "configs" / name).read_text())
        missing = [key for key in keys if not _has(config, key)]
        _need(not missing, f"{name} lacks {', '.join(missing)}")
    handlers = json.loads((root / "configs" / "train.json").read_text())["train"]["handlers"]
    intervals = [one.get("interval") for one in handlers if one.get("_target_") == "ValidationHandler"]
    _need(intervals == ["@val_interval"], f"the interval of ValidationHandler is {intervals}, and not @val_interval")


def the_metadata_fit_the_schema(root: Path, schema: Path | None) -> None:
    """Check the metadata by `monai.bundle.verify_metadata`, with a local file of the schema where one is given."""
    from monai.bundle import verify_metadata

    verify_metadata(
        meta_file=str(root / "configs" / "metadata.json"), filepath=str(schema or Path("schema.json").resolve())
    )


def weights_fit_the_network(root: Path) -> None:
    """Check that `model.pt` holds exactly the weights of `network_def`."""
    _loaded(root)


def load_returns_the_network(root: Path) -> None:
    """Check that `monai.bundle.load`, by the bundle's name, loads the weights of `model.pt` for both workflows."""
    import torch
    from monai.bundle import load

    state = torch.load(_weights(root), weights_only=True)
    for workflow in ("train", "inference"):
        network = load(name=root.name, bundle_dir=str(root.parent), workflow_type=workflow)
        for name, weight in network.state_dict().items():
            _need(torch.equal(weight, state[name]), f"{name} is not model.pt's in the workflow {workflow}")


def shapes_are_those_of_the_metadata(root: Path) -> None:
    """Check the shapes of input and output by `monai.bundle.verify_net_in_out`."""
    from monai.bundle import verify_net_in_out

    verify_net_in_out(net_id="network_def", device="cpu", **_files(root))


def torchscript_equals_eager(root: Path) -> None:
    """Check the outputs of exports by `monai.bundle.ckpt_export`, scripted as the zoo does it, and traced."""
    import torch
    from monai.bundle import ckpt_export

    network = _loaded(root)
    image = torch.randn(2, 3, 256, 256)
    for name, use_trace in (("scripted.ts", False), ("traced.ts", True)):
        ckpt_export("network_def", filepath=name, ckpt_file=_weights(root), use_trace=use_trace, **_files(root))
        with torch.no_grad():
            difference = (torch.jit.load(name)(image) - network(image)).abs().max().item()
        _need(difference <= 1e-3, f"{name} differs from the network by {difference:.2g}")


def onnx_equals_eager(root: Path) -> None:
    """Check the export by `monai.bundle.onnx_export`, and its output where onnxruntime is installed."""
    import torch
    from monai.bundle import onnx_export

    onnx_export("network_def", filepath="model.onnx", ckpt_file=_weights(root), use_trace=True, **_files(root))
    _need(Path("model.onnx").stat().st_size > 1_000_000, "model.onnx holds no weights")
    if importlib.util.find_spec("onnxruntime") is None:
        return
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(1, 3, 256, 256)
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        difference = (torch.from_numpy(found) - _loaded(root)(image)).abs().max().item()
    _need(difference <= 1e-2, f"model.onnx differs from the network by {difference:.2g}")


def workflows_have_their_properties(root: Path) -> None:
    """Check that training, evaluation and inference pass `check_properties()`, on the computer-made set."""
    from monai.bundle import ConfigWorkflow

    configs = root / "configs"
    for kind, names in (("train", ["train"]), ("train", ["train", "evaluate"]), ("infer", ["inference"])):
        settings = {**_SMALL, "dataset_dir": "demo", "output_dir": str(Path("properties").resolve())}
        flow = ConfigWorkflow(
            [str(configs / f"{name}.json") for name in names], workflow_type=kind, logging_file=False,
            **(settings | _TRAINING if kind == "train" else settings),
        )  # fmt: skip
        flow.initialize()
        wrong = flow.check_properties()
        _need(not wrong, f"{names[-1]}.json lacks {wrong}")
        flow.finalize()


def the_command_line_trains_evaluates_and_segments(root: Path) -> None:
    """Check `python -m monai.bundle run` from another folder, on the computer-made set."""
    train, evaluate, inference = (str(root / "configs" / f"{n}.json") for n in ("train", "evaluate", "inference"))
    _weights(root)
    small = _words(_SMALL)
    demo = ("--dataset_dir", "demo", "--demo_dir", "phantoms")
    _run("training", "--config_file", train, *small, *demo, *_words(_TRAINING), "--output_dir", "trained")
    both = f"['{train}','{evaluate}']"
    _run(
        "evaluating", "--config_file", both, *small, *demo, "--checkpoint", "trained/best.pt",
        "--output_dir", "evaluated", "--num_pictures", "0",
    )  # fmt: skip
    _need(Path("evaluated/summary.json").is_file(), "the evaluation left no summary.json")
    _run("--config_file", inference, "--num_workers", "0", *demo, "--output_dir", "segmented")
    _need(any(Path("segmented/masks").iterdir()), "inference left no mask")


def mlflow_follows_a_training(root: Path) -> None:
    """Check that `--tracking mlflow` records a training, where MLflow is installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise _LeftOut("MLflow is not installed")
    config = str(root / "configs" / "train.json")
    words = _words(_SMALL | _TRAINING | {"dataset_dir": "demo"})
    _run("training", "--config_file", config, *words, "--output_dir", "tracked", "--tracking", "mlflow")
    _need(any(Path().rglob("mlruns*")), "MLflow recorded nothing")


CHECKS: tuple[Callable[..., None], ...] = (
    files_are_those_that_were_assembled,
    the_zoos_files_are_there,
    name_and_version_are_the_zoos,
    the_package_is_the_copys,
    configs_are_canonical,
    configs_have_the_zoos_keys,
    the_metadata_fit_the_schema,
    weights_fit_the_network,
    load_returns_the_network,
    shapes_are_those_of_the_metadata,
    torchscript_equals_eager,
    onnx_equals_eager,
    workflows_have_their_properties,
    the_command_line_trains_evaluates_and_segments,
    mlflow_follows_a_training,
)


class _LeftOut(Exception):  # noqa: N818 - nothing is wrong
    """Signal a check that cannot be made here."""


def main() -> int:
    """Run the checks, print the outcome of each, and return the exit status: 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--schema", type=Path)
    parser.add_argument("--only", nargs="*", choices=[check.__name__ for check in CHECKS])
    options = parser.parse_args()
    failed = 0
    for check in CHECKS:
        if not options.only or check.__name__ in options.only:
            failed += _make(check, options)
    return int(failed > 0)


def _make(check: Callable[..., None], options: argparse.Namespace) -> bool:
    needs_schema = check is the_metadata_fit_the_schema
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(options.folder, options.schema) if needs_schema else check(options.folder)
        outcome = "holds"
    except _LeftOut as reason:
        outcome = f"LEFT OUT: {reason}"
    except (Exception, SystemExit) as error:
        outcome = f"FAILED: {error or type(error).__name__}"
        if not isinstance(error, CheckError):
            traceback.print_exc()
    _say(f"{check.__name__.replace('_', ' ')}: {outcome} ({time.perf_counter() - start:.1f} s)")
    return outcome.startswith("FAILED")


def _has(config: Any, key: str) -> bool:
    for part in key.split("#"):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def _run(*words: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words], capture_output=True, text=True, errors="replace"
    )
    lines = (process.stdout + process.stderr).strip().splitlines() or [""]
    _need(process.returncode == 0, f"`monai.bundle run {' '.join(words)}` ended with {process.returncode}: {lines[-1]}")


def _large_files(root: Path) -> list[dict[str, str]]:
    path = root / LARGE_FILES
    return yaml.safe_load(path.read_text())["large_files"] if path.is_file() else []


def _metadata(root: Path) -> dict[str, Any]:
    return json.loads((root / "configs" / "metadata.json").read_text())


def _files(root: Path) -> dict[str, str]:
    configs = root / "configs"
    return {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}


def _weights(root: Path) -> str:
    path = root / "models" / "model.pt"
    download = "python -m monai.bundle download_large_files"
    _need(path.is_file(), f"models/model.pt is to be downloaded first: {download}")
    return str(path)


def _loaded(root: Path) -> Any:
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(_weights(root), weights_only=True))
    return network


def _words(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckError(otherwise)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
