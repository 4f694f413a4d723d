"""Assembly of what is published: a self-contained copy of the bundle, and the same as a reproducible archive.

The copy holds the files of the published folders that git tracks, and nothing else; the archive is the same byte for
byte every time. Beside the files lies `SHA256SUMS`, by which a tampered or half-copied weight file is found
(`sha256sum --check SHA256SUMS`, or `python -m bundle verify`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import yaml

from bundle.checks import CHECKSUMS, LARGE_FILES, LARGEST
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import digest_of, write_atomically
from icmoe_monai.version import __version__

NAME = "icmoe_medical_segmentation"

_PUBLISHED = ("LICENSE", "configs", "docs", "icmoe_monai", "models")
_OURS_ALONE = ("configs/studies", "docs/CONTRIBUTING.md")
_CACHES = ("__pycache__",)
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest date in a zip archive


def assemble(root: Path, output_dir: Path, weights_url: str | None = None) -> tuple[Path, Path]:
    """Write the folder and the archive that are published.

    Args:
        root: The repository.
        output_dir: Folder in which both are written; those of an earlier call are replaced.
        weights_url: Address of a folder from which the files above `LARGEST` are downloaded; they are then named in
            `large_files.yml`, with their checksums, and left out.

    Returns:
        The folder and the archive.

    Raises:
        InputError: If a file in a published folder is unknown to git, missing, or a link.
    """
    paths = published(root)
    folder, archive = output_dir / NAME, output_dir / f"{NAME}_v{__version__}.zip"
    unfinished = output_dir / f".{NAME}"
    shutil.rmtree(unfinished, ignore_errors=True)
    large = [path for path in paths if (root / path).stat().st_size > LARGEST] if weights_url else []
    for path in paths:
        if path not in large:
            (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, unfinished / path)
    if weights_url:
        entries = [_large_file(root, path, weights_url) for path in large]
        (unfinished / LARGE_FILES).write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False))
    _write_checksums(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
    write_atomically(archive, lambda temporary: _write_archive(folder, temporary))
    return folder, archive


def published(root: Path) -> list[str]:
    """Return the paths of the published files, relative to the repository and sorted.

    Raises:
        InputError: If a file in a published folder is unknown to git, missing, or a link.
    """
    tracked = {path for path in _git_files(root) if _is_published(path)}
    present = {path for path in _files_of(root) if _is_published(path)}
    for paths, complaint in (
        (present - tracked, "git does not know {}: add or remove it"),
        (tracked - present, "{} is missing: git checkout brings it back"),
        ({path for path in present if (root / path).is_symlink()}, "{} is a link, which MONAI refuses: copy its file"),
    ):
        if paths:
            raise InputError(f"Nothing was assembled. {complaint.format(', '.join(sorted(paths)[:5]))}.")
    return sorted(present)


def _git_files(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", "--", *_PUBLISHED]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        raise InputError(f"git cannot tell which files are published: {listed.stderr.strip()}.")
    return [path for path in listed.stdout.split("\0") if path]


def _files_of(root: Path) -> Iterable[str]:
    for name in _PUBLISHED:
        top = root / name
        for path in [top] if top.is_file() else top.rglob("*"):
            if (path.is_file() or path.is_symlink()) and not set(path.parts) & set(_CACHES):
                yield path.relative_to(root).as_posix()


def _is_published(path: str) -> bool:
    return not any(PurePosixPath(path).is_relative_to(folder) for folder in _OURS_ALONE)


def _large_file(root: Path, path: str, url: str) -> dict[str, str]:
    name = PurePosixPath(path).name
    return {
        "path": path,
        "url": f"{url.rstrip('/')}/{name}",
        "hash_val": digest_of(root / path),
        "hash_type": "sha256",
    }


def _write_checksums(folder: Path) -> None:
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest_of(folder / path)}  {path}\n" for path in paths]
    (folder / CHECKSUMS).write_text("".join(lines))


def _write_archive(folder: Path, archive: Path) -> None:
    """Write the files uncompressed, since another version of zlib would compress them to other bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{NAME}/{path.relative_to(folder).as_posix()}", _EARLIEST)
            entry.external_attr = 0o644 << 16
            file.writestr(entry, path.read_bytes())
