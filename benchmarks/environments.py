"""Segment the same images with the oldest and the newest libraries that setup.cfg allows, and with those pinned here.

    python -m benchmarks.environments --images FOLDER --output docs/results/environments.json

The package, as last committed, is installed into two environments by uv, which must be at hand: `lowest` has the oldest
version of every library that setup.cfg names, `newest` the newest of each. Masks are compared pixel by pixel with those
of this clone in the environment that runs this command. It needs a package index, several gigabytes, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.command import tell
from benchmarks.study.file import ROOT
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import write_json

RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
_PINNED = "pinned"
_LIBRARIES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "pillow", "scikit-image", "scikit-learn")
_VERSIONS = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {_LIBRARIES!r}}}))"


def compare(folders: Mapping[str, Path], *, reference: str) -> dict[str, dict[str, int]]:
    """Compare the masks of several folders of `icmoe predict` with those of one of them.

    Args:
        folders: The folders by the environment's name.
        reference: The environment that the others are compared with.

    Returns:
        For each other environment `num_masks`, `num_pixels`, and `num_differing_pixels`.

    Raises:
        InputError: If the folders do not have the same masks, or there are none.
    """
    masks = {name: {path.name: path for path in (folder / "masks").glob("*.png")} for name, folder in folders.items()}
    expected = masks.pop(reference)
    found = {}
    for name, paths in masks.items():
        if not expected or paths.keys() != expected.keys():
            raise InputError(f"{name} has {len(paths)} masks, {reference} has {len(expected)}: see their report.json.")
        pairs = [(np.asarray(Image.open(paths[mask])), np.asarray(Image.open(expected[mask]))) for mask in expected]
        found[name] = {
            "num_masks": len(pairs),
            "num_pixels": sum(theirs.size for theirs, _ in pairs),
            "num_differing_pixels": sum(int((theirs != ours).sum()) for theirs, ours in pairs),
        }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Install, segment, compare, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    uv = shutil.which("uv")
    if uv is None:
        raise InputError("uv is not on the PATH: install it, `pip install uv`.")
    with tempfile.TemporaryDirectory() as place:
        folders, versions = {_PINNED: Path(place, _PINNED)}, {_PINNED: {name: version(name) for name in _LIBRARIES}}
        _run([sys.executable, "-m", "icmoe_monai", *_predict(options.images, folders[_PINNED])], ROOT)
        source = Path(place, "source")  # installing leaves files beside the sources
        _run(["git", "clone", "--quiet", str(ROOT), str(source)], ROOT)
        for name, resolution in RESOLUTIONS.items():
            tell(f"installing {name}")
            python = Path(place, f"env_{name}", "bin", "python")
            _run([uv, "venv", "--quiet", "--python", sys.executable, str(python.parents[1])], ROOT)
            install = [
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                str(python),
                "--resolution",
                resolution,
                str(source),
            ]
            _run(install, source)
            folders[name] = Path(place, name)
            versions[name] = json.loads(_run([str(python), "-c", _VERSIONS], Path(place)))
            # from a folder without a clone, whose package would be imported in place of the installed one
            _run([str(python), "-m", "icmoe_monai", *_predict(options.images, folders[name])], Path(place))
        content = {"python": sys.version.split()[0], "versions": versions, **compare(folders, reference=_PINNED)}
    if options.output:
        write_json(options.output, content)
    print(json.dumps(content))  # noqa: T201


def _predict(images: Path, output: Path) -> list[str]:
    return ["predict", str(images.resolve()), str(output), "--device", "cpu"]


def _run(command: Iterable[str], folder: Path) -> str:
    done = subprocess.run(list(command), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)} has failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")
