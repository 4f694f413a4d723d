"""Official weights of foundation encoders by name: downloaded once, verified, then used from the cache, offline too.

Bytes are written to `<file name>.part`, which a later run resumes; it is renamed if its digest is the published one.
Several processes at once (one for each GPU) make one download.
"""

from __future__ import annotations

import errno
import http.client
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from tqdm import tqdm

from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import digest_of

_logger = logging.getLogger(__name__)
_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30.0  # seconds without a byte


class OfficialWeights(NamedTuple):
    """Hold the address and the published digest of a file of official weights.

    Attributes:
        file_name: Name of the file in the cache.
        url: Address of the file.
        algorithm: Name of the digest's algorithm in `hashlib`, "sha256" or "md5".
        digest: The published digest, hexadecimal.
        num_bytes: Size of the file, None if not known; only used if the server names no size. The digest decides
            whether a file is accepted.

    Example:
        >>> OFFICIAL_WEIGHTS["sam_vit_b"].file_name
        'sam_vit_b_01ec64.pth'
    """

    file_name: str
    url: str
    algorithm: str
    digest: str
    num_bytes: int | None


# SAM (Apache-2.0): Meta's file names carry the first six digits of the MD5; the SHA-256 are as published by projects
# that check them (micro-sam among them). MedSAM (CC-BY-4.0): the MD5 is Zenodo's.
_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
OFFICIAL_WEIGHTS = {
    "sam_vit_b": OfficialWeights(
        "sam_vit_b_01ec64.pth",
        f"{_SAM_URL}/sam_vit_b_01ec64.pth",
        "sha256",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        375042383,
    ),
    "sam_vit_l": OfficialWeights(
        "sam_vit_l_0b3195.pth",
        f"{_SAM_URL}/sam_vit_l_0b3195.pth",
        "sha256",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        None,
    ),
    "sam_vit_h": OfficialWeights(
        "sam_vit_h_4b8939.pth",
        f"{_SAM_URL}/sam_vit_h_4b8939.pth",
        "sha256",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        2564550879,
    ),
    "medsam_vit_b": OfficialWeights(
        "medsam_vit_b.pth",
        "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        "md5",
        "3bb6db55bd0c9ca30b61248bca72f8d6",
        None,
    ),
}


def cache_folder() -> Path:
    """Return the folder of downloads: $ICMOE_CACHE, or torch hub's, where other tools may have put the same files."""
    folder = os.environ.get("ICMOE_CACHE")
    return Path(folder).expanduser() if folder else Path(torch.hub.get_dir()) / "checkpoints"


def fetch_official(name: str) -> Path:
    """Return the path of a verified file of official weights in the cache; download it if it is absent.

    Args:
        name: A key of `OFFICIAL_WEIGHTS`.

    Raises:
        InputError: If the name is unknown, or `download` fails.

    Example:
        >>> fetch_official("sam_vit_x")
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: No official weights are named 'sam_vit_x': choose one of sam_vit_b, ...
    """
    if name not in OFFICIAL_WEIGHTS:
        raise InputError(f"No official weights are named {name!r}: choose one of {', '.join(OFFICIAL_WEIGHTS)}.")
    official = OFFICIAL_WEIGHTS[name]
    path = cache_folder() / official.file_name
    download(official, path)
    return path


def download(official: OfficialWeights, path: Path) -> None:
    """Make sure that a file is the official one: download it if it is absent, else verify it.

    Args:
        official: The weights.
        path: Path of the file; its folder is made.

    Raises:
        InputError: If the network or the disk fails, or the file that is there or arrives is not the official one.

    Example:
        >>> import tempfile
        >>> hello = OfficialWeights("hello", "data:,hello", "md5", "5d41402abc4b2a76b9719d911017c592", None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     download(hello, Path(folder) / "hello")
        ...     (Path(folder) / "hello").read_text()
        'hello'
    """
    try:
        if not path.exists():  # else no lock is needed, so that a read-only cache can be used
            path.parent.mkdir(parents=True, exist_ok=True)
            _logger.info("%s is not there: downloading it, or waiting for another process that does.", path)
            with FileLock(f"{path}.lock"):
                if not path.exists():  # else another process was first
                    _download(official, path)
                    return
        found = _difference(official, path)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "let it be read and written"
        raise InputError(
            f"Cannot use {path} as cache ({error.strerror or error}): {remedy}, or set ICMOE_CACHE to another folder."
        ) from error
    if found:
        raise InputError(
            f"{path} is not the official file but {found}: delete it and run again, or, if it is of your own, move it "
            "and give its path with --pretrained."
        )


