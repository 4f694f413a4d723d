"""`python -m icmoe_monai predict IN OUT`: the bundle's inference workflow by a short name."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow

from icmoe_monai.calibration import AUTO, NONE
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.settings import find_bundle_root

_OPTIONS = ("--help", "--experts", "--checkpoint", "--calibration", "--device", "--overwrite", "--anonymous")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Of the command line; the process's own by default.

    Returns:
        The exit status: 0, or 1 if something failed.
    """
    root = Path(find_bundle_root())
    parser = _parser(sorted(path.stem for path in (root / "configs" / "experts").glob("*.yaml")))
    try:
        own, further = _take_further(sys.argv[1:] if arguments is None else arguments, _OPTIONS)
        known = parser.parse_args(own)
        _predict(root, known, further)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: the cases done so far are kept, and the same command goes on with the others\n")
        return 130
    except Exception as error:
        cause = find_input_error(error)
        if cause is None:
            raise
        sys.stderr.write(f"\nerror: {cause}\n")
        return 1
    sys.stdout.write(f"\nThe report: {Path(known.output, 'report.html')}\n")
    return 0


def _parser(experts: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m icmoe_monai", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="predict")
    predict = commands.add_parser(
        "predict",
        help="segment images",
        description="Segment an image, a folder of images (DICOM, PNG, JPEG, TIFF, BMP, WebP, NIfTI) or a DICOMDIR. "
        "The same command again, without --overwrite, goes on where it was stopped. Further options, --NAME VALUE, "
        "override what configs/inference.json defines, such as --probability_maps true.",
    )
    predict.add_argument("input", metavar="IN", help="the image, folder or DICOMDIR")
    predict.add_argument("output", metavar="OUT", help="folder of the results")
    predict.add_argument("--experts", choices=experts, help="what the experts were trained for (default: skin)")
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


def _predict(root: Path, known: argparse.Namespace, overrides: dict[str, Any]) -> None:
    configs = [root / "configs" / "inference.json"]
    if known.experts:
        configs.append(root / "configs" / "experts" / f"{known.experts}.yaml")
    if known.checkpoint:
        overrides["checkpoint"] = os.path.abspath(known.checkpoint)
    if known.calibration:
        is_word = known.calibration in (AUTO, NONE)
        overrides["calibration"] = known.calibration if is_word else os.path.abspath(known.calibration)
    if known.device:
        overrides["device"] = known.device
    # whole paths, as MONAI would read "$HOME" and the like as an expression
    overrides |= {"dataset_dir": os.path.abspath(known.input), "output_dir": os.path.abspath(known.output)}
    overrides |= {"overwrite": known.overwrite, "anonymous": overrides.get("anonymous") or known.anonymous}
    workflow = ConfigWorkflow(
        config_file=[str(path) for path in configs],
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _take_further(words: Sequence[str], known: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate what overrides the config, --NAME VALUE or --NAME=VALUE of other names, from the command's own words.

    Args:
        words: Of the command line.
        known: The command's own options.

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
