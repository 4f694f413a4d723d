"""The wheel, installed: `icmoe` works in an empty folder, without a clone, and says what the bundle's command says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.version import __version__

ROOT = Path(__file__).parents[2]
LARGEST = 100_000_000  # bytes; the package index's limit of a file
SMALL = ("--image_size", "64", "--num_workers", "0", "--device", "cpu")
pytestmark = pytest.mark.slow


def run(command: list[str | Path], folder: Path, **environment: str) -> str:
    """Run a command in a folder, without this clone on its path, and return what it said."""
    rest = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    done = subprocess.run(command, cwd=folder, env={**rest, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in run(["git", "ls-files"], ROOT).splitlines():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source], folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel, in which all other packages are this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # a folder that a .pth names is searched, and its own .pth files, such as this clone's, are not read
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 12 discs."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for name in ("images", "masks"):
        (root / name).mkdir()
    for index in range(12):
        row, column = rng.integers(20, 44, 2)
        disc = (rows - row) ** 2 + (columns - column) ** 2 < rng.integers(8, 16) ** 2
        image = np.where(disc[..., None], (110, 60, 50), (220, 180, 170)) + rng.normal(0, 8, (64, 64, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{index}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(root / "masks" / f"{index}.png")
    return root


def test_the_wheel_is_small_enough_for_the_package_index(wheel):
    assert wheel.stat().st_size < LARGEST


def test_masks_are_those_of_the_bundles_command_in_the_clone(programs, data, tmp_path):
    images, output = data / "images", tmp_path / "clone"
    words = ["--config_file", "configs/inference.json", "--dataset_dir", images, "--output_dir", output]
    run([sys.executable, "-m", "monai.bundle", "run", *words], ROOT, PYTHONPATH=str(ROOT))
    assert run([programs / "icmoe", "predict", images, "out"], tmp_path).endswith("out/report.html\n")
    masks = sorted((output / "masks").iterdir())
    assert len(masks) == 12
    for mask in masks:
        assert (tmp_path / "out" / "masks" / mask.name).read_bytes() == mask.read_bytes()
    model, other = (json.loads((folder / "report.json").read_text())["model"] for folder in (output, tmp_path / "out"))
    assert model == other


def test_a_model_is_trained_evaluated_and_used_in_an_empty_folder(programs, data, tmp_path):
    icmoe, package = programs / "icmoe", next(programs.parent.glob("lib*/python*/site-packages/icmoe_monai"))
    before = shipped(package)
    short = ["--max_epochs", "1", "--min_steps", "2", "--cache_rate", "0"]
    assert run([icmoe, "train", data, "mine", *SMALL, *short], tmp_path).endswith("mine/best.pt\n")
    best = ["--checkpoint", "mine/best.pt", *SMALL]
    said = run([icmoe, "evaluate", data, "scores", *best, "--num_bootstrap", "20"], tmp_path)
    assert "scores/summary.json\n" in said
    run([icmoe, "predict", data / "images", "masks", *best], tmp_path)
    assert json.loads((tmp_path / "masks" / "report.json").read_text())["num_cases"] == 12
    assert "own_network {" in run([icmoe, "info", "mine/best.pt"], tmp_path)
    config = package / "bundle" / "configs" / "inference.json"
    words = ["--config_file", config, "--dataset_dir", data / "images", *SMALL, "--recipe", "none"]
    run([programs / "python", "-m", "monai.bundle", "run", *words], tmp_path)  # which by default writes here
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "scores", "masks", "predictions"}
    assert shipped(package) == before


def test_the_module_is_the_same_command(programs, tmp_path):
    said = run([programs / "python", "-m", "icmoe_monai", "--version"], tmp_path)
    assert said == run([programs / "icmoe", "--version"], tmp_path) == f"icmoe_monai {__version__}\n"
    where = run([programs / "python", "-c", "import icmoe_monai; print(icmoe_monai.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)


def shipped(package: Path) -> dict[str, int]:
    """Return the files of the installed package but its caches, and when each was written."""
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(package)): path.stat().st_mtime_ns for path in files}
