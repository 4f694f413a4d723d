from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import socket
import string
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from icmoe_monai.errors import InputError
from icmoe_monai.weights import official as module
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS, OfficialWeights, cache_folder, download, fetch_official

CONTENT = random.Random(0).randbytes(300_000)
PAGE = b"\n<!DOCTYPE html><html><title>Log in</title></html>"

# Of the files at https://github.com/facebookresearch/segment-anything#model-checkpoints, as other projects check them
# (IOPaint's segment_anything_models, for example).
META_MD5 = {
    "sam_vit_b": "01ec64d29a2fca3f0661936605ae66f8",
    "sam_vit_l": "0b3195507c641ddb6910d2bb5adee89c",
    "sam_vit_h": "4b8939a88964f0f4ff5f5b2642c598a6",
}


class Server(ThreadingHTTPServer):
    """Serves `body` as a good server does, unless told to misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = CONTENT
        self.content_type = "application/octet-stream"
        self.answer: bytes | None = None  # if set, all that it ever says
        self.ranges = True
        self.range_shift = 0  # answers other ranges than those asked for
        self.names_length = True
        self.cut_after: int | None = None  # bytes, then the connection ends
        self.asked: list[str | None] = []
        self.num_sent = 0
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        server.arrived.set()
        if server.answer is not None:
            self.wfile.write(server.answer)
            return
        first = 0
        if asked and server.ranges:
            first = int(asked.removeprefix("bytes=").removesuffix("-")) + server.range_shift
            if first >= len(server.body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(server.body) - 1}/{len(server.body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.content_type)
        if server.names_length:
            self.send_header("Content-Length", str(len(server.body) - first))
        self.end_headers()
        body = server.body[first:][: server.cut_after]
        server.num_sent += len(body)  # first, as the client may be done before this thread goes on
        self.wfile.write(body)
        server.go_on.wait(5)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def path(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where "toy", a name whose weights the server has, shall be."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("ICMOE_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(OFFICIAL_WEIGHTS, "toy", OfficialWeights("toy.pth", server.url, "sha256", digest, len(CONTENT)))
    return tmp_path / "cache" / "toy.pth"


@pytest.fixture
def part(path: Path) -> Path:
    path.parent.mkdir()
    return path.with_name("toy.pth.part")


def assert_complete(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert not path.with_name("toy.pth.part").exists()


def test_fresh_download_is_verified_and_made_once(
    path: Path, server: Server, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "icmoe_monai.weights.official"):
        assert fetch_official("toy") == path
    assert_complete(path)
    told = [
        f"{path} is not there: downloading it, or waiting for another process that does.",
        f"Downloading {server.url} to {path}, 0 of 300000 bytes are there.",
        f"{path} is complete and verified.",
    ]
    assert caplog.messages == told
    assert capsys.readouterr().err == ""  # no terminal, no bar
    assert fetch_official("toy") == path
    assert (server.asked, caplog.messages) == ([None], told)


def test_md5_serves_too(path: Path, server: Server) -> None:
    download(OfficialWeights("toy.pth", server.url, "md5", hashlib.md5(CONTENT).hexdigest(), None), path)
    assert_complete(path)


@pytest.mark.parametrize("names_length", [True, False], ids=["length named", "length known"])
def test_interrupted_transfer_resumes_with_the_missing_bytes(path: Path, server: Server, names_length: bool) -> None:
    server.cut_after, server.names_length = 100_000, names_length
    with pytest.raises(
        InputError, match=r"interrupted after 100000 of 300000 bytes\): run again to resume, or .*--pre"
    ):
        fetch_official("toy")
    assert (path.exists(), path.with_name("toy.pth.part").read_bytes()) == (False, CONTENT[:100_000])
    server.cut_after = None
    fetch_official("toy")
    assert_complete(path)
    assert (server.asked, server.num_sent) == ([None, "bytes=100000-"], len(CONTENT))


def test_interrupted_by_the_user_resumes(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("ctrl-c")

    with monkeypatch.context() as patch:
        patch.setattr(module.tqdm, "update", interrupt)
        with pytest.raises(KeyboardInterrupt, match="ctrl-c"):
            fetch_official("toy")
    assert not path.exists()
    fetch_official("toy")
    assert_complete(path)
    assert server.asked == [None, f"bytes={1 << 16}-"]


@pytest.mark.parametrize("behaviour", ["no ranges", "other ranges"])
def test_server_that_cannot_go_on_starts_anew(path: Path, server: Server, part: Path, behaviour: str) -> None:
    part.write_bytes(b"x" * 1000)  # would be found out if kept
    server.ranges, server.range_shift = behaviour != "no ranges", 7
    fetch_official("toy")
    assert_complete(path)
    assert server.asked == (["bytes=1000-"] if behaviour == "no ranges" else ["bytes=1000-", None])


@pytest.mark.parametrize(
    ("present", "asked"),
    [
        (CONTENT, ["bytes=300000-"]),
        (CONTENT[::-1], ["bytes=300000-", None]),
        (CONTENT + b"x", ["bytes=300001-", None]),
    ],
    ids=["complete", "wrong", "longer"],
)
def test_part_that_nothing_follows_is_verified(
    path: Path, server: Server, part: Path, present: bytes, asked: list[str | None]
) -> None:
    part.write_bytes(present)
    fetch_official("toy")
    assert_complete(path)
    assert server.asked == asked


def test_corrupt_part_is_found_out_and_deleted(path: Path, part: Path) -> None:
    part.write_bytes(b"x" * 1000)
    with pytest.raises(
        InputError, match=r"other bytes \(300000 bytes, sha256 .* instead of .*\): the download is deleted, run again"
    ):
        fetch_official("toy")
    assert (path.exists(), part.exists()) == (False, False)
    fetch_official("toy")
    assert_complete(path)


@pytest.mark.parametrize(
    ("content", "telling"),
    [(b"weights of my own", r"other bytes \(17 bytes, sha256 "), (PAGE, "a web page, not weights")],
    ids=["other weights", "web page"],
)
def test_wrong_file_in_the_cache_is_refused_and_left(path: Path, server: Server, content: bytes, telling: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"toy\.pth is not the official file but {telling}.*: delete it and run again"
    ):
        fetch_official("toy")
    assert (path.read_bytes(), server.asked) == (content, [])


@pytest.mark.parametrize(
    ("content_type", "kept"),
    [("text/html; charset=utf-8", True), ("application/octet-stream", False)],
    ids=["said so", "pretended weights"],
)
def test_web_page_is_not_weights(path: Path, server: Server, part: Path, content_type: str, kept: bool) -> None:
    part.write_bytes(CONTENT[:1000])
    server.body, server.content_type, server.ranges = PAGE, content_type, False
    with pytest.raises(InputError, match=r"weights\.pth gave a web page, not weights.*download it by other means"):
        fetch_official("toy")
    assert (path.exists(), part.exists()) == (False, kept)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "HTTP Error 404: Not Found"),
        (b"HTTP/1.0 416 Range Not Satisfiable\r\n\r\n", "HTTP Error 416: Range Not Satisfiable"),
        (b"hello\r\n", "hello"),  # which http.client tells with the line's end
        (b"", "Remote end closed connection without response"),
    ],
    ids=["missing", "range refused that was not asked for", "no HTTP", "nothing"],
)
def test_refusal_names_url_reason_and_other_means(path: Path, server: Server, answer: bytes, reason: str) -> None:
    server.answer = answer
    told = rf"Cannot download {server.url} \({reason}\): download it by other .*--pretrained, or put it at {path}\.$"
    with pytest.raises(InputError, match=told):
        fetch_official("toy")
    assert not path.exists()


def test_interrupted_chunked_transfer(path: Path, server: Server) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"
    with pytest.raises(InputError, match=r"\(IncompleteRead\(.*\)\): run again to resume"):
        fetch_official("toy")
    assert not path.exists()


def test_nobody_listening(path: Path, server: Server) -> None:
    with socket.socket() as free:  # bound, so that nobody else gets the port, but not listening
        free.bind(("127.0.0.1", 0))
        official = OFFICIAL_WEIGHTS["toy"]._replace(url=f"http://127.0.0.1:{free.getsockname()[1]}/weights.pth")
        with pytest.raises(InputError, match=r"Cannot download http.*\(.*refused\): download it by other means"):
            download(official, path)
    assert not path.exists()


def test_silent_server_times_out(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    server.cut_after = 10
    server.go_on.clear()
    with pytest.raises(InputError, match=r"timed out\): run again to resume"):
        fetch_official("toy")
    assert not path.exists()


def test_full_disk_keeps_what_arrived(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(
            InputError, match=r"toy\.pth as cache \(No space left on device\): free some space, or set ICMOE"
        ):
            fetch_official("toy")
    assert not path.exists()
    fetch_official("toy")
    assert_complete(path)
    assert server.num_sent == len(CONTENT)


def test_file_in_place_of_the_folder(path: Path) -> None:
    path.parent.write_text("a file")
    with pytest.raises(InputError, match=r"Cannot use .*toy\.pth as cache \(.*\): let it be .*, or set ICMOE_CACHE"):
        fetch_official("toy")


def test_cache_that_can_only_be_read_serves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path.parent.mkdir()
    path.write_bytes(CONTENT)
    monkeypatch.setattr(module, "FileLock", refuse)
    assert fetch_official("toy") == path
    path.unlink()
    with pytest.raises(InputError, match=r"\(Permission denied\): let it be read and written"):
        fetch_official("toy")


def test_two_at_once_make_one_download(path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    num_wanting = threading.Semaphore(0)

    def lock(name: str) -> FileLock:
        num_wanting.release()
        return FileLock(name)  # excludes threads as it does processes

    monkeypatch.setattr(module, "FileLock", lock)
    server.go_on.clear()
    server.names_length = False  # the end of the connection, which waits for go_on, ends the file
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch_official, "toy") for _ in range(2)]
        assert all(num_wanting.acquire(timeout=5) for _ in both)
        assert server.arrived.wait(5)
        assert not path.exists()
        server.go_on.set()
        assert [one.result(5) for one in both] == [path, path]
    assert_complete(path)
    assert (server.asked, server.num_sent) == ([None], len(CONTENT))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        InputError, match=r"'sam_vit_x': choose one of sam_vit_b, sam_vit_l, sam_vit_h, medsam_vit_b\.$"
    ):
        fetch_official("sam_vit_x")


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_default_cache_is_that_of_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("ICMOE_CACHE", raising=False)
    monkeypatch.delenv("TORCH_HUB", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    if value is not None:
        monkeypatch.setenv("ICMOE_CACHE", value)
    assert cache_folder() == tmp_path / "hub" / "checkpoints"


def test_cache_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ICMOE_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"


@pytest.mark.parametrize("name", sorted(OFFICIAL_WEIGHTS))
def test_table_is_consistent(name: str) -> None:
    official = OFFICIAL_WEIGHTS[name]
    assert official.url.startswith("https://")
    assert official.url.endswith(f"/{official.file_name}")
    assert len(official.digest) == 2 * hashlib.new(official.algorithm).digest_size
    assert set(official.digest) <= set(string.hexdigits.lower())
    if name in META_MD5:
        assert official.file_name == f"{name}_{META_MD5[name][:6]}.pth"
