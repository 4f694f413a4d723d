"""Recipe for an older file of weights, which was written without one; its tensors stay as they are.

The settings are those of `configs/inference.json` and of the overlays that the weights were trained with. The file's
SHA-256 changes with it, so JSON files that name the model by it (calibrations, results) are told the new one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from icmoe_monai.data.splits import describe_training
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import digest_of, write_atomically
from icmoe_monai.weights.checkpoint import (
    MODEL,
    TRUNK,
    load_network,
    notes_on_trunk,
    read_recipe,
    read_weights,
    write_weights,
)
from icmoe_monai.weights.handlers import LoadFrozen
from icmoe_monai.weights.recipe import make_recipe

ROOT = Path(__file__).parent.parent


def add_recipe(
    checkpoint: Path,
    *,
    configs: Sequence[Path] = (),
    modality: str | None = None,
    splits: Path | None = None,
    retied: Sequence[Path] = (),
) -> None:
    """Write a recipe into a file of weights.

    Args:
        checkpoint: The file, which is replaced.
        configs: Overlays that the weights were trained with, laid over `configs/inference.json`.
        modality: What kind of images they were trained on.
        splits: A splits.json whose list `train` they were trained on.
        retied: Folders of JSON files, in which the SHA-256 of the old file becomes that of the new one; where such a
            file is itself named by its SHA-256 in another, that too.

    Raises:
        InputError: If the file has a recipe, or its weights do not fit the network of the configs.
    """
    if read_recipe(checkpoint)[0] is not None:
        raise InputError(f"{checkpoint} has a recipe, which stays as it is.")
    files = [str(ROOT / "configs" / "inference.json"), *map(str, configs)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update({"checkpoint": None, "device": "cpu"})
    network = parser.get_parsed_content("network")
    frozen = {name: parser.get_parsed_content(name) for name in ("pretrained", "pyramid")}
    LoadFrozen(network=network, **frozen)(Engine(lambda engine, batch: None))
    content = read_weights(checkpoint)
    load_network(network, content, checkpoint)  # refuses weights of another network
    recipe = make_recipe(
        settings=parser.get_parsed_content("settings"),
        network=network,
        segments=parser.get_parsed_content("segments"),
        modality=modality,
        training_set=_training_set(splits),
        **frozen,
    )
    before = digest_of(checkpoint)
    trunk = notes_on_trunk(network, recipe["pretrained"])
    state = {name: value for name, value in content.get(MODEL, content).items() if torch.is_tensor(value)}
    write_weights(state, checkpoint, trunk=trunk, recipe=recipe, whole=TRUNK not in content)
    _retie({before: digest_of(checkpoint)}, [path for folder in retied for path in sorted(folder.rglob("*.json"))])


def _training_set(splits: Path | None) -> dict | None:
    if splits is None:
        return None
    names = json.loads(splits.read_text())
    return describe_training({split: [{"name": name} for name in listed] for split, listed in names.items()})


def _retie(digests: dict[str, str], files: Sequence[Path]) -> None:
    while digests:
        changed: dict[str, str] = {}
        for path in files:
            before, text = digest_of(path), path.read_text(encoding="utf-8")
            for old, new in digests.items():
                text = text.replace(old, new)
            if text != path.read_text(encoding="utf-8"):
                write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
                changed[before] = digest_of(path)
        digests = changed
