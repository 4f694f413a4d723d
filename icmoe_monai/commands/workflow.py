"""Workflows of the bundle: find their configs, and build them as `python -m monai.bundle run` does."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import merge_kv

from icmoe_monai.calibration.file import AUTO, NONE
from icmoe_monai.checks import check_values
from icmoe_monai.data.demo import is_demo
from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.names import check_overrides, plain
from icmoe_monai.settings import find_bundle_root
from icmoe_monai.utils.logs import writes_json

_SUFFIXES = (".yaml", ".yml", ".json")


def find_bundle() -> Path:
    """Return the folder of the bundle.

    Raises:
        InputError: If the package came without it.
    """
    root = Path(find_bundle_root())
    if not (root / "configs" / "metadata.json").is_file():
        raise InputError(
            "The bundle's configs/ and models/ came neither with this package nor are they in this folder: install the "
            "package from its wheel or repository, or work in a copy of the bundle."
        )
    return root


def names_of_packs(root: Path) -> list[str]:
    """Return the names of the packs of experts, sorted."""
    return sorted(path.stem for path in (root / "configs" / "experts").glob("*.yaml"))


def pack_file(root: Path, name: str) -> Path:
    """Return the config of a pack of experts."""
    return root / "configs" / "experts" / f"{name}.yaml"


def find_config(root: Path, name: str) -> Path:
    """Find a config: a file, or one of the bundle's by its path in `configs`, where the suffix may be left out.

    Args:
        root: Folder of the bundle.
        name: Path of the config, such as mine.yaml, backbones/vit_b.yaml or demo.

    Raises:
        InputError: If there is none, or it is no table of names and values.
    """
    shipped = [folder / f"{name}{suffix}" for folder in (root / "configs", root) for suffix in ("", *_SUFFIXES)]
    path = next((path for path in (Path(os.path.abspath(name)), *shipped) if path.is_file()), None)
    if path is None:
        raise InputError(f"--config finds no {name}: give a file, or the path of one in {root / 'configs'}.")
    fault = _fault_of(path)
    if fault:
        raise InputError(f"{path} cannot be used as a config, {fault}: correct it.")
    return path


def _fault_of(path: Path) -> str | None:
    """Return why a file is no config, or None; MONAI tells by exceptions of many kinds, or not at all."""
    if path.suffix.lower() not in _SUFFIXES:
        return f"for its name ends in none of {', '.join(_SUFFIXES)}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Duplicate key")
            content = ConfigParser.load_config_file(path)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return f"{place}{' '.join(str(error.problem).split())}"
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        return kind_of(error)
    except (ValueError, UserWarning) as error:
        return str(error)
    if not isinstance(content, dict):
        return "since it is empty" if content is None else "since it is no table of names and values"
    wrong = next((name for name in content if not isinstance(name, str)), None)
    return None if wrong is None else f"since {wrong!r} is no name of a setting"


def load_configs(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Lay configs over each other, as `python -m monai.bundle run` does.

    Args:
        paths: The configs, of which later ones are laid over earlier ones.

    Raises:
        InputError: If one changes a part that those before it do not have.
    """
    config = ConfigParser({})
    for path in paths:
        try:
            for name, value in ConfigParser.load_config_file(path).items():
                merge_kv(config, name, value)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path} changes {name}, which the configs before it do not have so: correct it."
            ) from error
    return dict(config.get())


def check_overlays(bases: Sequence[Path], overlays: Sequence[Path]) -> None:
    """Refuse a config of another workflow: laid over a command's own, it would run that in the command's place.

    Args:
        bases: The command's own configs.
        overlays: The user's.

    Raises:
        InputError: If one says otherwise what is run.
    """
    steps = load_configs(bases).get("run")
    for path in overlays:
        content = ConfigParser.load_config_file(path)
        is_another = path.parent == bases[0].parent and "run" in content and path not in bases  # a shipped one
        if is_another or content.get("run", steps) != steps:
            raise InputError(
                f"{path} runs a workflow of its own, not this one: leave it out, or run it by its own command."
            )


def check_settings(paths: Sequence[str | Path], names: Iterable[str]) -> None:
    """Check that configs know the names of overrides.

    Args:
        paths: The configs, of which later ones are laid over earlier ones.
        names: The names.

    Raises:
        InputError: If they do not.
    """
    own = inspect.signature(ConfigWorkflow).parameters  # such as tracking
    check_overrides(load_configs(paths), [name for name in names if name not in own])


def images_path(name: str) -> str:
    """Return the absolute path of a folder or file of images, or demo, which stands for phantoms.

    Args:
        name: As the user wrote it.
    """
    return name if is_demo(name) else os.path.abspath(name)


def overrides_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that a command's own options stand for.

    Paths are absolute, since MONAI evaluates text that begins with "$".
    """
    found: dict[str, Any] = {}
    for option in ("checkpoint", "calibration", "device"):
        value = getattr(given, option, None)
        if value:
            is_path = option != "device" and not (option == "calibration" and value in (AUTO, NONE))
            found[option] = os.path.abspath(value) if is_path else value
    return found


def build_workflow(
    root: Path, configs: Sequence[Path], overrides: Mapping[str, Any], *, workflow_type: str
) -> ConfigWorkflow:
    """Build and initialize a workflow.

    Args:
        root: Folder of the bundle.
        configs: The configs, of which later ones are laid over earlier ones.
        overrides: Settings by name; a "#" in a text stays one.
        workflow_type: train or infer, as MONAI names them.

    Raises:
        InputError: If the configs do not know the name of an override, or a setting cannot work.
    """
    files = [str(path) for path in configs]
    check_settings(files, overrides)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns of configs in several folders
    flow = ConfigWorkflow(
        config_file=files,
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False if writes_json() else str(root / "configs" / "logging.conf"),
        workflow_type=workflow_type,
        **{name: plain(value) for name, value in overrides.items()},
    )
    flow.initialize()
    check_values(flow.parser)  # the workflow's own first step comes too late where workflows share parts
    return flow
