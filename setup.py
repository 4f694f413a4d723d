"""Build step: a wheel also holds the configs and weights of the bundle, in a folder of the package.

All else about the package is in setup.cfg. An editable installation copies nothing, since there the bundle lies beside
the package, as in a clone.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# `icmoe_monai.settings.find_bundle_root` looks here
BUNDLE = "icmoe_monai/bundle"
FOLDERS = ("configs", "models")
OURS_ALONE = "configs/studies"


class BuildWithBundle(build_py):
    """Copy the bundle's files when the package is built."""

    def run(self) -> None:
        """Build the package, then copy the bundle's files into it."""
        super().run()
        if not self.editable_mode:
            for source, target in self._bundle().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the files that are built, those of the bundle included."""
        further = [] if self.editable_mode else self._bundle()
        return [*super().get_outputs(include_bytecode), *further]

    def _bundle(self) -> dict[str, str]:
        """Return the built path of each of the bundle's files."""
        paths = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.*"))]
        # without what `--runtime` and `icmoe quantize` have left beside the weights
        paths = [path for path in paths if not path.name.endswith((".onnx", ".int8.json"))]
        shipped = [path for path in paths if path.is_file() and not path.is_relative_to(OURS_ALONE)]
        return {str(path): str(Path(self.build_lib) / BUNDLE / path) for path in shipped}


setup(cmdclass={"build_py": BuildWithBundle})
