"""Command line `python -m icmoe_monai`: `predict` segments images, `prepare` makes a dataset folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from icmoe_monai.calibration.file import AUTO, NONE
from icmoe_monai.data.prepare import main as prepare
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.inference.inputs import check_output_dir
from icmoe_monai.inference.packs import run_packs, shared_parts
from icmoe_monai.settings import find_bundle_root

_OPTIONS = ("--help", "--experts", "--checkpoint", "--calibration", "--device", "--overwrite", "--anonymous")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m icmoe_monai`.

    Args:
        arguments: Words of the command line; by default those of this process.

    Returns:
        The exit status: 0, 1 if something failed, or 130 if the user stopped it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["prepare"]:
        prepare(words[1:])
        return 0
    root = Path(find_bundle_root())
    parser = _parser(_names_of_packs(root))
    try:
        own, further = _take_further(words, _OPTIONS)
        known = parser.parse_args(own)
        folders = _predict(root, known, further)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: the cases done so far are kept, and the same command goes on with the others\n")
        return 130
    except Exception as error:
        cause = find_input_error(error)
        if cause is None:
            raise
        sys.stderr.write(f"\nerror: {cause}\n")
        return 1
    for folder in folders:
        sys.stdout.write(f"\nThe report: {folder / 'report.html'}\n")
    return 0


def _parser(experts: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m icmoe_monai", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="predict|prepare")
    predict = commands.add_parser(
        "predict",
        help="segment images",
        description="Segment an image, a folder of images (DICOM, PNG, JPEG, TIFF, BMP, WebP, NIfTI) or a DICOMDIR. "
        "The same command again, without --overwrite, goes on where it was stopped. Further options, --NAME VALUE, "
        "override what configs/inference.json defines, such as --probability_maps True.",
    )
    commands.add_parser("prepare", help="make a dataset folder of an official archive", add_help=False)
    predict.add_argument("input", metavar="IN", help="the image, folder or DICOMDIR")
    predict.add_argument("output", metavar="OUT", help="folder of the results")
    predict.add_argument(
        "--experts",
        metavar="NAME",
        help=f"what the experts were trained for: {', '.join(experts)} (default: skin). A list, such as "
        f"{','.join(experts)}, runs all of them over one pass of the encoder, each into its own folder of OUT",
    )
    predict.add_argument("--checkpoint", metavar="FILE", help="weights of your own training")
    predict.add_argument(
        "--calibration",
        metavar="FILE",
        help="calibration of the weights, or none (default: STEM.calibration.json beside them, where it is there)",
    )
    predict.add_argument("--device", help="such as cpu or cuda:0 (default: CUDA where there is one)")
    predict.add_argument("--overwrite", action="store_true", help="do finished cases again")
    predict.add_argument(
        "--anonymous",
        action="store_true",
        help="salted hashes in the place of file names; --anonymous=SALT for a salt of your own",
    )
    return parser


def _predict(root: Path, known: argparse.Namespace, overrides: dict[str, Any]) -> list[Path]:
    """Run one pack of experts, or several side by side.

    Returns:
        The folders of the results, one per pack.
    """
    packs = _checked_packs(root, [name.strip() for name in known.experts.split(",")]) if known.experts else []
    if known.checkpoint:
        overrides["checkpoint"] = os.path.abspath(known.checkpoint)
    if known.calibration:
        is_word = known.calibration in (AUTO, NONE)
        overrides["calibration"] = known.calibration if is_word else os.path.abspath(known.calibration)
    if known.device:
        overrides["device"] = known.device
    # absolute paths, since MONAI evaluates text that begins with "$"
    output = Path(os.path.abspath(known.output))
    overrides |= {"dataset_dir": os.path.abspath(known.input), "output_dir": str(output)}
    overrides |= {"overwrite": known.overwrite, "anonymous": overrides.get("anonymous") or known.anonymous}
    if len(packs) > 1:
        return _predict_packs(root, packs, output, overrides)
    flow = _workflow(root, packs, overrides)
    flow.run()
    flow.finalize()
    return [output]


def _predict_packs(root: Path, packs: Sequence[str], output: Path, overrides: Mapping[str, Any]) -> list[Path]:
    for name in ("checkpoint", "calibration"):
        if overrides.get(name) not in (None, AUTO, NONE):
            raise InputError(f"--{name} belongs to one set of experts: give one name to --experts, or no --{name}.")
    folders = {name: output / name for name in packs}
    for folder in folders.values():
        check_output_dir(Path(overrides["dataset_dir"]), folder)
    flows: dict[str, ConfigWorkflow] = {}
    shared: dict[str, Any] = {"inputs#output_dir": str(output), "demo_dir": str(output / "demo")}
    for name, folder in folders.items():
        if flows:
            shared = shared_parts(flows[packs[0]], _pack_file(root, name))
        flows[name] = _workflow(root, [name], {**overrides, **shared, "output_dir": str(folder)})
    run_packs(flows)
    for flow in flows.values():
        flow.finalize()
    return list(folders.values())


def _checked_packs(root: Path, packs: list[str]) -> list[str]:
    known = _names_of_packs(root)
    for name in packs:
        if name not in known:
            names = ", ".join(known)
            raise InputError(f"--experts knows no {name!r}: choose from {names}, several with a comma between.")
        if packs.count(name) > 1:
            raise InputError(f"--experts names {name} twice: name each once.")
    return packs


def _workflow(root: Path, packs: Sequence[str], overrides: Mapping[str, Any]) -> ConfigWorkflow:
    configs = [root / "configs" / "inference.json", *(_pack_file(root, name) for name in packs)]
    flow = ConfigWorkflow(
        config_file=[str(path) for path in configs],
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **overrides,
    )
    flow.initialize()
    return flow


def _pack_file(root: Path, name: str) -> Path:
    return root / "configs" / "experts" / f"{name}.yaml"


def _names_of_packs(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "configs" / "experts").glob("*.yaml"))


def _take_further(words: Sequence[str], known: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate the command's own words from overrides of the config, --NAME VALUE or --NAME=VALUE.

    Args:
        words: Words of the command line.
        known: The command's own options; every other option overrides the config.

    Returns:
        The command's own words, and the overrides by name.

    Raises:
        InputError: If a value is missing.
    """
    own: list[str] = []
    further: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            own += [word, *rest]
        elif word.startswith("--anonymous="):
            further["anonymous"] = value
        elif not name.startswith("--") or name in known:
            own.append(word)
        else:
            value = value if equals else next(rest, "")
            if not value:
                raise InputError(f"{name} needs a value: {name} VALUE.")
            further[name[2:]] = yaml.safe_load(value)
    return own, further


if __name__ == "__main__":
    sys.exit(main())