def _download(official: OfficialWeights, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    _transfer(official, path, part)
    if found := _difference(official, part):
        part.unlink()
        raise InputError(
            f"{official.url} gave {found}: the download is deleted, run again to start anew, or {_other_means(path)}."
        )
    os.replace(part, path)
    _logger.info("%s is complete and verified.", path)


def _transfer(official: OfficialWeights, path: Path, part: Path) -> None:
    num_present = part.stat().st_size if part.exists() else 0
    with _network_errors(official, path, part):
        response = _open(official.url, num_present)
    if response is None:  # no bytes follow: the part is the whole file, or of another file
        if _difference(official, part):
            part.unlink()
            _transfer(official, path, part)
        return
    with response:
        if response.headers.get_content_type() == "text/html":  # before it overwrites the part
            raise InputError(
                f"{official.url} gave a web page, not weights: log in there first, or {_other_means(path)}."
            )
        if response.status != 206:  # the server starts anew
            num_present = 0
        length = response.headers["Content-Length"]
        total = num_present + int(length) if length else official.num_bytes
        _logger.info("Downloading %s to %s, %d of %s bytes are there.", official.url, path, num_present, total or "?")
        progress = tqdm(desc=path.name, total=total, initial=num_present, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if num_present else "wb") as file, progress:
            for chunk in _chunks(response, official, path, part):
                progress.update(file.write(chunk))
            file.flush()
            os.fsync(file.fileno())
            with _network_errors(official, path, part):
                if total is not None and file.tell() < total:
                    raise ConnectionError(f"interrupted after {file.tell()} of {total} bytes")


def _open(url: str, num_present: int) -> Any:
    """Request the bytes after those present; return None if the server cannot resume there."""
    headers = {"User-Agent": "icmoe-monai"}
    if num_present:
        headers["Range"] = f"bytes={num_present}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if num_present and error.code == 416:
            return None
        raise
    content_range = response.headers["Content-Range"] or ""
    if num_present and response.status == 206 and not content_range.startswith(f"bytes {num_present}-"):
        response.close()
        return None
    return response


def _chunks(response: Any, official: OfficialWeights, path: Path, part: Path) -> Iterator[bytes]:
    with _network_errors(official, path, part):  # disk errors of the caller are not caught here
        while chunk := response.read(_CHUNK):
            yield chunk


@contextmanager
def _network_errors(official: OfficialWeights, path: Path, part: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error.reason if type(error) is URLError else error).split()) or type(error).__name__
        resume = "run again to resume, or " if part.exists() else ""
        raise InputError(f"Cannot download {official.url} ({reason}): {resume}{_other_means(path)}.") from error


def _other_means(path: Path) -> str:
    return f"download it by other means and give its path with --pretrained, or put it at {path}"


def _difference(official: OfficialWeights, path: Path) -> str | None:
    """Describe what a file holds instead of the official weights; return None if it holds them."""
    digest = digest_of(path, official.algorithm)
    if digest == official.digest:
        return None
    with path.open("rb") as file:
        start = file.read(64)
    is_page = start.lstrip().lower().startswith((b"<!doctype", b"<html"))
    content = "a web page, not weights" if is_page else "other bytes"
    digests = f"{digest[:12]} instead of {official.digest[:12]}"
    return f"{content} ({path.stat().st_size} bytes, {official.algorithm} {digests})"
