"""Command `icmoe info`: say what a file is, and what it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from icmoe_monai.calibration.file import read_calibration
from icmoe_monai.calibration.schema import FORMAT
from icmoe_monai.data.splits import SPLITS
from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.names import shipped
from icmoe_monai.planning.schema import FORMAT as PLAN_FORMAT
from icmoe_monai.weights.checkpoint import MODEL, TRAINER, TRUNK, read_recipe, read_weights
from icmoe_monai.weights.sam import state_fingerprint
from icmoe_monai.weights.schema import checked_parts
from icmoe_monai.weights.tensor_files import read_metadata

_NO_TABLE = "{} is no config, no calibration, no metadata, no plan, no report and no splits.json:"
_TEXTS = (".json", ".yaml", ".yml")
_ENCODER = "encoder."  # what the encoder's weights are called in a whole network


def describe_file(path: str | Path) -> list[str]:
    """Describe a checkpoint, other weights, a calibration, a config, or another table that the package reads or writes.

    Args:
        path: The file.

    Returns:
        Lines of text, `NAME: VALUE`; the first is the file's kind.

    Raises:
        InputError: If there is no such file, it cannot be read, or it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    facts = _text_facts(path) if path.suffix.lower() in _TEXTS else _weights_facts(path)
    return [f"{name}: {value}" for name, value in facts.items()]


def _weights_facts(path: Path) -> dict[str, Any]:
    content = read_weights(path)
    metadata = read_metadata(path)
    state, trunk = checked_parts(content, path, model=MODEL, trunk=TRUNK)
    trunk = trunk or {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no weights by name.")
    million = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    recipe, is_whole = read_recipe(path)
    is_network = recipe is not None or any(part in content for part in (TRUNK, TRAINER))
    is_network = is_network or any(name.startswith(_ENCODER) for name in tensors)
    recipe = recipe or {}
    what = f"network of {recipe['folds']} folds" if "folds" in recipe else "network"
    network = f"{what} {'with' if is_whole else 'without'} its frozen parts" if is_network else None
    facts = {"kind": _kind_of_weights(content, network, metadata)}
    facts["tensors"] = f"{len(tensors)}, with {million:.1f} million numbers"
    facts |= _encoder_facts(tensors, trunk, metadata)
    facts |= _recipe_facts(recipe)
    version = recipe.get("version") or content.get("version") or metadata.get("version")
    return {**facts, "version": version or "not noted"}


def _recipe_facts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    if not recipe:
        return {}
    facts = {"settings": ", ".join(f"{name} {value}" for name, value in recipe["settings"].items())}
    facts["classes"] = ", ".join(segment["label"] for segment in recipe.get("segments") or []) or "not named"
    facts["values in masks"] = ", ".join(map(str, recipe.get("mask_values") or []))
    facts["modality"] = recipe.get("modality") or "not named"
    images = recipe.get("training_set")
    if images:
        facts["trained on"] = f"{images['num_images']} images, whose list has the SHA-256 {images.get('sha256')}"
    return facts


def _kind_of_weights(content: Mapping[str, Any], network: str | None, metadata: Mapping[str, str]) -> str:
    if TRAINER in content:
        return f"state of a training, {network}; `icmoe train` goes on from it by --checkpoint"
    if network is not None:
        return f"checkpoint, weights of a {network}"
    if "backbone" in metadata:
        return f"encoder, {metadata['backbone']}"
    return metadata.get("network", "other weights")


def _encoder_facts(
    tensors: Mapping[str, Tensor], trunk: Mapping[str, str], metadata: Mapping[str, str]
) -> dict[str, str]:
    encoder = {name.removeprefix(_ENCODER): value for name, value in tensors.items() if name.startswith(_ENCODER)}
    fingerprint = trunk.get("fingerprint") or metadata.get("fingerprint")
    if encoder:
        fingerprint = state_fingerprint(encoder)
    facts = {"encoder's fingerprint": fingerprint} if fingerprint else {}
    if trunk.get("fingerprint"):
        facts["encoder's source"] = trunk.get("source") or "not noted"
    if "detail" in trunk:
        facts["image pyramid's fingerprint"] = trunk["detail"]
    return facts


def _text_facts(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read as {path.suffix[1:].upper()} ({kind_of(error)}): correct it."
        ) from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"{_NO_TABLE.format(path)} those are tables of names and values.")
    if content.get("format") == FORMAT:
        return _calibration_facts(read_calibration(path))
    if "network_data_format" in content:
        told = {name: content.get(name) for name in ("version", "monai_version", "pytorch_version", "task")}
        return {"kind": "the bundle's metadata", **told}
    if facts := _results_facts(content):
        return facts
    is_whole = "network_def" in content
    names = dict.fromkeys(str(name).partition("#")[0] for name in content)
    if names.keys().isdisjoint(shipped()):
        raise InputError(f"{_NO_TABLE.format(path)} none of its names is a setting.")
    return {
        "kind": "config of a workflow" if is_whole else "config to lay over another",
        "components": text.count("_target_"),
        "sets": ", ".join(names),
    }


def _results_facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of splits, of a plan or of a report; none of other tables."""
    if content.keys() <= {*SPLITS} and all(isinstance(listed, list) for listed in content.values()):
        counts = ", ".join(f"{len(listed)} {split}" for split, listed in content.items())
        return {"kind": "splits of a dataset folder", "images": counts}
    if content.get("format") == PLAN_FORMAT and content.keys() >= {"facts", "faults"}:
        images, num_faults = content["facts"].get("num_images"), len(content["faults"])
        return {"kind": "plan of a training", "images": images, "faults and notes": num_faults}
    if content.keys() >= {"schema", "complete", "num_cases", "num_failed", "cases"}:
        kind = f"report of a prediction{'' if content['complete'] else ' that was stopped'}"
        return {"kind": kind, "images": f"{content['num_cases']}, of which {content['num_failed']} could not be used"}
    return {}


def _calibration_facts(content: Mapping[str, Any]) -> dict[str, Any]:
    model, data = content.get("model", {}), content.get("data", {})
    return {
        "kind": "calibration",
        "of the checkpoint": f"{model.get('checkpoint')}, SHA-256 {model.get('sha256')}",
        "encoder's source": model.get("trunk") or "not noted",
        "fitted on": f"{data.get('num_images')} images of the split {data.get('split')}",
        "settings": ", ".join(f"{name} {value}" for name, value in content.get("settings", {}).items()),
        "version": content.get("version", "not noted"),
    }
