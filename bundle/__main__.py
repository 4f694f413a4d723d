"""Command line `python -m bundle assemble | verify | export | recipe`, run in the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle.assemble import NAME, assemble
from bundle.export import export
from bundle.recipe import add_recipe
from bundle.verify import verify
from icmoe_monai.errors import find_input_error

ROOT = Path(__file__).parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status, 1 after an `InputError`."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except Exception as error:  # MONAI's configs wrap what their parts raise
        cause = find_input_error(error)
        if cause is None:
            raise
        sys.stderr.write(f"error: {cause}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bundle", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="assemble | verify | export | recipe")
    one = commands.add_parser("assemble", help="write the folder and the archive that are published")
    one.add_argument("--output_dir", type=Path, default=ROOT / "dist")
    one.add_argument("--weights_url", help="folder from which files above the zoo's limit are downloaded")
    one.set_defaults(command=_assemble)
    two = commands.add_parser("verify", help="check a copy, with only that copy importable")
    two.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist" / NAME)
    two.add_argument("--schema", type=Path, help="file of MONAI's metadata schema; else it is downloaded")
    two.add_argument("--only", nargs="*", metavar="CHECK", help="only these checks, as checks.py names them")
    two.set_defaults(command=lambda options: verify(options.folder, options.schema, options.only))
    three = commands.add_parser("export", help="write model.pt, model.ts and model.onnx, and how far they agree")
    three.add_argument("--checkpoint", type=Path, default=ROOT / "models" / "model.pt")
    three.add_argument("--images", type=Path, help="folder of images to compare on; phantoms if left out")
    three.add_argument("--num_images", type=int, default=20)
    three.add_argument("--longest_side", type=int, help="of an image as the network sees it; else as in the training")
    three.add_argument("--recipe", choices=["auto", "none"], default="auto", help="none: go by the config's defaults")
    three.add_argument("--output_dir", type=Path, default=ROOT / "dist" / "exported")
    three.add_argument("--tensorrt", action="store_true", help="also TensorRT, through MONAI, where CUDA is")
    three.set_defaults(command=_export)
    four = commands.add_parser("recipe", help="write a recipe into an older file of weights, which has none")
    four.add_argument("checkpoint", type=Path)
    four.add_argument("--config", type=Path, action="append", default=[], help="overlay that it was trained with")
    four.add_argument("--modality", help="what kind of images it was trained on")
    four.add_argument("--splits", type=Path, help="splits.json whose list train it was trained on")
    four.add_argument("--retie", type=Path, nargs="*", default=[], help="folders of JSON files that name its SHA-256")
    four.set_defaults(command=_add_recipe)
    return parser


def _assemble(options: argparse.Namespace) -> int:
    folder, archive = assemble(ROOT, options.output_dir, options.weights_url)
    sys.stdout.write(f"{folder}\n{archive}\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    export(
        options.checkpoint,
        options.output_dir,
        images=options.images,
        num_images=options.num_images,
        longest_side=options.longest_side,
        recipe=options.recipe,
        tensorrt=options.tensorrt,
    )
    sys.stdout.write(f"{options.output_dir}\n")
    return 0


def _add_recipe(options: argparse.Namespace) -> int:
    add_recipe(
        options.checkpoint,
        configs=options.config,
        modality=options.modality,
        splits=options.splits,
        retied=options.retie,
    )
    sys.stdout.write(f"{options.checkpoint}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
