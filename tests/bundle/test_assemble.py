"""What is published: `python -m bundle assemble`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from bundle import checks
from bundle.__main__ import main
from bundle.assemble import NAME, assemble, published
from icmoe_monai.errors import InputError
from icmoe_monai.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble(ROOT, tmp_path_factory.mktemp("dist"))[0]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one file in each published folder."""
    root = tmp_path / "repository"
    for name in ("LICENSE", "configs/metadata.json", "docs/README.md", "icmoe_monai/version.py", "models/model.pt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    git(root, "init", "-q")
    git(root, "add", "-A")
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True)


def test_the_copy_is_what_the_zoo_asks_for(copy):
    checks.files_are_those_that_were_assembled(copy)
    checks.the_zoos_files_are_there(copy)
    checks.name_and_version_are_the_zoos(copy)
    checks.configs_are_canonical(copy)
    checks.configs_have_the_zoos_keys(copy)
    assert not (copy / "configs" / "studies").exists()
    assert {path.name for path in copy.iterdir()} == {
        "LICENSE", "SHA256SUMS", "configs", "docs", "icmoe_monai", "models"
    }  # fmt: skip


def test_a_link_in_the_copys_documents_leads_somewhere(copy):
    for path in (copy / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            assert link.startswith("http") or (path.parent / link).exists(), f"{path.name}: {link}"


def test_another_assembly_is_the_same_byte_for_byte(repository, tmp_path):
    archives = [assemble(repository, tmp_path / name)[1].read_bytes() for name in ("one", "two")]
    assert archives[0] == archives[1]
    with zipfile.ZipFile(tmp_path / "one" / f"{NAME}_v{__version__}.zip") as file:
        assert file.namelist() == sorted(file.namelist())
        assert all(name.startswith(f"{NAME}/") for name in file.namelist())


def test_what_git_does_not_know_is_refused_and_nothing_is_written(repository, tmp_path):
    (repository / "configs" / "notes.json").write_text("{}")
    with pytest.raises(InputError, match=r"git does not know configs/notes\.json: add or remove it"):
        assemble(repository, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_caches_are_left_out_in_silence(repository):
    (repository / "icmoe_monai" / "__pycache__").mkdir()
    (repository / "icmoe_monai" / "__pycache__" / "version.pyc").write_text("")
    assert "icmoe_monai/version.py" in published(repository)
    assert not any("__pycache__" in path for path in published(repository))


def test_a_missing_file_and_a_link_are_refused(repository):
    (repository / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"models/model\.pt is missing"):
        published(repository)
    (repository / "models" / "model.pt").symlink_to(repository / "LICENSE")
    with pytest.raises(InputError, match=r"models/model\.pt is a link"):
        published(repository)


def test_large_weights_are_named_with_their_checksum_and_left_out(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.assemble.LARGEST", 14)
    folder, _ = assemble(repository, tmp_path / "dist", "https://example.org/weights/")
    entries = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert {
        "path": "models/model.pt",
        "url": "https://example.org/weights/model.pt",
        "hash_val": hashlib.sha256(b"models/model.pt").hexdigest(),
        "hash_type": "sha256",
    } in entries
    assert not (folder / "models" / "model.pt").exists()
    assert (folder / "LICENSE").is_file()


def test_a_tampered_a_missing_and_a_further_file_are_found(repository, tmp_path):
    folder, _ = assemble(repository, tmp_path / "dist")
    weights = folder / "models" / "model.pt"
    weights.write_text("models/model.pT")
    with pytest.raises(checks.CheckError, match=r"models/model\.pt is not the file that was assembled"):
        checks.files_are_those_that_were_assembled(folder)
    weights.rename(folder / "models" / "other.pt")
    with pytest.raises(checks.CheckError, match=r"missing: \['models/model\.pt'\]"):
        checks.files_are_those_that_were_assembled(folder)
    weights.write_text("models/model.pt")
    with pytest.raises(checks.CheckError, match=r"left over: \['models/other\.pt'\]"):
        checks.files_are_those_that_were_assembled(folder)


def test_what_was_assembled_before_is_replaced(repository, tmp_path):
    folder, _ = assemble(repository, tmp_path / "dist")
    (folder / "left.txt").write_text("")
    assemble(repository, tmp_path / "dist")
    assert not (folder / "left.txt").exists()


def test_verify_runs_where_only_the_copy_is_importable(copy, capfd):
    words = ["verify", str(copy), "--only", "files_are_those_that_were_assembled", "the_package_is_the_copys"]
    assert main(words) == 0
    assert capfd.readouterr().out.count(": holds (") == 2


def test_verify_fails_for_a_copy_that_lacks_a_file(copy, tmp_path, capfd):
    other = tmp_path / NAME
    other.mkdir()
    for name in ("configs", "icmoe_monai"):
        (other / name).symlink_to(copy / name)
    assert main(["verify", str(other), "--only", "the_zoos_files_are_there"]) == 1
    assert "the zoos files are there: FAILED: LICENSE is missing" in capfd.readouterr().out


def test_a_copy_of_another_version_or_name_is_found(copy, tmp_path):
    other = tmp_path / NAME
    (other / "configs").mkdir(parents=True)
    metadata = (copy / "configs" / "metadata.json").read_text()
    (other / "configs" / "metadata.json").write_text(
        metadata.replace(f'"version": "{__version__}"', '"version": "0.1.0"')
    )
    with pytest.raises(checks.CheckError, match=rf"the package is {re.escape(__version__)}, the metadata 0\.1\.0"):
        checks.name_and_version_are_the_zoos(other)
    with pytest.raises(checks.CheckError, match="icmoe_monai comes from"):
        checks.the_package_is_the_copys(other)
    cut = other.rename(tmp_path / "icmoe_vit")
    with pytest.raises(checks.CheckError, match="MONAI would cut 'icmoe_vit'"):
        checks.name_and_version_are_the_zoos(cut)


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in checks.ZOO_KEYS.items() for key in keys], ids="/".join
)
def test_a_key_of_the_zoos_that_a_config_lacks_is_named(name, key, tmp_path):
    (tmp_path / "configs").mkdir()
    for other in checks.ZOO_KEYS:
        config = json.loads((ROOT / "configs" / other).read_text())
        if other == name:
            *above, last = key.split("#")
            node = config
            for part in above:
                node = node[part]
            del node[last]
        (tmp_path / "configs" / other).write_text(json.dumps(config))
    with pytest.raises(checks.CheckError, match=rf"{name} lacks .*{key}"):
        checks.configs_have_the_zoos_keys(tmp_path)


def test_an_interval_of_its_own_is_found(tmp_path):
    (tmp_path / "configs").mkdir()
    for name in checks.ZOO_KEYS:
        text = (ROOT / "configs" / name).read_text()
        (tmp_path / "configs" / name).write_text(text.replace('"@val_interval"', "1"))
    with pytest.raises(checks.CheckError, match=r"the interval of ValidationHandler is \[1\]"):
        checks.configs_have_the_zoos_keys(tmp_path)


def test_downloaded_weights_belong_to_the_copy_and_are_checked(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.assemble.LARGEST", 14)
    folder, _ = assemble(repository, tmp_path / "dist", "https://example.org/weights")
    checks.files_are_those_that_were_assembled(folder)
    for entry in yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]:
        (folder / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / entry["path"]).write_text(entry["path"])
    checks.files_are_those_that_were_assembled(folder)
    (folder / "models" / "model.pt").write_text("another file")
    with pytest.raises(checks.CheckError, match=r"models/model\.pt is not the file that was assembled"):
        checks.files_are_those_that_were_assembled(folder)


@pytest.mark.slow
def test_every_check_holds_of_the_copy(copy, tmp_path, capfd):
    """With a schema of what MONAI requires, as its own file is not at hand here."""
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "required": ["schema", "version", "monai_version", "pytorch_version", "numpy_version",'
        ' "required_packages_version", "task", "description", "authors", "copyright", "network_data_format"]}'
    )
    assert main(["verify", str(copy), "--schema", str(schema)]) == 0
    assert "LEFT OUT" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_wheel_that_was_built_can_be_imported_and_resolves_targets(tmp_path):
    source = tmp_path / "source"
    for path in git_files(ROOT):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    words = ["build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    built = subprocess.run([sys.executable, "-m", *words], env=environment, capture_output=True, text=True, check=True)
    assert "warning" not in (built.stdout + built.stderr).lower()
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == f"icmoe_monai-{__version__}-py3-none-any.whl"
    assert (tmp_path / "dist" / f"icmoe_monai-{__version__}.tar.gz").is_file()
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    program = """
import icmoe_monai
from monai.bundle import ConfigParser
network = ConfigParser({"network": {"_target_": "icmoe_monai.networks.ICMoE"}}).get_parsed_content("network")
print(icmoe_monai.__file__, icmoe_monai.__version__, type(network).__name__)
"""
    environment["PYTHONPATH"] = str(site)
    words = [sys.executable, "-W", "ignore", "-c", program]
    said = subprocess.run(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said.split() == [str(site / "icmoe_monai" / "__init__.py"), __version__, "ICMoE"]


def git_files(root: Path) -> list[str]:
    listed = subprocess.run(["git", "-C", str(root), "ls-files"], stdout=subprocess.PIPE, text=True, check=True)
    return listed.stdout.splitlines()
