"""Workflows of the bundle: find their configs, and build them as `python -m monai.bundle run` does."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from icmoe_monai.calibration.file import AUTO, NONE
from icmoe_monai.checks import check_values
from icmoe_monai.data.demo import is_demo
from icmoe_monai.errors import InputError
from icmoe_monai.names import check_overrides, plain
from icmoe_monai.settings import find_bundle_root
from icmoe_monai.utils.logs import writes_json


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
        InputError: If there is none.
    """
    if Path(name).is_file():
        return Path(os.path.abspath(name))
    for folder in (root / "configs", root):
        for suffix in ("", ".yaml", ".json"):
            path = folder / f"{name}{suffix}"
            if path.is_file():
                return path
    raise InputError(f"--config finds no {name}: give a file, or the path of one in {root / 'configs'}.")


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
    own = inspect.signature(ConfigWorkflow).parameters  # such as tracking
    check_overrides(ConfigParser.load_config_files(files), [name for name in overrides if name not in own])
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
