"""Command `icmoe predict`: segment images by one pack of experts, or by several side by side."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from icmoe_monai.calibration.file import AUTO, NONE
from icmoe_monai.commands.workflow import (
    build_workflow,
    check_overlays,
    find_config,
    images_path,
    names_of_packs,
    overrides_of,
    pack_file,
)
from icmoe_monai.errors import InputError
from icmoe_monai.inference.anonymity import NamedResults, read_anonymous
from icmoe_monai.inference.inputs import check_output_dir
from icmoe_monai.inference.packs import run_packs, shared_parts
from icmoe_monai.pacs.retrieval import RETRIEVED, Wanted
from icmoe_monai.pacs.storing import check_has_objects
from icmoe_monai.utils.locks import HeldFolder, hold_folder

_BASES = ("inference.json", "dicomweb.yaml")
_OF_ARCHIVES = ("study", "series", "modality", "date", "store", "credentials", "ca")


def predict(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Run one pack of experts, or several side by side.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings to override, by name.

    Raises:
        InputError: If the options do not go together, or nothing could start.
        FailedCasesError: If images could not be used.
    """
    is_choice = given.experts == AUTO
    packs = names_of_packs(root) if is_choice else _checked_packs(root, given.experts)
    output = Path(os.path.abspath(given.output))
    # an option that is not given is no override, for a --config may set it
    overrides: dict[str, Any] = {name: True for name in ("overwrite", "anonymous") if getattr(given, name)}
    overrides |= {**further, **overrides_of(given)}
    overrides |= {"output_dir": str(output), **_images(given, output)}
    if "anonymous" in overrides:
        overrides["anonymous"] = read_anonymous(overrides["anonymous"])
    if overrides.get("store"):
        check_has_objects(overrides.get("anonymous", False), overrides.get("dicom_seg", "binary"))
    if overrides.get("keep_retrieved") is False and not (overrides.get("store") and len(packs) < 2):
        raise InputError(
            "--keep_retrieved False removes images once their results are stored, and goes with --store and one set of "
            "experts: several need the images until the last has run."
        )
    configs = [find_config(root, name) for name in given.config]
    bases = [root / "configs" / name for name in _BASES[: 2 if given.dicomweb else 1]]
    check_overlays(bases, configs)
    if len(packs) > 1:
        _predict_packs(root, packs, configs, overrides, bases, choose=is_choice)
    else:
        flow = _workflow(root, packs, configs, overrides, bases)
        flow.run()
        flow.finalize()


def _images(given: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Return the settings that say where the images are."""
    own = {name: value for name in _OF_ARCHIVES if (value := getattr(given, name))}
    if not given.dicomweb:
        if own:
            raise InputError(f"--{next(iter(own))} is of an archive: give its address, --dicomweb URL.")
        return {"dataset_dir": images_path(given.input)}
    Wanted(given.study, given.series, given.modality, given.date).check()
    own |= {name: os.path.abspath(own[name]) for name in ("credentials", "ca") if name in own}
    return {**own, "dicomweb": given.dicomweb, "dataset_dir": str(output / RETRIEVED)}


def _predict_packs(
    root: Path,
    packs: Sequence[str],
    configs: Sequence[Path],
    overrides: Mapping[str, Any],
    bases: Sequence[Path],
    *,
    choose: bool,
) -> None:
    for name in ("checkpoint", "calibration"):
        if overrides.get(name) not in (None, AUTO, NONE):
            raise InputError(f"--{name} belongs to one set of experts: give one name to --experts, or no --{name}.")
    if configs:
        raise InputError("--config belongs to one set of experts: give one name to --experts, or no --config.")
    output = Path(overrides["output_dir"])
    folders = {name: output / name for name in packs}
    if overrides.get("anonymous"):
        NamedResults(output).check()  # of a run of one pack; each pack's own folder is checked by its journal
    for folder in folders.values():
        check_output_dir(Path(overrides["dataset_dir"]), folder)
    held: list[HeldFolder] = []
    flows: dict[str, ConfigWorkflow] = {}
    shared: dict[str, Any] = {"inputs#output_dir": str(output), "demo_dir": str(output / "demo")}
    try:
        for name, folder in folders.items():
            if flows:
                shared = shared_parts(flows[packs[0]], pack_file(root, name))
            flows[name] = _workflow(root, [name], [], {**overrides, **shared, "output_dir": str(folder)}, bases)
            for place in (output, folder):  # before inputs are looked for, which may note something in the output
                held += hold_folder(str(place), task="inference")
        run_packs(flows, choose_into=output if choose else None)
    finally:
        held.clear()
        _remove_empty(folders.values())  # of packs that know no image
    for flow in flows.values():
        flow.finalize()


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _checked_packs(root: Path, experts: str | None) -> list[str]:
    known, packs = names_of_packs(root), [name.strip() for name in experts.split(",")] if experts else []
    for name in packs:
        if name not in known:
            names = ", ".join(known)
            raise InputError(
                f"--experts knows no {name!r}: choose from {names}, several with a comma between, or auto."
            )
        if packs.count(name) > 1:
            raise InputError(f"--experts names {name} twice: name each once.")
    return packs


def _workflow(
    root: Path,
    packs: Sequence[str],
    configs: Sequence[Path],
    overrides: Mapping[str, Any],
    bases: Sequence[Path],
) -> ConfigWorkflow:
    files = [*bases, *(pack_file(root, name) for name in packs), *configs]
    return build_workflow(root, files, overrides, workflow_type="infer")
